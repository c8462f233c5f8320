//! Logs: what shims write into their bundle's `log` FIFO becomes lines of our log. One thread reads all of them.
use super::bundle::Bundle;
use crate::error::{Context, Result};
use crate::thread::{Stop, Threads, lock};
use log::{Level, log};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{Mode, OFlags, mkfifoat, open};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

/// A longer line is cut.
const MAX_LINE: usize = 4096;
/// Read at most this much of one shim in a turn, so that a shim that floods does not hold the others back.
const TURN: usize = 64 << 10;

/// The FIFOs that are read.
pub struct Logs {
    wake: Arc<OwnedFd>,
    changes: Mutex<Vec<Change>>,
}

enum Change {
    Add(Source),
    Remove(String),
}

struct Source {
    name: String,
    fd: OwnedFd,
    line: Vec<u8>,
}

impl Logs {
    /// Starts the loop `shim-log`.
    pub fn new(threads: &Threads) -> Result<Arc<Logs>> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).during(|| "create an eventfd for shim logs")?;
        let logs = Arc::new(Logs { wake: Arc::new(wake), changes: Mutex::default() });
        let own = logs.clone();
        threads.spawn("shim-log", move |stop| own.run(stop))?;
        Ok(logs)
    }
    /// Makes the FIFO if it is not there and reads it from now on. Shims die at start if nobody reads it.
    pub fn add(&self, bundle: &Bundle) -> Result<()> {
        let path = bundle.path.join("log");
        match mkfifoat(rustix::fs::CWD, &path, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e).during(|| format!("make log FIFO {}", path.display())),
        }
        // Read and write: so the end of the last writer is no end of file, and a writer never meets a FIFO without reader.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = open(&path, flags, Mode::empty()).during(|| format!("open log FIFO {}", path.display()))?;
        self.change(Change::Add(Source { name: name(bundle), fd, line: vec![] }));
        Ok(())
    }
    /// Reads it no more.
    pub fn remove(&self, bundle: &Bundle) {
        self.change(Change::Remove(name(bundle)));
    }
    fn change(&self, change: Change) {
        lock(&self.changes).push(change);
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }
    fn run(&self, stop: &Stop) {
        let mut sources: Vec<Source> = vec![];
        while !stop.stopped() {
            let ready: Vec<bool> = {
                let mut fds = vec![PollFd::from_borrowed_fd(stop.fd(), PollFlags::IN), PollFd::new(&*self.wake, PollFlags::IN)];
                fds.extend(sources.iter().map(|s| PollFd::new(&s.fd, PollFlags::IN)));
                let _ = poll(&mut fds, None);
                fds[2..].iter().map(|f| !f.revents().is_empty()).collect()
            };
            let mut count = [0; 8];
            let _ = rustix::io::read(&*self.wake, &mut count);
            for (source, _) in sources.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
                source.read();
            }
            for change in std::mem::take(&mut *lock(&self.changes)) {
                match change {
                    Change::Add(source) => sources.push(source),
                    Change::Remove(name) => sources.retain_mut(|s| s.name != name || s.finish()),
                }
            }
        }
    }
}

impl Source {
    fn read(&mut self) {
        let mut buffer = [0; 4096];
        for _ in 0..TURN / buffer.len() {
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(n) => self.take(&buffer[..n]),
            }
        }
    }
    fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.tell();
            } else if self.line.len() < MAX_LINE {
                self.line.push(byte);
            }
        }
    }
    fn tell(&mut self) {
        let text = String::from_utf8_lossy(&self.line);
        if !text.trim().is_empty() {
            log!(level(&text), "shim {}: {}", self.name, text.trim());
        }
        self.line.clear();
    }
    /// The last words; always `false`, for `retain`.
    fn finish(&mut self) -> bool {
        self.read();
        self.tell();
        false
    }
}

fn name(bundle: &Bundle) -> String {
    format!("{}/{}", bundle.namespace, bundle.id)
}

/// Go's shims write logfmt or JSON, ours writes the same `level=`.
fn level(line: &str) -> Level {
    let has = |names: &[&str]| names.iter().any(|n| line.contains(&format!("level={n}")) || line.contains(&format!("\"level\":\"{n}\"")));
    if has(&["error", "fatal", "panic"]) {
        Level::Error
    } else if has(&["warn"]) {
        Level::Warn
    } else if has(&["debug", "trace"]) {
        Level::Debug
    } else {
        Level::Info
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_go_and_of_ours() {
        assert_eq!(level("time=x level=error msg=y"), Level::Error);
        assert_eq!(level(r#"{"level":"debug","msg":"y"}"#), Level::Debug);
        assert_eq!(level("level=warning msg=y"), Level::Warn);
        assert_eq!(level("plain words"), Level::Info);
    }
}
