//! Task calls on a container that exists: each is one short function, in the order of the API.
use super::container::{Container, Shim};
use super::create::unmount_rootfs;
use super::process::{Process, Stage};
use super::runtime::Streams;
use super::{exec, metrics};
use crate::error::{Context, Error, Result};
use crate::proto::runc_options::{CheckpointOptions, ProcessDetails};
use crate::proto::task_events::{TaskCheckpointed, TaskDelete, TaskPaused, TaskResumed, TaskStart};
use crate::proto::task_types::ProcessInfo;
use crate::proto::task_v2 as t;
use crate::sys::{memory, pty, signal};
use crossbeam_channel::bounded;
use log::{info, warn};
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::empty::Empty;
use protobuf::{EnumOrUnknown, Message};
use std::sync::Arc;
use std::time::Duration;

/// How long the output of an ended process may take to be delivered.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a killed process may take to end.
const DEATH: Duration = Duration::from_secs(5);

/// Where a process is in its life.
pub fn state(shim: &Arc<Shim>, q: t::StateRequest) -> Result<t::StateResponse> {
    let container = shim.container(&q.id)?;
    let process = container.process(&q.exec_id)?;
    let mut answer = t::StateResponse::new();
    answer.id = q.id;
    answer.bundle = container.bundle.to_string_lossy().into_owned();
    answer.pid = process.pid() as u32;
    answer.status = EnumOrUnknown::new(process.status());
    let stdio = process.stdio.clone();
    (answer.stdin, answer.stdout, answer.stderr, answer.terminal) = (stdio.stdin, stdio.stdout, stdio.stderr, stdio.terminal);
    answer.exec_id = q.exec_id;
    if let Some(exit) = process.exit() {
        answer.exit_status = exit.code;
        answer.exited_at = Some(super::clock::timestamp(exit.at)).into();
    }
    Ok(answer)
}

/// Starts a created container or a described exec.
pub fn start(shim: &Arc<Shim>, q: t::StartRequest) -> Result<t::StartResponse> {
    let container = shim.container(&q.id)?;
    let process = container.process(&q.exec_id)?;
    let pid = match q.exec_id.is_empty() {
        true => start_init(shim, &container, &process)?,
        false => exec::start(shim, &container, &process)?,
    };
    let mut answer = t::StartResponse::new();
    answer.pid = pid as u32;
    Ok(answer)
}

fn start_init(shim: &Arc<Shim>, container: &Container, init: &Process) -> Result<i32> {
    let starting = init.begin_start()?;
    let started = container.runtime.run(&shim.reaper, &container.bundle, &["start", &container.id], Streams::Captured);
    let ended = match &started {
        Ok(()) => {
            let mut event = TaskStart::new();
            (event.container_id, event.pid) = (container.id.clone(), init.pid() as u32);
            shim.events.publish("/tasks/start", &event);
            starting.done()
        }
        Err(_) => starting.failed(),
    };
    if let Some((exit, waiters)) = ended {
        shim.tell_exit(init, exit, waiters);
    }
    started.map(|()| init.pid())
}

/// Removes an ended process; a container that was never started is killed first.
pub fn delete(shim: &Arc<Shim>, q: t::DeleteRequest) -> Result<t::DeleteResponse> {
    let container = shim.container(&q.id)?;
    let process = container.process(&q.exec_id)?;
    let deleting = process.begin_delete()?;
    if q.exec_id.is_empty() {
        remove(shim, &container, deleting.alive())?;
        if deleting.alive() {
            let (told, ended) = bounded(1);
            process.wait(Box::new(move |_| {
                let _ = told.send(());
            }));
            let _ = ended.recv_timeout(DEATH);
        }
    }
    if let Ok(streams) = process.streams() {
        streams.drain(DRAIN);
    }
    process.connect(None, None);
    if q.exec_id.is_empty() {
        unmount_rootfs(&container.bundle.join("rootfs"))?;
    }
    let exit = deleting.done();
    if q.exec_id.is_empty() {
        shim.oom.remove(&q.id);
        shim.remove(&q.id);
        info!("container {}: deleted, exit {}", q.id, exit.code);
    } else {
        exec::clean(&container.bundle, &q.exec_id);
        container.forget(&q.exec_id);
    }
    let mut answer = t::DeleteResponse::new();
    answer.pid = process.pid() as u32;
    answer.exit_status = exit.code;
    answer.exited_at = Some(super::clock::timestamp(exit.at)).into();
    if q.exec_id.is_empty() {
        let mut event = TaskDelete::new();
        (event.container_id, event.pid, event.exit_status) = (q.id, answer.pid, answer.exit_status);
        event.exited_at = answer.exited_at.clone();
        shim.events.publish("/tasks/delete", &event);
    }
    memory::trim();
    Ok(answer)
}

/// Runs the OCI runtime's delete; by force if it lives, or if the runtime takes the dead for a frozen one.
fn remove(shim: &Arc<Shim>, container: &Container, alive: bool) -> Result<()> {
    let run = |args: &[&str]| match container.runtime.run(&shim.reaper, &container.bundle, args, Streams::Captured) {
        Err(e) if !e.is_not_found() => Err(e),
        _ => Ok(()),
    };
    if !alive && run(&["delete", &container.id]).is_ok() {
        return Ok(());
    }
    run(&["delete", "--force", &container.id])
}

/// All processes of the container; execs of ours are named.
pub fn pids(shim: &Arc<Shim>, q: t::PidsRequest) -> Result<t::PidsResponse> {
    let container = shim.container(&q.id)?;
    let group = container.cgroup.as_ref().ok_or_else(|| Error::precondition(format!("container {}: its cgroup is not known", q.id)))?;
    let mut answer = t::PidsResponse::new();
    for pid in group.procs().during(|| format!("list processes of container {}", q.id))? {
        let mut info = ProcessInfo::new();
        info.pid = pid as u32;
        if let Some(exec_id) = container.exec_of(pid) {
            let mut any = Any::new();
            any.type_url = "containerd.runc.v1.ProcessDetails".into();
            any.value = ProcessDetails { exec_id, ..ProcessDetails::new() }.write_to_bytes().unwrap_or_default();
            info.info = Some(any).into();
        }
        answer.processes.push(info);
    }
    Ok(answer)
}

/// Freezes a container.
pub fn pause(shim: &Arc<Shim>, q: t::PauseRequest) -> Result<Empty> {
    let container = shim.container(&q.id)?;
    container.running()?;
    container.runtime.run(&shim.reaper, &container.bundle, &["pause", &q.id], Streams::Captured)?;
    container.init.turn(Stage::Running, Stage::Paused);
    let mut event = TaskPaused::new();
    event.container_id = q.id;
    shim.events.publish("/tasks/paused", &event);
    Ok(Empty::new())
}

/// Thaws a container.
pub fn resume(shim: &Arc<Shim>, q: t::ResumeRequest) -> Result<Empty> {
    let container = shim.container(&q.id)?;
    if container.init.stage() != Stage::Paused {
        let stage = container.init.stage();
        return Err(Error::precondition(format!("container {}: must be paused, it is {}", q.id, stage.word())));
    }
    thaw(shim, &container)?;
    let mut event = TaskResumed::new();
    event.container_id = q.id;
    shim.events.publish("/tasks/resumed", &event);
    Ok(Empty::new())
}

fn thaw(shim: &Arc<Shim>, container: &Container) -> Result<()> {
    container.runtime.run(&shim.reaper, &container.bundle, &["resume", &container.id], Streams::Captured)?;
    container.init.turn(Stage::Paused, Stage::Running);
    Ok(())
}

/// Writes the container's state by CRIU.
pub fn checkpoint(shim: &Arc<Shim>, q: t::CheckpointTaskRequest) -> Result<Empty> {
    let container = shim.container(&q.id)?;
    let options = match q.options.as_ref() {
        Some(any) => CheckpointOptions::parse_from_bytes(&any.value).during(|| "decode the checkpoint's options")?,
        None => CheckpointOptions::new(),
    };
    let image = if options.image_path.is_empty() { &q.path } else { &options.image_path };
    let mut args = vec!["checkpoint", "--image-path", image];
    for (given, flag) in [(&options.work_path, "--work-path"), (&options.parent_path, "--parent-path")] {
        if !given.is_empty() {
            args.extend([flag, given.as_str()]);
        }
    }
    let flags = [
        (!options.exit, "--leave-running"),
        (options.open_tcp, "--tcp-established"),
        (options.external_unix_sockets, "--ext-unix-sk"),
        (options.terminal, "--shell-job"),
        (options.file_locks, "--file-locks"),
    ];
    args.extend(flags.iter().filter(|(on, _)| *on).map(|(_, flag)| *flag));
    args.push(&q.id);
    container.runtime.run(&shim.reaper, &container.bundle, &args, Streams::Captured)?;
    let mut event = TaskCheckpointed::new();
    (event.container_id, event.checkpoint) = (q.id, q.path);
    shim.events.publish("/tasks/checkpointed", &event);
    Ok(Empty::new())
}

/// Signals a process, or all of the container. It is sent by us: the OCI runtime would take longer and do the same.
pub fn kill(shim: &Arc<Shim>, q: t::KillRequest) -> Result<Empty> {
    let container = shim.container(&q.id)?;
    let number = q.signal as i32;
    if !(0..=64).contains(&number) {
        return Err(Error::invalid(format!("signal {number}: must be 0 to 64")));
    }
    let frozen = container.init.stage() == Stage::Paused;
    let done = container.process(&q.exec_id)?.kill(number);
    if q.all && q.exec_id.is_empty() {
        let procs = container.cgroup.as_ref().and_then(|g| g.procs().ok()).unwrap_or_default();
        let init = container.init.pid();
        let others = procs.into_iter().filter(|pid| *pid != init && signal::kill(*pid, number).is_ok()).count();
        if others == 0 {
            done?;
        }
    } else {
        done?;
    }
    if number == libc::SIGKILL && frozen {
        // A frozen process cannot even die on cgroup v1.
        let shim = shim.clone();
        shim.clone().pool.run(move || {
            if let Err(e) = thaw(&shim, &container) {
                warn!("container {}: killed while paused, and not thawed: {}", container.id, e.chain());
            }
        });
    }
    Ok(Empty::new())
}

/// Sets a terminal's size.
pub fn resize(shim: &Arc<Shim>, q: t::ResizePtyRequest) -> Result<Empty> {
    let terminal = shim.process(&q.id, &q.exec_id)?.terminal()?;
    let size = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    pty::resize(&*terminal, size(q.width), size(q.height)).during(|| format!("resize the terminal of {}", q.id))?;
    Ok(Empty::new())
}

/// Ends a process's input.
pub fn close_io(shim: &Arc<Shim>, q: t::CloseIORequest) -> Result<Empty> {
    let process = shim.process(&q.id, &q.exec_id)?;
    if q.stdin
        && let Ok(streams) = process.streams()
    {
        streams.close_stdin();
    }
    Ok(Empty::new())
}

/// Changes limits; the resources come as the OCI spec's JSON.
pub fn update(shim: &Arc<Shim>, q: t::UpdateTaskRequest) -> Result<Empty> {
    let container = shim.container(&q.id)?;
    let resources = q.resources.as_ref().ok_or_else(|| Error::invalid(format!("update of container {}: no resources", q.id)))?;
    // One file a thread: two updates at a time must not read each other's.
    let path = container.bundle.join(format!("update-{:?}.json", std::thread::current().id()));
    std::fs::write(&path, &resources.value).during(|| format!("write {}", path.display()))?;
    let args = ["update", "--resources", &path.to_string_lossy(), &q.id];
    let done = container.runtime.run(&shim.reaper, &container.bundle, &args, Streams::Captured);
    let _ = std::fs::remove_file(&path);
    done.map(|()| Empty::new())
}

/// What the container used.
pub fn stats(shim: &Arc<Shim>, q: t::StatsRequest) -> Result<t::StatsResponse> {
    let container = shim.container(&q.id)?;
    let group = container.cgroup.as_ref().ok_or_else(|| Error::not_found("cgroup of container", &q.id))?;
    let mut answer = t::StatsResponse::new();
    answer.stats = Some(metrics::read(group)?).into();
    Ok(answer)
}

/// Who serves.
pub fn connect(shim: &Arc<Shim>, q: t::ConnectRequest) -> Result<t::ConnectResponse> {
    let mut answer = t::ConnectResponse::new();
    answer.shim_pid = std::process::id();
    if let Ok(container) = shim.container(&q.id) {
        answer.task_pid = container.init.pid() as u32;
    }
    answer.version = env!("CARGO_PKG_VERSION").into();
    Ok(answer)
}
