//! Process: one process of a container and its exit, told once to everybody who waits.
use super::{Exit, Stdio};
use crate::thread::lock;
use crossbeam_channel::{Receiver, bounded};
use std::sync::Mutex;

/// Told the exit; must not block, for it may run on the thread that serves all shims.
pub type Waiter = Box<dyn FnOnce(Exit) + Send>;

/// A container's first process or one added by exec.
pub struct Process {
    /// Empty for the container's first.
    pub exec_id: String,
    /// What it was created with.
    pub stdio: Stdio,
    state: Mutex<State>,
}

struct State {
    pid: u32,
    life: Life,
}

enum Life {
    Running(Vec<Waiter>),
    Exited(Exit),
}

impl Process {
    /// Created, not yet exited.
    pub fn new(exec_id: &str, stdio: Stdio, pid: u32) -> Process {
        Process { exec_id: exec_id.into(), stdio, state: Mutex::new(State { pid, life: Life::Running(vec![]) }) }
    }
    /// Its PID on the host; 0 as long as it is not known.
    pub fn pid(&self) -> u32 {
        lock(&self.state).pid
    }
    /// Notes the PID.
    pub fn set_pid(&self, pid: u32) {
        lock(&self.state).pid = pid;
    }
    /// How it ended, if it has.
    pub fn exit(&self) -> Option<Exit> {
        match lock(&self.state).life {
            Life::Running(_) => None,
            Life::Exited(exit) => Some(exit),
        }
    }
    /// Gets the exit, now or later.
    pub fn wait(&self) -> Receiver<Exit> {
        let (tx, rx) = bounded(1);
        // The channel has room for its one exit; a waiter that went away is fine.
        self.tell(Box::new(move |exit| {
            let _ = tx.try_send(exit);
        }));
        rx
    }
    /// Calls back with the exit, now or later.
    pub fn tell(&self, waiter: Waiter) {
        let exit = match &mut lock(&self.state).life {
            Life::Running(waiters) => return waiters.push(waiter),
            Life::Exited(exit) => *exit,
        };
        waiter(exit);
    }
    /// Notes the exit and tells the waiters; what came first stands and is returned.
    pub fn exited(&self, exit: Exit) -> Exit {
        let waiters = {
            let mut state = lock(&self.state);
            match &mut state.life {
                Life::Exited(first) => return *first,
                Life::Running(waiters) => {
                    let waiters = std::mem::take(waiters);
                    state.life = Life::Exited(exit);
                    waiters
                }
            }
        };
        for waiter in waiters {
            waiter(exit);
        }
        exit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn the_first_exit_stands_and_reaches_early_and_late_waiters() {
        let process = Process::new("", Stdio::default(), 7);
        let early = process.wait();
        let exit = |code| Exit { code, at: SystemTime::UNIX_EPOCH };
        assert_eq!(process.exited(exit(3)), exit(3));
        assert_eq!(process.exited(exit(137)), exit(3));
        assert_eq!(early.try_recv().unwrap(), exit(3));
        assert_eq!(process.wait().try_recv().unwrap(), exit(3));
        assert!(early.try_recv().is_err());
    }
}
