//! RemoveContainer: after Ok nothing of the container is left, its name is free. A running one is killed. Repeating it is free.
use super::stop_container::stop;
use crate::call::Call;
use crate::cri::store::container::Container;
use crate::cri::{Cri, NAMESPACE};
use crate::error::{Context, Result};
use crate::proto::cri::{RemoveContainerRequest, RemoveContainerResponse};
use log::info;
use std::time::Duration;

/// RemoveContainer.
pub fn remove_container(cri: &Cri, call: &Call, req: RemoveContainerRequest) -> Result<RemoveContainerResponse> {
    let container = match cri.containers.by_id.get(&req.container_id) {
        Err(e) if e.is_not_found() => return Ok(RemoveContainerResponse::default()),
        found => found?,
    };
    remove(cri, call, &container)?;
    Ok(RemoveContainerResponse::default())
}

/// Kills and removes; the durable record goes last, so that a crash leaves something that can be removed again.
pub fn remove(cri: &Cri, call: &Call, container: &Container) -> Result<()> {
    let _turn = container.turns.take(call, &format!("container {}", container.id))?;
    let Ok(container) = cri.containers.by_id.get(&container.id) else { return Ok(()) };
    let id = &container.id;
    stop(cri, call, &container, Duration::ZERO)?;
    let call = &call.detached(Duration::from_secs(60));
    match cri.ports.tasks.get(NAMESPACE, id) {
        Ok(task) => drop(task.delete(call).during(|| format!("delete the task of container {id}"))?),
        Err(e) if e.is_not_found() => {}
        Err(e) => return Err(e),
    }
    let stored = match cri.ports.containers.get(NAMESPACE, id) {
        Err(e) if e.is_not_found() => None,
        found => Some(found?),
    };
    if let Some(stored) = stored {
        super::teardown::snapshot(cri, &stored.snapshotter, &stored.snapshot_key)?;
    }
    super::teardown::directories(cri, "containers", id)?;
    match cri.ports.containers.delete(NAMESPACE, id) {
        Err(e) if !e.is_not_found() => return Err(e),
        _ => {}
    }
    cri.container_gone(&container);
    cri.rates.forget(id);
    cri.containers.names.free(&container.record.name, id);
    info!("container {id} ({}) removed", container.record.name);
    Ok(())
}
