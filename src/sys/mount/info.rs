//! What is mounted, out of /proc/self/mountinfo.
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A line of mountinfo.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mounted {
    /// Where it is mounted.
    pub point: PathBuf,
    /// The directory of the file system that is shown there.
    pub root: PathBuf,
    /// `major:minor`.
    pub device: String,
    /// File system type.
    pub kind: String,
    /// What the file system calls its source.
    pub source: PathBuf,
    /// Options of this mount.
    pub options: String,
    /// Options of the file system.
    pub super_options: String,
}

/// All mounts of this thread's namespace, in the order they were mounted.
pub fn mounted() -> io::Result<Vec<Mounted>> {
    // Threads may have namespaces of their own; /proc/self is the first thread's.
    let text = std::fs::read("/proc/thread-self/mountinfo")?;
    Ok(text.split(|b| *b == b'\n').filter_map(parse).collect())
}

fn parse(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|b| *b == b' ');
    let device = fields.by_ref().nth(2)?;
    let (root, point, options) = (fields.next()?, fields.next()?, fields.next()?);
    fields.by_ref().find(|f| *f == b"-")?;
    let (kind, source) = (fields.next()?, fields.next()?);
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    Some(Mounted {
        point: path(point),
        root: path(root),
        device: text(device),
        kind: text(kind),
        source: path(source),
        options: text(options),
        super_options: fields.next().map(text).unwrap_or_default(),
    })
}

/// Spaces, tabs, newlines and backslashes are written as `\ooo`.
fn path(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|d| *first == b'\\' && d.iter().all(|c| (b'0'..=b'7').contains(c)));
        if let Some(digits) = octal {
            out.push(digits.iter().fold(0u32, |n, d| n * 8 + u32::from(d - b'0')) as u8);
            rest = &tail[3..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

/// Paths of all mount points at or below `prefix`, in the order they were mounted.
pub fn mounts_under(prefix: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(mounted()?.into_iter().map(|m| m.point).filter(|p| p.starts_with(prefix)).collect())
}

/// Whether something is mounted at `path` itself; a path that is not there is no mount point.
pub fn is_mountpoint(path: &Path) -> io::Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(CWD, path, flags, StatxFlags::empty()) {
        Ok(x) if x.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) => Ok(x.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Ok(_) => Ok(mounted()?.iter().any(|m| m.point == path)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_escapes_and_optional_fields() {
        let m = parse(br"36 35 98:0 /mnt1 /a\040b\134c rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue").unwrap();
        assert_eq!(m.point, Path::new("/a b\\c"));
        assert_eq!((m.kind.as_str(), m.device.as_str()), ("ext3", "98:0"));
        assert_eq!(m.super_options, "rw,errors=continue");
        assert!(parse(b"").is_none() && parse(b"36 35 98:0 /").is_none());
    }
}
