//! ContainerStatus: a container as it is now; NOT_FOUND for what is gone, on which the kubelet relies.
use super::list_containers::{image_of, state_of};
use crate::call::Call;
use crate::cri::store::container::{Container, State};
use crate::cri::{Cri, NAMESPACE, json, told};
use crate::error::Result;
use crate::proto::cri::{
    ContainerResources, ContainerStatus, ContainerStatusRequest, ContainerStatusResponse, ContainerUser, LinuxContainerUser, Signal,
};
use protobuf::{Enum, MessageField};
use std::collections::HashMap;

/// ContainerStatus.
pub fn container_status(cri: &Cri, _: &Call, req: ContainerStatusRequest) -> Result<ContainerStatusResponse> {
    let container = cri.containers.by_id.get(&req.container_id)?;
    let info = if req.verbose { verbose(cri, &container)? } else { HashMap::new() };
    Ok(ContainerStatusResponse { status: MessageField::some(status_of(&container)), info, ..ContainerStatusResponse::default() })
}

/// The status alone.
pub fn status_of(container: &Container) -> ContainerStatus {
    let record = &container.record;
    let mut status = ContainerStatus {
        id: container.id.clone(),
        metadata: record.config.metadata.clone(),
        state: state_of(container).into(),
        created_at: record.created_at,
        image: MessageField::some(image_of(container)),
        image_ref: record.image_ref.clone(),
        image_id: record.image_id.clone(),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        mounts: record.config.mounts.clone(),
        log_path: record.log_path.as_ref().map(|p| p.display().to_string()).unwrap_or_default(),
        resources: MessageField::some(resources_of(container)),
        user: MessageField::some(user_of(container)),
        stop_signal: signal_of(container.record.stop_signal).into(),
        ..ContainerStatus::default()
    };
    match &container.state {
        State::Created => {}
        State::Running { started_at, .. } => status.started_at = *started_at,
        State::Exited(exit) => {
            status.started_at = exit.started_at.unwrap_or_default();
            status.finished_at = exit.finished_at;
            status.exit_code = exit.code;
            status.reason = exit.reason.as_str().into();
            status.message = exit.message.clone();
        }
        State::Unknown { why } => {
            status.reason = "Unknown".into();
            status.message = why.clone();
        }
    }
    status
}

fn resources_of(container: &Container) -> ContainerResources {
    ContainerResources { linux: MessageField::some(container.record.limits.clone()), ..ContainerResources::default() }
}

fn user_of(container: &Container) -> ContainerUser {
    let (uid, gid, groups) = &container.record.user;
    let linux = LinuxContainerUser {
        uid: i64::from(*uid),
        gid: i64::from(*gid),
        supplemental_groups: groups.iter().map(|g| i64::from(*g)).collect(),
        ..LinuxContainerUser::default()
    };
    ContainerUser { linux: MessageField::some(linux), ..ContainerUser::default() }
}

/// CRI numbers its signals by itself; its names are the kernel's.
fn signal_of(number: u32) -> Signal {
    crate::cri::spec::signal_name(number).and_then(|n| Signal::from_str(&n)).unwrap_or(Signal::RUNTIME_DEFAULT)
}

fn verbose(cri: &Cri, container: &Container) -> Result<HashMap<String, String>> {
    let stored = cri.ports.containers.get(NAMESPACE, &container.id)?;
    let value = serde_json::json!({
        "sandboxID": container.record.sandbox_id,
        "pid": container.pid().unwrap_or_default(),
        "removing": false,
        "snapshotKey": stored.snapshot_key,
        "snapshotter": stored.snapshotter,
        "runtimeType": stored.runtime.name,
        "runtimeSpec": stored.spec,
        "config": told::container(&container.record.config),
    });
    Ok(HashMap::from([("info".to_string(), json(&value))]))
}
