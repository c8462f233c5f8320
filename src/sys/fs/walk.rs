//! Walks of a tree, however deep, with two open directories, and what is made of them: removal and disk usage.
use super::open_dir;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::path::Path;

/// What a walk meets.
pub enum Step<'a> {
    /// Anything but a directory.
    File {
        /// The directory that holds it.
        parent: BorrowedFd<'a>,
        /// Its name.
        name: &'a CStr,
        /// Its type.
        kind: FileType,
    },
    /// A directory, before its contents.
    Enter {
        /// The directory that holds it.
        parent: BorrowedFd<'a>,
        /// Its name.
        name: &'a CStr,
        /// The directory itself.
        dir: BorrowedFd<'a>,
    },
    /// The same directory, after its contents.
    Leave {
        /// The directory that holds it.
        parent: BorrowedFd<'a>,
        /// Its name.
        name: &'a CStr,
        /// The directory itself.
        dir: BorrowedFd<'a>,
    },
}

/// One directory on the way down.
struct Level {
    name: CString,
    todo: Vec<CString>,
    id: (u64, u64),
}

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Shows `visit` everything below `top`, files of a directory before its directories. Mounts are not entered: they are an error.
pub fn walk(top: OwnedFd, visit: &mut dyn FnMut(Step<'_>) -> io::Result<()>) -> io::Result<()> {
    let mut here = top;
    let mut levels = vec![scan(&here, CString::default(), visit)?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.todo.pop() {
            let dir = match rustix::fs::openat2(&here, &name, OPEN, Mode::empty(), ResolveFlags::NO_XDEV) {
                Err(Errno::NOENT) => continue,
                Err(Errno::XDEV) => {
                    return Err(io::Error::other(format!("something is mounted on {}; unmount it first", name.to_string_lossy())));
                }
                dir => dir?,
            };
            visit(Step::Enter { parent: here.as_fd(), name: &name, dir: dir.as_fd() })?;
            here = dir;
            levels.push(scan(&here, name, visit)?);
            continue;
        }
        let done = levels.pop();
        let (Some(done), Some(above)) = (done, levels.last()) else { return Ok(()) };
        let parent = rustix::fs::openat(&here, "..", OPEN, Mode::empty())?;
        if id(&rustix::fs::fstat(&parent)?) != above.id {
            return Err(io::Error::other(format!("directory {} was moved meanwhile", done.name.to_string_lossy())));
        }
        visit(Step::Leave { parent: parent.as_fd(), name: &done.name, dir: here.as_fd() })?;
        here = parent;
    }
    Ok(())
}

fn scan(dir: &OwnedFd, name: CString, visit: &mut dyn FnMut(Step<'_>) -> io::Result<()>) -> io::Result<Level> {
    let mut level = Level { name, todo: vec![], id: id(&rustix::fs::fstat(dir)?) };
    let mut entries = Dir::read_from(dir)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => FileType::from_raw_mode(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode),
            kind => kind,
        };
        match kind {
            FileType::Directory => level.todo.push(name.to_owned()),
            kind => visit(Step::File { parent: dir.as_fd(), name, kind })?,
        }
    }
    Ok(level)
}

#[allow(clippy::unnecessary_cast, reason = "the width of these fields differs by architecture")]
fn id(stat: &Stat) -> (u64, u64) {
    (stat.st_dev as u64, stat.st_ino as u64)
}

/// Removes a file, or a directory with all below it; one that is not there is fine.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    remove_contents(rustix::fs::openat(CWD, path, OPEN, Mode::empty())?, &mut |_, _| Ok(false))?;
    gone(rustix::fs::rmdir(path))
}

/// Whether the name in this directory shall stay.
pub type Keep<'a> = dyn FnMut(BorrowedFd<'_>, &CStr) -> io::Result<bool> + 'a;

/// Removes what is below `top` but what `keep` keeps, and the directories that hold it.
pub fn remove_contents(top: OwnedFd, keep: &mut Keep<'_>) -> io::Result<()> {
    walk(top, &mut |step| match step {
        Step::File { parent, name, .. } if !keep(parent, name)? => gone(rustix::fs::unlinkat(parent, name, AtFlags::empty())),
        Step::Leave { parent, name, .. } if !keep(parent, name)? => match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            // Something in it was kept.
            Err(Errno::NOTEMPTY) => Ok(()),
            done => gone(done),
        },
        _ => Ok(()),
    })
}

fn gone(done: rustix::io::Result<()>) -> io::Result<()> {
    match done {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Allocated space.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Space {
    /// Bytes of all blocks.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// What a tree takes, itself included; a file with several links counts once.
#[allow(clippy::unnecessary_cast, reason = "the width of these fields differs by architecture")]
pub fn disk_usage(path: &Path) -> io::Result<Space> {
    let top = open_dir(path)?;
    let mut space = Space::default();
    let mut linked = HashSet::new();
    let mut add = |stat: &Stat| {
        let several = stat.st_nlink > 1 && FileType::from_raw_mode(stat.st_mode) != FileType::Directory;
        if !several || linked.insert(id(stat)) {
            space.bytes += stat.st_blocks as u64 * 512;
            space.inodes += 1;
        }
    };
    add(&rustix::fs::fstat(&top)?);
    walk(top, &mut |step| {
        let stat = match step {
            Step::File { parent, name, .. } => rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW),
            Step::Enter { dir, .. } => rustix::fs::fstat(dir),
            Step::Leave { .. } => return Ok(()),
        };
        match stat {
            Ok(stat) => add(&stat),
            // A running container goes on writing.
            Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(())
    })?;
    Ok(space)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fs::Scratch;

    #[test]
    fn a_tree_deeper_than_any_path_is_counted_and_removed() {
        let scratch = Scratch::new("deep");
        let top = scratch.dir("top");
        let mut dir = open_dir(&top).unwrap();
        for _ in 0..10_000 {
            rustix::fs::mkdirat(&dir, "directory", Mode::from_raw_mode(0o700)).unwrap();
            dir = rustix::fs::openat(&dir, "directory", OPEN, Mode::empty()).unwrap();
        }
        rustix::fs::symlinkat("/etc/passwd", &dir, "link").unwrap();
        assert_eq!(disk_usage(&top).unwrap().inodes, 10_002);
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        remove_tree(&top).unwrap();
    }

    #[test]
    fn usage_counts_blocks_and_links_once() {
        let scratch = Scratch::new("usage");
        let empty = disk_usage(&scratch.path).unwrap();
        std::fs::write(scratch.path.join("a"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(scratch.path.join("a"), scratch.path.join("b")).unwrap();
        let sparse = std::fs::File::create(scratch.path.join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        rustix::fs::syncfs(open_dir(&scratch.path).unwrap()).unwrap();
        let used = disk_usage(&scratch.path).unwrap();
        assert_eq!(used.inodes - empty.inodes, 2);
        assert!((100_000..200_000).contains(&(used.bytes - empty.bytes)), "{used:?}");
    }

    #[test]
    fn a_mount_inside_stops_the_removal() {
        let scratch = Scratch::with_private_mounts("rm-mount");
        let (precious, inner) = (scratch.dir("precious"), scratch.dir("top/inner"));
        std::fs::write(precious.join("file"), "").unwrap();
        crate::sys::mount::bind(&precious, &inner, crate::sys::mount::Depth::One).unwrap();
        let error = remove_tree(&scratch.path.join("top")).unwrap_err();
        assert!(error.to_string().contains("mounted on inner"), "{error}");
        assert!(precious.join("file").exists());
        crate::sys::mount::unmount(&inner, crate::sys::mount::UnmountFlags::empty()).unwrap();
    }
}
