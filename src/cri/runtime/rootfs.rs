//! Rootfs: a look into a container's root filesystem before it runs, for its users and its volumes.
use crate::cri::{dirs, spec};
use crate::error::{Context, Result};
use crate::sys::{fs, mount};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Mounts a snapshot on `at`, calls `f` with its root, and unmounts it, whatever came.
pub fn with<T>(at: &Path, mounts: &[mount::Mount], f: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    dirs::make(at)?;
    mount::mount_all(mounts, at).during(|| format!("mount a snapshot on {}", at.display()))?;
    let result = f(at);
    mount::unmount_all(at, mount::UnmountFlags::empty()).during(|| format!("unmount {}", at.display()))?;
    std::fs::remove_dir(at).during(|| format!("remove {}", at.display()))?;
    result
}

/// Makes the directories of image-defined volumes, filled with what the image has at their paths.
/// `owner` is the root of a user namespace.
pub fn make_volumes(root: &Path, volumes: &[spec::Volume], owner: Option<(u32, u32)>) -> Result<()> {
    for volume in volumes {
        dirs::make(&volume.host_path)?;
        if let Some((uid, gid)) = owner {
            let given = std::os::unix::fs::lchown(&volume.host_path, Some(uid), Some(gid));
            given.during(|| format!("give {} to the pod's root", volume.host_path.display()))?;
        }
        fill(root, volume).during(|| format!("fill volume {} from the image", volume.container_path.display()))?;
    }
    Ok(())
}

/// Copies what is at the volume's path, which is looked up inside the root, whatever links the image has.
fn fill(root: &Path, volume: &spec::Volume) -> std::io::Result<()> {
    let inside = fs::Inside::open(root)?;
    match inside.existing(&fs::clean(volume.container_path.as_os_str().as_bytes())) {
        Ok(dir) => fs::copy_tree(&Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()), &volume.host_path),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(()),
        Err(e) => Err(e),
    }
}
