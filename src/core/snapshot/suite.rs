//! What every snapshotter must do: run by each implementation's tests, as root, in a scratch directory.
use super::{Kind, Labels, Snapshotter};
use crate::core::diff::{Apply, Limits, Whiteouts, apply};
use crate::core::metadata::Db;
use crate::error::Kind as ErrorKind;
use crate::sys::fs::Scratch;
use crate::sys::mount::{Mount, UnmountFlags, mount_all, unmount_all};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Opens a snapshotter on a root.
pub type Open<'a> = dyn Fn(&Path, Arc<Db>) -> Box<dyn Snapshotter> + 'a;

/// A snapshotter in a scratch directory, with a place to mount at.
pub struct Bench {
    pub scratch: Scratch,
    db: Arc<Db>,
    pub s: Box<dyn Snapshotter>,
}

impl Bench {
    pub fn new(name: &str, open: &Open<'_>) -> Bench {
        let scratch = Scratch::with_private_mounts(name);
        let db = Arc::new(Db::open(&scratch.path.join("db")).unwrap());
        let s = open(&scratch.path.join("root"), db.clone());
        Bench { scratch, db, s }
    }
    pub fn reopen(self, open: &Open<'_>) -> Bench {
        drop(self.s);
        let s = open(&self.scratch.path.join("root"), self.db.clone());
        Bench { s, ..self }
    }
    /// Mounts, lets `f` work inside, and unmounts.
    pub fn inside<T>(&self, mounts: &[Mount], f: impl FnOnce(&Path) -> T) -> T {
        let at = self.scratch.dir("at");
        mount_all(mounts, &at).unwrap();
        let value = f(&at);
        unmount_all(&at, UnmountFlags::empty()).unwrap();
        value
    }
    pub fn layer(&self, name: &str, parent: Option<&str>, f: impl FnOnce(&Path)) {
        let key = format!("{name}-active");
        let mounts = self.s.prepare(&key, parent, &Labels::new()).unwrap();
        self.inside(&mounts, f);
        self.s.commit(name, &key, &Labels::new()).unwrap();
    }
    pub fn see<T>(&self, name: &str, f: impl FnOnce(&Path) -> T) -> T {
        let mounts = self.s.view("see", Some(name), &Labels::new()).unwrap();
        let value = self.inside(&mounts, f);
        self.s.remove("see").unwrap();
        value
    }
    pub fn dirs(&self) -> Vec<PathBuf> {
        fs::read_dir(self.s.root().join("snapshots")).unwrap().map(|e| e.unwrap().path()).collect()
    }
    pub fn wait_for_dirs(&self, count: usize) {
        let end = Instant::now() + Duration::from_secs(10);
        while self.dirs().len() != count {
            assert!(Instant::now() < end, "{count} directories wanted, there are {:?}", self.dirs());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn none() -> Labels {
    Labels::new()
}

/// Runs all of it.
pub fn run(name: &str, open: &Open<'_>) {
    for case in [layers, refusals, views, removal, usage, labels, restart, modes, one_winner, applied] {
        let bench = Bench::new(&format!("suite-{name}"), open);
        case(bench, open);
    }
}

fn layers(b: Bench, _: &Open<'_>) {
    b.layer("one", None, |at| {
        fs::create_dir_all(at.join("dir/sub")).unwrap();
        fs::create_dir(at.join("old")).unwrap();
        for file in ["keep", "change", "delete", "dir/inner", "dir/sub/deep", "old/gone"] {
            fs::write(at.join(file), "one").unwrap();
        }
        fs::hard_link(at.join("keep"), at.join("same")).unwrap();
    });
    b.layer("two", Some("one"), |at| {
        assert_eq!(fs::read_to_string(at.join("change")).unwrap(), "one");
        fs::write(at.join("change"), "two").unwrap();
        fs::remove_file(at.join("delete")).unwrap();
        fs::remove_dir_all(at.join("old")).unwrap();
        fs::create_dir(at.join("old")).unwrap();
        fs::write(at.join("old/new"), "two").unwrap();
        fs::remove_dir_all(at.join("dir/sub")).unwrap();
        fs::write(at.join("dir/sub"), "a file now").unwrap();
    });
    b.layer("three", Some("two"), |at| {
        fs::write(at.join("delete"), "back").unwrap();
        fs::write(at.join("old/newer"), "three").unwrap();
    });
    b.see("three", |at| {
        let text = |p: &str| fs::read_to_string(at.join(p)).unwrap();
        assert_eq!((text("keep"), text("change"), text("delete")), ("one".into(), "two".into(), "back".into()));
        assert!(!at.join("old/gone").exists() && at.join("old/new").exists() && at.join("old/newer").exists());
        assert!(at.join("dir/sub").is_file() && at.join("dir/inner").exists());
        assert_eq!(fs::metadata(at.join("same")).unwrap().ino(), fs::metadata(at.join("keep")).unwrap().ino());
    });
    b.see("one", |at| assert!(at.join("old/gone").exists() && fs::read_to_string(at.join("change")).unwrap() == "one"));
    for i in 4..30 {
        b.layer(&format!("{i}"), Some(&if i == 4 { "three".into() } else { format!("{}", i - 1) }), |at| {
            fs::write(at.join("change"), format!("{i}")).unwrap();
            fs::write(at.join(format!("file{i}")), "").unwrap();
        });
    }
    b.see("29", |at| {
        assert_eq!(fs::read_to_string(at.join("change")).unwrap(), "29");
        assert!((4..30).all(|i| at.join(format!("file{i}")).exists()));
    });
}

fn refusals(b: Bench, _: &Open<'_>) {
    let s = &b.s;
    let kind = |r: crate::error::Result<()>| r.unwrap_err().kind();
    assert_eq!(kind(s.stat("x").map(drop)), ErrorKind::NotFound);
    assert_eq!(kind(s.mounts("x").map(drop)), ErrorKind::NotFound);
    assert_eq!(kind(s.usage("x").map(drop)), ErrorKind::NotFound);
    assert_eq!(kind(s.remove("x")), ErrorKind::NotFound);
    assert_eq!(kind(s.commit("y", "x", &none())), ErrorKind::NotFound);
    assert_eq!(kind(s.prepare("x", Some("y"), &none()).map(drop)), ErrorKind::NotFound);
    assert_eq!(kind(s.prepare("", None, &none()).map(drop)), ErrorKind::InvalidArgument);
    s.prepare("active", None, &none()).unwrap();
    assert_eq!(kind(s.prepare("active", None, &none()).map(drop)), ErrorKind::AlreadyExists);
    assert_eq!(kind(s.view("active", None, &none()).map(drop)), ErrorKind::AlreadyExists);
    assert_eq!(kind(s.prepare("x", Some("active"), &none()).map(drop)), ErrorKind::FailedPrecondition);
    s.view("view", None, &none()).unwrap();
    assert_eq!(kind(s.commit("x", "view", &none())), ErrorKind::FailedPrecondition);
    assert_eq!(kind(s.upper_dir("view").map(drop)), ErrorKind::FailedPrecondition);
    s.commit("done", "active", &none()).unwrap();
    assert_eq!(kind(s.stat("active").map(drop)), ErrorKind::NotFound);
    assert_eq!(kind(s.mounts("done").map(drop)), ErrorKind::FailedPrecondition);
    assert_eq!(kind(s.commit("x", "done", &none())), ErrorKind::FailedPrecondition);
    s.prepare("active", Some("done"), &none()).unwrap();
    assert_eq!(kind(s.commit("done", "active", &none())), ErrorKind::AlreadyExists);
    assert_eq!(kind(s.remove("done")), ErrorKind::FailedPrecondition);
    assert_eq!(b.dirs().len(), 3, "a refused snapshot leaves no directory");
}

fn views(b: Bench, _: &Open<'_>) {
    let write = |at: &Path| fs::write(at.join("new"), "").unwrap_err().raw_os_error() == Some(rustix::io::Errno::ROFS.raw_os_error());
    assert!(b.inside(&b.s.view("empty", None, &none()).unwrap(), write));
    b.layer("one", None, |at| fs::write(at.join("file"), "1").unwrap());
    b.layer("two", Some("one"), |at| fs::write(at.join("file"), "2").unwrap());
    for (parent, text) in [("one", "1"), ("two", "2")] {
        let key = format!("view-{parent}");
        let mounts = b.s.view(&key, Some(parent), &none()).unwrap();
        assert_eq!(mounts, b.s.mounts(&key).unwrap());
        assert!(b.inside(&mounts, write));
        assert_eq!(b.inside(&mounts, |at| fs::read_to_string(at.join("file")).unwrap()), text);
        assert_eq!(b.s.stat(&key).unwrap().kind, Kind::View);
    }
    let mounts = b.s.prepare("active", Some("two"), &none()).unwrap();
    assert_eq!(mounts, b.s.mounts("active").unwrap());
}

fn removal(b: Bench, _: &Open<'_>) {
    b.layer("one", None, |_| {});
    b.layer("two", Some("one"), |at| fs::write(at.join("file"), "").unwrap());
    b.s.prepare("three", Some("two"), &none()).unwrap();
    assert_eq!(b.s.remove("two").unwrap_err().kind(), ErrorKind::FailedPrecondition);
    for key in ["three", "two", "one"] {
        b.s.remove(key).unwrap();
        assert!(b.s.stat(key).unwrap_err().is_not_found());
    }
    assert!(b.s.list().unwrap().is_empty());
    b.wait_for_dirs(0);
}

fn usage(b: Bench, _: &Open<'_>) {
    b.layer("one", None, |at| fs::write(at.join("big"), vec![1; 1 << 20]).unwrap());
    let mounts = b.s.prepare("active", Some("one"), &none()).unwrap();
    let before = b.s.usage("active").unwrap();
    b.inside(&mounts, |at| {
        fs::write(at.join("a"), vec![1; 500_000]).unwrap();
        fs::hard_link(at.join("a"), at.join("b")).unwrap();
        rustix::fs::syncfs(fs::File::open(at).unwrap()).unwrap();
    });
    let after = b.s.usage("active").unwrap();
    assert_eq!(after.inodes - before.inodes, 1);
    assert!((500_000..600_000).contains(&(after.bytes - before.bytes)), "{before:?} {after:?}");
    b.s.commit("two", "active", &none()).unwrap();
    assert_eq!(b.s.usage("two").unwrap(), after);
    assert!(b.s.usage("one").unwrap().bytes >= 1 << 20);
}

fn labels(b: Bench, _: &Open<'_>) {
    let of = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<Labels>();
    b.s.prepare("active", None, &of(&[("a", "1")])).unwrap();
    let info = b.s.set_labels("active", &of(&[("a", ""), ("b", "2")])).unwrap();
    assert_eq!(info.labels, of(&[("b", "2")]));
    assert!(info.updated_at >= info.created_at);
    b.s.commit("done", "active", &of(&[("c", "3")])).unwrap();
    let info = b.s.stat("done").unwrap();
    assert_eq!((info.labels, info.kind, info.name.as_str(), info.parent), (of(&[("c", "3")]), Kind::Committed, "done", None));
}

fn restart(b: Bench, open: &Open<'_>) {
    b.layer("one", None, |at| fs::write(at.join("file"), "x").unwrap());
    b.s.prepare("active", Some("one"), &none()).unwrap();
    for rubbish in ["4711/fs/deep", "rm-12/fs", "new-file"] {
        fs::create_dir_all(b.s.root().join("snapshots").join(rubbish)).unwrap();
    }
    let before = b.s.list().unwrap();
    let b = b.reopen(open);
    b.s.cleanup().unwrap();
    b.wait_for_dirs(2);
    assert_eq!(b.s.list().unwrap(), before);
    b.inside(&b.s.mounts("active").unwrap(), |at| assert_eq!(fs::read_to_string(at.join("file")).unwrap(), "x"));
    b.s.prepare("new", None, &none()).unwrap();
    assert!(b.dirs().iter().any(|d| d.ends_with("4712")), "a number is not used twice");
}

fn modes(b: Bench, _: &Open<'_>) {
    assert_eq!(fs::metadata(b.s.root()).unwrap().mode() & 0o7777, 0o700);
    b.layer("one", None, |at| {
        assert_eq!(fs::metadata(at).unwrap().mode() & 0o7777, 0o755);
        fs::set_permissions(at, fs::Permissions::from_mode(0o1777)).unwrap();
        std::os::unix::fs::chown(at, Some(5), Some(6)).unwrap();
    });
    b.layer("two", Some("one"), |_| {});
    b.see("two", |at| {
        let m = fs::metadata(at).unwrap();
        assert_eq!((m.mode() & 0o7777, m.uid(), m.gid()), (0o1777, 5, 6));
    });
}

/// Of many who make or remove the same, one succeeds.
fn one_winner(b: Bench, _: &Open<'_>) {
    let count = |f: &(dyn Fn() -> bool + Sync)| {
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(f)).collect();
            all.into_iter().map(|t| t.join().unwrap()).filter(|won| *won).count()
        })
    };
    let s = &b.s;
    assert_eq!(count(&|| s.prepare("key", None, &none()).is_ok()), 1);
    assert_eq!(count(&|| s.commit("name", "key", &none()).is_ok()), 1);
    assert_eq!(b.dirs().len(), 1);
    s.cleanup().unwrap();
    assert_eq!(count(&|| s.remove("name").is_ok()), 1);
    b.wait_for_dirs(0);
}

/// A layer applied to the directory itself, on a parent, is what a mount shows.
fn applied(b: Bench, _: &Open<'_>) {
    b.layer("one", None, |at| {
        for file in ["stay", "gone", "opaque/lower"] {
            fs::create_dir_all(at.join(file).parent().unwrap()).unwrap();
            fs::write(at.join(file), "").unwrap();
        }
    });
    let mut tar = tar::Builder::new(vec![]);
    for name in [".wh.gone", "opaque/.wh..wh..opq", "opaque/upper"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, std::io::empty()).unwrap();
    }
    let tar = tar.into_inner().unwrap();
    b.s.prepare("active", Some("one"), &none()).unwrap();
    let whiteouts = if b.s.rebases() { Whiteouts::Overlay } else { Whiteouts::Remove };
    let how = Apply { whiteouts, userxattr: b.s.userxattr(), cancel: &|| false, limits: Limits::default() };
    apply(&tar[..], &b.s.upper_dir("active").unwrap(), &how).unwrap();
    b.s.commit("two", "active", &none()).unwrap();
    b.see("two", |at| {
        assert!(at.join("stay").exists() && !at.join("gone").exists());
        assert!(at.join("opaque/upper").exists() && !at.join("opaque/lower").exists());
    });
}
