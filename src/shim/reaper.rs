//! Reaper: every exit of a child reaches the one who waits for it, also when it comes before anybody could know the child.
//!
//! The shim is a subreaper, so containers' processes become its children once the OCI runtime has ended. Only the main loop reaps,
//! and a process's number is freed after its owner has learned of the end: no signal can go to a stranger.
use super::process::Process;
use crate::sys::pidfd::Ended;
use crate::thread::lock;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::HashMap;
use std::io;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

/// Who waits for whom.
#[derive(Default)]
pub struct Reaper {
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    tools: HashMap<i32, Sender<u32>>,
    processes: HashMap<i32, Arc<Process>>,
    /// Exits of children that nobody knows yet, kept while somebody may still come to ask.
    early: Vec<Ended>,
    windows: usize,
}

/// While it lives, exits of unknown children are kept.
pub struct Window<'a>(&'a Reaper);

impl Reaper {
    /// To be opened before the child can exist.
    pub fn window(&self) -> Window<'_> {
        lock(&self.waiting).windows += 1;
        Window(self)
    }
    /// Starts a program; its exit code comes over the channel.
    pub fn run(&self, command: &mut Command) -> io::Result<(Child, Receiver<u32>)> {
        let _window = self.window();
        let child = command.spawn()?;
        let (tx, rx) = bounded(1);
        let mut waiting = lock(&self.waiting);
        match waiting.take_early(child.id() as i32) {
            Some(ended) => drop(tx.send(ended.code)),
            None => drop(waiting.tools.insert(child.id() as i32, tx)),
        }
        Ok((child, rx))
    }
    /// From now on the process hears of its end; if it has ended already, the caller is told instead.
    pub fn adopt(&self, pid: i32, process: &Arc<Process>) -> Option<Ended> {
        let mut waiting = lock(&self.waiting);
        let early = waiting.take_early(pid);
        if early.is_none() {
            waiting.processes.insert(pid, process.clone());
        }
        early
    }
    /// The main loop has seen an exit: the process that it is of.
    pub fn ended(&self, ended: Ended) -> Option<Arc<Process>> {
        let mut waiting = lock(&self.waiting);
        if let Some(tool) = waiting.tools.remove(&ended.pid) {
            let _ = tool.send(ended.code);
            return None;
        }
        let process = waiting.processes.remove(&ended.pid);
        if process.is_none() && waiting.windows > 0 {
            waiting.early.push(ended);
        }
        process
    }
}

impl Waiting {
    fn take_early(&mut self, pid: i32) -> Option<Ended> {
        // The last one, should a number have come twice.
        let at = self.early.iter().rposition(|e| e.pid == pid)?;
        Some(self.early.remove(at))
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        let mut waiting = lock(&self.0.waiting);
        waiting.windows -= 1;
        if waiting.windows == 0 {
            waiting.early = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_before_the_adoption_is_kept_while_a_window_is_open() {
        let (reaper, ended) = (Reaper::default(), Ended { pid: 7, code: 3 });
        let process = Arc::new(Process::new("c".into(), String::new(), Default::default()));
        let window = reaper.window();
        assert!(reaper.ended(ended).is_none());
        assert_eq!(reaper.adopt(7, &process), Some(ended));
        assert!(reaper.adopt(7, &process).is_none());
        drop(window);
        assert!(Arc::ptr_eq(&reaper.ended(ended).unwrap(), &process));
        assert!(reaper.ended(ended).is_none());
        assert!(reaper.adopt(7, &process).is_none());
    }
}
