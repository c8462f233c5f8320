//! Volume: the mounted file system that a path is on, its size and its device's name.
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A mounted file system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Volume {
    /// `/dev/sda1`, or `0:42` for one without a device.
    pub device: String,
    /// Its size.
    pub bytes: u64,
    /// Inodes that it can hold; 0 where it does not count them.
    pub inodes: u64,
    /// Inodes that are free.
    pub inodes_free: u64,
}

/// The file system of a path.
pub fn volume(path: &Path) -> io::Result<Volume> {
    let stat = rustix::fs::statvfs(path)?;
    let number = fs::metadata(path)?.dev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    Ok(Volume {
        device: device_name(major.into(), minor.into()),
        bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        inodes: stat.f_files,
        inodes_free: stat.f_ffree,
    })
}

/// The path of a block device; `major:minor` if the kernel knows no name.
pub fn device_name(major: u64, minor: u64) -> String {
    let text = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")).unwrap_or_default();
    let name = text.lines().find_map(|l| l.strip_prefix("DEVNAME="));
    name.map_or_else(|| format!("{major}:{minor}"), |name| format!("/dev/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_and_device_of_the_root() {
        let root = volume(Path::new("/")).unwrap();
        assert!(root.bytes > 0 && root.inodes >= root.inodes_free, "{root:?}");
        assert!(root.device.starts_with("/dev/") || root.device.contains(':'));
        assert_eq!(device_name(0, 4711), "0:4711");
    }
}
