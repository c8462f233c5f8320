//! Mounts as containerd describes them: a kind, a source and mount(8) options; and what is mounted where.
use std::io;
use std::path::{Path, PathBuf};

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

/// Mounts `mount` at `target`.
pub fn mount(mount: &Mount, target: &Path) -> io::Result<()> {
    let _ = (mount, target);
    Err(io::ErrorKind::Unsupported.into())
}

/// Paths of all mount points at or below `prefix`, in the order they were mounted.
pub fn mounts_under(prefix: &Path) -> io::Result<Vec<PathBuf>> {
    let _ = prefix;
    Err(io::ErrorKind::Unsupported.into())
}
