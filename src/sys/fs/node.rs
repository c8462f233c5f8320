//! One file, directory, link or device by descriptor, and its metadata.
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::AsRawFd;

/// A held node. Links are held themselves, never what they point to.
pub enum Node {
    /// Opened: a regular file or directory.
    Open(OwnedFd),
    /// Held as a place (`O_PATH`): anything, without touching it.
    Place(OwnedFd),
}

/// Owner, mode and times.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits with setuid, setgid and sticky; links have none.
    pub mode: u32,
    /// Access and modification time.
    pub times: Timestamps,
}

impl Metadata {
    /// As another node has it.
    #[allow(clippy::unnecessary_cast, reason = "the width of these fields differs by architecture")]
    pub fn of(stat: &Stat) -> Metadata {
        let time = |sec, nsec| Timespec { tv_sec: sec as _, tv_nsec: nsec as _ };
        Metadata {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
            times: Timestamps {
                last_access: time(stat.st_atime, stat.st_atime_nsec),
                last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
            },
        }
    }
}

impl Node {
    /// Holds `name` in `dir` without following it.
    pub fn place(dir: impl AsFd, name: &[u8]) -> io::Result<Node> {
        Ok(Node::Place(rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?))
    }
    /// Opens the directory `name` in `dir` without following it.
    pub fn directory(dir: impl AsFd, name: &[u8]) -> io::Result<Node> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Node::Open(rustix::fs::openat(dir, name, flags, Mode::empty())?))
    }
    /// The descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Node::Open(fd) | Node::Place(fd) => fd.as_fd(),
        }
    }
    /// Its stat.
    pub fn stat(&self) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(self.fd())?)
    }
    /// Its type.
    pub fn kind(&self) -> io::Result<FileType> {
        Ok(FileType::from_raw_mode(self.stat()?.st_mode))
    }
    /// Leads to the held node; a magic link ends there, so a held link is not followed.
    fn by_fd(&self) -> String {
        format!("/proc/self/fd/{}", self.fd().as_raw_fd())
    }
    /// Changes the owner; the kernel takes setuid bits and file capabilities away with it.
    pub fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
        Ok(rustix::fs::chownat(self.fd(), "", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)?)
    }
    /// Changes the permission bits; not for links.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        let mode = Mode::from_raw_mode(mode);
        match self {
            Node::Open(fd) => Ok(rustix::fs::fchmod(fd, mode)?),
            Node::Place(_) => Ok(rustix::fs::chmod(self.by_fd(), mode)?),
        }
    }
    /// Changes access and modification time.
    pub fn set_times(&self, times: &Timestamps) -> io::Result<()> {
        match self {
            Node::Open(fd) => Ok(rustix::fs::futimens(fd, times)?),
            Node::Place(fd) => Ok(rustix::fs::utimensat(fd, "", times, AtFlags::EMPTY_PATH)?),
        }
    }
    /// Sets one extended attribute.
    pub fn set_xattr(&self, name: &CStr, value: &[u8]) -> io::Result<()> {
        match self {
            Node::Open(fd) => Ok(rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty())?),
            Node::Place(_) => Ok(rustix::fs::setxattr(self.by_fd(), name, value, XattrFlags::empty())?),
        }
    }
    /// All extended attributes; none where the file system has none.
    pub fn xattrs(&self) -> io::Result<Vec<(CString, Vec<u8>)>> {
        let names = match self.read_grown(|buf| match self {
            Node::Open(fd) => rustix::fs::flistxattr(fd, buf),
            Node::Place(_) => rustix::fs::listxattr(self.by_fd(), buf),
        }) {
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(vec![]),
            names => names?,
        };
        let mut all = vec![];
        for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
            let name = CString::new(name)?;
            match self.xattr(&name)? {
                Some(value) => all.push((name, value)),
                None => continue,
            }
        }
        Ok(all)
    }
    /// One extended attribute, if it is there.
    pub fn xattr(&self, name: &CStr) -> io::Result<Option<Vec<u8>>> {
        let value = self.read_grown(|buf| match self {
            Node::Open(fd) => rustix::fs::fgetxattr(fd, name, buf),
            Node::Place(_) => rustix::fs::getxattr(self.by_fd(), name, buf),
        });
        match value {
            Ok(value) => Ok(Some(value)),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => Ok(None),
            Err(e) => Err(e),
        }
    }
    fn read_grown(&self, mut get: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Vec<u8>> {
        let mut buf = vec![0; 256];
        loop {
            match get(&mut buf) {
                Ok(n) => {
                    buf.truncate(n);
                    return Ok(buf);
                }
                // 64 KiB is the kernel's limit for a value and for the list.
                Err(rustix::io::Errno::RANGE) if buf.len() < 65_536 => buf.resize(buf.len() * 4, 0),
                Err(e) => return Err(e.into()),
            }
        }
    }
}
