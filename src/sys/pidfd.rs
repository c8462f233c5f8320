//! Processes by identity: a pidfd never means a later process with the same number, and an exit is seen before the number is freed.
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// How a child ended, as a shell counts: an exit code, or 128 and the signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended {
    /// The child.
    pub pid: i32,
    /// 0–255.
    pub code: u32,
}

/// A descriptor of the process; it polls readable once the process has ended.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Sends `signal` to exactly the process that the descriptor was opened for.
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed and so open; a null siginfo asks for kill's own; flags must be 0.
    let done =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A process by number and time of start, which no later process with the same number has; unlike a pidfd it holds no descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Its number.
    pub pid: u32,
    started: u64,
}

impl Identity {
    /// Of a running process; None if there is none.
    pub fn of(pid: u32) -> Option<Identity> {
        Some(Identity { pid, started: started(pid)? })
    }
    /// A descriptor of it; None if it has ended.
    pub fn open(&self) -> Option<OwnedFd> {
        let fd = open(i32::try_from(self.pid).ok()?).ok()?;
        // The descriptor first: what is true of the number now is true of the descriptor.
        (started(self.pid) == Some(self.started)).then_some(fd)
    }
}

/// Field 22 of `/proc/PID/stat`; the name before it may hold anything, and ends with the last parenthesis. None for a zombie.
fn started(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// A child that has ended and whose number is still taken: whoever holds the number learns of the end first, then [`reap`] frees it.
pub fn ended_child() -> io::Result<Option<Ended>> {
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: siginfo_t is plain data for which zeros are valid; waitid fills it and keeps no pointer.
    let info = unsafe {
        let mut info = std::mem::zeroed::<libc::siginfo_t>();
        if libc::waitid(libc::P_ALL, 0, &mut info, flags) != 0 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::ECHILD) { Ok(None) } else { Err(error) };
        }
        info
    };
    // SAFETY: after a successful waitid the SIGCHLD fields are the ones in use; zero says that no child has ended.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let code = if info.si_code == libc::CLD_EXITED { status as u32 } else { 128 + status as u32 };
    Ok(Some(Ended { pid, code }))
}

/// Frees the number of a child that has ended.
pub fn reap(pid: i32) {
    // SAFETY: a null status pointer is allowed; WNOHANG keeps a wrong pid from blocking.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pidfd_signals_its_own_process() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        let fd = identity.open().unwrap();
        assert!(Identity { started: identity.started + 1, ..identity }.open().is_none());
        send_signal(&fd, libc::SIGKILL).unwrap();
        assert!(!child.wait().unwrap().success());
        assert_eq!(send_signal(&fd, 0).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        assert!(identity.open().is_none() && Identity::of(child.id()).is_none());
    }
}
