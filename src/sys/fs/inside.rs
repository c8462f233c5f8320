//! Paths resolved inside a root directory: links, absolute or with `..`, never lead out of it.
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::borrow::Cow;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const PLACE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// The kernel gives EAGAIN for `..` while anything anywhere is renamed or mounted; after that many the slow way is taken.
const TRIES: usize = 32;
/// As many links as the kernel follows.
const LINKS: usize = 40;

/// A path relative to the root without `.`, `..` and doubled slashes; `..` stops at the root. The root itself is empty.
pub fn clean(path: &[u8]) -> Cow<'_, [u8]> {
    let plain = |part: &[u8]| !matches!(part, b"" | b"." | b"..");
    let trimmed = path.strip_suffix(b"/").unwrap_or(path);
    if trimmed.split(|b| *b == b'/').all(plain) {
        return Cow::Borrowed(trimmed);
    }
    let mut parts: Vec<&[u8]> = vec![];
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    Cow::Owned(parts.join(&b'/'))
}

/// Directory and last name of a [`clean`] path.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// What is in the place of a directory that is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// Something that is neither a directory nor a link.
    Other,
}

/// Called to create a missing directory: its parent, its name, its path below the root, and what is in its place.
pub type Maker<'a> = dyn FnMut(BorrowedFd<'_>, &[u8], &[u8], Found) -> io::Result<()> + 'a;

/// A root directory and the directory below it that was used last.
pub struct Inside {
    root: Arc<OwnedFd>,
    last: Option<(Vec<u8>, Arc<OwnedFd>)>,
}

impl Inside {
    /// Opens a root.
    pub fn open(root: &Path) -> io::Result<Inside> {
        let root = rustix::fs::open(root, PLACE, Mode::empty())?;
        Ok(Inside { root: Arc::new(root), last: None })
    }
    /// The root itself, as a place only (`O_PATH`).
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
    /// Drops what is remembered: to be called when a directory or a link is removed.
    pub fn forget(&mut self) {
        self.last = None;
    }
    /// The directory at a [`clean`] path; `make` is called for each part that is missing.
    pub fn dir(&mut self, path: &[u8], make: &mut Maker<'_>) -> io::Result<Arc<OwnedFd>> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some((_, dir)) = self.last.as_ref().filter(|(known, _)| known == path) {
            return Ok(dir.clone());
        }
        let dir = Arc::new(match self.open_existing(path) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::AGAIN) => self.step_by_step(path, make)?,
            Err(e) => return Err(e.into()),
        });
        self.last = Some((path.to_vec(), dir.clone()));
        Ok(dir)
    }
    /// The directory at a [`clean`] path, if it is there.
    pub fn existing(&self, path: &[u8]) -> io::Result<Arc<OwnedFd>> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some((_, dir)) = self.last.as_ref().filter(|(known, _)| known == path) {
            return Ok(dir.clone());
        }
        match self.open_existing(path) {
            Err(Errno::AGAIN) => {
                let fail = &mut |_: BorrowedFd<'_>, _: &[u8], _: &[u8], found: Found| Err(missing(found));
                Ok(Arc::new(self.step_by_step(path, fail)?))
            }
            other => Ok(Arc::new(other?)),
        }
    }

    fn open_existing(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            match rustix::fs::openat2(&self.root, path, PLACE, Mode::empty(), inside) {
                Err(Errno::AGAIN) if tries < TRIES => tries += 1,
                done => return done,
            }
        }
    }

    /// Does what the kernel does, one name at a time, so that missing parts can be made where a dangling link points to.
    fn step_by_step(&self, path: &[u8], make: &mut Maker<'_>) -> io::Result<OwnedFd> {
        let parts = |path: &[u8]| path.split(|b| *b == b'/').filter(|p| !p.is_empty()).rev().map(<[u8]>::to_vec).collect::<Vec<_>>();
        let mut todo = parts(path);
        let mut here: Vec<Vec<u8>> = vec![];
        let mut dir = self.root.as_fd().try_clone_to_owned()?;
        let mut links = 0;
        while let Some(part) = todo.pop() {
            match part.as_slice() {
                b"." => continue,
                b".." => {
                    here.pop();
                    dir = self.reopen(&here)?;
                    continue;
                }
                _ => {}
            }
            let (next, kind) = self.enter(&dir, &part, &here, make)?;
            if kind == FileType::Directory {
                dir = next;
                here.push(part);
                continue;
            }
            links += 1;
            if links > LINKS {
                return Err(Errno::LOOP.into());
            }
            let target = rustix::fs::readlinkat(&next, "", vec![])?.into_bytes();
            if target.starts_with(b"/") {
                here.clear();
                dir = self.reopen(&here)?;
            }
            todo.extend(parts(&target));
        }
        Ok(dir)
    }

    /// Opens a directory or link, made first if need be.
    fn enter(&self, dir: &OwnedFd, part: &[u8], here: &[Vec<u8>], make: &mut Maker<'_>) -> io::Result<(OwnedFd, FileType)> {
        let mut made = false;
        loop {
            let opened = rustix::fs::openat(dir, part, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
            let found = match opened {
                Ok(next) => match FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode) {
                    kind @ (FileType::Directory | FileType::Symlink) => return Ok((next, kind)),
                    _ => Found::Other,
                },
                Err(Errno::NOENT) => Found::Nothing,
                Err(e) => return Err(e.into()),
            };
            if made {
                return Err(missing(found));
            }
            let mut full = here.join(&b'/');
            if !full.is_empty() {
                full.push(b'/');
            }
            full.extend_from_slice(part);
            make(dir.as_fd(), part, &full, found)?;
            made = true;
        }
    }

    fn reopen(&self, parts: &[Vec<u8>]) -> io::Result<OwnedFd> {
        if parts.is_empty() {
            return self.root.as_fd().try_clone_to_owned();
        }
        let plain = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        Ok(rustix::fs::openat2(&self.root, parts.join(&b'/'), PLACE, Mode::empty(), plain)?)
    }
}

/// Where `path` leads inside `root`, and what is there: an absolute path without links, for those who take no descriptor. It stays
/// true as long as nobody changes what is below `root`.
pub fn real_path(root: &Path, path: &Path) -> io::Result<(PathBuf, FileType)> {
    let top = rustix::fs::open(root, PLACE, Mode::empty())?;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    let held = loop {
        match rustix::fs::openat2(&top, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), inside) {
            Err(Errno::AGAIN) if tries < TRIES => tries += 1,
            done => break done?,
        }
    };
    let real = std::fs::read_link(format!("/proc/self/fd/{}", held.as_raw_fd()))?;
    // The root itself may be named through links.
    if !real.starts_with(std::fs::read_link(format!("/proc/self/fd/{}", top.as_raw_fd()))?) {
        return Err(Errno::XDEV.into());
    }
    Ok((real, FileType::from_raw_mode(rustix::fs::fstat(&held)?.st_mode)))
}

fn missing(found: Found) -> io::Error {
    match found {
        Found::Nothing => Errno::NOENT.into(),
        Found::Other => Errno::NOTDIR.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fs::Scratch;
    use std::os::unix::fs::symlink;

    #[test]
    fn cleaning_stops_at_the_root() {
        for (path, want) in
            [("a/b", "a/b"), ("./a/./b/", "a/b"), ("/../../a", "a"), ("a/../../b", "b"), ("..", ""), ("/", ""), ("a//b", "a/b")]
        {
            assert_eq!(clean(path.as_bytes()), want.as_bytes(), "{path}");
        }
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"c"), (&b""[..], &b"c"[..]));
    }

    fn plain(dir: BorrowedFd<'_>, name: &[u8], _: &[u8], found: Found) -> io::Result<()> {
        match found {
            Found::Nothing => Ok(rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755))?),
            Found::Other => Err(missing(found)),
        }
    }

    #[test]
    fn links_out_of_the_root_end_inside() {
        let scratch = Scratch::new("inside");
        let root = scratch.dir("root");
        scratch.dir("out");
        symlink("../out", root.join("up")).unwrap();
        symlink("/out/deep", root.join("abs")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        let mut inside = Inside::open(&root).unwrap();
        for path in ["up/a", "abs/b", "magic/c", "new/d/e"] {
            inside.dir(path.as_bytes(), &mut plain).unwrap();
        }
        assert!(root.join("out/a").is_dir() && root.join("out/deep/b").is_dir() && root.join("new/d/e").is_dir());
        assert!(root.join("proc/self/root/c").is_dir());
        assert!(std::fs::read_dir(scratch.path.join("out")).unwrap().next().is_none());
        assert_eq!(inside.dir(b"loop/x", &mut plain).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        std::fs::write(root.join("file"), "").unwrap();
        assert_eq!(inside.dir(b"file/x", &mut plain).unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
        let real = |path: &str| real_path(&root, Path::new(path)).map(|(real, _)| real);
        assert_eq!(real("up/a").unwrap(), root.canonicalize().unwrap().join("out/a"));
        assert_eq!(real("file").unwrap(), root.canonicalize().unwrap().join("file"));
        assert_eq!(real("../../..").unwrap(), root.canonicalize().unwrap());
        assert_eq!(real("nowhere").unwrap_err().raw_os_error(), Some(libc::ENOENT));
        assert!(inside.existing(b"nowhere").is_err() && inside.existing(b"up").is_ok());
    }
}
