//! Exit: the one place where a container's or pod's end goes on record. Telling it twice is free.
use crate::call::Call;
use crate::core::runtime::Exit;
use crate::cri::store::container::{Container, Exited, Life, Oom, Reason, State};
use crate::cri::store::sandbox;
use crate::cri::{Cri, NAMESPACE, nanos, now};
use crate::error::{Error, Kind, Result};
use crate::sys::cgroup::Cgroup;
use log::{info, warn};
use std::time::Duration;

/// 128 + SIGKILL: how the kernel's OOM killer ends a process.
const KILLED: u32 = 137;
/// What the kubelet gets for a container whose exit code nobody knows.
const LOST: u32 = 255;
/// How long a shim may take to let go of an ended task.
const DELETE_LIMIT: Duration = Duration::from_secs(10);

/// Puts a container's end on record, tells those who wait, and lets its shim forget it.
pub fn container(cri: &Cri, id: &str, exit: &Exit) -> Result<()> {
    let container = cri.containers.by_id.get(id)?;
    if let State::Created = container.state {
        return Err(Error::new(Kind::Unavailable, format!("container \"{id}\": its start is not on record yet")));
    }
    if !matches!(container.state, State::Exited(_)) {
        let exited = describe(cri, &container, exit);
        info!("container {id} ({}) exited: code {}, {}", container.record.name, exited.code, exited.reason.as_str());
        record(cri, &container, exited)?;
    }
    forget(cri, id)
}

/// A container whose shim is gone without a word.
pub fn lost(cri: &Cri, id: &str, why: &str) -> Result<()> {
    let container = cri.containers.by_id.get(id)?;
    if matches!(container.state, State::Exited(_)) {
        return Ok(());
    }
    warn!("container {id} ({}): {why}, its exit code is lost", container.record.name);
    let exited =
        Exited { started_at: started(&container), finished_at: now(), code: LOST as i32, reason: Reason::Unknown, message: why.into() };
    record(cri, &container, exited)
}

/// Puts an end of the given description on record.
pub fn record(cri: &Cri, container: &Container, exited: Exited) -> Result<()> {
    let mut record = container.record.clone();
    record.life = Life::Exited(exited.clone());
    cri.save_container(&container.id, &record)?;
    let changed = cri.container_over(&container.id, |c| Container { record, ..c.with_state(State::Exited(exited)) });
    container.ended.tell();
    changed
}

/// A pod's process ended: the pod is no longer ready.
pub fn sandbox(cri: &Cri, id: &str) -> Result<()> {
    let found = cri.sandboxes.by_id.get(id)?;
    if found.state == sandbox::State::NotReady {
        return Ok(());
    }
    info!("pod {} ({id}): its process ended, it is not ready any more", found.record.name);
    cri.pod_not_ready(id, Clone::clone)
}

fn forget(cri: &Cri, id: &str) -> Result<()> {
    let task = match cri.ports.tasks.get(NAMESPACE, id) {
        Err(e) if e.is_not_found() => return Ok(()),
        found => found?,
    };
    match task.delete(&Call::background(NAMESPACE).within(DELETE_LIMIT)) {
        Err(e) if !e.is_not_found() => Err(e),
        _ => Ok(()),
    }
}

fn started(container: &Container) -> Option<i64> {
    match (&container.state, &container.record.life) {
        (State::Running { started_at, .. }, _) => Some(*started_at),
        (_, Life::Started { at }) => Some(*at),
        _ => None,
    }
}

fn describe(cri: &Cri, container: &Container, exit: &Exit) -> Exited {
    let reason = match exit.code {
        0 => Reason::Completed,
        KILLED if container.oom == Oom::Seen || oom_killed(cri, container) => Reason::OOMKilled,
        _ => Reason::Error,
    };
    Exited { started_at: started(container), finished_at: nanos(exit.at), code: exit.code as i32, reason, message: String::new() }
}

/// The OOM event may come after the exit; the cgroup's own counter does not.
fn oom_killed(cri: &Cri, container: &Container) -> bool {
    let path = cri.cgroup_path(&container.id).unwrap_or_default();
    Cgroup::at(&path).ok().and_then(|group| group.oom_kills()).is_some_and(|kills| kills > 0)
}
