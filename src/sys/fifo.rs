//! FIFOs and pipes for stdio: opening never blocks, and an end can be kept open so that the other side may leave and come back.
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Which end of a FIFO, and what the peer's absence means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Both ends: the peer's coming and going is not noticed, bytes wait in the FIFO meanwhile.
    Kept,
    /// The reading end: end of file once no writer is left.
    Read,
    /// The writing end: fails with `ENXIO` without a reader, later with `EPIPE`.
    Write,
}

/// Opens a FIFO without blocking; anything else at `path` is refused.
pub fn open(path: &Path, end: End) -> io::Result<OwnedFd> {
    let access = match end {
        End::Kept => OFlags::RDWR,
        End::Read => OFlags::RDONLY,
        End::Write => OFlags::WRONLY,
    };
    let fd = rustix::fs::open(path, access | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::Fifo {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{}: not a FIFO", path.display())));
    }
    Ok(fd)
}

/// What a read found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// So many bytes.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// The end.
    End,
}

/// Reads once, without blocking. A FIFO that nobody has opened for writing yet reads as if it had ended; it has not.
pub fn read(fd: impl AsFd, buffer: &mut [u8]) -> Found {
    let once = |buffer: &mut [u8]| match rustix::io::read(&fd, buffer) {
        Ok(0) => Found::End,
        Ok(n) => Found::Bytes(n),
        Err(Errno::AGAIN | Errno::INTR) => Found::Nothing,
        // A terminal says so that its last process has closed it.
        Err(_) => Found::End,
    };
    match once(buffer) {
        Found::End if !hung_up(&fd) => Found::Nothing,
        // A writer may have come, written and left in between.
        Found::End => once(buffer),
        found => found,
    }
}

/// Whether the other side was there and has closed.
pub fn hung_up(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0)
}

/// Whether `path` is a FIFO.
pub fn is_fifo(path: &Path) -> bool {
    rustix::fs::stat(path).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Fifo)
}

/// Makes a FIFO for root alone; one that is there already is taken.
pub fn make(path: &Path) -> io::Result<()> {
    match rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
        Err(rustix::io::Errno::EXIST) if is_fifo(path) => Ok(()),
        other => Ok(other?),
    }
}

/// A pipe, closed on exec: (reading end, writing end).
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}

/// Lets reads and writes on our end return at once; the peer's end of a pipe keeps its own mode.
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    Ok(rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::write;

    #[test]
    fn a_fifo_ends_with_its_last_writer_not_before_its_first() {
        let path = std::env::temp_dir().join(format!("cradle-fifo-ends-{}", std::process::id()));
        make(&path).unwrap();
        let reader = open(&path, End::Read).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(read(&reader, &mut buffer), Found::Nothing);
        let writer = open(&path, End::Write).unwrap();
        assert_eq!(read(&reader, &mut buffer), Found::Nothing);
        write(&writer, b"last").unwrap();
        drop(writer);
        assert_eq!((read(&reader, &mut buffer), read(&reader, &mut buffer)), (Found::Bytes(4), Found::End));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_kept_fifo_survives_its_reader() {
        let path = std::env::temp_dir().join(format!("cradle-shim-fifo-{}", std::process::id()));
        make(&path).unwrap();
        make(&path).unwrap();
        assert_eq!(open(&path, End::Write).unwrap_err().raw_os_error(), Some(Errno::NXIO.raw_os_error()));
        let kept = open(&path, End::Kept).unwrap();
        write(&kept, b"one").unwrap();
        drop(open(&path, End::Read).unwrap());
        write(&kept, b"two").unwrap();
        let reader = open(&path, End::Read).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(read(&reader, &mut buffer), Found::Bytes(6));
        drop(kept);
        assert_eq!(read(&reader, &mut buffer), Found::End);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(open(&path, End::Kept).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
