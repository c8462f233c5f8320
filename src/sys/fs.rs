//! File trees handled by descriptors: paths that cannot leave their root, metadata that follows no link, and walks of any depth
//! with a handful of open files.
mod copy;
mod inside;
mod node;
mod owners;
mod volume;
mod walk;

pub use copy::copy_tree;
pub use inside::{Found, Inside, clean, real_path, split};
pub use node::{Metadata, Node};
pub use owners::shift_owners;
pub use volume::{Volume, device_name, volume};
pub use walk::{Space, Step, disk_usage, remove_contents, remove_tree, walk};

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags};
use std::io;
use std::path::Path;

/// Opens a directory to read it.
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Creates a directory with exactly this mode, whatever the umask; one that is there keeps its contents and gets the mode.
pub fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    Ok(rustix::fs::fchmod(open_dir(path)?, Mode::from_raw_mode(mode))?)
}

/// Whether reading this directory tells the type of each entry without another call.
pub fn tells_types(dir: &OwnedFd) -> io::Result<bool> {
    let entries = rustix::fs::Dir::read_from(dir)?.collect::<Result<Vec<_>, _>>()?;
    Ok(entries.iter().all(|e| e.file_type() != rustix::fs::FileType::Unknown))
}

/// Makes the directory entries of `path` durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::fsync(open_dir(path)?)?)
}

/// Makes everything on the file system of `path` durable.
pub fn sync_file_system(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(open_dir(path)?)?)
}

/// A directory for one test, removed at its end.
#[cfg(test)]
pub struct Scratch {
    /// The directory.
    pub path: std::path::PathBuf,
}

#[cfg(test)]
impl Scratch {
    /// A new directory `/tmp/cradle-<name>-…`.
    pub fn new(name: &str) -> Scratch {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("cradle-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch { path }
    }
    /// The same, and this thread's mounts are its own from now on: they go with the thread.
    pub fn with_private_mounts(name: &str) -> Scratch {
        // SAFETY: NEWNS (with the FS that it implies) changes this thread alone, and no descriptor table.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
        let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        Scratch::new(name)
    }
    /// A directory below it, with its parents.
    pub fn dir(&self, name: &str) -> std::path::PathBuf {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}

#[cfg(test)]
impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = super::mount::unmount_tree(&self.path, super::mount::UnmountFlags::DETACH);
        if let Err(e) = remove_tree(&self.path) {
            eprintln!("scratch directory {} is left behind: {e}", self.path.display());
        }
    }
}
