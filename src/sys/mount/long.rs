//! Overlay mounts whose option string is longer than the page that mount(2) copies: images of very many layers.
use super::{Mount, Options, PAGE, options};
use crate::thread::Threads;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::CWD;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags};
use rustix::thread::UnshareFlags;
use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

const LOWER: &str = "lowerdir=";

/// One option at a time where the kernel can (6.8 and later take `lowerdir+`), by short relative paths elsewhere.
pub(super) fn mount(mount: &Mount, options: &Options, target: &Path) -> io::Result<()> {
    match configure(mount, options) {
        Ok(fs) => attach(&fs, options, target),
        // An older kernel does not know the call or the option, or a path is too long for one value.
        Err(_) => by_relative_paths(mount, options, target),
    }
}

fn configure(mount: &Mount, options: &Options) -> io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen(mount.kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&fs, "source", mount.source.as_str())?;
    if options.flags.contains(MountFlags::RDONLY) {
        rustix::mount::fsconfig_set_flag(&fs, "ro")?;
    }
    for option in &options.data {
        match option.split_once('=') {
            Some(("lowerdir", list)) => {
                for lower in list.split(':') {
                    rustix::mount::fsconfig_set_string(&fs, "lowerdir+", lower)?;
                }
            }
            // Quotes keep commas together in the one string of mount(2); here each value is by itself.
            Some((key, value)) => rustix::mount::fsconfig_set_string(&fs, key, value.trim_matches('"'))?,
            None => rustix::mount::fsconfig_set_flag(&fs, option.as_str())?,
        }
    }
    Ok(fs)
}

fn attach(fs: &OwnedFd, options: &Options, target: &Path) -> io::Result<()> {
    rustix::mount::fsconfig_create(fs).map_err(|e| explain(fs, e.into()))?;
    let attributes = options::attributes(options.flags).unwrap_or_default();
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    let made = rustix::mount::fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    Ok(rustix::mount::move_mount(made.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// The kernel's own words on a failed mount, where it left some.
fn explain(fs: &OwnedFd, error: io::Error) -> io::Error {
    let mut text = [0u8; 512];
    match rustix::io::read(fs, &mut text) {
        Ok(n) if n > 2 => io::Error::new(error.kind(), format!("{error}: {}", String::from_utf8_lossy(&text[2..n]).trim_end())),
        _ => error,
    }
}

/// Mounts from inside the directory that all lower directories share, in a thread whose working directory is its own.
pub(super) fn by_relative_paths(mount: &Mount, options: &Options, target: &Path) -> io::Result<()> {
    let lowers: Vec<&Path> = options.data.iter().filter_map(|d| d.strip_prefix(LOWER)).flat_map(|l| l.split(':')).map(Path::new).collect();
    let base = shared(&lowers);
    let short = |list: &str| -> String {
        let each = list.split(':').map(|l| Path::new(l).strip_prefix(&base).unwrap_or(Path::new(l)).display().to_string());
        each.collect::<Vec<_>>().join(":")
    };
    let data = options.data.iter().map(|d| d.strip_prefix(LOWER).map_or_else(|| d.clone(), |list| format!("{LOWER}{}", short(list))));
    let data = CString::new(data.collect::<Vec<_>>().join(","))?;
    if data.as_bytes_with_nul().len() > PAGE {
        let text = format!("{} lower directories under {} do not fit into one mount call; flatten the image", lowers.len(), base.display());
        return Err(io::Error::new(io::ErrorKind::ArgumentListTooLong, text));
    }
    let (kind, source, target, flags) = (mount.kind.clone(), mount.source.clone(), std::path::absolute(target)?, options.flags);
    let (answer, answered) = crossbeam_channel::bounded(1);
    let helper = Threads::new().map_err(io::Error::other)?;
    let start = helper.spawn("mount-chdir", move |_| {
        let done = (|| {
            // SAFETY: FS alone makes only the working directory, root and umask this thread's own; no descriptor table changes.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }?;
            rustix::process::chdir(&base)?;
            rustix::mount::mount(source.as_str(), &target, kind.as_str(), flags, data.as_c_str())
        })();
        let _ = answer.send(done);
    });
    start.map_err(io::Error::other)?;
    let done = answered.recv().map_err(|_| io::Error::other("the mounting thread died"))?;
    helper.shutdown();
    Ok(done?)
}

fn shared(paths: &[&Path]) -> PathBuf {
    let Some(first) = paths.first() else { return PathBuf::from("/") };
    let mut base = first.parent().unwrap_or(Path::new("/"));
    while let Some(up) = base.parent().filter(|_| !paths.iter().all(|p| p.starts_with(base) && *p != base)) {
        base = up;
    }
    base.to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shared_directory_is_a_proper_parent_of_all() {
        assert_eq!(shared(&[Path::new("/r/s/1/fs"), Path::new("/r/s/2/fs")]), Path::new("/r/s"));
        assert_eq!(shared(&[Path::new("/r/s/1"), Path::new("/r/s/1")]), Path::new("/r/s"));
        assert_eq!(shared(&[Path::new("/a"), Path::new("/b")]), Path::new("/"));
    }
}
