//! Spawn: programs that inherit no descriptor but their three, run within a time limit, with bounded output.
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How a program ended, and what it said.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output, cut at the limit.
    pub stdout: Vec<u8>,
    /// Standard error, cut at the limit.
    pub stderr: Vec<u8>,
}

/// Marks every descriptor above the standard three close-on-exec in the child, also those that a C library opened without it.
pub fn seal(command: &mut Command) -> &mut Command {
    // The daemon reads its signals from a descriptor and so blocks them; no child shall.
    super::signal::unblocked(command);
    // SAFETY: the closure runs between fork and exec and makes one async-signal-safe system call without any memory access.
    unsafe {
        command.pre_exec(|| {
            // Not a plain close: the standard library's own error pipe is among them and must live until exec.
            let rc = libc::syscall(libc::SYS_close_range, 3 as libc::c_uint, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int);
            if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        })
    }
}

/// Runs a program in a process group of its own. Past `limit` the group is killed and the error is `TimedOut`.
///
/// It ends with the program, not with the last holder of its pipes: what the program left running may keep them open.
pub fn run(command: &mut Command, stdin: &[u8], limit: Duration, max: usize) -> io::Result<Output> {
    seal(command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut child = command.spawn()?;
    let group = Pid::from_child(&child);
    match talk(&mut child, stdin, Instant::now() + limit, max) {
        Ok((stdout, stderr)) => Ok(Output { status: child.wait()?, stdout, stderr }),
        Err(e) => {
            // The child is not yet reaped, so its ID names this group and no other.
            let _ = kill_process_group(group, Signal::KILL);
            let _ = child.wait();
            Err(e)
        }
    }
}

fn talk(child: &mut Child, mut input: &[u8], until: Instant, max: usize) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let (mut stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(stdout), Some(stderr)) = (stdout, stderr) else { return Err(ErrorKind::BrokenPipe.into()) };
    for fd in [Some(stdout.as_fd()), Some(stderr.as_fd()), stdin.as_ref().map(|s| s.as_fd())].into_iter().flatten() {
        rustix::io::ioctl_fionbio(fd, true)?;
    }
    let (mut out, mut err) = (Tail::new(max), Tail::new(max));
    loop {
        if input.is_empty() {
            stdin = None;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(ErrorKind::TimedOut, "it ran into its time limit and was killed"));
        }
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        // A pipe at its end is always readable: it must leave the set, or the loop would spin.
        let (at_out, at_err) = (out.watch(&mut fds, stdout.as_fd()), err.watch(&mut fds, stderr.as_fd()));
        let at_in = stdin.as_ref().map(|s| {
            fds.push(PollFd::new(s, PollFlags::OUT));
            fds.len() - 1
        });
        let time = Timespec::try_from(left).map_err(|_| ErrorKind::InvalidInput)?;
        match poll(&mut fds, Some(&time)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|f| !f.revents().is_empty()).collect();
        drop(fds);
        let hit = |at: Option<usize>| at.is_some_and(|i| ready[i]);
        if hit(at_in) {
            feed(&mut stdin, &mut input);
        }
        if hit(at_out) || ready[0] {
            out.drain(stdout.as_fd())?;
        }
        if hit(at_err) || ready[0] {
            err.drain(stderr.as_fd())?;
        }
        if ready[0] {
            return Ok((out.bytes, err.bytes));
        }
    }
}

/// Writes on; a program that does not read its input is no error.
fn feed(stdin: &mut Option<std::process::ChildStdin>, input: &mut &[u8]) {
    let Some(pipe) = stdin else { return };
    match rustix::io::write(&*pipe, input) {
        Ok(n) => *input = &input[n..],
        Err(Errno::AGAIN | Errno::INTR) => {}
        Err(_) => *input = &[],
    }
}

/// The kept part of a stream.
struct Tail {
    bytes: Vec<u8>,
    max: usize,
    ended: bool,
}

impl Tail {
    fn new(max: usize) -> Tail {
        Tail { bytes: vec![], max, ended: false }
    }
    fn watch<'a>(&self, fds: &mut Vec<PollFd<'a>>, fd: BorrowedFd<'a>) -> Option<usize> {
        if self.ended {
            return None;
        }
        fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        Some(fds.len() - 1)
    }
    fn drain(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let mut buffer = [0; 8192];
        while !self.ended {
            match rustix::io::read(fd, &mut buffer) {
                Ok(0) => self.ended = true,
                Ok(n) => {
                    let room = self.max.saturating_sub(self.bytes.len()).min(n);
                    self.bytes.extend_from_slice(&buffer[..room]);
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn input_goes_in_and_both_outputs_come_out() {
        let input = vec![b'x'; 1 << 20];
        let out = run(&mut sh("wc -c; echo bad >&2; exit 3"), &input, Duration::from_secs(10), 4096).unwrap();
        assert_eq!((out.status.code(), out.stdout.as_slice(), out.stderr.as_slice()), (Some(3), &b"1048576\n"[..], &b"bad\n"[..]));
    }

    #[test]
    fn a_program_past_its_limit_is_killed() {
        let begin = Instant::now();
        let err = run(&mut sh("sleep 60"), &[], Duration::from_millis(100), 10).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::TimedOut);
        assert!(begin.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_daemon_that_keeps_the_pipes_open_does_not_hold_the_caller() {
        let begin = Instant::now();
        let out = run(&mut sh("sleep 3 & echo started"), &[], Duration::from_secs(10), 4096).unwrap();
        assert_eq!(out.stdout, b"started\n");
        assert!(begin.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn no_descriptor_leaks_and_long_output_is_cut() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let leaky = rustix::io::fcntl_dupfd_cloexec(&file, 200).unwrap();
        rustix::io::fcntl_setfd(&leaky, rustix::io::FdFlags::empty()).unwrap();
        let out = run(&mut sh("ls /proc/self/fd; head -c 100000 /dev/zero"), &[], Duration::from_secs(10), 1000).unwrap();
        assert!(!String::from_utf8_lossy(&out.stdout).contains("20"));
        assert_eq!(out.stdout.len(), 1000);
    }
}
