//! PodSandboxStatus: a pod as it is now; NOT_FOUND for what is gone, on which the kubelet relies.
use super::list_pod_sandbox::state_of;
use crate::call::Call;
use crate::cri::store::sandbox::{Network, Sandbox, State, namespaces};
use crate::cri::{Cri, NAMESPACE, json, now, told};
use crate::error::Result;
use crate::proto::cri::{
    LinuxPodSandboxStatus, Namespace, NamespaceOption, PodIP, PodSandboxNetworkStatus, PodSandboxStatus, PodSandboxStatusRequest,
    PodSandboxStatusResponse,
};
use protobuf::MessageField;
use std::collections::HashMap;

/// PodSandboxStatus.
pub fn pod_sandbox_status(cri: &Cri, _: &Call, req: PodSandboxStatusRequest) -> Result<PodSandboxStatusResponse> {
    // Before the look: what is told is at least as new as its time, by which Evented PLEG orders this answer and events.
    let timestamp = now();
    let sandbox = cri.sandboxes.by_id.get(&req.pod_sandbox_id)?;
    let info = if req.verbose { verbose(cri, &sandbox) } else { HashMap::new() };
    Ok(PodSandboxStatusResponse {
        status: MessageField::some(status_of(&sandbox)),
        info,
        containers_statuses: cri.containers_of(&sandbox.id).iter().map(|c| super::container_status::status_of(c)).collect(),
        timestamp,
        ..PodSandboxStatusResponse::default()
    })
}

/// The status alone.
pub fn status_of(sandbox: &Sandbox) -> PodSandboxStatus {
    let record = &sandbox.record;
    let mut ips = sandbox.ips().iter().map(ToString::to_string);
    let network = PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| PodIP { ip, ..PodIP::default() }).collect(),
        ..PodSandboxNetworkStatus::default()
    };
    PodSandboxStatus {
        id: sandbox.id.clone(),
        metadata: record.config.metadata.clone(),
        state: state_of(sandbox).into(),
        created_at: record.created_at,
        network: MessageField::some(network),
        linux: MessageField::some(linux_of(sandbox)),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.handler.clone(),
        ..PodSandboxStatus::default()
    }
}

fn linux_of(sandbox: &Sandbox) -> LinuxPodSandboxStatus {
    let asked = sandbox.record.config.linux.get_or_default().security_context.get_or_default().namespace_options.get_or_default();
    let (network, pid, ipc) = namespaces(&sandbox.record.config);
    let options = NamespaceOption {
        network: network.into(),
        pid: pid.into(),
        ipc: ipc.into(),
        target_id: asked.target_id.clone(),
        userns_options: asked.userns_options.clone(),
        ..NamespaceOption::default()
    };
    LinuxPodSandboxStatus {
        namespaces: MessageField::some(Namespace { options: MessageField::some(options), ..Namespace::default() }),
        ..LinuxPodSandboxStatus::default()
    }
}

fn verbose(cri: &Cri, sandbox: &Sandbox) -> HashMap<String, String> {
    let config = &sandbox.record.config;
    let linux = config.linux.get_or_default();
    let stored = cri.ports.sandboxes.get(NAMESPACE, &sandbox.id).unwrap_or_default();
    let (pid, closed) = match sandbox.state {
        State::Ready { pid } => (pid, false),
        _ => (0, sandbox.record.network == Network::Down),
    };
    let result = match &sandbox.record.network {
        Network::Up { result, .. } => result.clone(),
        _ => serde_json::Value::Null,
    };
    let value = serde_json::json!({
        "pid": pid,
        "processStatus": if pid == 0 { "deleted" } else { "running" },
        "netNamespaceClosed": closed,
        "runtimeHandler": sandbox.record.handler,
        "runtimeType": stored.runtime.name,
        "runtimeOptions": cri.handler(&sandbox.record.handler).map(|h| h.options.clone()).unwrap_or_default(),
        "config": told::pod(config),
        "overhead": told::resources(linux.overhead.get_or_default()),
        "resources": told::resources(linux.resources.get_or_default()),
        "runtimeSpec": stored.spec,
        "cniResult": result,
        "image": sandbox.record.snapshot.as_ref().map(|s| &s.image),
        "snapshotKey": sandbox.record.snapshot.as_ref().map(|s| &s.key),
        "snapshotter": sandbox.record.snapshot.as_ref().map(|s| &s.snapshotter),
        "createdAt": sandbox.record.created_at,
        "namespaces": {"net": sandbox.record.pins.net, "ipc": sandbox.record.pins.ipc, "uts": sandbox.record.pins.uts},
    });
    HashMap::from([("info".to_string(), json(&value))])
}
