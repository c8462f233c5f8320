//! Descriptors for a child beyond its three: given by place, as logging programs of containerd expect them.
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The child gets `fds` as 3, 4, …; our copies close with the command.
pub fn from_three(command: &mut Command, fds: Vec<OwnedFd>) {
    let place = move || {
        // First above all targets, so that no placing overwrites one that is still to be placed.
        let floor = 3 + fds.len() as i32;
        let mut high = [-1; 8];
        for (slot, fd) in high.iter_mut().zip(&fds) {
            // SAFETY: the descriptor is owned by the closure and so open; fcntl takes plain numbers.
            *slot = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, floor) })?;
        }
        for (at, fd) in high.iter().take(fds.len()).enumerate() {
            // SAFETY: between fork and exec nothing else uses the numbers from 3 on but the standard library's error pipe, which
            // may sit there: it is only written when exec fails, and the parent then sees the end of file instead of the errno.
            check(unsafe { libc::dup2(*fd, 3 + at as i32) })?;
        }
        Ok(())
    };
    // SAFETY: the closure makes async-signal-safe calls on numbers only and allocates nothing.
    unsafe { command.pre_exec(place) };
}

/// Takes over a descriptor that our parent has left at a place; to be called once a place, at the start of the program.
pub fn take(place: i32) -> io::Result<OwnedFd> {
    // SAFETY: fcntl takes plain numbers, and fails for a place that is not open.
    check(unsafe { libc::fcntl(place, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: the place is open, was made for us by the parent, and nobody else in this program knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(place) })
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
