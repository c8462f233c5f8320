//! Images: the node's images as CRI sees them, by ID, with all names of an ID together. Kept in step with core's images, a name
//! at a time, whoever changed them.
use super::pins::Pins;
use crate::core::content::Store as Content;
use crate::core::image::{self, Images as Core, Platform};
use crate::cri::NAMESPACE;
use crate::error::{Error, Kind, Result};
use crate::remote::reference::Reference;
use crate::thread::{read, write};
use log::warn;
use oci_spec::image::ImageConfiguration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock};

/// Label of images that CRI looks after.
pub const MANAGED: &str = "io.cri-containerd.image";
/// Label of images that the kubelet must not collect, whatever the config says.
const PINNED: &str = "io.cri-containerd.pinned";
/// Label that tells the snapshotter of a pull for a runtime handler; `.<handler>` follows, or nothing where none was named.
const HANDLER: &str = "cradle.io/pulled-for";

/// One image, under all its names.
#[derive(Clone, Debug)]
pub struct Image {
    /// What it is.
    pub facts: Arc<Facts>,
    /// `repository:tag`.
    pub tags: Vec<String>,
    /// `repository@sha256:…`.
    pub digests: Vec<String>,
    /// Whether the kubelet must keep it.
    pub pinned: Pinned,
    /// The runtime handlers that it was pulled for, each with its snapshotter; "" where none was named.
    pub handlers: BTreeMap<String, String>,
}

/// What an image is under each of its names.
#[derive(Debug)]
pub struct Facts {
    /// `sha256:<config digest>`.
    pub id: String,
    /// Compressed size of all its parts.
    pub size: u64,
    /// Top of its snapshots; none for an image without layers.
    pub chain_id: Option<String>,
    /// A container image or an artifact, which only volumes can show.
    pub shape: image::Shape,
    /// Its configuration.
    pub config: ImageConfiguration,
    /// The manifest's annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Whether an image is kept from collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// Never collected.
    Yes,
    /// Collected when unused.
    No,
}

impl std::ops::Deref for Image {
    type Target = Facts;
    fn deref(&self) -> &Facts {
        &self.facts
    }
}

impl Image {
    /// What containers report as image_ref: a digest, or the ID.
    pub fn reference(&self) -> String {
        self.digests.first().unwrap_or(&self.id).clone()
    }
    /// As a person names it.
    pub fn name(&self) -> String {
        self.tags.first().or(self.digests.first()).unwrap_or(&self.id).clone()
    }
    /// All names under which core has it.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.tags.iter().chain(&self.digests).cloned().collect();
        names.push(self.id.clone());
        names
    }
}

/// The label of a pull for a handler.
pub fn handler_label(handler: &str) -> String {
    if handler.is_empty() { HANDLER.into() } else { format!("{HANDLER}.{handler}") }
}

/// All images.
pub struct Images {
    core: Arc<Core>,
    content: Arc<Content>,
    pins: Pins,
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    by_name: BTreeMap<String, Named>,
    by_id: BTreeMap<String, Arc<Image>>,
}

/// A name that can be used.
struct Named {
    stored: image::Image,
    facts: Arc<Facts>,
}

impl Images {
    /// Empty until [`Images::reload`].
    pub fn new(core: Arc<Core>, content: Arc<Content>, pins: Pins) -> Images {
        Images { core, content, pins, inner: RwLock::default() }
    }
    /// All, by ID.
    pub fn list(&self) -> Vec<Arc<Image>> {
        read(&self.inner).by_id.values().cloned().collect()
    }
    /// Reads all from core: at the start, and when what happened meanwhile is not known.
    pub fn reload(&self) -> Result<()> {
        let known: BTreeSet<String> = read(&self.inner).by_name.keys().cloned().collect();
        let stored: BTreeSet<String> = self.core.list(NAMESPACE)?.into_iter().map(|image| image.name).collect();
        known.union(&stored).try_for_each(|name| self.refresh(name))
    }
    /// Reads one name from core; other names are left as they are. An image whose content is not whole is left out, with a
    /// warning.
    pub fn refresh(&self, name: &str) -> Result<()> {
        let mut stored = self.stored(name)?;
        // No lock is held while core is asked, so another refresh may have put in what it had read earlier: whoever comes last
        // sees that what is in is what core has.
        loop {
            let named = stored.clone().and_then(|stored| self.load(stored));
            write(&self.inner).put(name, named, &self.pins);
            let now = self.stored(name)?;
            if now == stored {
                return Ok(());
            }
            stored = now;
        }
    }
    fn stored(&self, name: &str) -> Result<Option<image::Image>> {
        match self.core.get(NAMESPACE, name) {
            Err(e) if e.is_not_found() => Ok(None),
            found => found.map(Some),
        }
    }
    /// By ID, unique prefix of it, tag, digest or short name; NOT_FOUND names what was asked for, INVALID_ARGUMENT what can name
    /// no image.
    pub fn resolve(&self, name: &str) -> Result<Arc<Image>> {
        if name.is_empty() {
            return Err(Error::invalid("image name is empty"));
        }
        let inner = read(&self.inner);
        let parsed = Reference::parse(name);
        let canonical = parsed.as_ref().ok().map(Reference::to_string);
        let named = |name: &str| inner.by_name.get(name).and_then(|named| inner.by_id.get(&named.facts.id));
        if let Some(found) = canonical.as_deref().and_then(named).or_else(|| named(name)) {
            return Ok(found.clone());
        }
        let digits = name.strip_prefix("sha256:").unwrap_or(name);
        if is_hex(digits) {
            let mut matching =
                inner.by_id.range(format!("sha256:{digits}")..).take_while(|(id, _)| id["sha256:".len()..].starts_with(digits));
            match (matching.next(), matching.next()) {
                (Some((_, found)), None) => return Ok(found.clone()),
                (Some(_), Some(_)) => return Err(Error::invalid(format!("image ID \"{name}\" is ambiguous; give more of it"))),
                _ => {}
            }
        }
        let nowhere = || Error::new(Kind::NotFound, format!("image \"{name}\": not found; pull it first"));
        // What can be neither a name nor an ID is the caller's mistake.
        if is_hex(digits) { Err(nowhere()) } else { parsed.and_then(|_| Err(nowhere())) }
    }
    fn load(&self, stored: image::Image) -> Option<Named> {
        let same = |named: &&Named| named.stored.target == stored.target;
        let known = read(&self.inner).by_name.get(&stored.name).filter(same).map(|named| named.facts.clone());
        let facts = known.map_or_else(|| self.facts(&stored).map(Arc::new), Ok);
        let warned = facts.inspect_err(|e| warn!("image {}: not usable, pull it again: {}", stored.name, e.chain()));
        warned.ok().map(|facts| Named { stored, facts })
    }
    fn facts(&self, stored: &image::Image) -> Result<Facts> {
        let resolved = image::manifest(&self.content, NAMESPACE, &stored.target, &Platform::host())?;
        let diff_ids: Vec<_> = resolved.layers.iter().map(|l| l.diff_id.clone()).collect();
        let layers: u64 = resolved.layers.iter().map(|l| l.desc.size).sum();
        Ok(Facts {
            id: resolved.id().to_string(),
            shape: resolved.shape,
            size: layers + resolved.config_desc.size + resolved.manifest_desc.size,
            chain_id: image::chain_ids(&diff_ids).last().map(ToString::to_string),
            config: resolved.config,
            annotations: resolved.manifest.annotations().clone().unwrap_or_default().into_iter().collect(),
        })
    }
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Inner {
    /// Puts a name in, or takes it out, and makes the images anew that this concerns.
    fn put(&mut self, name: &str, named: Option<Named>, pins: &Pins) {
        let mut ids: Vec<String> = named.iter().map(|n| n.facts.id.clone()).collect();
        let before = match named {
            Some(named) => self.by_name.insert(name.to_string(), named),
            None => self.by_name.remove(name),
        };
        ids.extend(before.map(|b| b.facts.id.clone()));
        for id in ids {
            match gather(self.by_name.values().filter(|n| n.facts.id == id), pins) {
                Some(image) => self.by_id.insert(id, Arc::new(image)),
                None => self.by_id.remove(&id),
            };
        }
    }
}

/// One image out of all its names.
fn gather<'a>(mut names: impl Iterator<Item = &'a Named>, pins: &Pins) -> Option<Image> {
    let first = names.next()?;
    let mut image = Image { facts: first.facts.clone(), tags: vec![], digests: vec![], pinned: Pinned::No, handlers: BTreeMap::new() };
    for Named { stored, .. } in std::iter::once(first).chain(names) {
        if stored.labels.get(PINNED).is_some_and(|v| v == "pinned") || pins.hold(&stored.name) {
            image.pinned = Pinned::Yes;
        }
        for (label, snapshotter) in &stored.labels {
            let handler = label.strip_prefix(HANDLER).and_then(|rest| if rest.is_empty() { Some(rest) } else { rest.strip_prefix('.') });
            image.handlers.extend(handler.map(|handler| (handler.to_string(), snapshotter.clone())));
        }
        // The name that is the ID itself is neither tag nor digest.
        if stored.name != first.facts.id {
            let names = if stored.name.contains('@') { &mut image.digests } else { &mut image.tags };
            names.push(stored.name.clone());
        }
    }
    Some(image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::content::{Digest, Expected};
    use crate::core::events::Bus;
    use crate::core::image::{Descriptor, Image as Record, media};
    use crate::core::metadata::{Db, Labels, scratch};
    use std::io::Write;

    struct Node {
        _dir: scratch::Scratch,
        core: Arc<Core>,
        content: Arc<Content>,
        images: Images,
    }

    fn node(name: &str) -> Node {
        let dir = scratch::dir(name);
        let db = Arc::new(Db::open(&dir.path().join("meta")).unwrap());
        let content = Arc::new(Content::open(&dir.path().join("content"), db.clone()).unwrap());
        let core = Arc::new(Core::new(db, Arc::new(Bus::new())));
        let pins = Pins::new(["registry.io/pause:*"].into_iter());
        Node { images: Images::new(core.clone(), content.clone(), pins), _dir: dir, core, content }
    }

    impl Node {
        fn put(&self, kind: &str, json: &serde_json::Value) -> Descriptor {
            let bytes = json.to_string().into_bytes();
            let digest = Digest::of(&bytes);
            let mut ingest = self.content.writer(NAMESPACE, digest.as_str(), Expected::default()).unwrap();
            ingest.write_all(&bytes).unwrap();
            ingest.commit(Labels::new()).unwrap();
            Descriptor::new(kind, digest, bytes.len() as u64)
        }
        /// An image without layers; its target and its ID.
        fn image(&self, mark: &str) -> (Descriptor, String) {
            let arch = Platform::host().architecture;
            let config =
                serde_json::json!({"architecture": arch, "os": "linux", "author": mark, "rootfs": {"type": "layers", "diff_ids": []}});
            let config = self.put(media::OCI_CONFIG, &config);
            let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "config": config, "layers": []});
            (self.put(media::OCI_MANIFEST, &manifest), config.digest.to_string())
        }
        fn name(&self, name: &str, target: &Descriptor, labels: &[(&str, &str)]) {
            let labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            self.core.upsert(NAMESPACE, Record::new(name, target.clone(), labels)).unwrap();
            self.images.refresh(name).unwrap();
        }
    }

    #[test]
    fn names_of_one_image_are_together_and_move_alone() {
        let node = node("cri-images");
        let ((a, a_id), (b, b_id)) = (node.image("a"), node.image("b"));
        for name in ["registry.io/x:1", "registry.io/x:2", &format!("registry.io/x@{}", a.digest), &a_id] {
            node.name(name, &a, &[]);
        }
        let found = node.images.resolve(&a_id[7..15]).unwrap();
        assert_eq!(found.tags, ["registry.io/x:1", "registry.io/x:2"]);
        assert_eq!((found.digests.len(), found.names().len()), (1, 4));
        assert_eq!((found.pinned, found.handlers.len()), (Pinned::No, 0));
        // A tag that moves leaves the others where they are.
        node.name("registry.io/x:2", &b, &[]);
        assert_eq!(node.images.resolve(&a_id).unwrap().tags, ["registry.io/x:1"]);
        assert_eq!(node.images.resolve("registry.io/x:2").unwrap().id, b_id);
        // The last name takes the image with it.
        node.core.delete(NAMESPACE, "registry.io/x:2").unwrap();
        node.images.refresh("registry.io/x:2").unwrap();
        assert!(node.images.resolve(&b_id).unwrap_err().is_not_found());
        assert_eq!(node.images.list().len(), 1);
    }

    #[test]
    fn what_others_did_is_seen_by_a_reload() {
        let node = node("cri-images-reload");
        let (a, a_id) = node.image("a");
        let record = |name: &str| Record::new(name, a.clone(), Labels::new());
        node.core.upsert_all(NAMESPACE, vec![record("r.io/x:1"), record("r.io/x:2")]).unwrap();
        node.core.upsert_all("other", vec![record("r.io/y:1")]).unwrap();
        node.images.reload().unwrap();
        assert_eq!(node.images.resolve(&a_id).unwrap().tags.len(), 2);
        node.core.delete(NAMESPACE, "r.io/x:1").unwrap();
        node.images.reload().unwrap();
        assert_eq!(node.images.resolve(&a_id).unwrap().tags, ["r.io/x:2"]);
        // One whose content is gone is left out until it is pulled again.
        node.content.delete(NAMESPACE, &a.digest).unwrap();
        node.core.upsert(NAMESPACE, record("r.io/x:3")).unwrap();
        node.images.refresh("r.io/x:3").unwrap();
        assert!(node.images.resolve("r.io/x:3").is_err());
    }

    #[test]
    fn pins_and_handlers_are_gathered_from_all_names() {
        let node = node("cri-images-pins");
        let (a, a_id) = node.image("a");
        node.name("r.io/x:1", &a, &[(&handler_label(""), "overlayfs"), (&handler_label("kata"), "native")]);
        let found = node.images.resolve(&a_id).unwrap();
        assert_eq!(found.pinned, Pinned::No);
        assert_eq!(found.handlers, BTreeMap::from([("".into(), "overlayfs".into()), ("kata".into(), "native".into())]));
        node.name("registry.io/pause:3.10", &a, &[]);
        assert_eq!(node.images.resolve(&a_id).unwrap().pinned, Pinned::Yes);
        let (b, b_id) = node.image("b");
        node.name("r.io/y:1", &b, &[(PINNED, "pinned")]);
        assert_eq!(node.images.resolve(&b_id).unwrap().pinned, Pinned::Yes);
    }

    #[test]
    fn labels_stay_while_the_name_means_the_same() {
        let node = node("cri-images-labels");
        let ((a, _), (b, _)) = (node.image("a"), node.image("b"));
        node.name("r.io/x:1", &a, &[(&handler_label("one"), "overlayfs")]);
        node.name("r.io/x:1", &a, &[(&handler_label("two"), "native")]);
        assert_eq!(node.images.resolve("r.io/x:1").unwrap().handlers.len(), 2);
        node.name("r.io/x:1", &b, &[(&handler_label("two"), "native")]);
        assert_eq!(node.images.resolve("r.io/x:1").unwrap().handlers.len(), 1);
    }
}
