//! Rootfs: a look into a container's root filesystem before it runs, for its users and its volumes.
use crate::cri::{dirs, spec};
use crate::error::{Context, Result};
use crate::sys::{fs, mount};
use std::path::Path;

/// Mounts a snapshot on `at`, calls `f` with its root, and unmounts it, whatever came.
pub fn with<T>(at: &Path, mounts: &[mount::Mount], f: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    dirs::make(at)?;
    for m in mounts {
        mount::mount(m, at).during(|| format!("mount a snapshot on {}", at.display()))?;
    }
    let result = f(at);
    mount::unmount_all(at).during(|| format!("unmount {}", at.display()))?;
    std::fs::remove_dir(at).during(|| format!("remove {}", at.display()))?;
    result
}

/// Makes the directories of image-defined volumes, filled with what the image has at their paths.
pub fn make_volumes(root: &Path, volumes: &[spec::Volume]) -> Result<()> {
    for volume in volumes {
        dirs::make(&volume.host_path)?;
        fs::copy_up(root, &volume.container_path, &volume.host_path)
            .during(|| format!("fill volume {} from the image", volume.container_path.display()))?;
    }
    Ok(())
}
