//! StopContainer: after Ok no process of the container runs and its exit is on record. Repeating it is free.
//!
//! The stop signal is sent once, however many calls there are; the call with the shortest time-out sends SIGKILL.
use crate::call::Call;
use crate::cri::store::container::{Container, State, Stopping};
use crate::cri::{Cri, NAMESPACE};
use crate::error::{Error, Kind, Result};
use crate::proto::cri::{StopContainerRequest, StopContainerResponse};
use crossbeam_channel::{after, select};
use log::info;
use std::time::Duration;

/// How long the kernel and the shim may take to end a killed container.
const KILL_LIMIT: Duration = Duration::from_secs(20);
const SIGKILL: u32 = 9;

/// StopContainer.
pub fn stop_container(cri: &Cri, call: &Call, req: StopContainerRequest) -> Result<StopContainerResponse> {
    let container = match cri.containers.by_id.get(&req.container_id) {
        Err(e) if e.is_not_found() => return Ok(StopContainerResponse::default()),
        found => found?,
    };
    if req.timeout < 0 {
        return Err(Error::invalid(format!("timeout: {} is negative; 0 kills at once", req.timeout)));
    }
    let grace = Duration::from_secs(u64::try_from(req.timeout).unwrap_or(0));
    stop(cri, call, &container, grace)?;
    Ok(StopContainerResponse::default())
}

/// Stops what runs; with no grace it is killed at once.
pub fn stop(cri: &Cri, call: &Call, container: &Container, grace: Duration) -> Result<()> {
    if !matches!(container.state, State::Running { .. } | State::Unknown { .. }) {
        return Ok(());
    }
    let task = match cri.ports.tasks.get(NAMESPACE, &container.id) {
        Ok(task) => task,
        Err(e) if e.is_not_found() => return super::exit::lost(cri, &container.id, "its shim is gone"),
        Err(e) => return Err(e),
    };
    if !grace.is_zero() {
        if container.stopping.first() == Stopping::First {
            gone_is_fine(task.kill(call, None, container.record.stop_signal, false))?;
        }
        if ended(call, container, grace)? {
            return Ok(());
        }
        info!("container {} did not end within {} s of its stop signal: killing it", container.id, grace.as_secs());
    }
    let killing = call.detached(KILL_LIMIT);
    gone_is_fine(task.kill(&killing, None, SIGKILL, true))?;
    if ended(&killing, container, KILL_LIMIT)? {
        return Ok(());
    }
    Err(Error::new(
        Kind::DeadlineExceeded,
        format!("container \"{}\" is still there {} s after SIGKILL", container.id, KILL_LIMIT.as_secs()),
    ))
}

/// Waits for the exit to be on record.
fn ended(call: &Call, container: &Container, limit: Duration) -> Result<bool> {
    select! {
        recv(container.ended.channel()) -> _ => Ok(true),
        recv(call.done()) -> _ => call.check().map(|()| false),
        recv(after(limit)) -> _ => Ok(false),
    }
}

/// A process that ended before the signal came is what was wanted, and so is one whose shim is gone: that ends it too.
fn gone_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Unavailable) => Ok(()),
        other => other,
    }
}
