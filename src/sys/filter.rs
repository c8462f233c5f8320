//! Filter: a program that a stream goes through, read like any stream. No thread pumps: whoever reads also feeds.
use super::{inherit, signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};

/// Bytes handed over at once.
const PIECE: usize = 64 << 10;
/// What is kept of what the program says on standard error.
const SAID_MAX: usize = 4 << 10;
/// How often a wait for the program asks whether the stream is still wanted.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// The stream behind the program. It ends well only if the program does; dropping it kills the program.
pub struct Filter<'a, R> {
    source: R,
    child: Child,
    group: Pid,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    piece: Vec<u8>,
    fed: usize,
    said: Vec<u8>,
    cancelled: Box<dyn Fn() -> bool + Send + 'a>,
}

/// Starts `command`, which gets `source` as its input and `extra` as descriptors from 3 on, in a process group of its own.
pub fn start<'a, R: Read>(
    command: &mut Command,
    extra: Vec<OwnedFd>,
    source: R,
    cancelled: impl Fn() -> bool + Send + 'a,
) -> io::Result<Filter<'a, R>> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    inherit::from_three(signal::unblocked(command), extra);
    let mut child = command.spawn()?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let fds = [stdin.as_ref().map(AsFd::as_fd), stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)];
    let ready = fds.into_iter().flatten().try_for_each(|fd| rustix::io::ioctl_fionbio(fd, true));
    let group = Pid::from_child(&child);
    let cancelled = Box::new(cancelled);
    let filter = Filter { source, child, group, stdin, stdout, stderr, piece: vec![], fed: 0, said: vec![], cancelled };
    // A failure here drops the filter, and so ends the program.
    ready.map(|()| filter).map_err(Into::into)
}

impl<R: Read> Filter<'_, R> {
    /// Gives the program what it takes now. `true` when it took something, or its input is over.
    fn feed(&mut self) -> io::Result<bool> {
        let Some(stdin) = &mut self.stdin else { return Ok(false) };
        if self.fed == self.piece.len() {
            self.piece.resize(PIECE, 0);
            let got = self.source.read(&mut self.piece)?;
            self.piece.truncate(got);
            self.fed = 0;
            if got == 0 {
                self.stdin = None;
                return Ok(true);
            }
        }
        match stdin.write(&self.piece[self.fed..]) {
            Ok(n) => {
                self.fed += n;
                Ok(true)
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            // It wants no more; how it ends says whether that is well.
            Err(_) => {
                self.stdin = None;
                Ok(true)
            }
        }
    }
    fn listen(&mut self) {
        let mut buffer = [0; 1024];
        while let Some(stderr) = &mut self.stderr {
            match stderr.read(&mut buffer) {
                Ok(0) => self.stderr = None,
                Ok(n) => {
                    self.said.extend(&buffer[..n]);
                    let over = self.said.len().saturating_sub(SAID_MAX);
                    self.said.drain(..over);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.stderr = None,
            }
        }
    }
    /// Waits until the program takes, gives or says something, or has ended.
    fn wait(&self, ended: Option<&OwnedFd>) -> io::Result<()> {
        let mut fds: Vec<PollFd<'_>> = ended.map(|fd| PollFd::new(fd, PollFlags::IN)).into_iter().collect();
        fds.extend(self.stdout.as_ref().map(|s| PollFd::new(s, PollFlags::IN)));
        fds.extend(self.stderr.as_ref().map(|s| PollFd::new(s, PollFlags::IN)));
        fds.extend(self.stdin.as_ref().map(|s| PollFd::new(s, PollFlags::OUT)));
        match poll(&mut fds, Some(&TICK)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        if (self.cancelled)() { Err(io::Error::other("cancelled")) } else { Ok(()) }
    }
    /// After the end of its output: how the program ended.
    fn end(&mut self) -> io::Result<usize> {
        (self.stdin, self.stdout) = (None, None);
        let pidfd = pidfd_open(self.group, PidfdFlags::empty())?;
        let status = loop {
            self.listen();
            match self.child.try_wait()? {
                Some(status) => break status,
                None => self.wait(Some(&pidfd))?,
            }
        };
        self.listen();
        if status.success() {
            return Ok(0);
        }
        let said = String::from_utf8_lossy(&self.said);
        Err(io::Error::other(format!("{status}: {}", said.trim())))
    }
}

impl<R: Read> Read for Filter<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(stdout) = &mut self.stdout else { return Ok(0) };
            match stdout.read(into) {
                Ok(0) if !into.is_empty() => return self.end(),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
            self.listen();
            if !self.feed()? {
                self.wait(None)?;
            }
        }
    }
}

impl<R> Drop for Filter<'_, R> {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process_group(self.group, Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn through(script: &str, input: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = vec![];
        start(Command::new("sh").args(["-c", script]), vec![], input, || false)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn a_stream_of_any_size_goes_through() {
        let noise: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        assert_eq!(through("cat", &noise).unwrap(), noise);
        assert_eq!(through("cat", b"").unwrap(), b"");
        // One that gives more than it takes, and one that takes no more than it needs.
        assert_eq!(through("cat; head -c 1000000 /dev/zero", b"x").unwrap().len(), 1_000_001);
        assert_eq!(through("head -c 10", &noise).unwrap(), noise[..10]);
    }

    #[test]
    fn a_bad_end_is_an_error_with_what_was_said() {
        for script in ["cat; echo no key >&2; exit 3", "echo no key >&2; exit 3", "exec >&-; sleep 0.2; echo no key >&2; exit 3"] {
            let error = through(script, b"some").unwrap_err().to_string();
            assert!(error.contains("exit status: 3") && error.contains("no key"), "{script}: {error}");
        }
        assert!(through("kill -9 $$", b"some").is_err());
    }

    #[test]
    fn what_hangs_is_killed_when_nobody_wants_it_any_more() {
        let begun = Instant::now();
        let mut filter =
            start(Command::new("sleep").arg("100"), vec![], &b"x"[..], move || begun.elapsed() > Duration::from_millis(300)).unwrap();
        assert!(filter.read(&mut [0; 10]).is_err());
        drop(filter);
        assert!(begun.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn more_descriptors_begin_at_three() {
        let file = std::fs::File::open("/proc/self/status").unwrap();
        let mut out = String::new();
        start(Command::new("sh").args(["-c", "cat <&3"]), vec![file.into()], &b""[..], || false).unwrap().read_to_string(&mut out).unwrap();
        assert!(out.starts_with("Name:"), "{out}");
    }
}
