//! Signals: read from a descriptor in a poll loop, never in a handler; sent by number, since container stop signals go to 64.
use rustix::io::{Errno, retry_on_intr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Blocks `signals` in this thread, and so in every thread that it starts later, and gives a descriptor that they are read from.
pub fn watch(signals: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: `set` is a plain value that sigemptyset initialises; both calls only touch it.
    let set = unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        set
    };
    // SAFETY: `set` is initialised and outlives the call; the old mask is not asked for.
    let failed = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
    if failed != 0 {
        return Err(io::Error::from_raw_os_error(failed));
    }
    // SAFETY: `set` is initialised and outlives the call; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made `fd` for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The child blocks no signal: it would inherit this thread's mask, and a program with SIGTERM blocked cannot be told to end.
pub fn unblocked(command: &mut Command) -> &mut Command {
    // SAFETY: the closure runs between fork and exec; both calls are async-signal-safe and only touch its own `set`.
    unsafe {
        command.pre_exec(|| {
            let mut set = std::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&mut set);
            match libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut()) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        })
    }
}

/// The signals that came since the last call.
pub fn pending(fd: impl AsFd) -> Vec<i32> {
    const SIZE: usize = std::mem::size_of::<libc::signalfd_siginfo>();
    let mut found = vec![];
    let mut info = [0u8; SIZE];
    while let Ok(SIZE) = retry_on_intr(|| rustix::io::read(fd.as_fd(), &mut info)) {
        // ssi_signo is the first field, a u32.
        found.push(i32::from_ne_bytes([info[0], info[1], info[2], info[3]]));
    }
    found
}

/// Sends `signal` to one process; `ESRCH` says that there is none.
pub fn kill(pid: i32, signal: i32) -> Result<(), Errno> {
    if pid <= 0 {
        return Err(Errno::SRCH);
    }
    // SAFETY: kill takes plain numbers; pid > 0, so that no process group is meant.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

/// Lets writes to a pipe without reader fail by `EPIPE` instead of a signal (Rust programs begin so; a re-exec keeps it).
pub fn ignore_sigpipe() {
    // SAFETY: SIG_IGN is no handler of ours; signal only sets the disposition.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Raw number of a descriptor, for a message or a /proc path.
pub fn number(fd: &impl AsFd) -> i32 {
    fd.as_fd().as_raw_fd()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watched_signal_is_read_and_not_delivered() {
        let fd = watch(&[libc::SIGUSR2]).unwrap();
        assert!(pending(&fd).is_empty());
        // SAFETY: raise takes a plain number; the signal is blocked in this thread.
        unsafe { libc::raise(libc::SIGUSR2) };
        assert_eq!(pending(&fd), [libc::SIGUSR2]);
        assert_eq!(kill(0, 0), Err(Errno::SRCH));
        let blocked =
            |command: &mut Command| String::from_utf8(command.args(["SigBlk", "/proc/self/status"]).output().unwrap().stdout).unwrap();
        assert!(blocked(unblocked(&mut Command::new("grep"))).contains("0000000000000000"));
    }
}
