//! Upper: the changes in an overlay's upper directory as a layer's tar, with whiteouts in the image's form. What changes while it is
//! read is as it was found; sockets are left out, as a layer cannot hold them.
use crate::error::{Context, Result};
use rustix::fs::{FileType, Mode, OFlags};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

/// Overlayfs's own attributes, which tell of the upper directory and not of the file.
const OVERLAY: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Writes the layer.
pub fn write_layer(upper: &Path, to: impl Write) -> Result<()> {
    let mut layer = Layer { tar: Builder::new(to), links: HashMap::new() };
    let written = layer.directory(upper, Path::new("")).and_then(|()| layer.tar.finish());
    written.during(|| format!("write the changes in {} as a layer", upper.display()))
}

struct Layer<W: Write> {
    tar: Builder<W>,
    /// Files with several names, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Layer<W> {
    fn directory(&mut self, from: &Path, inside: &Path) -> io::Result<()> {
        let mut names: Vec<_> = fs::read_dir(from)?.filter_map(|e| e.ok().map(|e| e.file_name())).collect();
        names.sort();
        for name in names {
            let (path, inside) = (from.join(&name), inside.join(&name));
            match self.entry(&path, &inside, &name) {
                // The container runs on.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                done => done?,
            }
        }
        Ok(())
    }
    fn entry(&mut self, path: &Path, inside: &Path, name: &OsStr) -> io::Result<()> {
        let found = fs::symlink_metadata(path)?;
        match FileType::from_raw_mode(found.mode()) {
            FileType::CharacterDevice if found.rdev() == 0 => {
                let mut marked = b".wh.".to_vec();
                marked.extend_from_slice(name.as_bytes());
                self.empty(&inside.with_file_name(OsStr::from_bytes(&marked)))
            }
            FileType::Socket => Ok(()),
            FileType::Directory => {
                self.header(path, inside, &found, (EntryType::Directory, 0), io::empty())?;
                if is_opaque(path) {
                    self.empty(&inside.join(".wh..wh..opq"))?;
                }
                self.directory(path, inside)
            }
            FileType::Symlink => {
                let (mut header, target) = (plain(&found, EntryType::Symlink, 0), fs::read_link(path)?);
                self.tar.append_link(&mut header, inside, target)
            }
            FileType::RegularFile => self.file(path, inside, &found),
            FileType::Fifo => self.header(path, inside, &found, (EntryType::Fifo, 0), io::empty()),
            kind => {
                let kind = if kind == FileType::BlockDevice { EntryType::Block } else { EntryType::Char };
                self.header(path, inside, &found, (kind, 0), io::empty())
            }
        }
    }
    fn file(&mut self, path: &Path, inside: &Path, found: &Metadata) -> io::Result<()> {
        if found.nlink() > 1
            && let Some(first) = self.links.get(&(found.dev(), found.ino()))
        {
            let mut header = plain(found, EntryType::Link, 0);
            return self.tar.append_link(&mut header, inside, first);
        }
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        // One that shrinks meanwhile is filled up: its header is written by then.
        let bytes = File::from(file).chain(io::repeat(0)).take(found.size());
        self.header(path, inside, found, (EntryType::Regular, found.size()), bytes)?;
        if found.nlink() > 1 {
            self.links.insert((found.dev(), found.ino()), inside.to_path_buf());
        }
        Ok(())
    }
    fn header(&mut self, path: &Path, inside: &Path, found: &Metadata, (kind, size): (EntryType, u64), bytes: impl Read) -> io::Result<()> {
        let kept = attributes(path);
        if !kept.is_empty() {
            self.tar.append_pax_extensions(kept.iter().map(|(name, value)| (name.as_str(), value.as_slice())))?;
        }
        let mut header = plain(found, kind, size);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(rustix::fs::major(found.rdev()))?;
            header.set_device_minor(rustix::fs::minor(found.rdev()))?;
        }
        self.tar.append_data(&mut header, inside, bytes)
    }
    fn empty(&mut self, inside: &Path) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_size(0);
        self.tar.append_data(&mut header, inside, io::empty())
    }
}

fn plain(found: &Metadata, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(found.mode() & 0o7777);
    header.set_uid(found.uid().into());
    header.set_gid(found.gid().into());
    header.set_mtime(u64::try_from(found.mtime()).unwrap_or(0));
    header.set_size(size);
    header
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0u8; 1];
    let yes = |name: &str| rustix::fs::lgetxattr(path, name, &mut value).is_ok_and(|n| n == 1) && value == *b"y";
    ["trusted.overlay.opaque", "user.overlay.opaque"].map(yes).contains(&true)
}

/// Extended attributes as PAX records have them; what a name or a file system does not allow is left out.
fn attributes(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0u8; 64 << 10];
    let Ok(length) = rustix::fs::llistxattr(path, &mut names[..]) else { return vec![] };
    let names = names[..length].split(|b| *b == 0).filter(|n| !n.is_empty() && !OVERLAY.iter().any(|own| n.starts_with(own)));
    let read = |name: &[u8]| {
        let name = std::str::from_utf8(name).ok()?;
        let mut value = vec![0u8; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
        value.truncate(length);
        Some((format!("SCHILY.xattr.{name}"), value))
    };
    names.filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn changes_links_and_deletions_are_told() {
        let scratch = crate::sys::fs::Scratch::new("upper");
        let upper = scratch.dir("upper");
        fs::create_dir(upper.join("etc")).unwrap();
        fs::write(upper.join("etc/a"), "hello").unwrap();
        fs::hard_link(upper.join("etc/a"), upper.join("etc/b")).unwrap();
        symlink("a", upper.join("etc/c")).unwrap();
        let device = rustix::fs::mknodat(
            rustix::fs::CWD,
            upper.join("etc/gone"),
            FileType::CharacterDevice,
            Mode::empty(),
            rustix::fs::makedev(0, 0),
        );
        device.unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(upper.join("socket")).unwrap();
        let mut bytes = vec![];
        write_layer(&upper, &mut bytes).unwrap();
        let mut told = vec![];
        for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let entry = entry.unwrap();
            let link = entry.link_name().unwrap().map(|l| format!(" -> {}", l.display())).unwrap_or_default();
            told.push(format!("{:?} {}{link}", entry.header().entry_type(), entry.path().unwrap().display()));
        }
        let expected =
            ["Directory etc", "Regular etc/a", "Link etc/b -> etc/a", "Symlink etc/c -> a", "Regular etc/.wh.gone"].map(String::from);
        assert_eq!(told, expected);
    }
}
