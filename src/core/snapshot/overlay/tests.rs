//! Overlay snapshots: the suite, mounts, and layers committed onto a parent.
use super::*;
use crate::core::diff::{Applied, Apply, Limits, Whiteouts, apply};
use crate::core::snapshot::mapping_labels;
use crate::core::snapshot::suite::{self, Bench};
use crate::error::Kind as ErrorKind;
use crate::sys::fs::Scratch;
use crate::sys::mount::{UnmountFlags, mount, unmount_all};
use crate::sys::userns::{IdMap, IdRange};
use std::fs;
use std::os::unix::fs::MetadataExt;

fn open(root: &Path, db: Arc<Db>) -> Box<dyn Snapshotter> {
    Box::new(Overlay::open(root, db, Config::default()).unwrap())
}

#[test]
fn the_suite_passes_with_removal_behind_and_at_once() {
    suite::run("overlay", &open);
    suite::run("overlay-sync", &|root, db| Box::new(Overlay::open(root, db, Config { sync_remove: true, ..Config::default() }).unwrap()));
}

fn none() -> Labels {
    Labels::new()
}

/// Entries are `name` (a file), `name/` (a directory of mode 0750 and owner 7) or `name=>target` (a hard link).
fn layer(entries: &[&str]) -> Vec<u8> {
    let mut tar = tar::Builder::new(vec![]);
    for entry in entries {
        let (name, link) = entry.split_once("=>").map_or((*entry, None), |(n, l)| (n, Some(l)));
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(if name.ends_with('/') { 0o750 } else { 0o644 });
        header.set_uid(if name.ends_with('/') { 7 } else { 0 });
        header.set_entry_type(match link {
            Some(_) => tar::EntryType::Link,
            None if name.ends_with('/') => tar::EntryType::Directory,
            None => tar::EntryType::Regular,
        });
        match link {
            Some(link) => tar.append_link(&mut header, name, link).unwrap(),
            None => tar.append_data(&mut header, name, std::io::empty()).unwrap(),
        }
    }
    tar.into_inner().unwrap()
}

/// Applies a layer to a snapshot of its own, without a parent, as a parallel pull does.
fn unpack(b: &Bench, key: &str, entries: &[&str]) -> Result<Applied> {
    b.s.prepare(key, None, &none()).unwrap();
    let how = Apply { whiteouts: Whiteouts::Overlay, userxattr: b.s.userxattr(), cancel: &|| false, limits: Limits::default() };
    apply(&layer(entries)[..], &b.s.upper_dir(key).unwrap(), &how)
}

#[test]
fn layers_unpacked_apart_hide_what_they_delete() {
    let b = Bench::new("onto", &open);
    // In any order, as they arrive.
    let three = unpack(&b, "3", &["secret/d/late", "dir/third", ".wh.swap"]).unwrap();
    let two = unpack(
        &b,
        "2",
        &[".wh.token", "secret/.wh..wh..opq", "secret/new", ".wh.back", "back/", "back/file", ".wh.deep", "deep/x/y", "swap"],
    );
    let two = two.unwrap();
    let one = unpack(
        &b,
        "1",
        &[
            "token",
            "secret/",
            "secret/key",
            "secret/d/",
            "secret/d/e",
            "back/",
            "back/old",
            "deep/",
            "deep/x/",
            "deep/x/old",
            "dir/",
            "dir/first",
        ],
    );
    assert!(one.unwrap().implied.is_empty());
    b.s.commit_onto("one", "1", None, &none()).unwrap();
    for (name, parent, applied) in [("two", "one", two), ("three", "two", three)] {
        let key = if name == "two" { "2" } else { "3" };
        b.s.inherit(key, Some(parent), &applied.implied).unwrap();
        b.s.commit_onto(name, key, Some(parent), &none()).unwrap();
        assert_eq!(b.s.stat(name).unwrap().parent.as_deref(), Some(parent));
    }
    b.see("three", |at| {
        for gone in ["token", "secret/key", "secret/d/e", "back/old", "deep/x/old", "swap"] {
            assert!(!at.join(gone).exists(), "{gone}");
        }
        for there in ["secret/new", "secret/d/late", "back/file", "deep/x/y", "dir/first", "dir/third"] {
            assert!(at.join(there).exists(), "{there}");
        }
        let of = |p: &str| fs::metadata(at.join(p)).map(|m| (m.mode() & 0o7777, m.uid())).unwrap();
        assert_eq!(of("dir"), (0o750, 7), "an implied directory looks as below");
        assert_eq!(of("secret"), (0o755, 0), "layer two's opaque directory is what layer three inherits");
        assert_eq!(of("secret/d"), (0o755, 0), "nothing to inherit from what is hidden");
        assert_eq!(of("deep/x"), (0o755, 0), "a directory that replaces a deleted one starts anew");
    });
    assert_eq!(b.s.remove("one").unwrap_err().kind(), ErrorKind::FailedPrecondition);
}

#[test]
fn what_cannot_go_onto_a_parent_says_why() {
    let b = Bench::new("onto-not", &open);
    let e = unpack(&b, "link", &["a=>usr/lib/below"]).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::FailedPrecondition);
    assert!(e.chain().contains("\"usr/lib/below\", which is not in this layer"), "{}", e.chain());
    unpack(&b, "layer", &["a"]).unwrap();
    assert!(b.s.commit_onto("x", "layer", Some("none"), &none()).unwrap_err().is_not_found());
    b.layer("one", None, |_| {});
    b.s.prepare("child", Some("one"), &none()).unwrap();
    assert_eq!(b.s.commit_onto("x", "child", Some("one"), &none()).unwrap_err().kind(), ErrorKind::FailedPrecondition);
}

#[test]
fn mounts_are_what_containerd_makes_of_them() {
    let b = Bench::new("mounts", &open);
    let root = b.s.root().join("snapshots").display().to_string();
    b.layer("one", None, |_| {});
    b.layer("two", Some("one"), |_| {});
    let overlay = b.s.prepare("a", Some("two"), &none()).unwrap().remove(0);
    assert_eq!((overlay.kind.as_str(), overlay.source.as_str()), ("overlay", "overlay"));
    let want = [
        format!("workdir={root}/3/work"),
        format!("upperdir={root}/3/fs"),
        format!("lowerdir={root}/2/fs:{root}/1/fs"),
        "index=off".into(),
    ];
    assert_eq!(overlay.options[..4], want);
    let view = b.s.view("v", Some("one"), &none()).unwrap().remove(0);
    assert_eq!((view.kind.as_str(), view.source, view.options), ("bind", format!("{root}/1/fs"), vec!["ro".to_string(), "rbind".into()]));
    let first = b.s.prepare("f", None, &none()).unwrap().remove(0);
    assert_eq!((first.kind.as_str(), first.options), ("bind", vec!["rw".to_string(), "rbind".into()]));
}

#[test]
fn an_image_of_two_hundred_layers_mounts() {
    let b = Bench::new("many-layers", &open);
    let mut parent = None;
    for i in 0..200 {
        let name = format!("layer-{i}");
        b.s.prepare("key", None, &none()).unwrap();
        fs::write(b.s.upper_dir("key").unwrap().join("top"), format!("{i}")).unwrap();
        b.s.commit_onto(&name, "key", parent.as_deref(), &none()).unwrap();
        parent = Some(name);
    }
    b.see("layer-199", |at| assert_eq!(fs::read_to_string(at.join("top")).unwrap(), "199"));
    b.layer("more", parent.as_deref(), |at| fs::remove_file(at.join("top")).unwrap());
    b.see("more", |at| assert!(!at.join("top").exists()));
}

#[test]
fn a_file_system_that_cannot_is_named() {
    let scratch = Scratch::with_private_mounts("probe");
    let at = scratch.dir("at");
    let dirs = ["lower", "upper", "work"].map(|d| scratch.dir(d).display().to_string());
    let options = vec![format!("lowerdir={}", dirs[0]), format!("upperdir={}", dirs[1]), format!("workdir={}", dirs[2])];
    mount(&Mount { kind: "overlay".into(), source: "overlay".into(), target: None, options }, &at).unwrap();
    let db = Arc::new(Db::open(&scratch.path.join("db")).unwrap());
    let e = Overlay::open(&at.join("root"), db.clone(), Config::default()).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::FailedPrecondition);
    assert!(e.chain().contains(&format!("overlay of {}", at.display())) && e.chain().contains("native"), "{}", e.chain());
    let e = Overlay::open(&scratch.path.join("a:b"), db, Config::default()).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn labels_tell_the_directory_and_give_the_root_away() {
    let config = Config { upperdir_label: true, ..Config::default() };
    let b = Bench::new("label", &|root, db| Box::new(Overlay::open(root, db, config.clone()).unwrap()));
    let labels = Labels::from([(UID_LABEL.into(), "0:100000:65536".into()), (GID_LABEL.into(), "5:1:1,0:200000:65536".into())]);
    let mounts = b.s.prepare("a", None, &labels).unwrap();
    assert_eq!(mounts[0].options, ["rw", "rbind"], "its own directory has the owners on disk");
    let upper = b.s.upper_dir("a").unwrap();
    assert_eq!(b.s.stat("a").unwrap().labels[UPPER_LABEL], upper.display().to_string());
    let owner = fs::metadata(upper).unwrap();
    assert_eq!((owner.uid(), owner.gid()), (100_000, 200_000));
    let bad = Labels::from([(UID_LABEL.into(), "x".into())]);
    assert_eq!(b.s.prepare("b", None, &bad).unwrap_err().kind(), ErrorKind::InvalidArgument);
    b.wait_for_dirs(1);
    b.layer("one", None, |_| {});
    let mounts = b.s.prepare("on", Some("one"), &labels).unwrap();
    assert_eq!(mounts[0].options[..2], ["uidmap=0:100000:65536", "gidmap=5:1:1,0:200000:65536"]);
}

#[test]
fn layers_show_the_owners_of_a_user_namespace() {
    let b = Bench::new("mapped", &open);
    assert!(b.s.maps_owners());
    b.layer("one", None, |at| fs::write(at.join("file"), "").unwrap());
    let at = b.scratch.dir("at");
    let ranges = |outside| vec![IdRange { inside: 0, outside, count: 65_536 }];
    let labels = mapping_labels(&IdMap { uids: ranges(100_000), gids: ranges(200_000) });
    let mounts = [b.s.prepare("a", Some("one"), &labels).unwrap(), b.s.view("v", Some("one"), &labels).unwrap()];
    for mounts in mounts {
        mount(&mounts[0], &at).unwrap();
        let of = fs::metadata(at.join("file")).unwrap();
        assert_eq!((of.uid(), of.gid()), (100_000, 200_000));
        unmount_all(&at, UnmountFlags::empty()).unwrap();
    }
}
