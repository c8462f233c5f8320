//! Layers of all kinds against the applier. Evil ones (T4, T33) must leave the world around their root as it was.
use super::*;
use crate::sys::fs::{Node, Scratch, open_dir};
use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::process::Command;

/// An archive that is put together by hand, so that it can hold anything.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn new() -> Tar {
        Tar::default()
    }
    fn raw(mut self, flag: u8, name: &[u8], link: &[u8], data: &[u8], change: impl FnOnce(&mut [u8; 512])) -> Tar {
        let mut header = ::tar::Header::new_gnu();
        header.set_mode(if flag == b'5' { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_500_000_000);
        header.set_size(data.len() as u64);
        header.set_device_major(0).unwrap();
        header.set_device_minor(0).unwrap();
        let bytes = header.as_mut_bytes();
        bytes[156] = flag;
        bytes[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        bytes[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        change(bytes);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }
    fn add(self, flag: u8, name: &str, link: &str) -> Tar {
        self.raw(flag, name.as_bytes(), link.as_bytes(), b"", |_| {})
    }
    fn file(self, name: &str, data: &str) -> Tar {
        self.raw(b'0', name.as_bytes(), b"", data.as_bytes(), |_| {})
    }
    fn dir(self, name: &str) -> Tar {
        self.add(b'5', name, "")
    }
    fn link(self, name: &str, to: &str) -> Tar {
        self.add(b'2', name, to)
    }
    fn hard(self, name: &str, to: &str) -> Tar {
        self.add(b'1', name, to)
    }
    fn pax(self, records: &[(&str, &[u8])]) -> Tar {
        let mut body = vec![];
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..).find(|n| (rest + n).to_string().len() == *n).unwrap() + rest;
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.raw(b'x', b"pax", b"", &body, |_| {})
    }
    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn how(whiteouts: Whiteouts) -> Apply<'static> {
    Apply { whiteouts, userxattr: false, cancel: &|| false, limits: Limits::default() }
}

/// A root to unpack into, beside a canary that no layer may touch.
struct World {
    scratch: Scratch,
    root: PathBuf,
    before: String,
}

impl World {
    fn new() -> World {
        let scratch = Scratch::new("diff");
        let root = scratch.dir("root");
        let out = scratch.dir("canary/dir");
        fs::write(out.join("file"), "precious").unwrap();
        fs::write(scratch.path.join("canary/secret"), "secret").unwrap();
        symlink("dir/file", scratch.path.join("canary/link")).unwrap();
        let mut world = World { scratch, root, before: String::new() };
        world.before = world.canary();
        world
    }
    fn canary(&self) -> String {
        let out =
            Command::new("find").arg(self.scratch.path.join("canary")).args(["-printf", "%p %y %m %U %G %s %n %T@ %C@ %l\n"]).output();
        let mut lines: Vec<String> = String::from_utf8(out.unwrap().stdout).unwrap().lines().map(str::to_string).collect();
        lines.sort();
        lines.push(fs::read_to_string(self.scratch.path.join("canary/dir/file")).unwrap());
        lines.push(format!("{:?}", fs::read_dir(&self.scratch.path).unwrap().count()));
        lines.join("\n")
    }
    fn try_apply(&self, tar: &[u8], whiteouts: Whiteouts) -> Result<Applied> {
        let done = apply(tar, &self.root, &how(whiteouts));
        assert_eq!(self.canary(), self.before, "the world outside changed");
        done
    }
    fn apply(&self, tar: Tar) -> Applied {
        self.try_apply(&tar.end(), Whiteouts::Remove).unwrap()
    }
    fn refuse(&self, tar: Tar) -> String {
        self.try_apply(&tar.end(), Whiteouts::Remove).unwrap_err().chain()
    }
    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap()
    }
    fn stat(&self, path: &str) -> fs::Metadata {
        fs::symlink_metadata(self.root.join(path)).unwrap()
    }
    fn xattr(&self, path: &str, name: &std::ffi::CStr) -> Option<Vec<u8>> {
        Node::place(open_dir(&self.root).unwrap(), path.as_bytes()).unwrap().xattr(name).unwrap()
    }
}

#[test]
fn names_that_climb_end_inside() {
    let w = World::new();
    w.apply(
        Tar::new().file("/abs", "1").file("../../up", "2").file("a/../../b", "3").file("./dot/./x", "4").file("..", "5").dir("/").dir("./"),
    );
    assert_eq!((w.text("abs"), w.text("up"), w.text("b"), w.text("dot/x")), ("1".into(), "2".into(), "3".into(), "4".into()));
    assert!(!w.root.join("a").exists());
}

#[test]
fn links_on_the_way_lead_nowhere_outside() {
    let w = World::new();
    let out = w.scratch.path.join("canary").display().to_string();
    w.apply(
        Tar::new()
            .link("abs", &format!("{out}/dir"))
            .file("abs/file", "evil")
            .link("rel", "../canary/dir")
            .file("rel/file", "evil")
            .link("far", "../../../../../../../../../etc")
            .file("far/passwd", "evil")
            .link("magic", "/proc/self/cwd")
            .file("magic/x", "evil")
            .link("two", "rel/../../canary")
            .file("two/secret", "evil"),
    );
    assert_eq!(w.text("etc/passwd"), "evil");
    assert_eq!(w.text("canary/dir/file"), "evil");
    assert_eq!(w.text(&format!("{}/dir/file", &out[1..])), "evil");
    assert!(w.refuse(Tar::new().link("l1", "l2").link("l2", "l1").file("l1/x", "")).contains("symbolic links"));
}

#[test]
fn a_final_link_is_replaced_never_followed() {
    let w = World::new();
    let out = w.scratch.path.join("canary").display().to_string();
    let secret = format!("{out}/secret");
    let mode = |h: &mut [u8; 512]| h[100..107].copy_from_slice(b"0004777");
    w.apply(
        Tar::new()
            .link("file", &secret)
            .file("file", "mine")
            .link("dir", &format!("{out}/dir"))
            .dir("dir")
            .file("dir/file", "mine")
            .link("node", &secret)
            .raw(b'6', b"node", b"", b"", mode)
            .link("chmod", &secret)
            .raw(b'1', b"hard", b"chmod", b"", mode)
            .raw(b'2', b"again", secret.as_bytes(), b"", mode),
    );
    assert!(w.stat("file").is_file() && w.stat("dir").is_dir() && w.stat("node").file_type().is_fifo());
    assert!(w.stat("hard").is_symlink() && w.stat("hard").ino() == w.stat("chmod").ino());
}

#[test]
fn hard_links_stay_inside() {
    let w = World::new();
    let out = w.scratch.path.join("canary").display().to_string();
    for target in [format!("{out}/secret"), "../canary/secret".into(), "out/secret".into(), "abs/secret".into()] {
        let tar = Tar::new().link("out", "../canary").link("abs", &out).hard("evil", &target).file("evil", "evil");
        assert!(w.refuse(tar).contains("which is not in this layer"), "{target}");
    }
    w.apply(Tar::new().file("a", "1").hard("b", "/a").hard("c", "../a").hard("b", "b").hard("a", "a"));
    assert_eq!((w.stat("a").nlink(), w.text("b")), (3, "1".into()));
    assert!(w.refuse(Tar::new().dir("d").hard("e", "d")).contains("link to \"d\""));
    assert!(w.refuse(Tar::new().hard("e", "/")).contains("link"));
}

#[test]
fn a_later_entry_of_another_type_replaces() {
    let w = World::new();
    w.apply(Tar::new().dir("x").file("x/deep/file", "").file("x", "file"));
    assert_eq!(w.text("x"), "file");
    w.apply(Tar::new().file("x", "f").dir("x").file("x/y", "in").link("l", "x").file("l/z", "").dir("l").file("l/own", ""));
    assert!(w.root.join("x/y").exists() && w.root.join("x/z").exists() && !w.root.join("x/own").exists());
    w.apply(Tar::new().dir("x").file("x/y", "second"));
    assert_eq!((w.text("x/y"), w.root.join("x/z").exists()), ("second".into(), true));
    // What was remembered of a directory is forgotten with it.
    w.apply(Tar::new().file("m/a", "").file("m", "file").dir("m").file("m/b", ""));
    assert!(w.root.join("m/b").exists() && !w.root.join("m/a").exists());
    assert!(w.refuse(Tar::new().file("n", "").file("n/a", "")).contains("enter directory \"n\""));
}

#[test]
fn whiteouts_remove_what_was_there_and_only_that() {
    let w = World::new();
    w.apply(Tar::new().file("a", "").file("d/x", "").file("d/s/y", "").link("out", "../canary").file("o/l", "").file("o/s/l", ""));
    w.apply(
        Tar::new()
            .file("a2", "")
            .file(".wh.a", "")
            .file(".wh.a2", "")
            .file("d/new", "")
            .file(".wh.d", "")
            .file(".wh.out", "")
            .file("o/s/new", "")
            .file("o/.wh..wh..opq", "")
            .file("o/new", "")
            .file(".wh.none", "")
            .file(".wh..wh.aufs", "")
            .file(".wh..wh.plnk/1.2", ""),
    );
    for gone in ["a", "d/x", "d/s", "out", "o/l", "o/s/l", ".wh.a", ".wh..wh.aufs", ".wh..wh.plnk"] {
        assert!(w.root.join(gone).symlink_metadata().is_err(), "{gone}");
    }
    for there in ["a2", "d/new", "o/s/new", "o/new"] {
        assert!(w.root.join(there).exists(), "{there}");
    }
}

#[test]
fn whiteouts_cannot_climb() {
    let w = World::new();
    w.apply(Tar::new().link("out", "../canary").file("keep", ""));
    for name in [".wh.", ".wh..", ".wh...", "a/.wh..", "a/.wh..."] {
        assert!(w.refuse(Tar::new().file(name, "")).contains("whiteout of no name"), "{name}");
        assert!(w.try_apply(&Tar::new().file(name, "").end(), Whiteouts::Overlay).is_err(), "{name}");
    }
    w.apply(Tar::new().file("out/.wh.secret", "").file("out/.wh..wh..opq", "").file("../.wh.canary", "").file(".wh.root", ""));
    assert!(w.root.join("keep").exists());
}

#[test]
fn whiteouts_for_an_overlay_are_its_own_marks() {
    let w = World::new();
    let tar =
        Tar::new().file(".wh.gone", "").file("dir/.wh..wh..opq", "").file(".wh.new", "").file("new/x", "").dir("made").file(".wh.made", "");
    let tar = tar.file("kept", "").file(".wh.kept", "").file(".wh.redo", "").dir("redo").file(".wh.file", "").file("file", "");
    let applied = w.try_apply(&tar.end(), Whiteouts::Overlay).unwrap();
    let gone = w.stat("gone");
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    for opaque in ["dir", "new", "made", "redo"] {
        assert_eq!(w.xattr(opaque, c"trusted.overlay.opaque").as_deref(), Some(&b"y"[..]), "{opaque}");
    }
    assert!(w.stat("kept").is_file() && w.stat("file").is_file());
    assert_eq!(applied.implied, [Path::new("dir"), Path::new("new")]);
}

#[test]
fn metadata_is_as_the_layer_says() {
    let w = World::new();
    let of = |mode: &'static [u8], uid: u32| {
        move |h: &mut [u8; 512]| {
            h[100..107].copy_from_slice(mode);
            h[108..112].copy_from_slice(&[0x80, 0, 0, 0]);
            h[112..116].copy_from_slice(&uid.to_be_bytes());
        }
    };
    let cap = b"\x01\x00\x00\x02\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    w.apply(
        Tar::new()
            .raw(b'5', b"d", b"", b"", of(b"0001777", 100_000))
            .pax(&[("mtime", b"1234567890.123456789"), ("SCHILY.xattr.security.capability", cap), ("SCHILY.xattr.user.note", b"a\nb\0=c")])
            .raw(b'0', b"d/suid", b"", b"data", of(b"0006755", 70_000))
            .pax(&[("uid", b"2147483648"), ("gid", b"3000000000"), ("size", b"3")])
            .raw(b'0', b"d/big", b"", b"abc", |h| h[124..136].fill(b'0'))
            .pax(&[("SCHILY.xattr.user.note", b"x"), ("SCHILY.xattr.trusted.note", b"x"), ("mtime", b"-5")])
            .link("l", "nowhere")
            .pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/etc"), ("SCHILY.xattr.trusted.overlay.opaque", b"y")])
            .dir("trick")
            .raw(b'3', b"dev", b"", b"", |h| {
                h[329..336].copy_from_slice(b"0000001");
                h[337..344].copy_from_slice(b"0000003");
                h[100..107].copy_from_slice(b"0000666");
            }),
    );
    let suid = w.stat("d/suid");
    assert_eq!((suid.mode() & 0o7777, suid.uid(), suid.mtime(), suid.mtime_nsec()), (0o6755, 70_000, 1_234_567_890, 123_456_789));
    assert_eq!(w.xattr("d/suid", c"security.capability").unwrap(), cap);
    assert_eq!(w.xattr("d/suid", c"user.note").unwrap(), b"a\nb\0=c");
    let big = w.stat("d/big");
    assert_eq!((big.uid(), big.gid(), w.text("d/big")), (2_147_483_648, 3_000_000_000, "abc".into()));
    let dir = w.stat("d");
    assert_eq!((dir.mode() & 0o7777, dir.uid(), dir.mtime()), (0o1777, 100_000, 1_500_000_000));
    assert_eq!((w.stat("l").mtime(), w.xattr("l", c"trusted.note").unwrap()), (0, b"x".to_vec()));
    assert!(w.xattr("trick", c"trusted.overlay.redirect").is_none() && w.xattr("trick", c"trusted.overlay.opaque").is_none());
    assert_eq!((w.stat("dev").rdev(), w.stat("dev").mode() & 0o7777), (rustix::fs::makedev(1, 3), 0o666));
}

#[test]
fn owners_that_the_kernel_would_misread_are_refused() {
    let w = World::new();
    for id in [&b"4294967295"[..], b"4294967296", b"18446744073709551615"] {
        let e = w.refuse(Tar::new().pax(&[("uid", id)]).file("f", ""));
        assert!(e.contains("out of range") || e.contains("too large"), "{e}");
    }
    w.refuse(Tar::new().raw(b'0', b"f", b"", b"", |h| h[108..116].fill(0xff)));
}

#[test]
fn implied_directories_are_0755_whatever_the_umask_and_described_ones_are_not_told() {
    let w = World::new();
    let applied = w.apply(Tar::new().file("a/b/c", "").dir("a/b").link("l", "x/y").file("l/f", ""));
    assert_eq!(applied.implied, [Path::new("a"), Path::new("x"), Path::new("x/y")]);
    assert_eq!(w.stat("a").permissions().mode() & 0o7777, 0o755);
    assert!(w.root.join("x/y/f").exists());
}

#[test]
fn long_and_odd_names() {
    let w = World::new();
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(250));
    w.apply(
        Tar::new()
            .raw(b'L', b"././@LongLink", b"", format!("{long}\0").as_bytes(), |_| {})
            .file("short", "gnu")
            .pax(&[("path", format!("{long}2").as_bytes()), ("linkpath", b"to\nsomewhere")])
            .link("short", "short")
            .raw(b'0', b"new\nline\xff", b"", b"", |_| {})
            .raw(b'0', b"name", b"", b"", |h| {
                h[257..265].copy_from_slice(b"ustar\x0000");
                h[345..351].copy_from_slice(b"prefix");
            })
            .raw(0, b"olddir/", b"", b"", |h| h[257..512].fill(0))
            .raw(b'0', b"oldgo", b"", b"", |h| h[345..351].copy_from_slice(b"prefix"))
            .raw(b'g', b"pax_global_header", b"", b"13 path=evil\n", |_| {})
            .file("plain", ""),
    );
    assert_eq!(w.text(&long), "gnu");
    assert_eq!(fs::read_link(w.root.join(format!("{long}2"))).unwrap(), Path::new("to\nsomewhere"));
    assert!(w.root.join("prefix/name").exists() && w.root.join("prefix/oldgo").exists() && w.root.join("plain").exists());
    assert!(w.stat("olddir").is_dir());
    assert!(w.refuse(Tar::new().pax(&[("path", b"a\0b")]).file("x", "")).contains("zero byte"));
    assert!(w.refuse(Tar::new().file(&"n".repeat(100), "").pax(&[("path", &[b'n'; 300])]).file("x", "")).contains("too long"));
    let huge = |h: &mut [u8; 512]| h[124..135].copy_from_slice(b"77777777777");
    for flag in [b'L', b'K', b'x', b'g'] {
        assert!(w.refuse(Tar::new().raw(flag, b"x", b"", b"", huge)).contains("are allowed"));
    }
}

/// A parser that takes the header's size where PAX gives another sees a hidden entry (CVE-2025-62518, CVE-2026-33055).
#[test]
fn the_size_of_a_pax_record_counts() {
    let w = World::new();
    let hidden = Tar::new().file("hidden", "x").0;
    let size = hidden.len().to_string();
    w.apply(Tar::new().pax(&[("size", size.as_bytes())]).raw(b'0', b"outer", b"", &hidden, |h| h[124..136].fill(b'0')).file("after", ""));
    assert!(!w.root.join("hidden").exists() && w.root.join("after").exists());
    assert_eq!(w.stat("outer").len(), hidden.len() as u64);
    // With a long name in between, the record still is the file's and not the name's.
    let tar = Tar::new().pax(&[("size", size.as_bytes())]).raw(b'L', b"l", b"", b"named\0", |_| {});
    w.apply(tar.raw(b'0', b"x", b"", &hidden, |h| h[124..136].fill(b'0')));
    assert_eq!(w.stat("named").len(), hidden.len() as u64);
}

#[test]
fn what_is_no_archive_is_an_error() {
    let w = World::new();
    assert!(w.refuse(Tar::new().add(b'Z', "x", "")).contains("unknown type 'Z'"));
    assert!(w.refuse(Tar::new().raw(b'0', b"x", b"", b"", |h| h[124] = b'9')).contains("size in a header is no number"));
    assert!(w.refuse(Tar::new().raw(b'0', b"x", b"", b"", |h| h[124..136].fill(0xff))).contains("negative"));
    let mut damaged = Tar::new().file("x", "").end();
    damaged[0] = b'y';
    assert!(w.try_apply(&damaged, Whiteouts::Remove).unwrap_err().chain().contains("checksum"));
    let whole = Tar::new().file("x", &"y".repeat(2000)).end();
    for cut in [100, 512, 1000, 2048] {
        let e = w.try_apply(&whole[..cut], Whiteouts::Remove).unwrap_err();
        assert_eq!(e.kind(), Kind::DataLoss, "{cut}: {}", e.chain());
    }
    let lone = [vec![0; 512], Tar::new().file("x", "").end()].concat();
    assert!(w.try_apply(&lone, Whiteouts::Remove).unwrap_err().chain().contains("lone block"));
    w.try_apply(b"", Whiteouts::Remove).unwrap();
}

#[test]
fn the_diff_id_covers_the_stream_to_its_end() {
    let w = World::new();
    let mut tar = Tar::new().file("x", "data").end();
    tar.resize(tar.len() + 10_240, 0);
    tar.extend_from_slice(b"and something");
    let mut packed = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    io::Write::write_all(&mut packed, &tar).unwrap();
    let packed = packed.finish().unwrap();
    let applied = apply(decompress(Compression::Gzip, &packed[..]).unwrap(), &w.root, &how(Whiteouts::Remove)).unwrap();
    assert_eq!((applied.diff_id, applied.bytes, applied.entries), (Digest::of(&tar), tar.len() as u64, 1));
    // T26: a cut layer is an error, however much of the archive had come.
    let cut = decompress(Compression::Gzip, &packed[..packed.len() - 9]).unwrap();
    assert_eq!(apply(cut, &w.root, &how(Whiteouts::Remove)).unwrap_err().kind(), Kind::DataLoss);
}

#[test]
fn cancel_and_limits_stop_in_the_middle() {
    let w = World::new();
    let tar = Tar::new().file("a", "").file("b", &"x".repeat(1 << 20)).file("c", "").end();
    let calls = Cell::new(0);
    let cancel = || calls.replace(calls.get() + 1) > 3;
    let e = apply(&tar[..], &w.root, &Apply { cancel: &cancel, ..how(Whiteouts::Remove) }).unwrap_err();
    assert_eq!(e.kind(), Kind::Cancelled);
    for limits in [Limits { bytes: Some(1 << 19), entries: None }, Limits { bytes: None, entries: Some(2) }] {
        let e = apply(&tar[..], &w.root, &Apply { limits, ..how(Whiteouts::Remove) }).unwrap_err();
        assert_eq!(e.kind(), Kind::ResourceExhausted);
    }
    assert!(!w.root.join("c").exists());
}

#[test]
fn sparse_files_of_gnu_tar_keep_their_holes() {
    let w = World::new();
    let from = w.scratch.path.join("canary/../from");
    fs::create_dir(&from).unwrap();
    let file = fs::File::create(from.join("sparse")).unwrap();
    for i in 0..30u64 {
        std::os::unix::fs::FileExt::write_all_at(&file, &[i as u8 + 1; 4096], i * (1 << 20)).unwrap();
    }
    file.set_len(64 << 20).unwrap();
    let want = fs::read(from.join("sparse")).unwrap();
    let before = w.canary();
    for format in ["--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"] {
        let posix = if format.starts_with("--sparse") { "--format=posix" } else { format };
        let tar = Command::new("tar").args(["-c", "-S", posix, format, "-C"]).arg(&from).arg("sparse").output().unwrap();
        assert!(tar.status.success(), "{format}");
        assert!(tar.stdout.len() < 1 << 20, "{format} is sparse");
        apply(&tar.stdout[..], &w.root, &how(Whiteouts::Remove)).unwrap();
        assert!(fs::read(w.root.join("sparse")).unwrap() == want, "{format}");
        assert!(w.stat("sparse").blocks() * 512 < 1 << 20, "{format}");
    }
    assert_eq!(w.canary(), before);
}

/// CVE-2025-58183: the map of a sparse file must not grow without bound; and it must be one.
#[test]
fn sparse_maps_are_bounded_and_checked() {
    let w = World::new();
    let map = |text: &str| {
        let mut data = text.as_bytes().to_vec();
        data.resize(data.len().next_multiple_of(512), 0);
        let records: &[(&str, &[u8])] = &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"1000")];
        Tar::new().pax(records).raw(b'0', b"s", b"", &data, |_| {})
    };
    assert!(w.refuse(map("2147483648\n0\n0\n")).contains("pieces"));
    assert!(w.refuse(map("99999999999999999999999\n")).contains("malformed"));
    for wrong in ["1\n0\n5\n", "2\n10\n0\n0\n0\n", "1\n900\n200\n", "1\n18446744073709551615\n1\n"] {
        assert!(w.refuse(map(wrong)).contains("do not agree"), "{wrong}");
    }
    w.apply(map("0\n"));
    assert_eq!(w.stat("s").len(), 1000);
    // The old format's map goes on for as long as its blocks say so.
    let mut endless = Tar::new().raw(b'S', b"s", b"", b"", |h| h[482] = 1);
    let mut block = [b'0'; 512];
    block[504] = 1;
    for _ in 0..4000 {
        endless.0.extend_from_slice(&block);
    }
    assert!(w.refuse(endless).contains("pieces"));
    let list = "0,0,".repeat(100_000) + "0,0";
    assert!(w.refuse(Tar::new().pax(&[("GNU.sparse.map", list.as_bytes())]).file("s", "")).contains("pieces"));
    let pairs = [("GNU.sparse.major", &b"7"[..]), ("GNU.sparse.minor", b"0")];
    assert!(w.refuse(Tar::new().pax(&pairs).file("s", "")).contains("unknown format"));
}

#[test]
fn many_files_and_deep_directories() {
    let w = World::new();
    let mut tar = Tar::new();
    for i in 0..20_000 {
        tar = tar.file(&format!("many/{i}"), "");
    }
    assert_eq!(w.apply(tar).entries, 20_000);
    // Longer than any path: refused by the kernel, and what was made can be removed.
    let mut tar = Tar::new();
    for depth in [10, 1000, 10_000] {
        tar = tar.pax(&[("path", "d/".repeat(depth).as_bytes())]).dir("x");
    }
    assert!(w.refuse(tar).contains("too long"));
    // Deeper than a path can say, by links.
    let mut tar = Tar::new()
        .pax(&[("path", "d/".repeat(1000).as_bytes())])
        .dir("x")
        .pax(&[("linkpath", "d/".repeat(1000).as_bytes())])
        .link("l1", "x");
    for i in 2..6 {
        tar = tar.pax(&[("path", format!("l{}/{}", i - 1, "d/".repeat(1000)).as_bytes())]).dir("x");
        tar = tar.pax(&[("linkpath", format!("l{}/{}", i - 1, "d/".repeat(1000)).as_bytes())]).link(&format!("l{i}"), "x");
    }
    w.apply(tar);
}

/// The same archive, by GNU tar and by us: the trees must be equal.
#[test]
fn gnu_tar_unpacks_the_same() {
    let w = World::new();
    let made = w.scratch.dir("made");
    let script = "umask 022; mkdir -p a/b; echo x >a/b/f; ln a/b/f a/hard; ln -s ../x a/link; mknod a/null c 1 3; mkfifo a/p; \
        chmod 4751 a/b/f; chown 123456:70000 a; touch -d @1234567890.5 a/b/f a/link -h; mkdir e; chmod 1777 e; touch -d @1000000000.25 e";
    assert!(Command::new("sh").args(["-ec", script]).current_dir(&made).status().unwrap().success());
    for format in ["gnu", "posix", "oldgnu"] {
        let tar = Command::new("tar").args(["-c", &format!("--format={format}"), "-C"]).arg(&made).arg(".").output().unwrap().stdout;
        let (ours, theirs) = (w.scratch.dir(&format!("{format}/ours")), w.scratch.dir(&format!("{format}/theirs")));
        apply(&tar[..], &ours, &how(Whiteouts::Remove)).unwrap();
        fs::write(w.scratch.path.join("tar"), &tar).unwrap();
        let args = ["-x", "-p", "--numeric-owner", "--same-owner", "-f"];
        assert!(Command::new("tar").args(args).arg(w.scratch.path.join("tar")).current_dir(&theirs).status().unwrap().success());
        let list = |dir: &Path| {
            let out = Command::new("find").args([".", "-mindepth", "1", "-printf", "%p %y %m %U %G %n %T@ %l\n"]).current_dir(dir).output();
            let mut lines: Vec<String> = String::from_utf8(out.unwrap().stdout).unwrap().lines().map(str::to_string).collect();
            lines.sort();
            lines
        };
        assert_eq!(list(&ours), list(&theirs), "{format}");
    }
}
