//! StopPodSandbox: after Ok no process of the pod runs and its network is gone. Repeating it is free.
use super::stop_container::stop;
use crate::call::Call;
use crate::cri::store::sandbox::{Network, Sandbox, State};
use crate::cri::{Cri, image_volumes};
use crate::error::{Error, Result};
use crate::proto::cri::{StopPodSandboxRequest, StopPodSandboxResponse};
use log::info;
use std::sync::Arc;
use std::time::Duration;

/// The whole stop's own limit, once begun: half a teardown helps nobody.
const LIMIT: Duration = Duration::from_secs(110);

/// StopPodSandbox.
pub fn stop_pod_sandbox(cri: &Cri, call: &Call, req: StopPodSandboxRequest) -> Result<StopPodSandboxResponse> {
    let sandbox = match cri.sandboxes.by_id.get(&req.pod_sandbox_id) {
        Err(e) if e.is_not_found() => return Ok(StopPodSandboxResponse::default()),
        found => found?,
    };
    let _turn = sandbox.turns.take(call, &format!("sandbox {}", sandbox.id))?;
    stop_pod(cri, &call.detached(LIMIT), &sandbox.id)?;
    Ok(StopPodSandboxResponse::default())
}

/// Stops all that runs in the pod, then its process, then its network; the caller has the pod's turn.
pub fn stop_pod(cri: &Cri, call: &Call, id: &str) -> Result<()> {
    let Ok(sandbox) = cri.sandboxes.by_id.get(id) else { return Ok(()) };
    if sandbox.state == State::NotReady
        && matches!(sandbox.record.network, Network::Down | Network::Host)
        && sandbox.record.stopped_at.is_some()
    {
        return Ok(());
    }
    stop_containers(cri, call, id)?;
    super::teardown::task(cri, call, id)?;
    super::teardown::network(cri, call, &sandbox)?;
    super::teardown::pins(&sandbox.record.pins)?;
    image_volumes::remove(cri, &sandbox)?;
    super::teardown::unmount_under(&cri.dirs.sandbox(id))?;
    mark_stopped(cri, &sandbox)?;
    info!("pod {} ({id}) stopped", sandbox.record.name);
    Ok(())
}

fn stop_containers(cri: &Cri, call: &Call, id: &str) -> Result<()> {
    let mut first: Option<Error> = None;
    for container in cri.containers.by_id.list().iter().filter(|c| c.record.sandbox_id == id) {
        if let Err(e) = stop(cri, call, container, Duration::ZERO) {
            first = Some(match first {
                Some(f) => f.and_also(e),
                None => e,
            });
        }
    }
    first.map_or(Ok(()), Err)
}

fn mark_stopped(cri: &Cri, sandbox: &Arc<Sandbox>) -> Result<()> {
    let mut record = sandbox.record.clone();
    if record.network != Network::Host {
        record.network = Network::Down;
    }
    record.image_volumes.clear();
    record.stopped_at.get_or_insert_with(crate::cri::now);
    cri.save_sandbox(&sandbox.id, &record)?;
    cri.pod_not_ready(&sandbox.id, |s| s.with_record(record))
}
