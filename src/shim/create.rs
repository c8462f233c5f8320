//! Create: after Ok the container's first process waits for its start; after an error nothing of it is left.
use super::bootstrap::runc_options;
use super::console::Console;
use super::container::{Container, Shim};
use super::process::Process;
use super::runtime::{Runtime, Streams};
use super::spec::Spec;
use super::stdio::{Opened, Owner, Readers, Stdio};
use crate::error::{Context, Error, Kind, Result};
use crate::proto::mount::Mount as MountMessage;
use crate::proto::runc_options::Options;
use crate::proto::task_events::{TaskCreate, TaskIO};
use crate::proto::task_v2::{CreateTaskRequest, CreateTaskResponse};
use crate::sys::cgroup::Cgroup;
use crate::sys::memory;
use crate::sys::mount::{self, Mount};
use crate::undo::Undo;
use log::{info, warn};
use rustix::mount::UnmountFlags;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// File with the first process's number, as containerd names it.
pub const PID_FILE: &str = "init.pid";

/// Makes a container.
pub fn create(shim: &Arc<Shim>, q: CreateTaskRequest) -> Result<CreateTaskResponse> {
    super::args::name_of("container ID", &q.id)?;
    if !q.checkpoint.is_empty() {
        return Err(Error::new(Kind::Unimplemented, "restore from a checkpoint: not offered by this shim"));
    }
    shim.reserve(&q.id)?;
    let made = make(shim, &q);
    if made.is_err() {
        shim.remove(&q.id);
    }
    // Specs and messages are large beside everything that stays.
    memory::trim();
    let mut answer = CreateTaskResponse::new();
    answer.pid = made? as u32;
    Ok(answer)
}

fn make(shim: &Arc<Shim>, q: &CreateTaskRequest) -> Result<i32> {
    let options = q.options.as_ref().and_then(runc_options).unwrap_or_default();
    let bundle = PathBuf::from(&q.bundle);
    let spec = Spec::read(&bundle)?;
    let runtime = Runtime::new(&options, &shim.namespace)?;
    runtime.save(&bundle)?;
    let mut undo = Undo::new();
    mount_rootfs(&q.rootfs, &bundle, &mut undo)?;
    let stdio = Stdio { stdin: q.stdin.clone(), stdout: q.stdout.clone(), stderr: q.stderr.clone(), terminal: q.terminal };
    let ids = (options.io_uid, options.io_gid);
    let mut opened = stdio.open(&Owner { id: &q.id, namespace: &shim.namespace, ids, readers: Readers::Return }, &shim.reaper)?;
    let init = Arc::new(Process::new(q.id.clone(), String::new(), stdio));
    let mut container = Container::new(q.id.clone(), bundle, runtime, init);
    container.pid_namespace = spec.pid_namespace();
    container.ids = ids;
    drop(spec);

    let window = shim.reaper.window();
    let pid = run(shim, &container, &options, &mut opened, &mut undo)?;
    match Cgroup::of_pid(pid) {
        Ok(group) => {
            shim.oom.add(&container.id, &group);
            container.cgroup = Some(group);
        }
        Err(e) => warn!("container {}: no stats and no news of memory, its cgroup is not found: {e}", container.id),
    }
    undo.keep();
    let container = Arc::new(container);
    container.init.created(pid);
    shim.insert(container.clone());
    shim.events.publish("/tasks/create", &created(q, pid));
    info!("container {}: created, pid {pid}", container.id);
    if let Some(ended) = shim.reaper.adopt(pid, &container.init) {
        shim.ended(&container.init, ended);
    }
    drop(window);
    Ok(pid)
}

/// Runs the OCI runtime's create, and connects the streams of what it has made.
fn run(shim: &Arc<Shim>, container: &Container, options: &Options, opened: &mut Opened, undo: &mut Undo) -> Result<i32> {
    let bundle = &container.bundle;
    let (runtime, reaper) = (container.runtime.clone(), shim.reaper.clone());
    let (id, at) = (container.id.clone(), bundle.clone());
    let pid_file = bundle.join(PID_FILE);
    let pid_path = pid_file.to_string_lossy();
    let bundle_path = bundle.to_string_lossy();
    let console = match container.init.stdio.terminal {
        true => Some(Console::listen(bundle, "console.sock".into())?),
        false => None,
    };
    let mut args = vec!["create", "--bundle", &bundle_path, "--pid-file", &pid_path];
    if let Some(console) = &console {
        args.extend(["--console-socket", &console.name]);
    }
    if options.no_pivot_root {
        args.push("--no-pivot");
    }
    if options.no_new_keyring {
        args.push("--no-new-keyring");
    }
    args.push(&id);
    let streams = match console {
        Some(_) => Streams::Captured,
        None => Streams::Given([opened.stdin.take(), opened.stdout.take(), opened.stderr.take()]),
    };
    let (again, place) = (id.clone(), at);
    undo.push("delete the container", move || {
        // Most failures leave nothing to delete.
        let _ = runtime.run(&reaper, &place, &["delete", "--force", &again], Streams::Captured);
        Ok(())
    });
    container.runtime.run(&shim.reaper, bundle, &args, streams)?;
    connect(shim, &container.init, std::mem::take(opened), console.as_ref())?;
    read_pid(&pid_file)
}

/// Gives a process that the OCI runtime has made its terminal and its flow.
pub fn connect(shim: &Arc<Shim>, process: &Process, mut opened: Opened, console: Option<&Console>) -> Result<()> {
    let terminal = match console {
        Some(console) => {
            let master = Arc::new(console.master()?);
            opened.terminal(master.clone());
            Some(master)
        }
        None => None,
    };
    let name = if process.exec.is_empty() { &process.container } else { &process.exec };
    let streams = match opened.flow.is_empty() {
        true => None,
        false => Some(shim.streams.add(&shim.threads, name, opened.flow)?),
    };
    process.connect(terminal, streams);
    Ok(())
}

/// The number that the OCI runtime wrote.
pub fn read_pid(path: &Path) -> Result<i32> {
    let text = std::fs::read_to_string(path).during(|| format!("read {}", path.display()))?;
    let pid = text.trim().parse().ok().filter(|p| *p > 0);
    pid.ok_or_else(|| Error::internal(format!("{}: \"{}\" is no process ID", path.display(), text.trim())))
}

fn mount_rootfs(mounts: &[MountMessage], bundle: &Path, undo: &mut Undo) -> Result<()> {
    if mounts.is_empty() {
        return Ok(());
    }
    let rootfs = bundle.join("rootfs");
    std::fs::create_dir_all(&rootfs).during(|| format!("make {}", rootfs.display()))?;
    let mounts: Vec<Mount> = mounts
        .iter()
        .map(|m| Mount {
            kind: m.type_.clone(),
            source: m.source.clone(),
            target: Some(m.target.clone()).filter(|t| !t.is_empty()),
            options: m.options.clone(),
        })
        .collect();
    mount::mount_all(&mounts, &rootfs).during(|| format!("mount root file system at {}", rootfs.display()))?;
    undo.push("unmount the root file system", move || unmount_rootfs(&rootfs));
    Ok(())
}

/// Takes the root file system of a container that is gone down.
pub fn unmount_rootfs(rootfs: &Path) -> Result<()> {
    mount::unmount_tree(rootfs, UnmountFlags::empty())
        .or_else(|_| mount::unmount_tree(rootfs, UnmountFlags::DETACH))
        .during(|| format!("unmount {}", rootfs.display()))
}

fn created(q: &CreateTaskRequest, pid: i32) -> TaskCreate {
    let mut io = TaskIO::new();
    (io.stdin, io.stdout, io.stderr, io.terminal) = (q.stdin.clone(), q.stdout.clone(), q.stderr.clone(), q.terminal);
    let mut event = TaskCreate::new();
    event.container_id = q.id.clone();
    event.bundle = q.bundle.clone();
    event.rootfs = q.rootfs.clone();
    event.io = Some(io).into();
    event.checkpoint = q.checkpoint.clone();
    event.pid = pid as u32;
    event
}
