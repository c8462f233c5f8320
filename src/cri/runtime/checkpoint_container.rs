//! CheckpointContainer: after Ok the archive is at `location`, whole, and the container runs on. After an error there is none, and
//! the container runs on all the same.
use crate::call::Call;
use crate::config::RuncOptions;
use crate::core::runtime::{Checkpoint, Task};
use crate::cri::checkpoint::Parts;
use crate::cri::store::container::{Container, State};
use crate::cri::{Cri, NAMESPACE, criu};
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::proto::cri::{CheckpointContainerRequest, CheckpointContainerResponse};
use log::{info, warn};
use std::path::{Component, Path};
use std::time::{Duration, Instant};

/// Where the request sets no time.
const DEFAULT_LIMIT: Duration = Duration::from_secs(600);
/// For thawing a container whose checkpoint took all the time there was.
const THAW_LIMIT: Duration = Duration::from_secs(30);

/// CheckpointContainer.
pub fn checkpoint_container(cri: &Cri, call: &Call, req: CheckpointContainerRequest) -> Result<CheckpointContainerResponse> {
    let container = cri.containers.by_id.get(&req.container_id)?;
    if !cri.runtime.enable_criu {
        return Err(Error::precondition("checkpoints are off: set enable_criu = true in the config"));
    }
    let location = location(&req.location)?;
    let limit = match u64::try_from(req.timeout) {
        Ok(0) => DEFAULT_LIMIT,
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => return Err(Error::invalid(format!("timeout: {} s is less than none", req.timeout))),
    };
    let call = call.detached(limit);
    let begun = Instant::now();
    let _turn = container.turns.take(&call, &format!("container {}", container.id))?;
    let container = cri.containers.by_id.get(&container.id)?;
    if !matches!(container.state, State::Running { .. }) {
        return Err(Error::precondition(format!("container \"{}\" does not run: only what runs can be checkpointed", container.id)));
    }
    let options = options(cri, &container)?;
    criu::check(&options.criu_path)?;
    let parts = parts_of(cri, &container, &options);
    parts.make()?;
    let made = make(cri, &call, &container, &parts, location);
    let removed = parts.remove();
    made.and(removed)?;
    info!("container {} ({}) checkpointed to {}, {} ms", container.id, container.record.name, req.location, begun.elapsed().as_millis());
    Ok(CheckpointContainerResponse::default())
}

fn options(cri: &Cri, container: &Container) -> Result<RuncOptions> {
    let pod = cri.sandboxes.by_id.get(&container.record.sandbox_id)?;
    Ok(cri.handler(&pod.record.handler)?.runc())
}

fn parts_of(cri: &Cri, container: &Container, options: &RuncOptions) -> Parts {
    Parts::of(&cri.dirs.root.join("containers").join(&container.id), &container.id, options)
}

/// An absolute path in a directory that is there.
fn location(asked: &str) -> Result<&Path> {
    let path = Path::new(asked);
    if !path.is_absolute() || path.components().any(|c| c == Component::ParentDir) || path.file_name().is_none() {
        return Err(Error::invalid(format!("location \"{asked}\": must be the absolute path of the archive to be written")));
    }
    match path.parent() {
        Some(parent) if parent.is_dir() => Ok(path),
        _ => Err(Error::precondition(format!("location \"{asked}\": its directory is not there; make it first"))),
    }
}

fn make(cri: &Cri, call: &Call, container: &Container, parts: &Parts, location: &Path) -> Result<()> {
    let stored = cri.ports.containers.get(NAMESPACE, &container.id)?;
    let task = cri.ports.tasks.get(NAMESPACE, &container.id)?;
    // Memory and files must be of the same moment.
    task.pause(call)?;
    failpoint::reach("checkpoint-while-frozen");
    let taken = take(cri, call, &task, parts, (&stored.snapshotter, &stored.snapshot_key));
    let thawed = task.resume(&Call::background(NAMESPACE).within(THAW_LIMIT));
    if let Err(e) = &thawed {
        warn!("container {}: stays frozen after its checkpoint: {}", container.id, e.chain());
    }
    taken?;
    thawed?;
    call.check()?;
    parts.pack(location, container, &stored, &stored.runtime.name)
}

fn take(cri: &Cri, call: &Call, task: &Task, parts: &Parts, (snapshotter, key): (&str, &str)) -> Result<()> {
    let (images, work) = (parts.images(), parts.work());
    task.checkpoint(call, Checkpoint { images, work }).map_err(|e| explain(e, work))?;
    parts.keep_files(&cri.ports.snapshotter(snapshotter)?.upper_dir(key)?)
}

/// A runtime says where CRIU's log is, which is no help to who has called: what is in it is.
fn explain(error: Error, work: &Path) -> Error {
    match (error.kind(), criu::last_words(&criu::log_of(work))) {
        (Kind::DeadlineExceeded | Kind::Cancelled, _) => error,
        (_, Some(said)) => Error::precondition(format!("CRIU cannot checkpoint it on this node: {said}")).because(error),
        (_, None) => error,
    }
}

/// Ends a checkpoint that a killed daemon was making: its container runs on, and nothing of it is left.
pub fn end_half_made(cri: &Cri, container: &Container) -> Result<()> {
    let parts = parts_of(cri, container, &options(cri, container).unwrap_or_default());
    if !parts.there() {
        return Ok(());
    }
    if let Ok(task) = cri.ports.tasks.get(NAMESPACE, &container.id) {
        match task.resume(&Call::background(NAMESPACE).within(THAW_LIMIT)) {
            // It was not frozen yet, or not any more.
            Err(e) if e.kind() != Kind::FailedPrecondition => return Err(e),
            _ => {}
        }
    }
    parts.remove()
}
