//! Images: the node's images as CRI sees them, by ID, with all names of an ID together. Kept in step with core's images.
use crate::core::content::Store as Content;
use crate::core::image::{self, Images as Core, Platform};
use crate::core::snapshot::Labels;
use crate::cri::NAMESPACE;
use crate::error::{Error, Kind, Result};
use crate::remote::reference::Reference;
use crate::thread::{read, write};
use log::warn;
use oci_spec::image::ImageConfiguration;
use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

/// Label of images that CRI looks after.
pub const MANAGED: &str = "io.cri-containerd.image";
/// Label of images that the kubelet must not collect.
pub const PINNED: &str = "io.cri-containerd.pinned";

/// One image, under all its names.
#[derive(Clone, Debug)]
pub struct Image {
    /// `sha256:<config digest>`.
    pub id: String,
    /// `repository:tag`.
    pub tags: Vec<String>,
    /// `repository@sha256:…`.
    pub digests: Vec<String>,
    /// Compressed size of all its parts.
    pub size: u64,
    /// Top of its snapshots; none for an image without layers.
    pub chain_id: Option<String>,
    /// A container image or an artifact, which only volumes can show.
    pub shape: image::Shape,
    /// Its configuration.
    pub config: Arc<ImageConfiguration>,
    /// Whether the kubelet must keep it.
    pub pinned: Pinned,
}

/// Whether an image is kept from collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// Never collected.
    Yes,
    /// Collected when unused.
    No,
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

/// All images.
pub struct Images {
    core: Arc<Core>,
    content: Arc<Content>,
    by_id: RwLock<BTreeMap<String, Arc<Image>>>,
}

impl Images {
    /// Empty until [`Images::reload`].
    pub fn new(core: Arc<Core>, content: Arc<Content>) -> Images {
        Images { core, content, by_id: RwLock::default() }
    }
    /// All, by ID.
    pub fn list(&self) -> Vec<Arc<Image>> {
        read(&self.by_id).values().cloned().collect()
    }
    /// Reads all from core. An image whose content is not whole is left out, with a warning.
    pub fn reload(&self) -> Result<()> {
        let mut by_id: BTreeMap<String, Image> = BTreeMap::new();
        for stored in self.core.list(NAMESPACE)? {
            match self.load(&stored) {
                Ok(loaded) => merge(&mut by_id, loaded, &stored.name),
                Err(e) => warn!("image {}: not usable, pull it again: {}", stored.name, e.chain()),
            }
        }
        *write(&self.by_id) = by_id.into_iter().map(|(id, image)| (id, Arc::new(image))).collect();
        Ok(())
    }
    /// By ID, unique prefix of it, tag, digest or short name; NOT_FOUND names what was asked for.
    pub fn resolve(&self, name: &str) -> Result<Arc<Image>> {
        if name.is_empty() {
            return Err(Error::invalid("image name is empty"));
        }
        let by_id = read(&self.by_id);
        let canonical = Reference::parse(name).ok().map(|r| r.to_string());
        let named = |i: &&Arc<Image>| {
            canonical.as_ref().is_some_and(|c| i.tags.contains(c) || i.digests.contains(c))
                || i.tags.iter().chain(&i.digests).any(|n| n == name)
        };
        if let Some(found) = by_id.values().find(named) {
            return Ok(found.clone());
        }
        let digits = name.strip_prefix("sha256:").unwrap_or(name);
        if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            let mut matching = by_id.range(format!("sha256:{digits}")..).take_while(|(id, _)| id["sha256:".len()..].starts_with(digits));
            match (matching.next(), matching.next()) {
                (Some((_, found)), None) => return Ok(found.clone()),
                (Some(_), Some(_)) => return Err(Error::invalid(format!("image ID \"{name}\" is ambiguous; give more of it"))),
                _ => {}
            }
        }
        Err(Error::new(Kind::NotFound, format!("image \"{name}\": not found; pull it first")))
    }
    fn load(&self, stored: &image::Image) -> Result<Image> {
        let resolved = image::manifest(&self.content, NAMESPACE, &stored.target, &Platform::host())?;
        let diff_ids: Vec<_> = resolved.layers.iter().map(|l| l.diff_id.clone()).collect();
        let layers: u64 = resolved.layers.iter().map(|l| l.desc.size).sum();
        Ok(Image {
            id: resolved.id().to_string(),
            shape: resolved.shape,
            tags: vec![],
            digests: vec![],
            size: layers + resolved.config_desc.size + resolved.manifest_desc.size,
            chain_id: image::chain_ids(&diff_ids).last().map(ToString::to_string),
            config: Arc::new(resolved.config),
            pinned: pinned(&stored.labels),
        })
    }
}

fn pinned(labels: &Labels) -> Pinned {
    if labels.get(PINNED).is_some_and(|v| v == "pinned") { Pinned::Yes } else { Pinned::No }
}

fn merge(by_id: &mut BTreeMap<String, Image>, loaded: Image, name: &str) {
    let image = by_id.entry(loaded.id.clone()).or_insert_with(|| loaded.clone());
    if loaded.pinned == Pinned::Yes {
        image.pinned = Pinned::Yes;
    }
    // The name that is the ID itself is neither tag nor digest.
    if name == image.id {
        return;
    }
    let names = if name.contains('@') { &mut image.digests } else { &mut image.tags };
    names.push(name.to_string());
}
