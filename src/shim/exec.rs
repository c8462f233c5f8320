//! Exec: a further process in a running container; Exec only describes it, Start runs it.
use super::console::Console;
use super::container::{Container, Shim};
use super::create::{connect, read_pid};
use super::process::Process;
use super::runtime::Streams;
use super::spec;
use super::stdio::{Owner, Readers, Stdio};
use crate::error::{Context, Error, Result};
use crate::proto::task_events::{TaskExecAdded, TaskExecStarted};
use crate::proto::task_v2::ExecProcessRequest;
use protobuf::well_known_types::empty::Empty;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Describes an exec. Its process is kept as a file of the bundle until the start, not in memory.
pub fn exec(shim: &Arc<Shim>, q: ExecProcessRequest) -> Result<Empty> {
    super::args::name_of("exec ID", &q.exec_id)?;
    let container = shim.container(&q.id)?;
    let json = q.spec.as_ref().map(|any| any.value.as_slice()).ok_or_else(|| Error::invalid(format!("exec {}: no process", q.exec_id)))?;
    let json = spec::process(json, q.terminal)?;
    let stdio = Stdio { stdin: q.stdin, stdout: q.stdout, stderr: q.stderr, terminal: q.terminal };
    container.add(Arc::new(Process::new(q.id.clone(), q.exec_id.clone(), stdio)))?;
    let path = process_file(&container.bundle, &q.exec_id);
    if let Err(e) = std::fs::write(&path, json).during(|| format!("write {}", path.display())) {
        container.forget(&q.exec_id);
        return Err(e);
    }
    let mut event = TaskExecAdded::new();
    (event.container_id, event.exec_id) = (q.id, q.exec_id);
    shim.events.publish("/tasks/exec-added", &event);
    Ok(Empty::new())
}

/// Starts a described exec; its number.
pub fn start(shim: &Arc<Shim>, container: &Container, process: &Arc<Process>) -> Result<i32> {
    container.running()?;
    let starting = process.begin_start()?;
    let window = shim.reaper.window();
    let pid = match run(shim, container, process) {
        Ok(pid) => pid,
        Err(e) => {
            starting.failed();
            return Err(e);
        }
    };
    starting.pid(pid);
    let early = shim.reaper.adopt(pid, process);
    let mut event = TaskExecStarted::new();
    (event.container_id, event.exec_id, event.pid) = (process.container.clone(), process.exec.clone(), pid as u32);
    shim.events.publish("/tasks/exec-started", &event);
    if let Some(ended) = early {
        shim.ended(process, ended);
    }
    if let Some((exit, waiters)) = starting.done() {
        shim.tell_exit(process, exit, waiters);
    }
    drop(window);
    Ok(pid)
}

fn run(shim: &Arc<Shim>, container: &Container, process: &Process) -> Result<i32> {
    let owner = Owner { id: &container.id, namespace: &shim.namespace, ids: container.ids, readers: Readers::Leave };
    let mut opened = process.stdio.open(&owner, &shim.reaper)?;
    let json = process_file(&container.bundle, &process.exec);
    let pid_file = Scratch(container.bundle.join(format!("{}.pid", process.exec)));
    let (json_path, pid_path) = (json.to_string_lossy(), pid_file.0.to_string_lossy());
    let console = match process.stdio.terminal {
        true => Some(Console::listen(&container.bundle, format!("{}.sock", process.exec))?),
        false => None,
    };
    let mut args = vec!["exec", "--process", &json_path, "--pid-file", &pid_path, "--detach"];
    let streams = match &console {
        Some(console) => {
            args.extend(["--console-socket", &console.name]);
            Streams::Captured
        }
        None => Streams::Given([opened.stdin.take(), opened.stdout.take(), opened.stderr.take()]),
    };
    args.push(&container.id);
    container.runtime.run(&shim.reaper, &container.bundle, &args, streams)?;
    connect(shim, process, opened, console.as_ref())?;
    read_pid(&pid_file.0)
}

/// Removes what an exec left in the bundle.
pub fn clean(bundle: &Path, exec: &str) {
    let _ = std::fs::remove_file(process_file(bundle, exec));
}

fn process_file(bundle: &Path, exec: &str) -> PathBuf {
    bundle.join(format!("{exec}-process.json"))
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
