//! Process: one first process of a container, or an exec in it, and the life it goes through.
//!
//! ```text
//! init:  Creating → Created → Starting → Running ⇄ Paused
//! exec:             Added   → Starting → Running              any with a pid → Stopped → Deleting
//! ```
//! An exit that comes while a start is under way is held until the start has been told.
use super::stdio::Stdio;
use super::streams::Handle;
use crate::error::{Error, Result};
use crate::proto::task_types::Status;
use crate::sys::signal;
use crate::thread::lock;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exit {
    /// Exit code, or 128 and the signal.
    pub code: u32,
    /// When.
    pub at: SystemTime,
}

/// Told of the end, once.
pub type Waiter = Box<dyn FnOnce(Exit) + Send>;

/// Where in its life it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// The OCI runtime is making it.
    Creating,
    /// An exec that is described only.
    Added,
    /// Made, and waiting for its start.
    Created,
    /// Being started; its end, should it have come already.
    Starting(Option<Exit>),
    /// It runs.
    Running,
    /// Frozen.
    Paused,
    /// It has ended.
    Stopped(Exit),
    /// Being removed; None for one that never ran.
    Deleting(Option<Exit>),
}

/// One process.
pub struct Process {
    /// Its container.
    pub container: String,
    /// Its own ID within; empty for the container's first process.
    pub exec: String,
    /// What the client gave for its streams.
    pub stdio: Stdio,
    state: Mutex<State>,
}

struct State {
    stage: Stage,
    pid: i32,
    waiters: Vec<Waiter>,
    terminal: Option<Arc<OwnedFd>>,
    streams: Option<Handle>,
}

/// A start under way; dropped, the process is again what it was.
pub struct Starting<'a> {
    process: &'a Process,
    before: Stage,
}

/// A removal under way; dropped, the process is again what it was.
pub struct Deleting<'a> {
    process: &'a Process,
    before: Stage,
}

impl Process {
    /// A container's first process, or an exec.
    pub fn new(container: String, exec: String, stdio: Stdio) -> Process {
        let stage = if exec.is_empty() { Stage::Creating } else { Stage::Added };
        let state = State { stage, pid: 0, waiters: vec![], terminal: None, streams: None };
        Process { container, exec, stdio, state: Mutex::new(state) }
    }
    /// Where it is.
    pub fn stage(&self) -> Stage {
        lock(&self.state).stage
    }
    /// Its number; 0 before it has one.
    pub fn pid(&self) -> i32 {
        lock(&self.state).pid
    }
    /// Its end, if it has ended.
    pub fn exit(&self) -> Option<Exit> {
        match self.stage() {
            Stage::Stopped(exit) | Stage::Deleting(Some(exit)) => Some(exit),
            _ => None,
        }
    }
    /// Its state in the API's words.
    pub fn status(&self) -> Status {
        match self.stage() {
            Stage::Creating | Stage::Added | Stage::Created | Stage::Starting(_) => Status::CREATED,
            Stage::Running => Status::RUNNING,
            Stage::Paused => Status::PAUSED,
            Stage::Stopped(_) | Stage::Deleting(_) => Status::STOPPED,
        }
    }
    /// What moves its streams.
    pub fn streams(&self) -> Result<Handle> {
        lock(&self.state).streams.clone().ok_or_else(|| Error::precondition(format!("{self}: has no streams that are copied")))
    }
    /// Its terminal.
    pub fn terminal(&self) -> Result<Arc<OwnedFd>> {
        lock(&self.state).terminal.clone().ok_or_else(|| Error::precondition(format!("{self}: has no terminal")))
    }
    /// What the OCI runtime has made of it.
    pub fn connect(&self, terminal: Option<Arc<OwnedFd>>, streams: Option<Handle>) {
        let mut state = lock(&self.state);
        state.terminal = terminal;
        state.streams = streams;
    }
    /// The OCI runtime has made it.
    pub fn created(&self, pid: i32) {
        let mut state = lock(&self.state);
        state.pid = pid;
        state.stage = Stage::Created;
    }
    /// Begins its start.
    pub fn begin_start(&self) -> Result<Starting<'_>> {
        let mut state = lock(&self.state);
        match state.stage {
            Stage::Created | Stage::Added => {
                let before = std::mem::replace(&mut state.stage, Stage::Starting(None));
                Ok(Starting { process: self, before })
            }
            stage => Err(Error::precondition(format!("{self}: cannot be started, it is {}", stage.word()))),
        }
    }
    /// Begins its removal.
    pub fn begin_delete(&self) -> Result<Deleting<'_>> {
        let mut state = lock(&self.state);
        let exit = match state.stage {
            Stage::Stopped(exit) => Some(exit),
            Stage::Created | Stage::Added => None,
            stage => return Err(Error::precondition(format!("{self}: cannot be deleted, it is {}", stage.word()))),
        };
        let before = std::mem::replace(&mut state.stage, Stage::Deleting(exit));
        Ok(Deleting { process: self, before })
    }
    /// Freezing or thawing has succeeded; a process that ended meanwhile stays ended.
    pub fn turn(&self, from: Stage, to: Stage) {
        let mut state = lock(&self.state);
        if state.stage == from {
            state.stage = to;
        }
    }
    /// It has ended. Those to be told, unless a start is under way, which then tells.
    pub fn end(&self, exit: Exit) -> Option<Vec<Waiter>> {
        let mut state = lock(&self.state);
        match state.stage {
            Stage::Starting(_) => {
                state.stage = Stage::Starting(Some(exit));
                return None;
            }
            Stage::Deleting(_) => state.stage = Stage::Deleting(Some(exit)),
            _ => state.stage = Stage::Stopped(exit),
        }
        Some(std::mem::take(&mut state.waiters))
    }
    /// Calls `waiter` at its end, or now if it has ended.
    pub fn wait(&self, waiter: Waiter) {
        let mut state = lock(&self.state);
        let exit = match state.stage {
            Stage::Stopped(exit) | Stage::Deleting(Some(exit)) => exit,
            _ => return state.waiters.push(waiter),
        };
        drop(state);
        waiter(exit);
    }
    /// Sends it a signal. The number cannot be a stranger's: it is freed only after [`Process::end`].
    pub fn kill(&self, number: i32) -> Result<()> {
        let state = lock(&self.state);
        let gone = || Error::not_found("process", format!("{self}")).because(std::io::Error::other("process already finished"));
        match state.stage {
            Stage::Stopped(_) | Stage::Deleting(_) | Stage::Starting(Some(_)) => Err(gone()),
            stage if state.pid == 0 => Err(Error::precondition(format!("{self}: cannot be signalled, it is {}", stage.word()))),
            _ => match signal::kill(state.pid, number) {
                Ok(()) => Ok(()),
                Err(rustix::io::Errno::SRCH) => Err(gone()),
                Err(e) => Err(Error::invalid(format!("signal {number} to {self}")).because(std::io::Error::from(e))),
            },
        }
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.exec.is_empty() { write!(f, "container {}", self.container) } else { write!(f, "exec {} in {}", self.exec, self.container) }
    }
}

impl Stage {
    /// For messages.
    pub fn word(&self) -> &'static str {
        match self {
            Stage::Creating => "being created",
            Stage::Added | Stage::Created => "created and not started",
            Stage::Starting(_) => "being started",
            Stage::Running => "running",
            Stage::Paused => "paused",
            Stage::Stopped(_) => "stopped",
            Stage::Deleting(_) => "being deleted",
        }
    }
}

impl Starting<'_> {
    /// An exec has its number; from now on it can be signalled.
    pub fn pid(&self, pid: i32) {
        lock(&self.process.state).pid = pid;
    }
    /// Started, and told. An end that came meanwhile is to be told now.
    pub fn done(self) -> Option<(Exit, Vec<Waiter>)> {
        let ended = self.settle(Stage::Running);
        std::mem::forget(self);
        ended
    }
    /// Not started. An end that came meanwhile is to be told now.
    pub fn failed(self) -> Option<(Exit, Vec<Waiter>)> {
        let ended = self.settle(self.before);
        std::mem::forget(self);
        ended
    }
    fn settle(&self, to: Stage) -> Option<(Exit, Vec<Waiter>)> {
        let mut state = lock(&self.process.state);
        match state.stage {
            Stage::Starting(Some(exit)) => {
                state.stage = Stage::Stopped(exit);
                Some((exit, std::mem::take(&mut state.waiters)))
            }
            _ => {
                state.stage = to;
                None
            }
        }
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        let _ = self.settle(self.before);
    }
}

impl Deleting<'_> {
    /// Removed. Its end; a process that never ran has ended now, by a kill.
    pub fn done(self) -> Exit {
        let exit = match self.process.stage() {
            Stage::Deleting(Some(exit)) => exit,
            _ => Exit { code: 128 + libc::SIGKILL as u32, at: SystemTime::now() },
        };
        std::mem::forget(self);
        exit
    }
    /// Whether it is still there.
    pub fn alive(&self) -> bool {
        self.process.pid() != 0 && self.process.exit().is_none()
    }
}

impl Drop for Deleting<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.process.state);
        state.stage = match state.stage {
            Stage::Deleting(Some(exit)) => Stage::Stopped(exit),
            _ => self.before,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn exit(code: u32) -> Exit {
        Exit { code, at: SystemTime::now() }
    }

    #[test]
    fn an_end_during_the_start_is_told_after_it() {
        let process = Process::new("c".into(), String::new(), Stdio::default());
        assert!(process.begin_start().is_err());
        process.created(7);
        let told = Arc::new(AtomicU32::new(0));
        let on = told.clone();
        process.wait(Box::new(move |e| on.store(e.code, Ordering::SeqCst)));
        let starting = process.begin_start().unwrap();
        assert!(process.begin_start().is_err());
        assert!(process.end(exit(3)).is_none());
        assert!(process.kill(9).unwrap_err().is_not_found());
        let (ended, waiters) = starting.done().unwrap();
        waiters.into_iter().for_each(|w| w(ended));
        assert_eq!((told.load(Ordering::SeqCst), process.exit().unwrap().code), (3, 3));
        assert!(process.begin_start().is_err());
    }

    #[test]
    fn a_failed_start_or_removal_changes_nothing() {
        let process = Process::new("c".into(), "e".into(), Stdio::default());
        assert!(process.begin_start().unwrap().failed().is_none());
        drop(process.begin_start().unwrap());
        drop(process.begin_delete().unwrap());
        assert_eq!(process.stage(), Stage::Added);
        assert!(process.begin_start().unwrap().done().is_none());
        assert!(process.begin_delete().is_err());
        assert!(process.end(exit(0)).unwrap().is_empty());
        drop(process.begin_delete().unwrap());
        assert_eq!(process.begin_delete().unwrap().done().code, 0);
    }
}
