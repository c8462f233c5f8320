//! Mounts as containerd describes them: a kind, a source and mount(8) options; and what is mounted where.
//!
//! Nothing here follows a symbolic link at the target, and an option string of any length works.
mod idmap;
mod info;
mod long;
mod options;

pub use idmap::{Bond, Changes, bind_changed, can_map, can_set_recursively};
pub use info::{Mounted, is_mountpoint, mounted, mounts_under};
pub use options::Options;
pub use rustix::mount::UnmountFlags;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, MountPropagationFlags};
use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Largest option string that mount(2) takes: one page, with its final zero.
const PAGE: usize = 4096;

/// One mount to be made; several are made in order.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Mount {
    /// File system type: `overlay`, `bind`, `tmpfs`, …
    pub kind: String,
    /// Device or directory; for file systems without one any text.
    pub source: String,
    /// Path below the mount target, where this mount goes instead of the target itself.
    pub target: Option<String>,
    /// Options as mount(8) takes them: flags (`ro`, `rbind`) and data (`lowerdir=…`).
    pub options: Vec<String>,
}

/// Mounts `mount` at `target`, or at its sub-path of it, which is resolved inside `target`.
pub fn mount(mount: &Mount, target: &Path) -> io::Result<()> {
    let Some(sub) = mount.target.as_deref().filter(|s| !s.is_empty()) else { return mount_at(mount, target) };
    let base = rustix::fs::openat(CWD, target, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let place = rustix::fs::openat2(&base, sub.trim_start_matches('/'), OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), inside)?;
    mount_at(mount, &by_fd(&place))
}

/// Makes several mounts in order; when one fails, those before it are taken down again.
pub fn mount_all(mounts: &[Mount], target: &Path) -> io::Result<()> {
    for (done, one) in mounts.iter().enumerate() {
        if let Err(e) = mount(one, target) {
            for made in mounts[..done].iter().rev() {
                let sub = made.target.as_deref().unwrap_or_default().trim_start_matches('/');
                let place = if sub.is_empty() { target.to_path_buf() } else { target.join(sub) };
                let _ = unmount(&place, UnmountFlags::DETACH);
            }
            return Err(e);
        }
    }
    Ok(())
}

fn mount_at(mount: &Mount, target: &Path) -> io::Result<()> {
    let options = Options::parse(&mount.options)?;
    if let Some(map) = options.map.as_ref().filter(|_| !options.is_bind() && mount.kind != "bind") {
        if mount.kind != "overlay" {
            let text = format!("uidmap and gidmap are for bind and overlay mounts, not for {}", mount.kind);
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        idmap::overlay(mount, &options, map, target)?;
    } else if options.is_bind() || mount.kind == "bind" {
        bind_with(Path::new(&mount.source), target, &options)?;
    } else if options.flags.contains(options::REMOUNT) {
        let data = CString::new(options.data.join(","))?;
        rustix::mount::mount_remount(target, options.flags - options::REMOUNT, data.as_c_str())?;
    } else if options.data_len() < PAGE {
        let data = CString::new(options.data.join(","))?;
        rustix::mount::mount(mount.source.as_str(), target, mount.kind.as_str(), options.flags, data.as_c_str())?;
    } else {
        long::mount(mount, &options, target)?;
    }
    for change in &options.propagation {
        rustix::mount::mount_change(target, *change)?;
    }
    if options.recursive_read_only {
        read_only(target, Depth::Recursive)?;
    }
    Ok(())
}

/// How far below a mount something reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    /// The mount itself.
    One,
    /// And all mounts below it.
    Recursive,
}

/// Binds `source` to `target`.
pub fn bind(source: &Path, target: &Path, depth: Depth) -> io::Result<()> {
    match depth {
        Depth::One => rustix::mount::mount_bind(source, target)?,
        Depth::Recursive => rustix::mount::mount_bind_recursive(source, target)?,
    }
    Ok(())
}

fn bind_with(source: &Path, target: &Path, options: &Options) -> io::Result<()> {
    let depth = options.bind.unwrap_or(Depth::Recursive);
    match &options.map {
        None => bind(source, target, depth)?,
        map => bind_changed(source, target, &Changes { depth, map: map.clone(), read_only: false, bond: Bond::Both })?,
    }
    let flags = options.flags - options::REMOUNT;
    if flags.is_empty() {
        return Ok(());
    }
    // A bind mount ignores flags, so they are set in a second step; a mount without them must not stay behind.
    set_flags(target, flags, Depth::One).inspect_err(|_| drop(unmount(target, UnmountFlags::DETACH)))
}

/// Makes a mount read only.
pub fn read_only(target: &Path, depth: Depth) -> io::Result<()> {
    set_flags(target, MountFlags::RDONLY, depth)
}

/// Adds flags to a mount without taking those away that it has (which a remount would).
fn set_flags(target: &Path, flags: MountFlags, depth: Depth) -> io::Result<()> {
    let Some(set) = options::attributes(flags) else {
        return Ok(rustix::mount::mount_remount(target, MountFlags::BIND | flags, c"")?);
    };
    // Of all access time modes only one can be set, so the old one is cleared first.
    let clear = if set & libc::MOUNT_ATTR__ATIME != 0 { libc::MOUNT_ATTR__ATIME } else { 0 };
    let attr = libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    match set_attributes(open_path(target)?.as_fd(), &attr, depth) {
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) && depth == Depth::One => {
            Ok(rustix::mount::mount_remount(target, MountFlags::BIND | flags, c"")?)
        }
        done => done,
    }
}

/// Changes a mount that is held, attached or not.
fn set_attributes(held: BorrowedFd<'_>, attr: &libc::mount_attr, depth: Depth) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if depth == Depth::Recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `held` is open, the path is a constant C string, and `attr` is a mount_attr of the size that is passed along.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            held.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How often a busy mount is tried again, and the pause between: half a second in all.
const BUSY_TRIES: u32 = 50;
const BUSY_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// Changes how mount events spread from and to `target`, as `rprivate`, `slave`, … say.
pub fn propagation(target: &Path, how: MountPropagationFlags) -> io::Result<()> {
    Ok(rustix::mount::mount_change(target, how)?)
}

/// Takes the topmost mount off `target`, which is not followed if it is a link.
///
/// A child that another thread is just starting holds copies of all our descriptors until its exec: what is busy for that alone is
/// free again at once, so that it is tried a few times.
pub fn unmount(target: &Path, flags: UnmountFlags) -> io::Result<()> {
    let mut tries = 0;
    loop {
        match rustix::mount::unmount(target, flags | UnmountFlags::NOFOLLOW) {
            Err(rustix::io::Errno::BUSY) if tries < BUSY_TRIES => {
                tries += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            other => return Ok(other?),
        }
    }
}

/// Takes all mounts off `target` itself; it is fine if there is none, or no such path.
pub fn unmount_all(target: &Path, flags: UnmountFlags) -> io::Result<()> {
    loop {
        match unmount(target, flags) {
            Ok(()) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

/// Takes all mounts at and below `prefix` down, last mounted first.
pub fn unmount_tree(prefix: &Path, flags: UnmountFlags) -> io::Result<()> {
    let points = mounts_under(prefix)?;
    for point in &points {
        // A recursive bind of a shared tree: unmounting one of its children would unmount the tree's own.
        match rustix::mount::mount_change(point, MountPropagationFlags::PRIVATE) {
            Err(e) if !matches!(e.raw_os_error(), libc::EINVAL | libc::ENOENT) => return Err(e.into()),
            _ => {}
        }
    }
    for point in points.iter().rev() {
        match unmount(point, flags) {
            Err(e) if !matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

fn open_path(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// A path that leads to exactly what the descriptor holds.
fn by_fd(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fs::Scratch;

    #[test]
    fn bind_is_read_only_when_asked_and_keeps_the_flags_it_had() {
        let scratch = Scratch::with_private_mounts("mount");
        let (a, b) = (scratch.dir("a"), scratch.dir("b"));
        let tmpfs = Mount { kind: "tmpfs".into(), source: "tmpfs".into(), target: None, options: vec!["nosuid".into(), "size=1m".into()] };
        mount(&tmpfs, &a).unwrap();
        let bound = Mount {
            kind: "bind".into(),
            source: a.display().to_string(),
            target: None,
            options: vec!["rbind".into(), "ro".into(), "nodev".into(), "rprivate".into()],
        };
        mount(&bound, &b).unwrap();
        assert!(std::fs::write(b.join("x"), "").unwrap_err().raw_os_error() == Some(libc::EROFS));
        let of_b = mounted().unwrap().into_iter().rfind(|m| m.point == b).unwrap();
        for flag in ["ro", "nosuid", "nodev"] {
            assert!(of_b.options.split(',').any(|o| o == flag), "{flag} in {}", of_b.options);
        }
        assert!(is_mountpoint(&b).unwrap() && !is_mountpoint(&scratch.path).unwrap());
        assert_eq!(mounts_under(&scratch.path).unwrap(), [a.clone(), b.clone()]);
        unmount_tree(&scratch.path, UnmountFlags::empty()).unwrap();
        assert!(mounts_under(&scratch.path).unwrap().is_empty());
        unmount_all(&b, UnmountFlags::empty()).unwrap();
        unmount_all(&scratch.path.join("none"), UnmountFlags::empty()).unwrap();
    }

    #[test]
    fn a_sub_path_cannot_leave_the_target() {
        let scratch = Scratch::with_private_mounts("mount-sub");
        let (root, out) = (scratch.dir("root"), scratch.dir("out"));
        scratch.dir("root/out");
        std::os::unix::fs::symlink("../../out", root.join("link")).unwrap();
        let m = Mount { kind: "tmpfs".into(), source: "tmpfs".into(), target: Some("/link".into()), options: vec![] };
        mount(&m, &root).unwrap();
        assert!(!is_mountpoint(&out).unwrap() && is_mountpoint(&root.join("out")).unwrap());
    }

    #[test]
    fn when_one_of_several_fails_none_stays() {
        let scratch = Scratch::with_private_mounts("mount-all");
        let at = scratch.dir("at");
        let tmpfs = |target: Option<&str>| Mount {
            kind: "tmpfs".into(),
            source: "tmpfs".into(),
            target: target.map(str::to_string),
            options: vec![],
        };
        scratch.dir("at/sub");
        assert!(mount_all(&[tmpfs(Some("/sub")), tmpfs(None), tmpfs(Some("missing"))], &at).is_err());
        assert!(mounts_under(&scratch.path).unwrap().is_empty());
    }

    #[test]
    fn two_hundred_lower_directories_mount_both_ways() {
        let scratch = Scratch::with_private_mounts("mount-long");
        let deep = scratch.dir("a-directory-name-that-makes-the-option-string-long/snapshots");
        let lowers: Vec<String> = (0..200)
            .map(|i| {
                let dir = deep.join(format!("{i}/fs"));
                std::fs::create_dir_all(&dir).unwrap();
                std::fs::write(dir.join(format!("f{i}")), format!("{i}")).unwrap();
                std::fs::write(dir.join("top"), format!("{i}")).unwrap();
                dir.display().to_string()
            })
            .collect();
        let (upper, work, at) = (scratch.dir("upper"), scratch.dir("work"), scratch.dir("at"));
        let options =
            vec![format!("workdir={}", work.display()), format!("upperdir={}", upper.display()), format!("lowerdir={}", lowers.join(":"))];
        let m = Mount { kind: "overlay".into(), source: "overlay".into(), target: None, options };
        let check = |what: &str| {
            assert_eq!(std::fs::read_to_string(at.join("top")).unwrap(), "0", "{what}");
            assert!((0..200).all(|i| at.join(format!("f{i}")).exists()), "{what}");
            unmount(&at, UnmountFlags::empty()).unwrap();
        };
        mount(&m, &at).unwrap();
        check("as chosen");
        long::by_relative_paths(&m, &Options::parse(&m.options).unwrap(), &at).unwrap();
        check("by relative paths");
        assert_ne!(std::env::current_dir().unwrap(), deep);
    }
}
