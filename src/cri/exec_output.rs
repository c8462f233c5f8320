//! Output of a command: two FIFOs read by one pool job into bounded memory; what is over the bound is read and dropped, so that
//! the command never blocks.
use crate::error::{Context, Error, Result};
use crate::sys::fifo::{self, Found};
use crate::thread::Pool;
use crossbeam_channel::{Receiver, bounded};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Most bytes kept of both streams together: the largest answer is 16 MiB, and the rest of it needs some room.
const CAP: usize = (16 << 20) - 1024;

/// What a command wrote.
#[derive(Default)]
pub struct Output {
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it complained of.
    pub stderr: Vec<u8>,
}

/// Reads a command's output while it runs. Its FIFOs are gone when it is dropped.
pub struct Collector {
    dir: PathBuf,
    enough: Arc<OwnedFd>,
    done: Receiver<Output>,
}

impl Collector {
    /// Makes the FIFOs in a directory of its own and begins to read.
    pub fn open(dir: &Path, pool: &Pool) -> Result<Collector> {
        std::fs::create_dir_all(dir).during(|| format!("create {}", dir.display()))?;
        let enough = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).during(|| "create an eventfd")?);
        let (tx, done) = bounded(1);
        let collector = Collector { dir: dir.into(), enough: enough.clone(), done };
        let streams = [collector.fifo("stdout")?, collector.fifo("stderr")?];
        pool.run(move || drop(tx.send(read_all(streams, &enough))));
        Ok(collector)
    }
    /// Path for the command's output.
    pub fn stdout(&self) -> String {
        self.dir.join("stdout").display().to_string()
    }
    /// Path for its error output.
    pub fn stderr(&self) -> String {
        self.dir.join("stderr").display().to_string()
    }
    /// All that was written; after `limit`, what came until then.
    pub fn finish(self, limit: Duration) -> Result<Output> {
        if let Ok(output) = self.done.recv_timeout(limit) {
            return Ok(output);
        }
        self.stop();
        self.done.recv().map_err(|_| Error::internal("the reader of a command's output is gone"))
    }
    fn stop(&self) {
        let _ = rustix::io::write(&*self.enough, &1u64.to_ne_bytes());
    }
    fn fifo(&self, name: &str) -> Result<OwnedFd> {
        let path = self.dir.join(name);
        fifo::make(&path).during(|| format!("create FIFO {}", path.display()))?;
        fifo::open(&path, fifo::End::Read).during(|| format!("open FIFO {}", path.display()))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Reads both streams to their ends, or until told that it is enough.
fn read_all(streams: [OwnedFd; 2], enough: &OwnedFd) -> Output {
    let mut streams = streams.map(Some);
    let mut texts = [Vec::new(), Vec::new()];
    let mut buffer = vec![0u8; 32 << 10];
    while streams.iter().any(Option::is_some) {
        let told = {
            let mut fds = vec![PollFd::from_borrowed_fd(enough.as_fd(), PollFlags::IN)];
            // Not one that has ended: whatever is asked of it, poll tells at once that its writers are gone.
            fds.extend(streams.iter().flatten().map(|s| PollFd::from_borrowed_fd(s.as_fd(), PollFlags::IN)));
            let _ = poll(&mut fds, None);
            !fds[0].revents().is_empty()
        };
        for i in 0..2 {
            let room = CAP - texts[1 - i].len();
            streams[i] = streams[i].take().filter(|s| drain(s, &mut buffer, &mut texts[i], room));
        }
        if told {
            break;
        }
    }
    let [stdout, stderr] = texts;
    Output { stdout, stderr }
}

/// Reads what is there; `false` at the end of the stream.
fn drain(stream: &OwnedFd, buffer: &mut [u8], text: &mut Vec<u8>, room: usize) -> bool {
    loop {
        match fifo::read(stream, buffer) {
            Found::Bytes(n) => text.extend_from_slice(&buffer[..n.min(room - text.len())]),
            Found::Nothing => return true,
            Found::End => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;

    #[test]
    fn a_stream_whose_writer_comes_later_has_not_ended() {
        let dir = crate::sys::fs::Scratch::new("late-writer");
        let pool = Pool::new("late", 2).unwrap();
        let collector = Collector::open(&dir.dir("fifos"), &pool).unwrap();
        let write = |path: String, text: &str| File::options().write(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
        write(collector.stdout(), "out");
        std::thread::sleep(Duration::from_millis(50));
        write(collector.stderr(), "err");
        let output = collector.finish(Duration::from_secs(10)).unwrap();
        assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"out"[..], &b"err"[..]));
    }
}
