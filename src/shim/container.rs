//! Container: one bundle, its first process and the execs in it; and the shim that holds them all.
use super::events::Events;
use super::oom::Oom;
use super::process::{Exit, Process, Stage, Waiter};
use super::reaper::Reaper;
use super::runtime::Runtime;
use super::spec::PidNamespace;
use super::streams::Streams;
use crate::error::{Error, Result};
use crate::proto::task_events::TaskExit;
use crate::sys::cgroup::Cgroup;
use crate::sys::pidfd::Ended;
use crate::thread::{Pool, Threads, lock};
use log::warn;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// Everything that a shim's calls work on.
pub struct Shim {
    /// containerd namespace of all its containers.
    pub namespace: String,
    /// To the daemon.
    pub events: Arc<Events>,
    /// Exits of children.
    pub reaper: Arc<Reaper>,
    /// Loop of all streams without a log file.
    pub streams: Arc<Streams>,
    /// Kills for want of memory.
    pub oom: Oom,
    /// Owner of the threads.
    pub threads: Arc<Threads>,
    /// For what blocks.
    pub pool: Pool,
    containers: Mutex<HashMap<String, Slot>>,
}

/// An ID in use.
enum Slot {
    /// Its container is being made.
    Reserved,
    Made(Arc<Container>),
}

/// One container.
pub struct Container {
    /// Its ID.
    pub id: String,
    /// Directory with its `config.json`.
    pub bundle: PathBuf,
    /// Its OCI runtime.
    pub runtime: Runtime,
    /// The first process.
    pub init: Arc<Process>,
    /// Its group; None if it was gone before we could look.
    pub cgroup: Option<Cgroup>,
    /// Whose end ends all.
    pub pid_namespace: PidNamespace,
    /// User and group of its pipes.
    pub ids: (u32, u32),
    execs: Mutex<HashMap<String, Arc<Process>>>,
}

impl Shim {
    /// Without containers.
    pub fn new(namespace: String, events: Arc<Events>, threads: Arc<Threads>) -> Result<Shim> {
        Ok(Shim {
            namespace,
            events,
            reaper: Arc::default(),
            streams: Streams::shared(&threads)?,
            oom: Oom::new()?,
            pool: Pool::new("work", 16)?,
            threads,
            containers: Mutex::default(),
        })
    }
    /// Takes an ID, so that a second Create of it fails.
    pub fn reserve(&self, id: &str) -> Result<()> {
        let mut containers = lock(&self.containers);
        if containers.contains_key(id) {
            return Err(Error::already_exists("container", id));
        }
        containers.insert(id.into(), Slot::Reserved);
        Ok(())
    }
    /// Fills a reserved ID.
    pub fn insert(&self, container: Arc<Container>) {
        lock(&self.containers).insert(container.id.clone(), Slot::Made(container));
    }
    /// Frees an ID.
    pub fn remove(&self, id: &str) {
        lock(&self.containers).remove(id);
    }
    /// A container by ID.
    pub fn container(&self, id: &str) -> Result<Arc<Container>> {
        match lock(&self.containers).get(id) {
            Some(Slot::Made(container)) => Ok(container.clone()),
            // Not the same as unknown: it will be there, and somebody must remove it.
            Some(Slot::Reserved) => Err(Error::precondition(format!("container \"{id}\": is being created"))),
            None => Err(Error::not_found("container", id)),
        }
    }
    /// A process by its container's and its own ID.
    pub fn process(&self, id: &str, exec: &str) -> Result<Arc<Process>> {
        self.container(id)?.process(exec)
    }
    /// Whether it serves nobody.
    pub fn is_empty(&self) -> bool {
        lock(&self.containers).is_empty()
    }
    /// A child of a container has ended.
    pub fn ended(&self, process: &Process, ended: Ended) {
        let exit = Exit { code: ended.code, at: SystemTime::now() };
        if let Some(waiters) = process.end(exit) {
            self.tell_exit(process, exit, waiters);
        }
    }
    /// Publishes an end and answers those who wait for it.
    pub fn tell_exit(&self, process: &Process, exit: Exit, waiters: Vec<Waiter>) {
        if process.exec.is_empty() {
            if exit.code == 128 + libc::SIGKILL as u32 {
                // The kernel's word about memory may be behind its signal, and must come before the exit.
                self.oom.check(&process.container, &self.events);
            }
            self.kill_rest(&process.container);
        }
        let mut event = TaskExit::new();
        event.container_id = process.container.clone();
        event.id = if process.exec.is_empty() { process.container.clone() } else { process.exec.clone() };
        event.pid = process.pid() as u32;
        event.exit_status = exit.code;
        event.exited_at = Some(super::clock::timestamp(exit.at)).into();
        self.events.publish("/tasks/exit", &event);
        for waiter in waiters {
            waiter(exit);
        }
    }
    /// Where the first process does not hold the PID namespace, the rest of the container would live on.
    fn kill_rest(&self, id: &str) {
        let Ok(container) = self.container(id) else { return };
        let Some(group) = container.cgroup.clone().filter(|_| container.pid_namespace == PidNamespace::Shared) else { return };
        self.pool.run(move || {
            if let Err(e) = group.kill_all() {
                // Without a group there is nobody left in it.
                if e.kind() != std::io::ErrorKind::NotFound {
                    warn!("container {}: what its first process left behind is not killed: {e}", container.id);
                }
            }
        });
    }
}

impl Container {
    /// A container that the OCI runtime has made.
    pub fn new(id: String, bundle: PathBuf, runtime: Runtime, init: Arc<Process>) -> Container {
        Container { id, bundle, runtime, init, cgroup: None, pid_namespace: PidNamespace::Private, ids: (0, 0), execs: Mutex::default() }
    }
    /// A process; an empty ID is the first one.
    pub fn process(&self, exec: &str) -> Result<Arc<Process>> {
        if exec.is_empty() {
            return Ok(self.init.clone());
        }
        lock(&self.execs).get(exec).cloned().ok_or_else(|| Error::not_found("exec", exec))
    }
    /// Adds an exec.
    pub fn add(&self, process: Arc<Process>) -> Result<()> {
        let mut execs = lock(&self.execs);
        if execs.contains_key(&process.exec) {
            return Err(Error::already_exists("exec", &process.exec));
        }
        execs.insert(process.exec.clone(), process);
        Ok(())
    }
    /// Forgets an exec.
    pub fn forget(&self, exec: &str) {
        lock(&self.execs).remove(exec);
    }
    /// ID of the exec with this number.
    pub fn exec_of(&self, pid: i32) -> Option<String> {
        lock(&self.execs).values().find(|p| p.pid() == pid).map(|p| p.exec.clone())
    }
    /// An error unless the first process runs.
    pub fn running(&self) -> Result<()> {
        match self.init.stage() {
            Stage::Running => Ok(()),
            stage => Err(Error::precondition(format!("container {}: must be running, it is {}", self.id, stage.word()))),
        }
    }
}
