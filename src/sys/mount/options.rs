//! mount(8) options: which are flags, which change propagation, and which are data for the file system.
use super::Depth;
use crate::sys::userns::{IdMap, ranges};
use rustix::mount::{MountFlags, MountPropagationFlags};
use std::io;

/// MS_REMOUNT, that rustix keeps to itself.
pub(super) const REMOUNT: MountFlags = MountFlags::from_bits_retain(libc::MS_REMOUNT as u32);

/// Options, taken apart.
#[derive(Debug)]
pub struct Options {
    /// Flags of mount(2), without MS_BIND and MS_REC.
    pub flags: MountFlags,
    /// Whether and how deep to bind.
    pub bind: Option<Depth>,
    /// Changes of propagation, in order.
    pub propagation: Vec<MountPropagationFlags>,
    /// `rro`: read only with all mounts below.
    pub recursive_read_only: bool,
    /// `uidmap=` and `gidmap=`: owners are shown as this map says.
    pub map: Option<IdMap>,
    /// The rest, for the file system.
    pub data: Vec<String>,
}

enum Change {
    Set(MountFlags),
    Clear(MountFlags),
    Bind(Depth),
    Spread(MountPropagationFlags),
    ReadOnlyTree,
    Nothing,
}

impl Options {
    /// Takes options apart; what cannot be done is an error that names it.
    pub fn parse(options: &[String]) -> io::Result<Options> {
        let mut parsed =
            Options { flags: MountFlags::empty(), bind: None, propagation: vec![], recursive_read_only: false, map: None, data: vec![] };
        for option in options.iter().filter(|o| !o.is_empty()) {
            match change(option) {
                Some(Change::Set(flag)) => parsed.flags |= flag,
                Some(Change::Clear(flag)) => parsed.flags -= flag,
                Some(Change::Bind(depth)) => parsed.bind = Some(depth),
                Some(Change::Spread(how)) => parsed.propagation.push(how),
                Some(Change::ReadOnlyTree) => parsed.recursive_read_only = true,
                Some(Change::Nothing) => {}
                None if option.starts_with("uidmap=") || option.starts_with("gidmap=") => parsed.add_map(option)?,
                None if option == "loop" => {
                    return Err(io::Error::new(io::ErrorKind::Unsupported, format!("mount option \"{option}\" is not supported")));
                }
                // Options of this prefix are for the one who reads the mount, never for the kernel.
                None if option.starts_with("X-") || option.starts_with("x-") => {}
                None => parsed.data.push(option.clone()),
            }
        }
        match &parsed.map {
            Some(map) if map.uids.is_empty() || map.gids.is_empty() => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, "mount options uidmap and gidmap go together"))
            }
            _ => Ok(parsed),
        }
    }
    fn add_map(&mut self, option: &str) -> io::Result<()> {
        let (key, text) = option.split_once('=').unwrap_or((option, ""));
        let bad = || io::Error::new(io::ErrorKind::InvalidInput, format!("mount option \"{option}\" is not of the form 0:100000:65536"));
        let read = ranges(text).ok_or_else(bad)?;
        let map = self.map.get_or_insert_default();
        if key == "uidmap" {
            map.uids = read
        } else {
            map.gids = read
        }
        Ok(())
    }
    /// Whether it binds a path instead of mounting a file system.
    pub fn is_bind(&self) -> bool {
        self.bind.is_some()
    }
    /// Bytes of the data as one string, commas included.
    pub(super) fn data_len(&self) -> usize {
        self.data.iter().map(|d| d.len() + 1).sum()
    }
}

fn change(option: &str) -> Option<Change> {
    use Change::{Bind, Clear, Nothing, ReadOnlyTree, Set, Spread};
    use MountFlags as F;
    use MountPropagationFlags as P;
    Some(match option {
        "defaults" | "loud" => Nothing,
        "async" => Clear(F::SYNCHRONOUS),
        "sync" => Set(F::SYNCHRONOUS),
        "atime" => Clear(F::NOATIME),
        "noatime" => Set(F::NOATIME),
        "diratime" => Clear(F::NODIRATIME),
        "nodiratime" => Set(F::NODIRATIME),
        "relatime" => Set(F::RELATIME),
        "norelatime" => Clear(F::RELATIME),
        "strictatime" => Set(F::STRICTATIME),
        "nostrictatime" => Clear(F::STRICTATIME),
        "lazytime" => Set(F::LAZYTIME),
        "dev" => Clear(F::NODEV),
        "nodev" => Set(F::NODEV),
        "exec" => Clear(F::NOEXEC),
        "noexec" => Set(F::NOEXEC),
        "suid" => Clear(F::NOSUID),
        "nosuid" => Set(F::NOSUID),
        "rw" => Clear(F::RDONLY),
        "ro" => Set(F::RDONLY),
        "dirsync" => Set(F::DIRSYNC),
        "mand" => Set(F::PERMIT_MANDATORY_FILE_LOCKING),
        "nomand" => Clear(F::PERMIT_MANDATORY_FILE_LOCKING),
        "silent" => Set(F::SILENT),
        "nosymfollow" => Set(F::from_bits_retain(256)),
        "remount" => Set(REMOUNT),
        "bind" => Bind(Depth::One),
        "rbind" => Bind(Depth::Recursive),
        "rro" => ReadOnlyTree,
        "private" => Spread(P::PRIVATE),
        "rprivate" => Spread(P::PRIVATE | P::REC),
        "shared" => Spread(P::SHARED),
        "rshared" => Spread(P::SHARED | P::REC),
        "slave" => Spread(P::DOWNSTREAM),
        "rslave" => Spread(P::DOWNSTREAM | P::REC),
        "unbindable" => Spread(P::UNBINDABLE),
        "runbindable" => Spread(P::UNBINDABLE | P::REC),
        _ => return None,
    })
}

/// The same flags as attributes of mount_setattr(2) and fsmount(2); `None` if one has no such attribute.
pub(super) fn attributes(flags: MountFlags) -> Option<u64> {
    use MountFlags as F;
    let table = [
        (F::RDONLY, libc::MOUNT_ATTR_RDONLY),
        (F::NOSUID, libc::MOUNT_ATTR_NOSUID),
        (F::NODEV, libc::MOUNT_ATTR_NODEV),
        (F::NOEXEC, libc::MOUNT_ATTR_NOEXEC),
        (F::NOATIME, libc::MOUNT_ATTR_NOATIME),
        (F::STRICTATIME, libc::MOUNT_ATTR_STRICTATIME),
        (F::NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
        (F::RELATIME, libc::MOUNT_ATTR_RELATIME),
        (F::from_bits_retain(256), libc::MOUNT_ATTR_NOSYMFOLLOW),
    ];
    let mut rest = flags;
    let mut bits = 0;
    for (flag, attribute) in table {
        if rest.contains(flag) {
            bits |= attribute;
            rest -= flag;
        }
    }
    rest.is_empty().then_some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &[&str]) -> io::Result<Options> {
        Options::parse(&list.iter().map(|s| s.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn flags_data_and_propagation_are_told_apart_and_the_last_word_wins() {
        let o = parse(&["rbind", "ro", "nosuid", "rw", "rslave", "mode=755", "X-containerd.x=1", "rro"]).unwrap();
        assert_eq!((o.flags, o.bind), (MountFlags::NOSUID, Some(Depth::Recursive)));
        assert_eq!(o.propagation, [MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC]);
        assert_eq!((o.data, o.recursive_read_only), (vec!["mode=755".to_string()], true));
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        assert!(parse(&["loop"]).unwrap_err().to_string().contains("\"loop\""));
        assert!(parse(&["uidmap=0:1"]).unwrap_err().to_string().contains("\"uidmap=0:1\""));
        assert!(parse(&["uidmap=0:1:2"]).unwrap_err().to_string().contains("go together"));
        assert_eq!(parse(&["uidmap=0:1:2", "gidmap=0:3:4"]).unwrap().map.unwrap().gids[0].outside, 3);
    }
}
