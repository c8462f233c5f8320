//! What the applier makes of all that a tar may hold, seen from inside a container.
use crate::harness::{Compression, Daemon, Image, Layer, Meta};
use tar::EntryType;

#[test]
fn later_layers_hide_replace_and_open_anew() {
    let d = Daemon::start();
    let base = Layer::new()
        .dir("d", Meta::mode(0o755))
        .file("d/kept", Meta::mode(0o644), b"kept")
        .file("d/gone", Meta::mode(0o644), b"gone")
        .dir("o", Meta::mode(0o755))
        .file("o/hidden", Meta::mode(0o644), b"hidden")
        .file("becomes-dir", Meta::mode(0o644), b"file")
        .dir("becomes-file", Meta::mode(0o755))
        .file("becomes-file/x", Meta::mode(0o644), b"x");
    let top = Layer::new()
        .whiteout("d/gone")
        .dir("o", Meta::mode(0o700))
        .opaque("o")
        .file("o/new", Meta::mode(0o644), b"new")
        .dir("becomes-dir", Meta::mode(0o755))
        .file("becomes-dir/y", Meta::mode(0o644), b"y")
        .file("becomes-file", Meta::mode(0o644), b"file");
    let image = Image::busybox().layer(base, Compression::Gzip).layer(top, Compression::Zstd);
    let image = d.image("whiteouts", &image);
    let pod = d.pod("whiteouts", "crun");
    let main = pod.shell("main", &image, "sleep 1000");
    assert_eq!(main.says("ls /d /o"), "/d:\nkept\n\n/o:\nnew");
    assert_eq!(main.says("stat -c %a /o; cat /becomes-dir/y /becomes-file"), "700\nyfile");
    assert_eq!(main.says("ls -a / | grep -c wh. || true"), "0");
}

#[test]
fn links_devices_owners_times_and_attributes_are_kept() {
    let d = Daemon::start();
    let long = format!("{}/{}", "l".repeat(90), "n".repeat(120));
    let mut pax = Meta::mode(0o600);
    pax.pax.insert("path".into(), b"by-pax".to_vec());
    pax.pax.insert("mtime".into(), b"1500000000.5".to_vec());
    let owned = Meta::mode(0o4755).owner(100_000, 3_000_000_000);
    let layer = Layer::new()
        .file("file", owned.clone(), b"content")
        .hardlink("hard", owned, "file")
        .symlink("soft", "file")
        .symlink("absolute", "/etc/passwd")
        .fifo("pipe", Meta::mode(0o622))
        .device("null", Meta::mode(0o666), 1, 3)
        .file("attributes", Meta::mode(0o644).xattr("user.colour", b"blue"), b"")
        .dir(&"l".repeat(90), Meta::mode(0o755))
        .file(&long, Meta::mode(0o644), b"long")
        .add(EntryType::Regular, "short", pax, None, b"pax");
    let image = d.image("oddities", &Image::busybox().layer(layer, Compression::Gzip));
    let pod = d.pod("oddities", "runc");
    let main = pod.shell("main", &image, "sleep 1000");
    assert_eq!(main.says("stat -c '%a %u %g %h %Y' /file"), "4755 100000 3000000000 2 1600000000");
    assert_eq!(main.says("stat -c %i /file"), main.says("stat -c %i /hard"));
    assert_eq!(main.says("readlink /soft; readlink /absolute"), "file\n/etc/passwd");
    assert_eq!(main.says("stat -c '%F %a' /pipe"), "fifo 622");
    assert_eq!(main.says("stat -c '%F %t %T' /null"), "character special file 1 3");
    assert_eq!(main.says(&format!("cat /{long}")), "long");
    assert_eq!(main.says("cat /by-pax; stat -c %Y /by-pax"), "pax1500000000");
    let pid =
        crate::harness::run_ok("sh", &["-c", &format!("cat /sys/fs/cgroup/memory{}/{}/cgroup.procs | head -1", d.cgroup_parent, main.id)]);
    let attribute = rustix_getxattr(&format!("/proc/{}/root/attributes", pid.trim()));
    assert_eq!(attribute, b"blue");
}

fn rustix_getxattr(path: &str) -> Vec<u8> {
    let mut value = vec![0; 64];
    let size = rustix::fs::getxattr(path, "user.colour", &mut value[..]).unwrap();
    value.truncate(size);
    value
}

#[test]
fn nothing_is_written_outside_of_the_root() {
    let d = Daemon::start();
    let canary = d.path("canary");
    std::fs::write(&canary, "alive").unwrap();
    let outside = d.path("written");
    let through = |target: &str| Layer::new().symlink("way", target).file("way/written", Meta::mode(0o644), b"x");
    let mut dots = Meta::mode(0o644);
    dots.pax.insert("path".into(), format!("../../../../../../../../../..{}", outside.display()).into_bytes());
    let mut absolute = Meta::mode(0o644);
    absolute.pax.insert("path".into(), outside.display().to_string().into_bytes());
    let cases = [
        ("link", through(&d.dir.display().to_string())),
        ("dots", Layer::new().add(EntryType::Regular, "x", dots, None, b"x")),
        ("absolute", Layer::new().add(EntryType::Regular, "x", absolute, None, b"x")),
        ("hardlink", Layer::new().hardlink("stolen", Meta::mode(0o644), &canary.display().to_string())),
    ];
    let registry = crate::harness::Registry::shared();
    for (name, layer) in cases {
        Image::busybox().layer(layer, Compression::Plain).push(&registry.repository("escape"), name);
        let done = d.pull(&registry.reference("escape", name));
        println!("{name}: {}", done.map_or_else(|e| e.chain(), |_| "kept inside".into()));
        assert!(!outside.exists(), "{name}");
    }
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::metadata(&canary).unwrap().nlink(), 1);
}

#[test]
fn the_native_snapshotter_does_the_same() {
    let lines = "[plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"";
    let d = crate::harness::Setup::new().config(lines).start();
    let base = Layer::new().dir("d", Meta::mode(0o755)).file("d/a", Meta::mode(0o644), b"a").file("d/b", Meta::mode(0o644), b"b");
    let image = Image::busybox().layer(base, Compression::Gzip).layer(Layer::new().whiteout("d/a"), Compression::Gzip);
    let image = d.image("native", &image);
    let pod = d.pod("native", "runc");
    let main = pod.shell("main", &image, "sleep 1000");
    assert_eq!(main.says("ls /d"), "b");
    assert_eq!(main.says("echo more > /d/c; cat /d/c"), "more");
}
