//! Tests of images and of resolving them.
use super::*;
use crate::core::content::{Digest, Expected, Store};
use crate::core::metadata::scratch::{self, Scratch};
use crate::error::Kind;
use serde_json::{Value, json};
use std::io::Write;

const NS: &str = "n";

struct Node {
    _dir: Scratch,
    store: Store,
    images: Images,
    events: Arc<Bus>,
}

fn node(name: &str) -> Node {
    let dir = scratch::dir(name);
    let db = Arc::new(Db::open(&dir.path().join("meta")).unwrap());
    let events = Arc::new(Bus::new());
    let store = Store::open(&dir.path().join("content"), db.clone()).unwrap();
    Node { _dir: dir, store, images: Images::new(db, events.clone()), events }
}

impl Node {
    fn put(&self, media_type: &str, bytes: &[u8]) -> Descriptor {
        let digest = Digest::of(bytes);
        let expected = Expected { digest: Some(digest.clone()), size: Some(bytes.len() as u64) };
        if let Ok(mut ingest) = self.store.writer(NS, digest.as_str(), expected) {
            ingest.write_all(bytes).unwrap();
            ingest.commit(Labels::new()).unwrap();
        }
        Descriptor::new(media_type, digest, bytes.len() as u64)
    }
    fn put_json(&self, media_type: &str, json: &Value) -> Descriptor {
        self.put(media_type, json.to_string().as_bytes())
    }
    fn config(&self, architecture: &str, diff_ids: &[Digest]) -> Descriptor {
        let config = json!({"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        self.put_json(media::OCI_CONFIG, &config)
    }
    fn image(&self, architecture: &str, layers: &[&str]) -> Descriptor {
        let diff_ids: Vec<_> = layers.iter().map(Digest::of).collect();
        let layers: Vec<_> = layers.iter().map(|l| self.put(media::OCI_LAYER, l.as_bytes())).collect();
        let config = self.config(architecture, &diff_ids);
        let manifest = json!({"schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "config": config, "layers": layers});
        self.put_json(media::OCI_MANIFEST, &manifest)
    }
    fn resolve(&self, target: &Descriptor) -> Result<Resolved> {
        manifest(&self.store, NS, target, &Platform::new("linux", "arm64", "v8"))
    }
}

fn on(platform: Platform, desc: Descriptor) -> Descriptor {
    Descriptor { platform: Some(platform), ..desc }
}

#[test]
fn the_fitting_manifest_of_a_nested_index_is_found() {
    let node = node("image-index");
    let (arm, amd) = (node.image("arm64", &["base", "app"]), node.image("amd64", &["base"]));
    let attestation = on(Platform::new("unknown", "unknown", ""), node.put_json(media::OCI_MANIFEST, &json!({})));
    let inner = json!({"schemaVersion": 2, "manifests": [
        attestation,
        on(Platform::new("linux", "arm", "v7"), amd.clone()),
        on(Platform::new("linux", "arm64", ""), arm.clone()),
    ]});
    let inner = node.put_json(media::OCI_INDEX, &inner);
    let outer = node.put_json(media::DOCKER_INDEX, &json!({"schemaVersion": 2, "manifests": [inner]}));
    let found = node.resolve(&outer).unwrap();
    assert_eq!(found.manifest_desc.digest, arm.digest);
    assert_eq!(found.manifest.layers().len(), 2);
    let diff_ids: Vec<_> = found.layers.iter().map(|l| l.diff_id.clone()).collect();
    assert_eq!(diff_ids, [Digest::of("base"), Digest::of("app")]);
    assert_eq!(found.config.rootfs().diff_ids().len(), 2);
}

#[test]
fn without_a_fitting_manifest_the_error_says_what_there_is() {
    let node = node("image-none");
    let amd = node.image("amd64", &["base"]);
    let error = node.resolve(&amd).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.chain().contains("linux/amd64, not for linux/arm64/v8"), "{}", error.chain());
    let index = json!({"schemaVersion": 2, "manifests": [on(Platform::new("linux", "amd64", "v3"), amd)]});
    let error = node.resolve(&node.put_json(media::OCI_INDEX, &index)).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.chain().ends_with("it has: linux/amd64/v3"), "{}", error.chain());
}

#[test]
fn bad_documents_are_refused() {
    let node = node("image-bad");
    let config = node.config("arm64", &[]);
    let own = |json: Value| node.put_json("", &json);
    for (what, target) in [
        ("an HTML page", node.put(media::OCI_MANIFEST, b"<html>busy</html>")),
        ("nothing", node.put(media::OCI_MANIFEST, b"")),
        ("an index and a manifest at once", own(json!({"schemaVersion": 2, "manifests": [], "config": config, "layers": []}))),
        ("another type inside", node.put_json(media::OCI_INDEX, &json!({"mediaType": media::OCI_MANIFEST, "manifests": []}))),
        ("an index called manifest", node.put_json(media::OCI_MANIFEST, &json!({"schemaVersion": 2, "manifests": []}))),
        ("schema 1", own(json!({"schemaVersion": 1, "fsLayers": [{"blobSum": "sha256:0"}]}))),
        ("a layer more than diff IDs", own(json!({"schemaVersion": 2, "config": config, "layers": [node.put(media::OCI_LAYER, b"x")]}))),
        ("a digest that is a path", own(json!({"schemaVersion": 2, "config": {"digest": "sha256:../../etc/passwd", "size": 1}}))),
        ("a negative size", own(json!({"schemaVersion": 2, "config": {"digest": config.digest, "size": -1}}))),
    ] {
        let error = node.resolve(&target).expect_err(what);
        assert_eq!(error.kind(), Kind::InvalidArgument, "{what}: {error:?}");
    }
    let mut deep = node.image("arm64", &[]);
    for i in 0..5 {
        deep = node.put_json(media::OCI_INDEX, &json!({"schemaVersion": 2, "manifests": [deep], "annotations": {"i": i.to_string()}}));
    }
    assert!(node.resolve(&deep).unwrap_err().chain().contains("nested"));
}

#[test]
fn what_go_writes_as_null_is_empty() {
    let node = node("image-null");
    let config = node.config("arm64", &[]);
    let manifest = json!({"schemaVersion": 2, "mediaType": media::DOCKER_MANIFEST, "layers": null, "annotations": null,
        "config": {"mediaType": media::DOCKER_CONFIG, "digest": config.digest, "size": config.size, "annotations": null, "urls": null}});
    let found = node.resolve(&node.put_json(media::DOCKER_MANIFEST, &manifest)).unwrap();
    assert!(found.layers.is_empty());
}

#[test]
fn a_missing_part_is_not_found() {
    let node = node("image-part");
    let target = node.image("arm64", &["base"]);
    let config = node.resolve(&target).unwrap().config_desc;
    node.store.delete(NS, &config.digest).unwrap();
    let error = node.resolve(&target).unwrap_err();
    assert!(error.is_not_found() && error.chain().contains(config.digest.as_str()), "{}", error.chain());
}

#[test]
fn chain_ids_name_a_layer_with_all_below() {
    let ids = ["a", "b", "c"].map(Digest::of);
    let chain = chain_ids(&ids);
    assert_eq!(chain[0], ids[0]);
    assert_eq!(chain[1], Digest::of(format!("{} {}", ids[0], ids[1])));
    assert_eq!(chain[2], Digest::of(format!("{} {}", chain[1], ids[2])));
    assert!(chain_ids(&[]).is_empty());
}

#[test]
fn changes_of_images_are_told() {
    let node = node("image-events");
    let seen = node.events.subscribe(&["/images/"]);
    let target = Descriptor::new(media::OCI_MANIFEST, Digest::of("m"), 1);
    let image = |labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Image::new("docker.io/library/a:latest", target.clone(), labels)
    };
    let made = node.images.create(NS, image(&[])).unwrap();
    assert_eq!(node.images.create(NS, image(&[])).unwrap_err().kind(), Kind::AlreadyExists);
    let changed = node.images.upsert(NS, image(&[("a", "b")])).unwrap();
    assert_eq!(changed.created_at, made.created_at);
    assert_eq!(node.images.list(NS).unwrap(), std::slice::from_ref(&changed));
    node.images.delete(NS, &changed.name).unwrap();
    assert!(node.images.delete(NS, &changed.name).unwrap_err().is_not_found());
    node.images.upsert(NS, image(&[])).unwrap();
    let topics: Vec<_> = seen.channel().try_iter().map(|e| (e.namespace.clone(), e.topic.clone())).collect();
    let expected = ["/images/create", "/images/update", "/images/delete", "/images/create"];
    assert_eq!(topics, expected.map(|topic| (NS.to_owned(), topic.to_owned())));
}

#[test]
fn an_artifact_is_files_with_safe_names() {
    let node = node("image-artifact");
    let empty = node.put("application/vnd.oci.empty.v1+json", b"{}");
    let blob = |title: Option<&str>, text: &str| {
        let mut desc = node.put("application/x-model", text.as_bytes());
        desc.annotations.extend(title.map(|t| ("org.opencontainers.image.title".to_string(), t.to_string())));
        desc
    };
    let artifact = |layers: &[Descriptor]| {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "artifactType": "application/x-model", "config": empty, "layers": layers,
        });
        node.put_json(media::OCI_MANIFEST, &manifest)
    };
    let target = artifact(&[blob(Some("./dir/weights"), "w"), blob(None, "n")]);
    let found = node.resolve(&target).unwrap();
    assert_eq!((found.shape, found.id()), (Shape::Artifact, &target.digest));
    let files: Vec<Form> = found.layers.iter().map(|l| l.form.clone()).collect();
    assert_eq!(files, [Form::File("dir/weights".into()), Form::File(Digest::of("n").hex().into())]);
    assert_ne!(found.layers[0].diff_id, found.layers[0].desc.digest);
    for bad in ["/etc/passwd", "../up", "a/../../b", "line\nbreak", "."] {
        let e = node.resolve(&artifact(&[blob(Some(bad), "x")])).unwrap_err();
        assert!(e.chain().contains("no safe name"), "{bad:?}: {}", e.chain());
    }
    for twice in [["a", "a"], ["a", "a/b"]] {
        let e = node.resolve(&artifact(&twice.map(|t| blob(Some(t), "x")))).unwrap_err();
        assert!(e.chain().contains("two blobs"), "{}", e.chain());
    }
}
