//! Pulls against a scripted registry, and against Debian's docker-registry where it is installed.
use super::*;
use crate::call::Call;
use crate::core::content::{Digest, Expected};
use crate::core::events::Bus;
use crate::core::image::media;
use crate::core::metadata::{Db, scratch};
use crate::core::snapshot::{Kind as SnapshotKind, native::Native, overlay, scoped};
use crate::remote::stub::{End, Reply, Seen, Shelf, Stub};
use crate::remote::{Config, Retry};
use crate::thread::Threads;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A puller with stores of its own in a scratch directory.
struct Node {
    parts: Parts,
    puller: Puller,
    collector: Collector,
    scratch: scratch::Scratch,
}

impl Node {
    fn new(name: &str) -> Node {
        Node::with(name, Config::default())
    }
    fn with(name: &str, config: Config) -> Node {
        let scratch = scratch::dir(&format!("pull-{name}"));
        let root = scratch.path();
        let dir = |n: &str| {
            let dir = root.join(n);
            std::fs::create_dir_all(&dir).unwrap();
            dir
        };
        let db = Arc::new(Db::open(&dir("meta")).unwrap());
        let mut snapshotters: BTreeMap<String, Arc<dyn Snapshotter>> = BTreeMap::new();
        snapshotters.insert("native".into(), Arc::new(Native::open(&dir("native"), db.clone()).unwrap()));
        if let Ok(overlay) = overlay::Overlay::open(&dir("overlay"), db.clone(), overlay::Config::default()) {
            snapshotters.insert("overlayfs".into(), Arc::new(overlay));
        }
        let retry = Retry { rounds: 2, first: Duration::from_millis(5), most: Duration::from_millis(10) };
        let content = Store::open(&dir("content"), db.clone()).unwrap();
        let images = Images::new(db.clone(), Arc::new(Bus::new()));
        let collector = Collector::new(db.clone(), content.clone(), snapshotters.clone(), images.clone());
        let parts = Parts {
            content,
            images,
            leases: Leases::new(db),
            snapshotters,
            client: Client::new(Config { retry, ..config }),
            processors: Processors::default(),
            collector: None,
            instance: "test".into(),
        };
        Node { puller: Puller::new(parts.clone(), Limits::default()).unwrap(), parts, collector, scratch }
    }
    fn kinds(&self) -> Vec<String> {
        self.parts.snapshotters.keys().cloned().collect()
    }
    fn pull(&self, reference: &str, snapshotter: &str) -> Result<Image> {
        self.puller.pull(&Call::background("k8s.io"), Request::new("k8s.io", reference, snapshotter)).map(|pulled| pulled.image)
    }
    fn assert_no_trace(&self, of: &str) {
        assert!(self.parts.content.ingests("k8s.io").unwrap().is_empty(), "{of}: an ingest is left");
        assert!(self.parts.leases.list("k8s.io").unwrap().is_empty(), "{of}: a lease is left");
        // A snapshotter that needs its layers in order has published the good ones: they are the collector's.
        for (name, s) in &self.parts.snapshotters {
            if !s.rebases() {
                self.collector.run_now().unwrap();
            }
            assert!(s.list().unwrap().is_empty(), "{of}: a snapshot of {name} is left");
        }
        assert!(self.parts.images.list("k8s.io").unwrap().is_empty(), "{of}: an image is left");
    }
    /// A file as a container would see it.
    fn file(&self, snapshotter: &str, chain: &Digest, path: &str) -> Option<String> {
        let s = &self.parts.snapshotters[snapshotter];
        let at = self.scratch.path().join("view");
        std::fs::create_dir_all(&at).unwrap();
        let mounts = s.view("look", Some(&scoped("k8s.io", chain.as_str())), &BTreeMap::new()).unwrap();
        crate::sys::mount::mount_all(&mounts, &at).unwrap();
        let text = std::fs::read_to_string(at.join(path)).ok();
        crate::sys::mount::unmount_all(&at, rustix::mount::UnmountFlags::empty()).unwrap();
        s.remove("look").unwrap();
        text
    }
}

fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(vec![]);
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image on a shelf; what its parts are called.
struct Built {
    shelf: Shelf,
    chain: Vec<Digest>,
    layers: Vec<String>,
}

fn build(layers: &[(Vec<u8>, Digest, &str)]) -> Built {
    let mut shelf = Shelf::default();
    let host = Platform::host();
    let ids: Vec<String> = layers.iter().map(|l| format!("\"{}\"", l.1)).collect();
    let config =
        format!(r#"{{"architecture":"{}","os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#, host.architecture, ids.join(","));
    let config_digest = shelf.blob(config.as_bytes());
    let blobs: Vec<String> = layers.iter().map(|(bytes, _, _)| shelf.blob(bytes)).collect();
    let descs: Vec<String> = layers
        .iter()
        .zip(&blobs)
        .map(|((bytes, _, kind), digest)| format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{}}}"#, bytes.len()))
        .collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{config_digest}","size":{}}},"layers":[{}]}}"#,
        media::OCI_MANIFEST,
        media::OCI_CONFIG,
        config.len(),
        descs.join(",")
    );
    let digest = shelf.manifest("single", media::OCI_MANIFEST, manifest.as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{{"mediaType":"{}","digest":"{}","size":3,"platform":{{"os":"plan9","architecture":"vax"}}}},{{"mediaType":"{}","digest":"{digest}","size":{},"platform":{{"os":"linux","architecture":"{}"}}}}]}}"#,
        media::OCI_INDEX,
        media::OCI_MANIFEST,
        Digest::of(b"other"),
        media::OCI_MANIFEST,
        manifest.len(),
        host.architecture
    );
    shelf.manifest("v1", media::OCI_INDEX, index.as_bytes());
    let diff_ids: Vec<Digest> = layers.iter().map(|l| l.1.clone()).collect();
    Built { shelf, chain: crate::core::image::chain_ids(&diff_ids), layers: blobs }
}

fn layer(files: &[(&str, &str)]) -> (Vec<u8>, Digest, &'static str) {
    let tar = tar(files);
    (gzip(&tar), Digest::of(&tar), LAYER)
}

fn two_layers() -> Built {
    let top = tar(&[("etc/two", "2"), (".wh.gone", ""), ("etc/one", "changed")]);
    let zstd = (zstd::encode_all(&top[..], 1).unwrap(), Digest::of(&top), "application/vnd.oci.image.layer.v1.tar+zstd");
    build(&[layer(&[("etc/one", "1"), ("gone", "x"), ("stays", "y")]), zstd])
}

fn noise(bytes: usize) -> String {
    let mut x = 1u64;
    let next = |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        char::from(b'a' + (x % 26) as u8)
    };
    (0..bytes).map(next).collect()
}

#[test]
fn an_image_is_unpacked_for_each_snapshotter_and_fetched_once() {
    let node = Node::new("whole");
    let built = two_layers();
    let (shelf, chain) = (built.shelf, built.chain);
    let stub = Stub::start(move |s| shelf.answer(s));
    let reference = format!("{}/app:v1", stub.host());
    for kind in node.kinds() {
        let image = node.pull(&reference, &kind).unwrap();
        assert_eq!(image.name, reference);
        let top = &chain[1];
        assert_eq!(node.file(&kind, top, "etc/one").as_deref(), Some("changed"), "{kind}");
        assert_eq!(node.file(&kind, top, "etc/two").as_deref(), Some("2"));
        assert_eq!(node.file(&kind, top, "stays").as_deref(), Some("y"));
        assert_eq!(node.file(&kind, top, "gone"), None, "{kind}: a whiteout was lost");
        let s = &node.parts.snapshotters[&kind];
        assert!(s.list().unwrap().iter().all(|i| i.kind == SnapshotKind::Committed));
        assert_eq!(s.stat(&scoped("k8s.io", top.as_str())).unwrap().labels["containerd.io/snapshot.ref"], top.to_string());
    }
    assert!(node.parts.leases.list("k8s.io").unwrap().is_empty() && node.parts.content.ingests("k8s.io").unwrap().is_empty());
    assert_eq!(stub.seen().iter().filter(|s| s.path.contains("/blobs/")).count(), 3, "config and two layers, once");
    let before = stub.seen().len();
    node.pull(&reference, "native").unwrap();
    assert_eq!(stub.seen().len(), before + 1, "a second pull asks for the digest only");
    let labels: Vec<String> = node.parts.content.list("k8s.io").unwrap().into_iter().flat_map(|i| i.labels.into_keys()).collect();
    for want in
        ["gc.ref.content.m.1", "gc.ref.content.config", "gc.ref.content.l.1", "gc.ref.snapshot.native", "distribution.source.127.0.0.1"]
    {
        assert!(labels.iter().any(|l| l.starts_with(&format!("containerd.io/{want}"))), "{want} in {labels:?}");
    }
}

/// Pulls `tag` from a registry that answers by `answer`; the error's text, after a look for leftovers.
fn failure(name: &str, tag: &str, answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> String {
    let node = Node::with(name, Config { progress_timeout: Some(Duration::from_millis(500)), ..Config::default() });
    let stub = Stub::start(answer);
    let mut text = String::new();
    for kind in node.kinds() {
        let e = node.pull(&format!("{}/app:{tag}", stub.host()), &kind).unwrap_err();
        text = e.chain();
        assert!(text.contains(&format!("{}/app:{tag}", stub.host())), "{text}");
        node.assert_no_trace(name);
    }
    text
}

#[test]
fn bad_layers_fail_and_leave_nothing() {
    let spoilt = |how: fn(Reply) -> Reply| {
        let built = two_layers();
        let bad = built.layers[1].clone();
        move |s: &Seen| {
            let reply = built.shelf.answer(s);
            if s.path.contains(&bad) { how(reply) } else { reply }
        }
    };
    let text = failure(
        "cut",
        "v1",
        spoilt(|r| {
            let most = if r.status == 200 { 20 } else { 0 };
            r.ending(End::CutAt(most))
        }),
    );
    assert!(text.contains("gave up after"), "{text}");
    let text = failure(
        "flip",
        "v1",
        spoilt(|mut r| {
            r.body[30] ^= 1;
            r
        }),
    );
    assert!(text.contains("the digest is sha256:") && text.contains("is expected"), "{text}");
    let text = failure(
        "short",
        "v1",
        spoilt(|mut r| {
            r.body.pop();
            r
        }),
    );
    assert!(text.contains("bytes announced where"), "{text}");
    let text = failure("gone", "v1", spoilt(|_| Reply::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#)));
    assert!(text.contains("BLOB_UNKNOWN"), "{text}");
    let text = failure("stall", "v1", spoilt(|r| r.ending(End::StallAt(10))));
    assert!(text.contains("no bytes within"), "{text}");
    let text = failure("endless", "v1", spoilt(|r| r.ending(End::Endless)));
    assert!(text.contains("more than the"), "{text}");
}

#[test]
fn a_registry_that_is_not_there_is_told_in_the_kubelets_word() {
    let node = Node::new("nobody");
    let port = { std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port() };
    let e = node.pull(&format!("127.0.0.1:{port}/app:v1"), "native").unwrap_err();
    assert_eq!(e.kind(), Kind::Unknown);
    assert!(e.chain().starts_with("RegistryUnavailable: 127.0.0.1"), "{}", e.chain());
    node.assert_no_trace("nobody");
}

#[test]
fn bad_images_fail_and_leave_nothing() {
    let (bytes, _, kind) = layer(&[("a", "b")]);
    let wrong = build(&[(bytes.clone(), Digest::of(b"something else"), kind)]).shelf;
    let text = failure("diffid", "v1", move |s| wrong.answer(s));
    assert!(text.contains("diff ID"), "{text}");
    let half = gzip(&tar(&[("a", &noise(100_000))]));
    let half = build(&[(half[..half.len() / 2].to_vec(), Digest::of(b"x"), kind)]).shelf;
    let text = failure("halfgzip", "v1", move |s| half.answer(s));
    assert!(text.contains("unpack layer"), "{text}");
    let locked = build(&[(bytes, Digest::of(b"x"), "application/vnd.oci.image.layer.v1.tar+gzip+encrypted")]).shelf;
    let text = failure("encrypted", "v1", move |s| locked.answer(s));
    assert!(text.contains("encrypted"), "{text}");
    for (name, body, word) in [
        ("badjson", "{nonsense", "no image manifest"),
        ("both", r#"{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}"#, ""),
        ("mixed", r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#, "calls itself"),
        ("schema1", r#"{"schemaVersion":1,"fsLayers":[]}"#, "schema 1"),
    ] {
        let mut shelf = Shelf::default();
        shelf.manifest("v1", media::OCI_MANIFEST, body.as_bytes());
        let text = failure(name, "v1", move |s| shelf.answer(s));
        assert!(text.contains(word), "{text}");
    }
    let text = failure("html", "v1", |_| Reply::new(200, "<html>hello").with("content-type", "text/html"));
    assert!(text.contains("HTML page"), "{text}");
}

#[test]
fn equal_pulls_share_one_flight_and_only_the_last_to_leave_ends_it() {
    let node = Node::new("shared");
    let built = build(&[layer(&[("a", &noise(300_000))])]);
    let (open, blobs, path) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), built.layers[0].clone());
    let (gate, count, shelf) = (open.clone(), blobs.clone(), built.shelf);
    let stub = Stub::start(move |s| {
        if s.path.contains(&path) {
            count.fetch_add(1, Ordering::SeqCst);
            while !gate.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        shelf.answer(s)
    });
    let reference = format!("{}/app:v1", stub.host());
    let threads = Threads::new().unwrap();
    let (results, got) = crossbeam_channel::unbounded();
    let mut guards = vec![];
    for i in 0..4 {
        let (call, alive) = Call::new("k8s.io", "test", None);
        guards.push(Some(alive));
        let (puller, reference, results) = (node.puller.clone(), reference.clone(), results.clone());
        threads
            .spawn(format!("pull-{i}"), move |_| {
                results.send((i, puller.pull(&call, Request::new("k8s.io", reference, "native")))).unwrap();
            })
            .unwrap();
        while blobs.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    // The first one, which began the flight, and another one go away.
    std::thread::sleep(Duration::from_millis(100));
    for i in [0, 2] {
        guards[i] = None;
        let (who, result) = got.recv_timeout(Duration::from_secs(2)).unwrap();
        assert_eq!((who, result.unwrap_err().kind()), (i, Kind::Cancelled));
    }
    open.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        got.recv_timeout(Duration::from_secs(10)).unwrap().1.unwrap();
    }
    assert_eq!(blobs.load(Ordering::SeqCst), 1);
}

#[test]
fn a_cancelled_pull_returns_at_once_and_leaves_nothing() {
    let node = Node::new("cancel");
    let built = build(&[layer(&[("a", &noise(300_000))])]);
    let (path, shelf) = (built.layers[0].clone(), built.shelf);
    let stub = Stub::start(move |s| if s.path.contains(&path) { shelf.answer(s).ending(End::StallAt(100_000)) } else { shelf.answer(s) });
    for kind in node.kinds() {
        let (call, alive) = Call::new("k8s.io", "test", None);
        let threads = Threads::new().unwrap();
        threads
            .spawn("cancel", move |stop| {
                stop.sleep(Duration::from_millis(400));
                drop(alive);
            })
            .unwrap();
        let begun = Instant::now();
        let e = node.puller.pull(&call, Request::new("k8s.io", format!("{}/app:v1", stub.host()), kind)).unwrap_err();
        assert_eq!(e.kind(), Kind::Cancelled);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        node.assert_no_trace("cancel");
    }
}

#[test]
fn what_a_dead_daemon_left_is_resumed() {
    let node = Node::new("resume");
    let built = build(&[layer(&[("a", &noise(300_000))])]);
    let digest = Digest::parse(&built.layers[0]).unwrap();
    let bytes = built.shelf.blobs[&built.layers[0]].clone();
    let expected = Expected { digest: Some(digest.clone()), size: Some(bytes.len() as u64) };
    let mut ingest = node.parts.content.writer("k8s.io", &format!("layer-{digest}"), expected).unwrap();
    ingest.write_all(&bytes[..70_000]).unwrap();
    ingest.keep();
    let shelf = built.shelf;
    let stub = Stub::start(move |s| shelf.answer(s));
    for kind in node.kinds() {
        node.pull(&format!("{}/app:v1", stub.host()), &kind).unwrap();
    }
    let asked: Vec<Seen> = stub.seen().into_iter().filter(|s| s.path.contains(digest.hex())).collect();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("range"), "bytes=70000-");
}

/// docker-registry on a free port of loopback, ended with the test.
struct RealRegistry {
    child: std::process::Child,
    host: String,
}

impl RealRegistry {
    fn start(dir: &Path) -> Option<RealRegistry> {
        let port = { std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port() };
        let host = format!("127.0.0.1:{port}");
        let config = dir.join("registry.yml");
        let store = dir.join("registry");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {host}}}\n",
                store.display()
            ),
        )
        .unwrap();
        let quiet = std::process::Stdio::null;
        let child = std::process::Command::new("docker-registry").arg("serve").arg(&config).stdout(quiet()).stderr(quiet()).spawn().ok()?;
        let registry = RealRegistry { child, host };
        for _ in 0..200 {
            if std::net::TcpStream::connect(&registry.host).is_ok() {
                return Some(registry);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("docker-registry does not listen");
    }
    fn push(&self, built: &Built) {
        let agent = ureq::Agent::new_with_defaults();
        for (digest, bytes) in &built.shelf.blobs {
            let begun = agent.post(format!("http://{}/v2/team/app/blobs/uploads/", self.host)).send_empty().unwrap();
            let location = begun.headers()["location"].to_str().unwrap().to_string();
            let joint = if location.contains('?') { '&' } else { '?' };
            agent.put(format!("{location}{joint}digest={digest}")).content_type("application/octet-stream").send(&bytes[..]).unwrap();
        }
        let (kind, bytes) = &built.shelf.manifests["single"];
        agent.put(format!("http://{}/v2/team/app/manifests/v1", self.host)).content_type(kind).send(&bytes[..]).unwrap();
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_real_registry_serves_a_real_snapshotter() {
    let node = Node::new("real");
    let Some(registry) = RealRegistry::start(node.scratch.path()) else { return };
    let built = two_layers();
    registry.push(&built);
    for kind in node.kinds() {
        node.pull(&format!("{}/team/app:v1", registry.host), &kind).unwrap();
        assert_eq!(node.file(&kind, &built.chain[1], "etc/one").as_deref(), Some("changed"));
        assert_eq!(node.file(&kind, &built.chain[1], "gone"), None);
    }
    let e = node.pull(&format!("{}/team/app:nope", registry.host), "native").unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound);
    assert!(e.chain().contains("manifest unknown"), "{}", e.chain());
}
