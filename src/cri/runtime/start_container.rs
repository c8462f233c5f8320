//! StartContainer: runs a created container. A second start is an error, as the kubelet expects; a start that fails leaves the
//! container exited with reason StartError and the error as its message.
use crate::call::Call;
use crate::core::runtime::{self, Create, Runtime, Stdio};
use crate::cri::store::container::{Container, Exited, Life, Reason, State};
use crate::cri::store::sandbox;
use crate::cri::{Cri, NAMESPACE, now, prepared};
use crate::error::{Context, Error, Result};
use crate::failpoint;
use crate::proto::cri::{StartContainerRequest, StartContainerResponse};
use crate::sys::mount::Mount;
use crate::sys::userns::outside;
use log::info;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use std::time::{Duration, Instant};

/// A start that has begun runs on without its client.
const LIMIT: Duration = Duration::from_secs(120);
/// Exit code of a container that never ran.
const START_ERROR: i32 = 128;

/// StartContainer.
pub fn start_container(cri: &Cri, call: &Call, req: StartContainerRequest) -> Result<StartContainerResponse> {
    let container = cri.containers.by_id.get(&req.container_id)?;
    let _turn = container.turns.take(call, &format!("container {}", container.id))?;
    let container = cri.containers.by_id.get(&container.id)?;
    if container.state != State::Created {
        return Err(Error::precondition(format!("container \"{}\" was started already", container.id)));
    }
    let pod = cri.sandboxes.by_id.get(&container.record.sandbox_id)?;
    if !matches!(pod.state, sandbox::State::Ready { .. }) {
        return Err(Error::precondition(format!("sandbox \"{}\" of container \"{}\" is not ready", pod.id, container.id)));
    }
    let begun = Instant::now();
    let call = call.detached(LIMIT);
    let (pid, at) = run(cri, &call, &container, &pod).map_err(|e| not_started(cri, &container, e))?;
    running(cri, &container, pid, at)?;
    info!("container {} ({}) started: pid {pid}, {} ms", container.id, container.record.name, begun.elapsed().as_millis());
    Ok(StartContainerResponse::default())
}

fn run(cri: &Cri, call: &Call, container: &Container, pod: &sandbox::Sandbox) -> Result<(u32, i64)> {
    let id = &container.id;
    let stored = cri.ports.containers.get(NAMESPACE, id)?;
    let mut rootfs = cri.ports.snapshotter(&stored.snapshotter)?.mounts(&stored.snapshot_key)?;
    label(&mut rootfs, &stored.spec);
    let runtime = cri.runtime_with_io(&pod.record.handler, io_owner(container, pod))?;
    let mut spec = stored.spec;
    let mounted = prepared::make(&mut spec, &cri.dirs.container(id).join("mounts"))?;
    let task = cri.ports.tasks.create(
        call,
        Create {
            id: id.clone(),
            sandbox_id: Some(pod.id.clone()),
            spec: serde_json::to_vec(&spec).during(|| format!("encode the spec of container {id}"))?,
            rootfs,
            stdio: stdio(cri, container, &runtime)?,
            runtime,
            pause: false,
        },
    )?;
    drop(mounted);
    failpoint::reach("start-after-create");
    // Before the start: a process may end before its start is answered, and none ends before it began.
    let at = now();
    let pid = task.start(call).inspect_err(|_| {
        // The task never ran; what the first error says is what counts.
        let _ = task.delete(&Call::background(NAMESPACE).within(Duration::from_secs(10)));
    })?;
    failpoint::reach("start-before-commit");
    Ok((pid, at))
}

/// In a user namespace the process's user owns its streams, as it does elsewhere.
fn io_owner(container: &Container, pod: &sandbox::Sandbox) -> Option<(u32, u32)> {
    let map = sandbox::id_map(&pod.record.config)?;
    let (uid, gid, _) = container.record.user;
    outside(&map.uids, uid).zip(outside(&map.gids, gid))
}

/// With SELinux all files of the root have the container's label; what is bound has its own, and cannot be told another.
fn label(rootfs: &mut [Mount], spec: &Value) {
    let Some(label) = spec["linux"]["mountLabel"].as_str().filter(|l| !l.is_empty()) else { return };
    for mount in rootfs.iter_mut().filter(|m| m.kind == "overlay") {
        mount.options.push(format!("context=\"{label}\""));
    }
}

/// Output goes to the shim's log writer; input comes from a FIFO that attach will open.
fn stdio(cri: &Cri, container: &Container, runtime: &Runtime) -> Result<Stdio> {
    let config = &container.record.config;
    // Another shim does not know our log writer, but starts it as a program beside the container.
    let foreign = if runtime::is_own(runtime) { None } else { Some(cri.ports.tasks.own_shim()?) };
    let log = container.record.log_path.as_ref().map(|path| {
        let max = cri.runtime.max_container_log_line_size;
        match &foreign {
            None => format!("cri-log://{}?max_line={max}", path.display()),
            Some(logger) => format!(
                "binary://{}?cri-log={}&max_line={max}",
                logger.display(),
                utf8_percent_encode(&path.display().to_string(), NON_ALPHANUMERIC)
            ),
        }
    });
    // Beside a logging program Go's shim gives no input to the process, but would wait for a reader of the FIFO for ever.
    let stdin = if config.stdin && foreign.is_none() { cri.stdin_fifo(&container.id)? } else { String::new() };
    let stdout = log.unwrap_or_default();
    let stderr = if config.tty { String::new() } else { stdout.clone() };
    Ok(Stdio { stdin, stdout, stderr, terminal: config.tty })
}

fn not_started(cri: &Cri, container: &Container, error: Error) -> Error {
    let at = now();
    let exited = Exited { started_at: None, finished_at: at, code: START_ERROR, reason: Reason::StartError, message: error.chain() };
    match super::exit::record(cri, container, exited) {
        Ok(()) => error,
        Err(also) => error.and_also(also),
    }
}

/// Puts the start on record, then looks whether the process has ended in between.
fn running(cri: &Cri, container: &Container, pid: u32, at: i64) -> Result<()> {
    let mut record = container.record.clone();
    record.life = Life::Started { at };
    cri.save_container(&container.id, &record)?;
    cri.container_runs(&container.id, |c| Container { record, ..c.with_state(State::Running { pid, started_at: at }) })?;
    match cri.ports.tasks.get(NAMESPACE, &container.id).ok().and_then(|task| task.exited()) {
        Some(exit) => super::exit::container(cri, &container.id, &exit),
        None => Ok(()),
    }
}
