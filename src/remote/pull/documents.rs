//! Indexes, manifest and config: fetched if they are not here, checked, stored with the labels that the collector follows.
use super::Blobs;
use super::flight::Flight;
use crate::core::content::{Digest, Expected};
use crate::core::image::{self, Children, Descriptor, Resolved, chain_ids, media};
use crate::core::lease::Resource;
use crate::error::{Error, Kind, Result};
use crate::remote::blob::{Part, Wanted, into_error};
use crate::remote::resolve::{DOCUMENT_MAX, Found};
use std::collections::BTreeMap;
use std::io::Write;

/// Indexes in indexes.
const DEPTH_MAX: usize = 4;
/// Entries of an index that get a label; the collector needs only the one that is pulled.
const INDEX_LABELS_MAX: usize = 256;

/// An image whose documents are here.
pub struct Documents {
    /// What the reference names.
    pub target: Descriptor,
    /// Manifest, config and layers for our platform.
    pub resolved: Resolved,
    /// Chain ID of each layer.
    pub chain: Vec<Digest>,
}

type Labels = BTreeMap<String, String>;

/// From the resolved reference down to the config.
pub fn fetch(flight: &Flight, found: Found) -> Result<Documents> {
    let known = |m: &str| media::is_index(m) || media::is_manifest(m) || media::is_schema1(m);
    // A generic type, as application/json, says nothing; then the document itself must.
    let announced = if known(&found.media_type) { found.media_type } else { String::new() };
    let mut target = Descriptor::new(announced, found.digest, found.size);
    let mut at = target.clone();
    let mut bytes = document(flight, &at, Part::Manifests, found.bytes)?;
    if target.media_type.is_empty() {
        target.media_type = own_type(&at, &bytes)?;
        at.media_type = target.media_type.clone();
    }
    for _ in 0..DEPTH_MAX {
        match image::children(&at, &bytes)? {
            Children::Index(manifests) => {
                let pointers = manifests.iter().take(INDEX_LABELS_MAX).enumerate();
                let labels = pointers.map(|(i, m)| (format!("containerd.io/gc.ref.content.m.{i}"), m.digest.to_string())).collect();
                let next = image::choose(&at, manifests, &flight.request.platform)?;
                store(flight, &at, "index", &bytes, labels)?;
                bytes = document(flight, &next, Part::Manifests, None)?;
                at = next;
            }
            Children::Image { config, layers } => return manifest(flight, target, at, &bytes, *config, &layers),
        }
    }
    Err(Error::invalid(format!("image index {}: indexes are nested more than {DEPTH_MAX} deep", target.digest)))
}

fn manifest(
    flight: &Flight,
    target: Descriptor,
    at: Descriptor,
    bytes: &[u8],
    config: Descriptor,
    layers: &[Descriptor],
) -> Result<Documents> {
    if !image::is_artifact(&config) {
        // What can never be unpacked is refused before a byte of it is fetched.
        layers.iter().try_for_each(|layer| flight.shared.parts.processors.check(&layer.media_type))?;
    }
    let mut labels = Labels::from([("containerd.io/gc.ref.content.config".to_string(), config.digest.to_string())]);
    let kept = if flight.shared.limits.blobs == Blobs::Keep { layers } else { &[] };
    labels.extend(kept.iter().enumerate().map(|(i, l)| (format!("containerd.io/gc.ref.content.l.{i}"), l.digest.to_string())));
    store(flight, &at, "manifest", bytes, labels)?;
    let config_bytes = document(flight, &config, Part::Blobs, None)?;
    store(flight, &config, "config", &config_bytes, Labels::new())?;
    let content = &flight.shared.parts.content;
    let resolved = image::manifest(content, flight.ns(), &at, &flight.request.platform)?;
    let diff_ids: Vec<Digest> = resolved.layers.iter().map(|l| l.diff_id.clone()).collect();
    let chain = chain_ids(&diff_ids);
    if let Some(top) = chain.last() {
        let key = format!("containerd.io/gc.ref.snapshot.{}", flight.request.snapshotter);
        set_labels(flight, resolved.id(), Labels::from([(key, top.to_string())]))?;
    }
    Ok(Documents { target, resolved, chain })
}

/// The document's bytes: those at hand, the store's, or the registry's.
fn document(flight: &Flight, desc: &Descriptor, kind: Part, at_hand: Option<Vec<u8>>) -> Result<Vec<u8>> {
    flight.keep([Resource::Content(desc.digest.clone())])?;
    let content = &flight.shared.parts.content;
    if content.info(flight.ns(), &desc.digest).is_ok() {
        match content.read(flight.ns(), &desc.digest, DOCUMENT_MAX) {
            Ok(bytes) => return Ok(bytes),
            // Its file was lost or damaged: fetched again, and stored over it.
            Err(e) => log::warn!("image {}: {}", flight.session.reference(), e.chain()),
        }
    }
    if let Some(bytes) = at_hand {
        return Ok(bytes);
    }
    flight.session.document(&Wanted {
        kind,
        digest: desc.digest.clone(),
        size: desc.size,
        media_type: desc.media_type.clone(),
        urls: vec![],
    })
}

/// Stores a document that was checked.
fn store(flight: &Flight, desc: &Descriptor, kind: &str, bytes: &[u8], mut labels: Labels) -> Result<()> {
    let reference = flight.session.reference();
    labels.insert(format!("containerd.io/distribution.source.{}", reference.host), reference.repository.clone());
    let _claim = flight.shared.claims.take(&format!("{}/{}", flight.ns(), desc.digest), &flight.session)?;
    let expected = Expected { digest: Some(desc.digest.clone()), size: Some(bytes.len() as u64) };
    match flight.shared.parts.content.writer(flight.ns(), &format!("{kind}-{}", desc.digest), expected) {
        Ok(mut ingest) => {
            ingest.truncate(0)?;
            ingest.write_all(bytes).map_err(into_error)?;
            ingest.commit(labels).map(|_| ())
        }
        Err(e) if e.kind() == Kind::AlreadyExists => set_labels(flight, &desc.digest, labels),
        Err(e) => Err(e),
    }
}

/// Adds labels, without a wait for the disk if they are all there.
pub fn set_labels(flight: &Flight, digest: &Digest, labels: Labels) -> Result<()> {
    let content = &flight.shared.parts.content;
    let known = content.info(flight.ns(), digest)?.labels;
    if labels.iter().all(|(k, v)| known.get(k) == Some(v)) {
        return Ok(());
    }
    content.set_labels(flight.ns(), digest, labels).map(|_| ())
}

/// The media type that a document gives itself, or that its fields show.
fn own_type(desc: &Descriptor, bytes: &[u8]) -> Result<String> {
    #[derive(serde::Deserialize)]
    struct Head {
        #[serde(rename = "mediaType", default)]
        media_type: String,
    }
    let children = image::children(desc, bytes)?;
    let head: Option<Head> = serde_json::from_slice(bytes).ok();
    let said = head.map(|h| h.media_type).filter(|m| !m.is_empty());
    Ok(said.unwrap_or_else(|| match children {
        Children::Index(_) => media::OCI_INDEX.to_string(),
        Children::Image { .. } => media::OCI_MANIFEST.to_string(),
    }))
}
