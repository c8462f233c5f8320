//! Copies of whole trees: owners, modes, times, extended attributes, links, devices and holes are kept.
use super::{Metadata, Node, Step, open_dir, walk};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::path::Path;

struct Copy {
    /// The target's root and the directory that is filled now.
    top: OwnedFd,
    here: OwnedFd,
    /// Path of `here` below `top`.
    path: Vec<u8>,
    /// Where files with several links were copied to.
    links: HashMap<(u64, u64), Vec<u8>>,
}

/// Copies what is in `from` into the empty directory `to`, which gets its metadata too.
pub fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let (source, top) = (open_dir(from)?, open_dir(to)?);
    let mut copy = Copy { here: top.try_clone()?, top, path: vec![], links: HashMap::new() };
    walk(source.try_clone()?, &mut |step| copy.step(step))?;
    copy_metadata(&Node::Open(source), &Node::Open(copy.top))
}

impl Copy {
    fn step(&mut self, step: Step<'_>) -> io::Result<()> {
        match step {
            Step::File { parent, name, kind } => self.file(parent, name, kind),
            Step::Enter { name, .. } => {
                rustix::fs::mkdirat(&self.here, name, Mode::from_raw_mode(0o700))?;
                let Node::Open(dir) = Node::directory(&self.here, name.to_bytes())? else { return Err(Errno::NOTDIR.into()) };
                self.here = dir;
                self.path.extend_from_slice(name.to_bytes());
                self.path.push(b'/');
                Ok(())
            }
            Step::Leave { name, dir, .. } => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let parent = rustix::fs::openat(&self.here, "..", flags, Mode::empty())?;
                let made = std::mem::replace(&mut self.here, parent);
                copy_metadata(&Node::Open(dir.try_clone_to_owned()?), &Node::Open(made))?;
                self.path.truncate(self.path.len() - name.to_bytes().len() - 1);
                Ok(())
            }
        }
    }

    fn file(&mut self, parent: BorrowedFd<'_>, name: &CStr, kind: FileType) -> io::Result<()> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if stat.st_nlink > 1 {
            let mut path = self.path.clone();
            path.extend_from_slice(name.to_bytes());
            let id = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&id) {
                return Ok(rustix::fs::linkat(&self.top, first.as_slice(), &self.here, name, AtFlags::empty())?);
            }
            self.links.insert(id, path);
        }
        if kind == FileType::RegularFile {
            let source = rustix::fs::openat(parent, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let target = rustix::fs::openat(&self.here, name, flags, Mode::from_raw_mode(0o600))?;
            copy_data(&source, &target, &stat)?;
            return copy_metadata(&Node::Open(source), &Node::Open(target));
        }
        if kind == FileType::Symlink {
            let link = rustix::fs::readlinkat(parent, name, vec![])?;
            rustix::fs::symlinkat(link, &self.here, name)?;
        } else {
            rustix::fs::mknodat(&self.here, name, kind, Mode::from_raw_mode(0o600), stat.st_rdev)?;
        }
        copy_metadata(&Node::place(parent, name.to_bytes())?, &Node::place(&self.here, name.to_bytes())?)
    }
}

/// Owner first: changing it takes capabilities and setuid bits away.
fn copy_metadata(from: &Node, to: &Node) -> io::Result<()> {
    let stat = from.stat()?;
    let metadata = Metadata::of(&stat);
    to.set_owner(metadata.uid, metadata.gid)?;
    for (name, value) in from.xattrs()? {
        match to.set_xattr(&name, &value) {
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            done => done?,
        }
    }
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        to.set_mode(metadata.mode)?;
    }
    to.set_times(&metadata.times)
}

/// Shares the blocks where the file system can; else copies what is not a hole.
fn copy_data(from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> io::Result<()> {
    if stat.st_size == 0 || rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let mut at = 0;
    loop {
        at = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(at))?;
        copy_range(from, to, at, end)?;
        at = end;
    }
    Ok(rustix::fs::ftruncate(to, stat.st_size as u64)?)
}

fn copy_range(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let (mut input, mut output) = (start, start);
    while input < end {
        let length = usize::try_from(end - input).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut input), to, Some(&mut output), length) {
            Ok(0) => break,
            Ok(_) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => return copy_by_hand(from.as_fd(), to.as_fd(), input, end),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(from: BorrowedFd<'_>, to: BorrowedFd<'_>, mut at: u64, end: u64) -> io::Result<()> {
    let mut buf = vec![0; 128 << 10];
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buf.len());
        let got = rustix::io::pread(from, &mut buf[..want], at)?;
        if got == 0 {
            break;
        }
        let mut done = 0;
        while done < got {
            done += rustix::io::pwrite(to, &buf[done..got], at + done as u64)?;
        }
        at += got as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fs::Scratch;
    use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, symlink};

    #[test]
    fn a_copy_has_everything_that_the_original_has() {
        let scratch = Scratch::new("copy");
        let (from, to) = (scratch.dir("from"), scratch.dir("to"));
        std::fs::create_dir(from.join("d")).unwrap();
        std::fs::write(from.join("d/suid"), "x").unwrap();
        std::os::unix::fs::chown(from.join("d/suid"), Some(70_000), Some(3)).unwrap();
        let suid = Node::place(open_dir(&from.join("d")).unwrap(), b"suid").unwrap();
        suid.set_mode(0o4755).unwrap();
        suid.set_xattr(c"user.note", b"a\nb\0c").unwrap();
        std::fs::hard_link(from.join("d/suid"), from.join("hard")).unwrap();
        symlink("nowhere", from.join("link")).unwrap();
        let link = Node::place(open_dir(&from).unwrap(), b"link").unwrap();
        link.set_xattr(c"trusted.note", b"on the link").unwrap();
        link.set_owner(5, 6).unwrap();
        rustix::fs::mknodat(open_dir(&from).unwrap(), "dev", FileType::CharacterDevice, Mode::from_raw_mode(0o600), 0).unwrap();
        let sparse = std::fs::File::create(from.join("sparse")).unwrap();
        sparse.write_all_at(b"end", 64 << 20).unwrap();
        sparse.set_len(128 << 20).unwrap();
        filetime(&from.join("d"), 1_000_000_000);
        filetime(&from, 1_100_000_000);
        copy_tree(&from, &to).unwrap();
        let of = |p: &str| std::fs::symlink_metadata(to.join(p)).unwrap();
        assert_eq!((of("d/suid").mode() & 0o7777, of("d/suid").uid(), of("d/suid").gid()), (0o4755, 70_000, 3));
        assert_eq!(of("d/suid").ino(), of("hard").ino());
        assert_eq!((of("d").mtime(), of("").mtime()), (1_000_000_000, 1_100_000_000));
        assert_eq!((of("link").uid(), of("link").gid()), (5, 6));
        assert!(of("dev").file_type().is_char_device());
        assert_eq!(of("sparse").len(), 128 << 20);
        assert!(of("sparse").blocks() * 512 < 1 << 20);
        let of = |p: &[u8]| Node::place(open_dir(&to).unwrap(), p).unwrap();
        assert_eq!(of(b"hard").xattr(c"user.note").unwrap().unwrap(), b"a\nb\0c");
        assert_eq!(of(b"link").xattr(c"trusted.note").unwrap().unwrap(), b"on the link");
    }

    fn filetime(path: &Path, seconds: i64) {
        let at = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 7 };
        Node::Open(open_dir(path).unwrap()).set_times(&rustix::fs::Timestamps { last_access: at, last_modification: at }).unwrap();
    }
}
