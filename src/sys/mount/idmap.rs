//! Id-mapped mounts: owners are shown as a user namespace's map says, on disk they stay as they are.
//!
//! All of a mount is prepared while it is attached nowhere, so that nobody sees it half-made, and a death leaves nothing.
use super::{Depth, Mount, Options, PAGE, set_attributes};
use crate::sys::userns::{self, IdMap};
use crate::thread::Threads;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode};
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
use rustix::thread::UnshareFlags;
use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

const LOWER: &str = "lowerdir=";

/// How a copy of a mount differs from it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changes {
    /// Whether the mounts below come along.
    pub depth: Depth,
    /// Owners are mapped.
    pub map: Option<IdMap>,
    /// Read only, with all mounts below.
    pub read_only: bool,
    /// What it has to do with mounts that come and go at the source.
    pub bond: Bond,
}

/// Where mount events go between a copy and its source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bond {
    /// From the source to the copy. Else what is unmounted below the copy would be so below the source too.
    FromSource,
    /// Both ways, where the source is shared.
    Both,
}

/// Binds `source`, changed, to `target`. Nothing is attached unless all changes could be made.
pub fn bind_changed(source: &Path, target: &Path, changes: &Changes) -> io::Result<()> {
    let tree = copy(source, changes.depth)?;
    if let Some(map) = &changes.map {
        let space = userns::open(map)?;
        // What is mounted below may be of a file system that cannot: then it keeps its owners, as with the OCI runtimes.
        let whole = set_map(tree.as_fd(), &space, changes.depth);
        whole.or_else(|_| set_map(tree.as_fd(), &space, Depth::One)).map_err(|e| cannot(source, &e))?;
    }
    if changes.read_only {
        set_attributes(tree.as_fd(), &attributes(libc::MOUNT_ATTR_RDONLY), changes.depth)?;
    }
    if changes.bond == Bond::FromSource {
        let mut attr = attributes(0);
        attr.propagation = libc::MS_SLAVE;
        set_attributes(tree.as_fd(), &attr, changes.depth)?;
    }
    attach(&tree, target)
}

/// Whether the owners on the file system of `dir` can be mapped.
pub fn can_map(dir: &Path, map: &IdMap) -> io::Result<()> {
    let tree = copy(dir, Depth::One)?;
    set_map(tree.as_fd(), &userns::open(map)?, Depth::One)
}

/// Whether a mount and all below it can be made read only in one go (Linux 5.12 and later).
pub fn can_set_recursively(dir: &Path) -> io::Result<()> {
    set_attributes(copy(dir, Depth::One)?.as_fd(), &attributes(libc::MOUNT_ATTR_RDONLY), Depth::Recursive)
}

fn attributes(set: u64) -> libc::mount_attr {
    libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 }
}

fn set_map(tree: BorrowedFd<'_>, space: &OwnedFd, depth: Depth) -> io::Result<()> {
    let mut attr = attributes(libc::MOUNT_ATTR_IDMAP);
    attr.userns_fd = space.as_raw_fd() as u64;
    set_attributes(tree, &attr, depth)
}

fn cannot(source: &Path, error: &io::Error) -> io::Error {
    let why = "the kernel, its file system or the one mounted there cannot be id-mapped";
    io::Error::new(error.kind(), format!("map the owners of {}: {error}; {why}", source.display()))
}

/// A copy of a mount that is attached nowhere.
fn copy(source: &Path, depth: Depth) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if depth == Depth::Recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(CWD, source, flags)?)
}

fn attach(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    Ok(rustix::mount::move_mount(tree.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Mounts an overlay whose lower directories are id-mapped (Linux 5.19 and later); the upper one has the mapped owners on disk.
///
/// Overlayfs takes its layers by path, so they are mounted in a mount namespace of a thread that ends with it; only the overlay
/// itself comes out.
pub(super) fn overlay(mount: &Mount, options: &Options, map: &IdMap, target: &Path) -> io::Result<()> {
    let space = userns::open(map)?;
    let lowers: Vec<PathBuf> =
        options.data.iter().filter_map(|d| d.strip_prefix(LOWER)).flat_map(|l| l.split(':')).map(PathBuf::from).collect();
    let names: Vec<String> = (0..lowers.len()).map(|n| n.to_string()).collect();
    let rest = options.data.iter().filter(|d| !d.starts_with(LOWER)).cloned();
    let data = CString::new(rest.chain([format!("{LOWER}{}", names.join(":"))]).collect::<Vec<_>>().join(","))?;
    if data.as_bytes_with_nul().len() > PAGE {
        let text = format!("{} lower directories do not fit into one mount call; flatten the image", lowers.len());
        return Err(io::Error::new(io::ErrorKind::ArgumentListTooLong, text));
    }
    let apart = Apart { kind: mount.kind.clone(), flags: options.flags, data, lowers, space, at: std::path::absolute(target)? };
    let (answer, answered) = crossbeam_channel::bounded(1);
    let helper = Threads::new().map_err(io::Error::other)?;
    helper.spawn("mount-idmap", move |_| drop(answer.send(apart.make()))).map_err(io::Error::other)?;
    let made = answered.recv().map_err(|_| io::Error::other("the mounting thread died"))?;
    helper.shutdown();
    attach(&made?, target)
}

/// What a thread with mounts of its own makes.
struct Apart {
    kind: String,
    flags: MountFlags,
    data: CString,
    lowers: Vec<PathBuf>,
    space: OwnedFd,
    /// A directory to work in, hidden there by a file system of our own.
    at: PathBuf,
}

impl Apart {
    fn make(&self) -> io::Result<OwnedFd> {
        // SAFETY: NEWNS (with the FS that it implies) changes this thread alone, which ends with the job; no descriptor table.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
        rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let lowers: Vec<OwnedFd> = self.lowers.iter().map(|lower| self.lower(lower)).collect::<io::Result<_>>()?;
        rustix::mount::mount("tmpfs", &self.at, "tmpfs", MountFlags::empty(), c"mode=700")?;
        rustix::process::chdir(&self.at)?;
        for (name, lower) in lowers.iter().enumerate() {
            let name = PathBuf::from(name.to_string());
            rustix::fs::mkdir(&name, Mode::from_raw_mode(0o700))?;
            attach(lower, &name)?;
        }
        rustix::fs::mkdir("merged", Mode::from_raw_mode(0o700))?;
        rustix::mount::mount("overlay", "merged", self.kind.as_str(), self.flags, self.data.as_c_str())?;
        copy(Path::new("merged"), Depth::One)
    }

    fn lower(&self, lower: &Path) -> io::Result<OwnedFd> {
        let tree = copy(lower, Depth::One)?;
        set_map(tree.as_fd(), &self.space, Depth::One).map_err(|e| cannot(lower, &e))?;
        Ok(tree)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fs::Scratch;
    use crate::sys::mount::{UnmountFlags, is_mountpoint, mount, mounted, unmount, unmount_tree};
    use crate::sys::userns::IdRange;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, chown};

    fn map() -> IdMap {
        let ranges = |outside| vec![IdRange { inside: 0, outside, count: 1000 }];
        IdMap { uids: ranges(100_000), gids: ranges(200_000) }
    }

    fn owner(path: &Path) -> (u32, u32) {
        let of = fs::symlink_metadata(path).unwrap();
        (of.uid(), of.gid())
    }

    #[test]
    fn owners_are_mapped_and_all_below_is_read_only() {
        let scratch = Scratch::with_private_mounts("idmap");
        let (source, below, target) = (scratch.dir("source"), scratch.dir("source/below"), scratch.dir("target"));
        fs::write(source.join("file"), "").unwrap();
        chown(source.join("file"), Some(7), Some(8)).unwrap();
        let tmpfs = Mount { kind: "tmpfs".into(), source: "tmpfs".into(), target: None, options: vec![] };
        mount(&tmpfs, &below).unwrap();
        let changes = Changes { depth: Depth::Recursive, map: Some(map()), read_only: true, bond: Bond::FromSource };
        bind_changed(&source, &target, &changes).unwrap();
        assert_eq!(owner(&target.join("file")), (100_007, 200_008));
        assert_eq!(owner(&target), (100_000, 200_000));
        for dir in ["", "below"] {
            assert_eq!(fs::write(target.join(dir).join("x"), "").unwrap_err().raw_os_error(), Some(libc::EROFS), "{dir:?}");
        }
        fs::write(below.join("x"), "").unwrap();
        // One file.
        let (file, at) = (source.join("file"), scratch.path.join("at"));
        fs::write(&at, "").unwrap();
        bind_changed(&file, &at, &Changes { depth: Depth::Recursive, map: Some(map()), read_only: false, bond: Bond::FromSource }).unwrap();
        assert_eq!(owner(&at), (100_007, 200_008));
    }

    #[test]
    fn what_goes_below_a_copy_stays_at_the_source() {
        let scratch = Scratch::with_private_mounts("idmap-bond");
        let (source, target) = (scratch.dir("source"), scratch.dir("target"));
        let tmpfs = Mount { kind: "tmpfs".into(), source: "tmpfs".into(), target: None, options: vec!["rshared".into()] };
        mount(&tmpfs, &source).unwrap();
        let below = scratch.dir("source/below");
        mount(&tmpfs, &below).unwrap();
        for bond in [Bond::FromSource, Bond::Both] {
            bind_changed(&source, &target, &Changes { depth: Depth::Recursive, map: None, read_only: false, bond }).unwrap();
            assert!(is_mountpoint(&target.join("below")).unwrap());
            let late = scratch.dir("source/late");
            mount(&tmpfs, &late).unwrap();
            assert!(is_mountpoint(&target.join("late")).unwrap(), "{bond:?}");
            unmount(&late, UnmountFlags::empty()).unwrap();
            unmount_tree(&target, UnmountFlags::empty()).unwrap();
            assert!(is_mountpoint(&below).unwrap() && !is_mountpoint(&target).unwrap(), "{bond:?}");
        }
    }

    #[test]
    fn what_cannot_be_mapped_says_so_and_leaves_nothing() {
        let scratch = Scratch::with_private_mounts("idmap-not");
        let target = scratch.dir("target");
        let changes = Changes { depth: Depth::One, map: Some(map()), read_only: false, bond: Bond::FromSource };
        let e = bind_changed(Path::new("/proc"), &target, &changes).unwrap_err();
        assert!(e.to_string().contains("map the owners of /proc"), "{e}");
        assert!(!is_mountpoint(&target).unwrap());
        assert!(can_map(Path::new("/proc"), &map()).is_err());
        can_map(&scratch.path, &map()).unwrap();
        can_set_recursively(&scratch.path).unwrap();
    }

    #[test]
    fn an_overlay_shows_the_mapped_owners_of_its_layers_and_only_itself() {
        let scratch = Scratch::with_private_mounts("idmap-overlay");
        let (one, two, upper, work, at) =
            (scratch.dir("one"), scratch.dir("two"), scratch.dir("upper"), scratch.dir("work"), scratch.dir("at"));
        fs::write(one.join("low"), "low").unwrap();
        fs::write(two.join("high"), "high").unwrap();
        chown(two.join("high"), Some(5), Some(6)).unwrap();
        chown(&upper, Some(100_000), Some(200_000)).unwrap();
        let options = |mut extra: Vec<String>| {
            extra.extend(["uidmap=0:100000:1000".into(), "gidmap=0:200000:1000".into()]);
            extra.push(format!("lowerdir={}:{}", two.display(), one.display()));
            Mount { kind: "overlay".into(), source: "overlay".into(), target: None, options: extra }
        };
        let before = mounted().unwrap().len();
        mount(&options(vec![format!("upperdir={}", upper.display()), format!("workdir={}", work.display())]), &at).unwrap();
        assert_eq!(mounted().unwrap().len(), before + 1);
        assert_eq!((owner(&at), owner(&at.join("low"))), ((100_000, 200_000), (100_000, 200_000)));
        assert_eq!(owner(&at.join("high")), (100_005, 200_006));
        fs::OpenOptions::new().append(true).open(at.join("high")).unwrap();
        assert_eq!(owner(&upper.join("high")), (100_005, 200_006), "copied up with the owner that it shows");
        assert_eq!(owner(&two.join("high")), (5, 6));
        unmount(&at, UnmountFlags::empty()).unwrap();
        mount(&options(vec!["ro".into()]), &at).unwrap();
        assert_eq!(owner(&at.join("high")), (100_005, 200_006));
        assert_eq!(fs::write(at.join("x"), "").unwrap_err().raw_os_error(), Some(libc::EROFS));
    }
}
