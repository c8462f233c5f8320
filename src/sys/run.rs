//! Runs a short helper program: fed, read to a bound, and killed with all that it started when its time is over.
//!
//! It gets no descriptor of ours but its three streams, and a process group of its own.
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a killed program may take to die before it is left to itself.
const DEATH: Duration = Duration::from_secs(5);

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub end: End,
    /// Its standard output, cut at the bound.
    pub stdout: Vec<u8>,
    /// Its standard error, cut at the bound.
    pub stderr: Vec<u8>,
}

/// How a program ended.
#[derive(Debug)]
pub enum End {
    /// By itself.
    Exited(ExitStatus),
    /// Its time was over and its process group was killed.
    TimedOut,
}

/// Runs the program until it ends or `limit` has passed; of each stream at most `bound` bytes are kept.
pub fn run(command: &mut Command, input: &[u8], limit: Duration, bound: usize) -> io::Result<Output> {
    run_holding(command, vec![], input, limit, bound)
}

/// As [`run`], and the program and its children hold these descriptors too, from 3 on.
pub fn run_holding(command: &mut Command, held: Vec<OwnedFd>, input: &[u8], limit: Duration, bound: usize) -> io::Result<Output> {
    super::signal::unblocked(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    // SAFETY: between fork and exec only one async-signal-safe system call without pointers is made. CLOEXEC rather than a
    // plain close, since std reports a failed exec over a descriptor of its own.
    unsafe {
        command.pre_exec(|| {
            // Kernels before 5.11 refuse; our descriptors are close-on-exec anyway, this is for those of libraries.
            let _ = libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            Ok(())
        });
    }
    if !held.is_empty() {
        super::inherit::from_three(command, held);
    }
    let mut child = command.spawn()?;
    let group = Pid::from_child(&child);
    let result = attend(&mut child, input, Instant::now() + limit, bound);
    if !matches!(result, Ok(Output { end: End::Exited(_), .. })) {
        let _ = kill_process_group(group, Signal::KILL);
        bury(&mut child);
    }
    result
}

fn attend(child: &mut Child, input: &[u8], deadline: Instant, bound: usize) -> io::Result<Output> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let mut feed = Feed { pipe: child.stdin.take(), rest: input };
    let mut out = Stream::new(child.stdout.take().map(OwnedFd::from), bound)?;
    let mut err = Stream::new(child.stderr.take().map(OwnedFd::from), bound)?;
    if let Some(pipe) = &feed.pipe {
        nonblocking(pipe.as_fd())?;
    }
    loop {
        let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) else {
            return Ok(Output { end: End::TimedOut, stdout: out.bytes, stderr: err.bytes });
        };
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        fds.extend(out.pipe.iter().chain(err.pipe.iter()).map(|p| PollFd::new(p, PollFlags::IN)));
        fds.extend(feed.pipe.iter().map(|p| PollFd::new(p, PollFlags::OUT)));
        let timeout = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let dead = fds[0].revents().intersects(PollFlags::IN);
        drop(fds);
        feed.write();
        // After its death one more read takes what the pipes hold; who inherited them is not waited for.
        out.read()?;
        err.read()?;
        if dead {
            return Ok(Output { end: End::Exited(child.wait()?), stdout: out.bytes, stderr: err.bytes });
        }
    }
}

/// Reaps what was killed; a program that hangs in the kernel is left to itself.
fn bury(child: &mut Child) {
    if let Ok(pidfd) = pidfd_open(Pid::from_child(child), PidfdFlags::empty()) {
        let timeout = Timespec { tv_sec: DEATH.as_secs() as _, tv_nsec: 0 };
        let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout));
    }
    let _ = child.try_wait();
}

fn nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    Ok(rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?)
}

struct Feed<'a> {
    pipe: Option<ChildStdin>,
    rest: &'a [u8],
}

impl Feed<'_> {
    /// A program that does not read its input is no error of ours.
    fn write(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        while !self.rest.is_empty() {
            match pipe.write(self.rest) {
                Ok(n) => self.rest = &self.rest[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => break,
            }
        }
        self.pipe = None;
    }
}

struct Stream {
    pipe: Option<std::fs::File>,
    bytes: Vec<u8>,
    bound: usize,
}

impl Stream {
    fn new(pipe: Option<OwnedFd>, bound: usize) -> io::Result<Stream> {
        if let Some(pipe) = &pipe {
            nonblocking(pipe)?;
        }
        Ok(Stream { pipe: pipe.map(Into::into), bytes: vec![], bound })
    }
    fn read(&mut self) -> io::Result<()> {
        let mut chunk = [0; 8192];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut chunk) {
                Ok(0) => self.pipe = None,
                Ok(n) => {
                    let keep = n.min(self.bound - self.bytes.len());
                    self.bytes.extend_from_slice(&chunk[..keep]);
                    if keep < n {
                        // An endless talker: it meets a closed pipe.
                        self.pipe = None;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, input: &[u8], limit: Duration) -> Output {
        run(Command::new("/bin/sh").args(["-c", script]), input, limit, 1 << 20).unwrap()
    }

    #[test]
    fn input_is_fed_and_both_streams_are_read() {
        let big = vec![b'x'; 300_000];
        let out = sh("cat; echo oops >&2; exit 3", &big, Duration::from_secs(20));
        assert!(matches!(out.end, End::Exited(s) if s.code() == Some(3)));
        assert_eq!((out.stdout.len(), out.stderr.as_slice()), (300_000, &b"oops\n"[..]));
    }

    #[test]
    fn a_hanging_program_dies_with_its_children() {
        let start = Instant::now();
        let out = sh("sleep 600 & echo $!; wait", b"", Duration::from_millis(300));
        assert!(matches!(out.end, End::TimedOut));
        assert!(start.elapsed() < Duration::from_secs(5));
        let pid = String::from_utf8(out.stdout).unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        // A killed process takes a moment to be gone.
        while !state().is_empty() && !state().contains(") Z ") {
            assert!(start.elapsed() < Duration::from_secs(5), "{}", state());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_child_that_keeps_the_pipes_is_not_waited_for() {
        let start = Instant::now();
        let out = sh("sleep 3 & echo done", b"", Duration::from_secs(20));
        assert!(matches!(out.end, End::Exited(s) if s.success()));
        assert_eq!(out.stdout, b"done\n");
        assert!(start.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn no_descriptor_of_ours_is_inherited() {
        let file = std::fs::File::open("/dev/null").unwrap();
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
        let out = sh("ls /proc/self/fd", b"", Duration::from_secs(20));
        // 3 is ls's own view of the directory.
        assert_eq!(String::from_utf8(out.stdout).unwrap().split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    }

    #[test]
    fn a_missing_program_is_an_error_and_endless_output_is_cut() {
        assert!(run(&mut Command::new("/nonexistent"), b"", Duration::from_secs(1), 10).is_err());
        let out = run(Command::new("/bin/sh").args(["-c", "yes"]), b"", Duration::from_secs(20), 1000).unwrap();
        assert_eq!(out.stdout.len(), 1000);
    }
}
