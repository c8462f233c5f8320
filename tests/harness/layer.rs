//! Layers entry by entry, with all that a tar may hold.
use std::collections::BTreeMap;
use tar::{Builder, EntryType, Header};

/// A layer that grows.
pub struct Layer(Builder<Vec<u8>>);

/// What an entry carries beside its content.
#[derive(Clone, Default)]
pub struct Meta {
    pub mode: u32,
    pub owner: (u64, u64),
    pub mtime: u64,
    /// PAX records: `SCHILY.xattr.user.x`, `path` …
    pub pax: BTreeMap<String, Vec<u8>>,
}

impl Meta {
    /// Root's, with this mode.
    pub fn mode(mode: u32) -> Meta {
        Meta { mode, mtime: 1_600_000_000, ..Meta::default() }
    }
    /// Other owners.
    pub fn owner(mut self, uid: u64, gid: u64) -> Meta {
        self.owner = (uid, gid);
        self
    }
    /// An extended attribute.
    pub fn xattr(mut self, name: &str, value: &[u8]) -> Meta {
        self.pax.insert(format!("SCHILY.xattr.{name}"), value.into());
        self
    }
}

impl Layer {
    /// Nothing in it.
    pub fn new() -> Layer {
        Layer(Builder::new(vec![]))
    }
    /// A root filesystem that a shell runs in.
    pub fn busybox() -> Layer {
        let program = ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|p| std::fs::read(p).ok());
        let program = program.expect("no busybox here: apt-get install busybox-static");
        let mut layer = Layer::new();
        for dir in ["bin", "dev", "etc", "proc", "sys", "root", "var", "home"] {
            layer = layer.dir(dir, Meta::mode(0o755));
        }
        layer = layer.dir("tmp", Meta::mode(0o1777)).file("bin/busybox", Meta::mode(0o755), &program);
        for applet in APPLETS {
            layer = layer.symlink(&format!("bin/{applet}"), "busybox");
        }
        layer.file("etc/passwd", Meta::mode(0o644), b"root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/home:/bin/sh\n").file(
            "etc/group",
            Meta::mode(0o644),
            b"root:x:0:\nweb:x:1000:\nextra:x:2000:web\n",
        )
    }
    /// A regular file.
    pub fn file(self, path: &str, meta: Meta, content: &[u8]) -> Layer {
        self.add(EntryType::Regular, path, meta, None, content)
    }
    /// A directory.
    pub fn dir(self, path: &str, meta: Meta) -> Layer {
        self.add(EntryType::Directory, &format!("{path}/"), meta, None, b"")
    }
    /// A symbolic link.
    pub fn symlink(self, path: &str, target: &str) -> Layer {
        self.add(EntryType::Symlink, path, Meta::mode(0o777), Some(target), b"")
    }
    /// A hard link to an earlier entry, whose metadata it repeats.
    pub fn hardlink(self, path: &str, meta: Meta, target: &str) -> Layer {
        self.add(EntryType::Link, path, meta, Some(target), b"")
    }
    /// A FIFO.
    pub fn fifo(self, path: &str, meta: Meta) -> Layer {
        self.add(EntryType::Fifo, path, meta, None, b"")
    }
    /// A character device.
    pub fn device(mut self, path: &str, meta: Meta, major: u32, minor: u32) -> Layer {
        let mut header = header(EntryType::Char, &meta, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.0.append_data(&mut header, path, &b""[..]).unwrap();
        self
    }
    /// Removes what lower layers have there.
    pub fn whiteout(self, path: &str) -> Layer {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let path = if dir.is_empty() { format!(".wh.{name}") } else { format!("{dir}/.wh.{name}") };
        self.file(&path, Meta::mode(0o600), b"")
    }
    /// Hides all that lower layers have in a directory.
    pub fn opaque(self, dir: &str) -> Layer {
        self.file(&format!("{dir}/.wh..wh..opq"), Meta::mode(0o600), b"")
    }
    /// Any entry.
    pub fn add(mut self, kind: EntryType, path: &str, meta: Meta, link: Option<&str>, content: &[u8]) -> Layer {
        if !meta.pax.is_empty() {
            self.0.append_pax_extensions(meta.pax.iter().map(|(k, v)| (k.as_str(), v.as_slice()))).unwrap();
        }
        let mut header = header(kind, &meta, content.len());
        match link {
            Some(target) => self.0.append_link(&mut header, path, target).unwrap(),
            None => self.0.append_data(&mut header, path, content).unwrap(),
        }
        self
    }
    /// The tar.
    pub fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn header(kind: EntryType, meta: &Meta, size: usize) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(meta.mode);
    header.set_uid(meta.owner.0);
    header.set_gid(meta.owner.1);
    header.set_mtime(meta.mtime);
    header.set_size(size as u64);
    header
}

const APPLETS: &[&str] = &[
    "sh", "cat", "chmod", "cp", "dd", "echo", "env", "false", "getfattr", "grep", "head", "hostname", "httpd", "id", "ip", "kill", "ln",
    "ls", "mkdir", "mkfifo", "mount", "mv", "nc", "ping", "printf", "ps", "pwd", "readlink", "rm", "seq", "sleep", "stat", "stty", "sync",
    "tail", "test", "touch", "tr", "trap", "true", "tty", "umount", "wc", "wget", "yes",
];
