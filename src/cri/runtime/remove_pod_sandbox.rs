//! RemovePodSandbox: after Ok nothing of the pod and its containers is left, its name is free. Repeating it is free.
use super::stop_pod_sandbox::stop_pod;
use crate::call::Call;
use crate::cri::Cri;
use crate::error::Result;
use crate::proto::cri::{RemovePodSandboxRequest, RemovePodSandboxResponse};
use log::info;
use std::time::Duration;

/// RemovePodSandbox.
pub fn remove_pod_sandbox(cri: &Cri, call: &Call, req: RemovePodSandboxRequest) -> Result<RemovePodSandboxResponse> {
    let sandbox = match cri.sandboxes.by_id.get(&req.pod_sandbox_id) {
        Err(e) if e.is_not_found() => return Ok(RemovePodSandboxResponse::default()),
        found => found?,
    };
    let _turn = sandbox.turns.take(call, &format!("sandbox {}", sandbox.id))?;
    let Ok(sandbox) = cri.sandboxes.by_id.get(&sandbox.id) else { return Ok(RemovePodSandboxResponse::default()) };
    let (id, call) = (&sandbox.id, &call.detached(Duration::from_secs(110)));
    stop_pod(cri, call, id)?;
    for container in cri.containers.by_id.list().iter().filter(|c| c.record.sandbox_id == *id) {
        super::remove_container::remove(cri, call, container)?;
    }
    let stopped = cri.sandboxes.by_id.get(id)?;
    super::teardown::pod(cri, call, &stopped)?;
    cri.pod_gone(&stopped);
    cri.rates.forget(id);
    cri.sandboxes.names.free(&sandbox.record.name, id);
    info!("pod {} ({id}) removed", sandbox.record.name);
    Ok(RemovePodSandboxResponse::default())
}
