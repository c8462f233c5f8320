//! Tests of the collector: what it keeps, what it takes, and what it may not touch.
use super::*;
use crate::core::container::{Container, Containers};
use crate::core::content::Digest;
use crate::core::content::Expected;
use crate::core::events::Bus;
use crate::core::image::{Descriptor, Image, Images, media};
use crate::core::lease::{Leases, Resource};
use crate::core::metadata::scratch::{self, Scratch};
use crate::core::metadata::{Labels, time};
use crate::core::sandbox::{Sandbox, Sandboxes};
use crate::core::snapshot::{Kind as Shape, Usage};
use crate::error::Error;
use crate::sys::mount::Mount;
use crate::thread::lock;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

const NS: &str = "k8s.io";

/// Snapshots in memory, with the rules that the collector relies on.
#[derive(Default)]
struct Fake {
    infos: Mutex<BTreeMap<String, Info>>,
}

impl Fake {
    fn put(&self, key: &str, parent: Option<&str>, labels: Labels) {
        let at = SystemTime::now();
        let (name, parent) = (key.to_owned(), parent.map(str::to_owned));
        let info = Info { kind: Shape::Committed, name, parent, labels, created_at: at, updated_at: at };
        lock(&self.infos).insert(key.to_owned(), info);
    }
    fn keys(&self) -> Vec<String> {
        lock(&self.infos).keys().cloned().collect()
    }
}

impl Snapshotter for Fake {
    fn name(&self) -> &str {
        "fake"
    }
    fn root(&self) -> &Path {
        Path::new("/")
    }
    fn stat(&self, key: &str) -> Result<Info> {
        lock(&self.infos).get(key).cloned().ok_or_else(|| Error::not_found("snapshot", key))
    }
    fn prepare(&self, key: &str, parent: Option<&str>, labels: &Labels) -> Result<Vec<Mount>> {
        self.put(key, parent, labels.clone());
        Ok(vec![])
    }
    fn view(&self, key: &str, parent: Option<&str>, labels: &Labels) -> Result<Vec<Mount>> {
        self.prepare(key, parent, labels)
    }
    fn mounts(&self, _: &str) -> Result<Vec<Mount>> {
        Ok(vec![])
    }
    fn commit(&self, _: &str, _: &str, _: &Labels) -> Result<()> {
        Ok(())
    }
    fn commit_onto(&self, _: &str, _: &str, _: Option<&str>, _: &Labels) -> Result<()> {
        Ok(())
    }
    fn rebases(&self) -> bool {
        false
    }
    fn upper_dir(&self, _: &str) -> Result<PathBuf> {
        Ok(PathBuf::new())
    }
    fn remove(&self, key: &str) -> Result<()> {
        let mut infos = lock(&self.infos);
        if infos.values().any(|info| info.parent.as_deref() == Some(key)) {
            return Err(Error::precondition(format!("snapshot \"{key}\": has children")));
        }
        infos.remove(key).map(drop).ok_or_else(|| Error::not_found("snapshot", key))
    }
    fn list(&self) -> Result<Vec<Info>> {
        Ok(lock(&self.infos).values().cloned().collect())
    }
    fn usage(&self, _: &str) -> Result<Usage> {
        Ok(Usage::default())
    }
    fn set_labels(&self, key: &str, _: &Labels) -> Result<Info> {
        self.stat(key)
    }
    fn cleanup(&self) -> Result<()> {
        Ok(())
    }
}

struct Node {
    dir: Scratch,
    db: Arc<Db>,
    bus: Arc<Bus>,
    content: Store,
    images: Images,
    leases: Leases,
    fake: Arc<Fake>,
    collector: Arc<Collector>,
}

fn node(name: &str) -> Node {
    let dir = scratch::dir(name);
    let db = Arc::new(Db::open(&dir.path().join("meta")).unwrap());
    let content = Store::open(&dir.path().join("content"), db.clone()).unwrap();
    let fake = Arc::new(Fake::default());
    let snapshotters = Snapshotters::from([("fake".to_owned(), fake.clone() as Arc<dyn Snapshotter>)]);
    let bus = Arc::new(Bus::new());
    let (images, leases) = (Images::new(db.clone(), bus.clone()), Leases::new(db.clone()));
    let collector = Arc::new(Collector::new(db.clone(), content.clone(), snapshotters, images.clone()));
    Node { dir, db, bus, content, images, leases, fake, collector }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn key(name: &str) -> String {
    format!("{NS}/{name}")
}

impl Node {
    fn blob(&self, text: &str, pairs: &[(&str, &str)]) -> Digest {
        let mut ingest = self.content.writer(NS, text, Expected::default()).unwrap();
        ingest.write_all(text.as_bytes()).unwrap();
        ingest.commit(labels(pairs)).unwrap()
    }
    fn image(&self, name: &str, target: &Digest) {
        let target = Descriptor::new(media::OCI_INDEX, target.clone(), 1);
        self.images.upsert(NS, Image::new(name, target, Labels::new())).unwrap();
    }
    fn blobs(&self) -> usize {
        self.content.list(NS).unwrap().len()
    }
    fn files(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("content/blobs/sha256")).unwrap().count()
    }
    /// index → manifest → configuration → snapshots, and manifest → layers, labelled as a pull does.
    fn pull(&self, name: &str) {
        let layer = self.blob(&format!("{name} layer"), &[]);
        let config = self.blob(&format!("{name} config"), &[("containerd.io/gc.ref.snapshot.fake", &format!("{name}-top"))]);
        let refs = [("containerd.io/gc.ref.content.config", config.as_str()), ("containerd.io/gc.ref.content.l.0", layer.as_str())];
        let manifest = self.blob(&format!("{name} manifest"), &refs);
        let index = self.blob(&format!("{name} index"), &[("containerd.io/gc.ref.content.m.0", manifest.as_str())]);
        self.fake.put(&key(&format!("{name}-base")), None, Labels::new());
        self.fake.put(&key(&format!("{name}-top")), Some(&key(&format!("{name}-base"))), Labels::new());
        self.image(name, &index);
    }
}

#[test]
fn an_image_keeps_its_tree_and_its_snapshots_until_it_is_deleted() {
    let node = node("gc-image");
    node.pull("a");
    node.pull("b");
    assert!(node.collector.run().unwrap().nothing());
    assert_eq!((node.blobs(), node.files(), node.fake.keys().len()), (8, 8, 4));
    node.images.delete(NS, "a").unwrap();
    let stats = node.collector.run_now().unwrap();
    assert_eq!((stats.blobs, stats.records, stats.snapshots), (4, 4, 2), "{stats}");
    assert_eq!((node.blobs(), node.files()), (4, 4));
    assert_eq!(node.fake.keys(), [key("b-base"), key("b-top")]);
    assert_eq!(std::fs::read_dir(node.dir.path().join("content/trash")).unwrap().count(), 0);
    assert!(stats.to_string().starts_with("gc: removed 4 blobs ("), "{stats}");
}

#[test]
fn a_container_and_a_sandbox_keep_their_snapshots_and_the_layers_below() {
    let node = node("gc-users");
    for (name, parent) in [("base", None), ("one", Some("base")), ("two", Some("base")), ("pod", None), ("dead", Some("base"))] {
        node.fake.put(&key(name), parent.map(key).as_deref(), Labels::new());
    }
    let containers = Containers::new(node.db.clone());
    for (id, snapshot_key) in [("c1", "one".to_owned()), ("c2", key("two"))] {
        let (id, snapshotter) = (id.to_owned(), "fake".to_owned());
        containers.create(NS, Container { id, snapshotter, snapshot_key, ..Container::default() }).unwrap();
    }
    Sandboxes::new(node.db.clone()).create(NS, Sandbox { id: "pod".into(), ..Sandbox::default() }).unwrap();
    assert_eq!(node.collector.run().unwrap().snapshots, 1);
    assert_eq!(node.fake.keys(), ["base", "one", "pod", "two"].map(key));
    containers.delete(NS, "c1").unwrap();
    containers.delete(NS, "c2").unwrap();
    assert_eq!(node.collector.run().unwrap().snapshots, 3);
    assert_eq!(node.fake.keys(), [key("pod")]);
}

#[test]
fn a_lease_keeps_until_it_is_deleted_or_its_time_is_over() {
    let node = node("gc-lease");
    let child = node.blob("child", &[]);
    let parent = node.blob("parent", &[("containerd.io/gc.ref.content.0", child.as_str())]);
    node.fake.put(&key("s"), None, Labels::new());
    node.leases.create(NS, "l", Labels::new()).unwrap();
    let snapshot = Resource::Snapshot { snapshotter: "fake".into(), key: "s".into() };
    node.leases.add_all(NS, "l", [Resource::Content(parent.clone()), snapshot]).unwrap();
    assert!(node.collector.run().unwrap().nothing());

    let soon = SystemTime::now() + Duration::from_millis(300);
    node.leases.create(NS, "e", labels(&[(lease::EXPIRE, &time::format(soon))])).unwrap();
    node.leases.add(NS, "e", Resource::Content(parent.clone())).unwrap();
    node.leases.delete(NS, "l").unwrap();
    assert_eq!(node.collector.run().unwrap().snapshots, 1);
    assert_eq!(node.blobs(), 2);
    std::thread::sleep(Duration::from_millis(320));
    let stats = node.collector.run().unwrap();
    assert_eq!((stats.leases, stats.blobs), (1, 2), "{stats}");
    assert!(node.leases.get(NS, "e").unwrap_err().is_not_found());
}

#[test]
fn back_references_keep_what_carries_them_while_what_they_name_is_there() {
    let node = node("gc-back");
    let target = node.blob("target", &[]);
    node.image("i", &target);
    node.fake.put(&key("s"), None, labels(&[("containerd.io/gc.bref.container", "c")]));
    let id = "c".to_owned();
    let containers = Containers::new(node.db.clone());
    containers.create(NS, Container { id, snapshotter: "fake".into(), snapshot_key: "other".into(), ..Container::default() }).unwrap();
    let by_image = node.blob("by image", &[("containerd.io/gc.bref.image.sig", "i")]);
    let by_content = node.blob("by content", &[("containerd.io/gc.bref.content", target.as_str())]);
    node.blob("by that", &[("containerd.io/gc.bref.content.x", by_content.as_str())]);
    node.blob("by snapshot", &[("containerd.io/gc.bref.snapshot.fake", "s")]);
    node.blob("by nothing", &[("containerd.io/gc.bref.image", "nosuch"), ("containerd.io/gc.bref.content", "sha256:0")]);
    let stats = node.collector.run().unwrap();
    assert_eq!((stats.blobs, stats.snapshots, node.blobs()), (1, 0, 5), "{stats}");
    containers.delete(NS, "c").unwrap();
    let stats = node.collector.run().unwrap();
    assert_eq!((stats.blobs, stats.snapshots), (1, 1), "{stats}");
    node.content.info(NS, &by_image).unwrap();
    node.images.delete(NS, "i").unwrap();
    assert_eq!(node.collector.run().unwrap().blobs, 4);
}

#[test]
fn an_image_past_its_time_goes_and_that_is_told() {
    let node = node("gc-expired-image");
    let target = node.blob("target", &[]);
    let told = node.bus.subscribe(&["/images/delete"]);
    for (name, expire) in [("soon", time::format(SystemTime::now() + Duration::from_millis(200))), ("odd", "some day".to_owned())] {
        let image = Image::new(name, Descriptor::new(media::OCI_INDEX, target.clone(), 1), labels(&[(lease::EXPIRE, &expire)]));
        node.images.upsert(NS, image).unwrap();
    }
    assert!(node.collector.run().unwrap().nothing());
    std::thread::sleep(Duration::from_millis(250));
    let stats = node.collector.run().unwrap();
    assert_eq!((stats.images, stats.blobs), (1, 0), "{stats}");
    assert!(node.images.get(NS, "soon").unwrap_err().is_not_found());
    node.images.get(NS, "odd").unwrap();
    assert_eq!(told.channel().try_iter().count(), 1);
}

#[test]
fn a_flat_lease_keeps_only_what_it_names() {
    let node = node("gc-flat");
    let child = node.blob("child", &[]);
    let parent = node.blob("parent", &[("containerd.io/gc.ref.content", child.as_str())]);
    node.leases.create(NS, "l", labels(&[(lease::FLAT, "true")])).unwrap();
    node.leases.add(NS, "l", Resource::Content(parent.clone())).unwrap();
    assert_eq!(node.collector.run().unwrap().blobs, 1);
    node.content.info(NS, &parent).unwrap();
}

#[test]
fn root_labels_keep_and_unscoped_snapshots_are_nobodys_garbage() {
    let node = node("gc-roots");
    let child = node.blob("child", &[]);
    node.blob("root", &[("containerd.io/gc.root", "now"), ("containerd.io/gc.ref.content.x", child.as_str())]);
    node.fake.put(&key("kept"), None, labels(&[("containerd.io/gc.root", "now")]));
    node.fake.put("by-hand", None, Labels::new());
    node.blob("garbage", &[("containerd.io/gc.reference", "x"), ("containerd.io/gc.ref.contentious", child.as_str())]);
    let stats = node.collector.run().unwrap();
    assert_eq!((stats.blobs, stats.snapshots), (1, 0), "{stats}");
    assert_eq!(node.fake.keys(), ["by-hand".to_owned(), key("kept")]);
}

#[test]
fn references_may_form_rings() {
    let node = node("gc-ring");
    let (one, two) = (Digest::of("one"), Digest::of("two"));
    node.blob("one", &[("containerd.io/gc.ref.content", two.as_str())]);
    node.blob("two", &[("containerd.io/gc.ref.content", one.as_str())]);
    node.image("i", &one);
    assert!(node.collector.run().unwrap().nothing());
    node.images.delete(NS, "i").unwrap();
    assert_eq!(node.collector.run().unwrap().blobs, 2);
}

#[test]
fn bytes_stay_while_any_namespace_has_them() {
    let node = node("gc-shared");
    let digest = node.blob("shared", &[]);
    let expected = Expected { digest: Some(digest.clone()), size: None };
    node.content.writer("other", "r", expected).map(drop).unwrap_err();
    node.content.set_labels("other", &digest, labels(&[("containerd.io/gc.root", "now")])).unwrap();
    let stats = node.collector.run().unwrap();
    assert_eq!((stats.records, stats.blobs), (1, 0));
    assert_eq!(node.content.read("other", &digest, 100).unwrap(), b"shared");
    assert!(node.content.info(NS, &digest).unwrap_err().is_not_found());
}

/// Nobody knows what an unreadable container runs on: its namespace is left alone, others are not.
#[test]
fn a_root_that_cannot_be_read_freezes_its_namespace() {
    let node = node("gc-frozen");
    node.pull("a");
    node.images.delete(NS, "a").unwrap();
    node.fake.put("other/s", None, Labels::new());
    node.db
        .write(|w| {
            w.put_raw::<Container>(NS, "bad", b"{");
            Ok(())
        })
        .unwrap();
    let stats = node.collector.run().unwrap();
    assert_eq!((stats.records, stats.snapshots), (0, 1), "{stats}");
    Containers::new(node.db.clone()).delete(NS, "bad").unwrap();
    let stats = node.collector.run().unwrap();
    assert_eq!((stats.blobs, stats.snapshots), (4, 2), "{stats}");
}

/// A content record that cannot be read keeps its bytes, since somebody may repair it.
#[test]
fn a_bad_content_record_keeps_its_file() {
    let node = node("gc-bad-blob");
    let digest = node.blob("x", &[]);
    node.db
        .write(|w| {
            w.put_raw::<Blob>(NS, digest.as_str(), b"[]");
            Ok(())
        })
        .unwrap();
    assert!(node.collector.run().unwrap().nothing());
    assert_eq!(node.files(), 1);
}

/// A crash between the rename of a blob and its record, or between removing a record and its file.
#[test]
fn files_without_a_record_go() {
    let node = node("gc-orphan");
    let digest = node.blob("orphan", &[]);
    node.content.delete(NS, &digest).unwrap();
    assert_eq!(node.files(), 1);
    let stats = node.collector.run().unwrap();
    assert_eq!((stats.blobs, stats.bytes, node.files()), (1, 6, 0));
}

#[test]
fn what_is_created_under_a_lease_or_the_gate_survives_a_collector_that_never_rests() {
    let node = node("gc-race");
    let (collector, stop) = (node.collector.clone(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let ended = stop.clone();
    let running = std::thread::spawn(move || {
        let mut runs = 0;
        while !ended.load(std::sync::atomic::Ordering::Relaxed) {
            collector.run().unwrap();
            runs += 1;
            std::thread::sleep(Duration::from_millis(1));
        }
        runs
    });
    let containers = Containers::new(node.db.clone());
    for i in 0..25 {
        let text = format!("blob {i}");
        let lease = format!("pull {i}");
        node.leases.create(NS, &lease, Labels::new()).unwrap();
        node.leases.add(NS, &lease, Resource::Content(Digest::of(&text))).unwrap();
        let digest = node.blob(&text, &[]);
        node.image(&text, &digest);
        node.leases.delete(NS, &lease).unwrap();
        let id = format!("c{i}");
        node.collector.gate().hold(|| {
            node.fake.put(&key(&id), None, Labels::new());
            let (snapshot_key, snapshotter) = (id.clone(), "fake".to_owned());
            containers.create(NS, Container { id, snapshotter, snapshot_key, ..Container::default() }).unwrap();
        });
        assert_eq!(node.content.read(NS, &digest, 100).unwrap(), text.as_bytes());
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(running.join().unwrap() > 1);
    assert_eq!((node.blobs(), node.fake.keys().len()), (25, 25));
}

#[test]
fn the_thread_runs_when_asked_and_when_a_lease_ends() {
    let node = node("gc-thread");
    let threads = Threads::new().unwrap();
    let soon = SystemTime::now() + Duration::from_millis(400);
    node.leases.create(NS, "e", labels(&[(lease::EXPIRE, &time::format(soon))])).unwrap();
    node.blob("garbage", &[]);
    node.collector.start(&threads).unwrap();
    node.collector.schedule();
    node.collector.schedule();
    let until = |what: &dyn Fn() -> bool| {
        (0..200).any(|_| {
            what() || {
                std::thread::sleep(Duration::from_millis(50));
                false
            }
        })
    };
    assert!(until(&|| node.blobs() == 0));
    assert!(until(&|| node.leases.list(NS).unwrap().is_empty()));
    assert!(threads.panicked().is_empty());
}
