//! The applier: entries become files, by names relative to held directories, so that no link of the layer leads outside.
use super::archive::{Archive, Entry, Kind, Time};
use super::{Apply, CHUNK, Whiteouts};
use crate::error::{Context, Error, Kind as ErrorKind, Result};
use crate::sys::fs::{Found, Inside, Metadata, Node, clean, remove_contents, split};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::ffi::{CStr, OsStr};
use std::hash::BuildHasher;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const WHITEOUT: &[u8] = b".wh.";
const META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Device and inode.
type Id = (u64, u64);

/// Applies the entries of one layer.
pub(super) struct Applier {
    inside: Inside,
    layer: Layer,
    buf: Vec<u8>,
}

/// What is known of the layer so far.
struct Layer {
    whiteouts: Whiteouts,
    userxattr: bool,
    /// What this layer made, where whiteouts must tell that from what lay there before: a whiteout is for lower layers only.
    made: Option<(RandomState, HashSet<u64>)>,
    /// Described directories, whose times are set at the end.
    dirs: Vec<(Vec<u8>, Id, Timestamps)>,
    implied: Vec<(PathBuf, Id)>,
    told_of_xattrs: bool,
}

impl Applier {
    pub(super) fn new(root: &Path, how: &Apply<'_>) -> io::Result<Applier> {
        let inside = Inside::open(root)?;
        // In an empty directory there is nothing that a whiteout could remove.
        let below = how.whiteouts == Whiteouts::Remove && std::fs::read_dir(root)?.next().is_some();
        let layer = Layer {
            whiteouts: how.whiteouts,
            userxattr: how.userxattr,
            made: below.then(Default::default),
            dirs: vec![],
            implied: vec![],
            told_of_xattrs: false,
        };
        Ok(Applier { inside, layer, buf: vec![0; CHUNK] })
    }

    /// Applies one entry; `data` reads its contents.
    pub(super) fn entry<R: Read>(&mut self, entry: &Entry, data: &mut Archive<R>) -> Result<()> {
        let path = clean(&entry.path);
        let (dir, name) = split(&path);
        // The root belongs to the snapshot, not to the layer; and aufs's own files are for aufs.
        if name.is_empty() || dir.split(|b| *b == b'/').any(|part| part.starts_with(META)) {
            return Ok(());
        }
        if name.starts_with(META) && name != OPAQUE {
            return Ok(());
        }
        let layer = &mut self.layer;
        let parent = self.inside.dir(dir, &mut |at, name, full, found| layer.make_parent(at, name, full, found));
        let parent = parent.during(|| format!("enter directory \"{}\"", dir.escape_ascii()))?;
        if name == OPAQUE {
            return self.opaque(&parent);
        }
        match name.strip_prefix(WHITEOUT) {
            Some(b"" | b"." | b"..") => Err(Error::invalid("whiteout of no name")),
            Some(hidden) => self.whiteout(&parent, hidden),
            None => {
                self.make(entry, &path, (&parent, name), data)?;
                if let Some((keys, made)) = &mut self.layer.made {
                    made.insert(key(keys, parent.as_fd(), name).during(|| "look at the directory")?);
                }
                Ok(())
            }
        }
    }

    /// Sets what later entries would have changed again, and tells the implied directories.
    pub(super) fn finish(self) -> Result<Vec<PathBuf>> {
        for (path, id, times) in &self.layer.dirs {
            let (dir, name) = split(path);
            let held = self.inside.existing(dir).and_then(|dir| Node::directory(dir, name));
            // What a later entry replaced or removed has no time to set.
            let Ok(held) = held else { continue };
            if id_of(&held.stat().during(|| "look at a directory")?) == *id {
                held.set_times(times).during(|| format!("set the times of \"{}\"", path.escape_ascii()))?;
            }
        }
        let described: HashSet<Id> = self.layer.dirs.iter().map(|(_, id, _)| *id).collect();
        Ok(self.layer.implied.into_iter().filter(|(_, id)| !described.contains(id)).map(|(path, _)| path).collect())
    }

    fn make<R: Read>(&mut self, entry: &Entry, path: &[u8], place: (&OwnedFd, &[u8]), data: &mut Archive<R>) -> Result<()> {
        let (parent, name) = place;
        let metadata = metadata(entry)?;
        let node = match entry.kind {
            Kind::File => self.file(entry, parent, name, data)?,
            Kind::Directory => self.directory(parent, name).during(|| "create the directory")?,
            Kind::HardLink => self.hard_link(entry, parent, name)?,
            Kind::Symlink => {
                let link = || rustix::fs::symlinkat(entry.link.as_slice(), parent, name);
                self.replacing(parent, name, link).during(|| "create the link")?;
                Node::place(parent, name).during(|| "hold the link")?
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => match self.device(entry, parent, name)? {
                Some(node) => node,
                None => return Ok(()),
            },
        };
        if entry.kind == Kind::Directory {
            let id = id_of(&node.stat().during(|| "look at the directory")?);
            self.layer.dirs.push((path.to_vec(), id, metadata.times.clone()));
        }
        self.layer.describe(&node, entry, &metadata)
    }

    fn file<R: Read>(&mut self, entry: &Entry, parent: &OwnedFd, name: &[u8], data: &mut Archive<R>) -> Result<Node> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600));
        let file = self.replacing(parent, name, create).during(|| "create the file")?;
        match &entry.pieces {
            None => copy(data, &file, (0, entry.size), &mut self.buf)?,
            Some(pieces) => {
                for piece in pieces {
                    copy(data, &file, *piece, &mut self.buf)?;
                }
                rustix::fs::ftruncate(&file, entry.size).during(|| format!("make the file {} bytes long", entry.size))?;
            }
        }
        Ok(Node::Open(file))
    }

    /// A directory that is there stays, with what is in it.
    fn directory(&mut self, parent: &OwnedFd, name: &[u8]) -> io::Result<Node> {
        let create = || rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700));
        match create() {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let there = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if kind_of(&there) != FileType::Directory {
                    self.replacing(parent, name, create)?;
                    if self.layer.whiteouts == Whiteouts::Overlay && is_whiteout(&there) {
                        self.layer.set_opaque(&Node::place(parent, name)?)?;
                    }
                }
            }
            Err(e) => return Err(e.into()),
        }
        Node::directory(parent, name)
    }

    /// The target is looked up inside the root and linked itself, even if it is a symbolic link.
    fn hard_link(&mut self, entry: &Entry, parent: &OwnedFd, name: &[u8]) -> Result<Node> {
        let target = clean(&entry.link);
        let (dir, base) = split(&target);
        let missing = |e: io::Error| match Errno::from_io_error(&e) {
            Some(Errno::NOENT | Errno::NOTDIR) => {
                Error::precondition(format!("hard link to \"{}\", which is not in this layer", target.escape_ascii()))
            }
            _ => Error::internal(format!("look up \"{}\"", target.escape_ascii())).because(e),
        };
        let from = self.inside.existing(dir).map_err(missing)?;
        let held = Node::place(&from, base).map_err(missing)?;
        let id = id_of(&held.stat().during(|| "look at the link's target")?);
        let same = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|there| id_of(&there) == id);
        if !same {
            let link = || rustix::fs::linkat(&from, base, parent, name, AtFlags::empty());
            self.replacing(parent, name, link).during(|| format!("link to \"{}\"", target.escape_ascii()))?;
        }
        Node::place(parent, name).during(|| "hold the link")
    }

    /// `None` where devices may not be made: in a user namespace an image does without them.
    fn device(&mut self, entry: &Entry, parent: &OwnedFd, name: &[u8]) -> Result<Option<Node>> {
        let (kind, number) = match entry.kind {
            Kind::CharDevice => (FileType::CharacterDevice, rustix::fs::makedev(entry.device.0, entry.device.1)),
            Kind::BlockDevice => (FileType::BlockDevice, rustix::fs::makedev(entry.device.0, entry.device.1)),
            _ => (FileType::Fifo, 0),
        };
        let create = || rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), number);
        match self.replacing(parent, name, create) {
            Err(e) if Errno::from_io_error(&e) == Some(Errno::PERM) && self.layer.userxattr => Ok(None),
            done => {
                done.during(|| "create the device node")?;
                Node::place(parent, name).during(|| "hold the device node").map(Some)
            }
        }
    }

    /// Creates something; what has the name already goes.
    fn replacing<T>(&mut self, parent: &OwnedFd, name: &[u8], create: impl Fn() -> rustix::io::Result<T>) -> io::Result<T> {
        match create() {
            Err(Errno::EXIST) => {}
            done => return Ok(done?),
        }
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::ISDIR) => {
                remove_contents(open_to_read(parent, name)?, &mut |_, _| Ok(false))?;
                rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?;
            }
            Err(e) => return Err(e.into()),
        }
        // It may have been a link or a directory on the way to the remembered one.
        self.inside.forget();
        Ok(create()?)
    }

    fn opaque(&mut self, dir: &OwnedFd) -> Result<()> {
        let layer = &self.layer;
        match (layer.whiteouts, &layer.made) {
            (Whiteouts::Overlay, _) => {
                let held = Node::place(dir, b".").during(|| "hold the directory")?;
                layer.set_opaque(&held).during(|| "mark the directory opaque")
            }
            (Whiteouts::Remove, None) => Ok(()),
            (Whiteouts::Remove, Some((keys, made))) => {
                let keep = &mut |at: BorrowedFd<'_>, name: &CStr| Ok(made.contains(&key(keys, at, name.to_bytes())?));
                let done = open_to_read(dir, b".").and_then(|dir| remove_contents(dir, keep));
                self.inside.forget();
                done.during(|| "remove what the directory held in lower layers")
            }
        }
    }

    fn whiteout(&mut self, parent: &OwnedFd, name: &[u8]) -> Result<()> {
        let done = match self.layer.whiteouts {
            Whiteouts::Overlay => self.layer.leave_whiteout(parent, name),
            Whiteouts::Remove => self.remove_lower(parent, name),
        };
        done.during(|| format!("delete \"{}\" of lower layers", name.escape_ascii()))
    }

    fn remove_lower(&mut self, parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
        let Some((keys, made)) = &self.layer.made else { return Ok(()) };
        let keep = |at: BorrowedFd<'_>, name: &[u8]| Ok(made.contains(&key(keys, at, name)?));
        let there = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            there => there?,
        };
        let kept = keep(parent.as_fd(), name)?;
        if kind_of(&there) != FileType::Directory {
            if !kept {
                rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
            }
        } else {
            remove_contents(open_to_read(parent, name)?, &mut |at, name| keep(at, name.to_bytes()))?;
            match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
                _ if kept => {}
                Err(Errno::NOTEMPTY) => {}
                done => done?,
            }
        }
        self.inside.forget();
        Ok(())
    }
}

impl Layer {
    /// A directory that an entry needs and none described.
    fn make_parent(&mut self, at: BorrowedFd<'_>, name: &[u8], full: &[u8], found: Found) -> io::Result<()> {
        let mut hides = false;
        if found == Found::Other {
            let there = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if self.whiteouts != Whiteouts::Overlay || !is_whiteout(&there) {
                return Err(Errno::NOTDIR.into());
            }
            rustix::fs::unlinkat(at, name, AtFlags::empty())?;
            hides = true;
        }
        rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o755))?;
        let made = Node::directory(at, name)?;
        made.set_mode(0o755)?;
        if hides {
            self.set_opaque(&made)?;
        }
        self.implied.push((PathBuf::from(OsStr::from_bytes(full)), id_of(&made.stat()?)));
        Ok(())
    }

    /// What the layer itself holds under the name stays: it takes the lower file's place.
    fn leave_whiteout(&self, parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
        match rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0) {
            Err(Errno::EXIST) => {}
            done => return Ok(done?),
        }
        let held = Node::place(parent, name)?;
        if held.kind()? == FileType::Directory { self.set_opaque(&held) } else { Ok(()) }
    }

    fn set_opaque(&self, dir: &Node) -> io::Result<()> {
        dir.set_xattr(if self.userxattr { c"user.overlay.opaque" } else { c"trusted.overlay.opaque" }, b"y")
    }

    /// Owner first: changing it takes setuid bits and file capabilities away.
    fn describe(&mut self, node: &Node, entry: &Entry, metadata: &Metadata) -> Result<()> {
        node.set_owner(metadata.uid, metadata.gid).during(|| format!("give it to {}:{}", metadata.uid, metadata.gid))?;
        // A hard link's target may be anything.
        let kind = match entry.kind {
            Kind::File => FileType::RegularFile,
            Kind::Directory => FileType::Directory,
            _ => node.kind().during(|| "look at it")?,
        };
        for (name, value) in &entry.xattrs {
            self.set_xattr(node, kind, name, value)?;
        }
        if kind != FileType::Symlink {
            node.set_mode(metadata.mode).during(|| "set its mode")?;
        }
        node.set_times(&metadata.times).during(|| "set its times")
    }

    fn set_xattr(&mut self, node: &Node, kind: FileType, name: &CStr, value: &[u8]) -> Result<()> {
        let text = name.to_bytes();
        // An image must not speak overlayfs's own language: a redirect or an opaque mark shows other files than the layer has.
        if text.starts_with(b"trusted.overlay.") || self.userxattr && text.starts_with(b"user.overlay.") {
            return Ok(());
        }
        match node.set_xattr(name, value) {
            Err(e) if Errno::from_io_error(&e) == Some(Errno::OPNOTSUPP) => {
                if !std::mem::replace(&mut self.told_of_xattrs, true) {
                    log::warn!("layer: attribute {} and such are left out, the file system has none", name.to_string_lossy());
                }
                Ok(())
            }
            // Only files and directories have attributes of users.
            Err(e)
                if Errno::from_io_error(&e) == Some(Errno::PERM)
                    && text.starts_with(b"user.")
                    && !matches!(kind, FileType::RegularFile | FileType::Directory) =>
            {
                Ok(())
            }
            done => done.during(|| format!("set its attribute {}", name.to_string_lossy())),
        }
    }
}

fn metadata(entry: &Entry) -> Result<Metadata> {
    // The last ID means "leave it" to the kernel.
    let id = |id: i64, what: &str| {
        let id = u32::try_from(id).ok().filter(|id| *id < u32::MAX);
        id.ok_or_else(|| Error::invalid(format!("{what} of \"{}\" is out of range", entry.path.escape_ascii())))
    };
    let accessed = entry.accessed.map_or(entry.modified, |accessed| accessed.max(entry.modified));
    Ok(Metadata {
        uid: id(entry.uid, "owner")?,
        gid: id(entry.gid, "group")?,
        mode: entry.mode,
        times: Timestamps { last_access: time(accessed), last_modification: time(entry.modified) },
    })
}

/// Times outside of what nanoseconds since 1970 hold become 1970, as containerd has it.
fn time((seconds, nanos): Time) -> Timespec {
    if (0..=i64::MAX / 1_000_000_000).contains(&seconds) {
        Timespec { tv_sec: seconds, tv_nsec: nanos.into() }
    } else {
        Timespec { tv_sec: 0, tv_nsec: 0 }
    }
}

/// Writes the next `piece.1` bytes at `piece.0`.
fn copy<R: Read>(data: &mut Archive<R>, file: &OwnedFd, piece: (u64, u64), buf: &mut [u8]) -> Result<()> {
    let (mut at, mut left) = piece;
    while left > 0 {
        let want = left.min(buf.len() as u64) as usize;
        let got = data.read(&mut buf[..want]).map_err(super::reading)?;
        if got == 0 {
            return Err(Error::new(ErrorKind::DataLoss, "the archive ends inside the file"));
        }
        let mut done = 0;
        while done < got {
            match rustix::io::pwrite(file, &buf[done..got], at + done as u64) {
                Err(Errno::INTR) => {}
                wrote => done += wrote.during(|| "write the file")?,
            }
        }
        at += got as u64;
        left -= got as u64;
    }
    Ok(())
}

fn key(keys: &RandomState, dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<u64> {
    Ok(keys.hash_one((id_of(&rustix::fs::fstat(dir)?), name)))
}

fn open_to_read(parent: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn is_whiteout(stat: &Stat) -> bool {
    kind_of(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

#[allow(clippy::unnecessary_cast, reason = "the width of these fields differs by architecture")]
fn id_of(stat: &Stat) -> Id {
    (stat.st_dev as u64, stat.st_ino as u64)
}
