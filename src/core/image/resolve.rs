//! From an image's descriptor to what unpacking needs: index → manifest → configuration and layers, each checked.
use super::descriptor::{Descriptor, null_is_empty};
use super::media;
use super::platform::Platform;
use crate::core::content::{Digest, Store};
use crate::error::{Context, Error, Kind, Result};
use oci_spec::image::{ImageConfiguration, ImageManifest};
use serde::Deserialize;
use std::path::{Component, PathBuf};

/// Largest manifest, index or configuration that is read (registries take manifests up to 4 MiB).
pub const MAX_DOCUMENT: u64 = 8 << 20;
/// Indexes may hold indexes; hostile ones would do so for ever.
const DEPTH: usize = 4;
/// Most layers of an image (overlayfs takes 500 lower directories, Docker 125 layers).
const MAX_LAYERS: usize = 500;

/// Names the file of an artifact's blob.
const TITLE: &str = "org.opencontainers.image.title";

/// What a manifest describes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// A container image: its layers are file systems.
    Image,
    /// An artifact: its layers are files.
    Artifact,
}

/// An image for one platform.
#[derive(Clone, PartialEq, Debug)]
pub struct Resolved {
    /// The manifest.
    pub manifest: ImageManifest,
    /// What points at it.
    pub manifest_desc: Descriptor,
    /// A container image or an artifact.
    pub shape: Shape,
    /// The configuration; an empty one for an artifact, whose own is of any type.
    pub config: ImageConfiguration,
    /// What points at it.
    pub config_desc: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
}

impl Resolved {
    /// The image's ID: the digest of its configuration. Artifacts share an empty one, theirs is the manifest's.
    pub fn id(&self) -> &Digest {
        match self.shape {
            Shape::Image => &self.config_desc.digest,
            Shape::Artifact => &self.manifest_desc.digest,
        }
    }
}

/// What the bytes of a layer are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Form {
    /// A tar of changes, packed as its media type says.
    Tar,
    /// One file, at this path below the root; without `.` and `..`.
    File(PathBuf),
}

/// A layer of an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layer {
    /// The packed bytes.
    pub desc: Descriptor,
    /// The digest of the tar in them; of a file's name and digest.
    pub diff_id: Digest,
    /// What becomes of them.
    pub form: Form,
}

/// A manifest or an index; which of the two, its fields must say as its descriptor does.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default, deserialize_with = "null_is_empty")]
    fs_layers: Vec<serde_json::Value>,
}

/// What a checked document points at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Children {
    /// Manifests by platform.
    Index(Vec<Descriptor>),
    /// One image.
    Image {
        /// The configuration.
        config: Box<Descriptor>,
        /// The layers, lowest first.
        layers: Vec<Descriptor>,
    },
}

/// Reads the manifest, for `platform`, of the image that `target` points at. `NotFound` if a part is not here or no manifest
/// fits, `InvalidArgument` if a document is not what it should be.
pub fn manifest(store: &Store, ns: &str, target: &Descriptor, platform: &Platform) -> Result<Resolved> {
    let mut desc = target.clone();
    for _ in 0..DEPTH {
        let bytes = store.read(ns, &desc.digest, MAX_DOCUMENT)?;
        match children(&desc, &bytes)? {
            Children::Index(manifests) => desc = choose(&desc, manifests, platform)?,
            Children::Image { config, layers } => {
                let config_bytes = store.read(ns, &config.digest, MAX_DOCUMENT)?;
                let resolved = resolved(desc, &bytes, (*config, &config_bytes), layers)?;
                // The index may have said for which machines it is; if not, only the configuration does.
                return if resolved.manifest_desc.platform.is_none() { fitting(resolved, platform) } else { Ok(resolved) };
            }
        }
    }
    Err(Error::invalid(format!("image index {}: indexes are nested more than {DEPTH} deep", target.digest)))
}

/// Parses and checks the document that `desc` points at. A document that could be read as an index and as a manifest
/// (CVE-2021-41190) is refused.
pub fn children(desc: &Descriptor, bytes: &[u8]) -> Result<Children> {
    let name = || format!("document {}", desc.digest);
    let invalid = |what: &str| Error::invalid(format!("{}: {what}", name()));
    let document: Document = serde_json::from_slice(bytes).map_err(|e| invalid("is no image manifest or index").because(e))?;
    if media::is_schema1(&desc.media_type) || document.schema_version == 1 || !document.fs_layers.is_empty() {
        return Err(invalid("is of Docker's schema 1, which is not supported; push the image again with a current tool"));
    }
    if let Some(inside) = document.media_type.as_deref().filter(|m| !m.is_empty() && !desc.media_type.is_empty() && *m != desc.media_type) {
        return Err(invalid(&format!("calls itself {inside}, but is announced as {}", desc.media_type)));
    }
    let kind = document.media_type.as_deref().filter(|m| !m.is_empty()).unwrap_or(&desc.media_type);
    match (document.manifests, document.config, document.layers) {
        (Some(manifests), None, None) if !media::is_manifest(kind) => Ok(Children::Index(manifests)),
        (None, Some(config), layers) if !media::is_index(kind) => {
            let layers = layers.unwrap_or_default();
            if layers.len() > MAX_LAYERS {
                return Err(invalid(&format!("has {} layers, more than {MAX_LAYERS}", layers.len())));
            }
            Ok(Children::Image { config: Box::new(config), layers })
        }
        _ => Err(invalid(&format!("has not the fields of {}", if kind.is_empty() { "a manifest or an index" } else { kind }))),
    }
}

/// The manifest of an index that fits `platform` best; the first of equals.
pub fn choose(index: &Descriptor, manifests: Vec<Descriptor>, platform: &Platform) -> Result<Descriptor> {
    let mut best: Option<(Option<super::Fit>, &Descriptor)> = None;
    for candidate in &manifests {
        if !candidate.media_type.is_empty() && !media::is_manifest(&candidate.media_type) && !media::is_index(&candidate.media_type) {
            continue;
        }
        // Without a platform it may be for us, and is taken when nothing says that it is.
        let fit = match &candidate.platform {
            None => None,
            Some(theirs) => match platform.fit(theirs) {
                None => continue,
                fit => fit,
            },
        };
        if best.is_none_or(|(so_far, _)| fit > so_far) {
            best = Some((fit, candidate));
        }
    }
    if let Some((_, found)) = best {
        return Ok(found.clone());
    }
    let offered: Vec<_> = manifests.iter().filter_map(|m| m.platform.as_ref()).map(Platform::to_string).collect();
    let offered = if offered.is_empty() { "none".into() } else { offered.join(", ") };
    Err(Error::new(Kind::NotFound, format!("image index {}: has no manifest for {platform}; it has: {offered}", index.digest)))
}

/// Parses a manifest and its configuration, which must agree on the layers.
fn resolved(manifest_desc: Descriptor, manifest: &[u8], config: (Descriptor, &[u8]), layers: Vec<Descriptor>) -> Result<Resolved> {
    let (config_desc, config_bytes) = config;
    let invalid = |what: String| Error::invalid(format!("image manifest {}: {what}", manifest_desc.digest));
    let manifest = parse_manifest(manifest).map_err(|e| invalid("cannot be read".into()).because(e))?;
    if is_artifact(&config_desc) {
        let layers = files(&layers).during(|| format!("image manifest {}", manifest_desc.digest))?;
        return Ok(Resolved {
            manifest,
            manifest_desc,
            shape: Shape::Artifact,
            config: ImageConfiguration::default(),
            config_desc,
            layers,
        });
    }
    let config: ImageConfiguration = serde_json::from_slice(config_bytes)
        .map_err(|e| invalid(format!("its configuration {} cannot be read", config_desc.digest)).because(e))?;
    let ids = config.rootfs().diff_ids();
    if ids.len() != layers.len() {
        return Err(invalid(format!("has {} layers, but its configuration {} diff IDs", layers.len(), ids.len())));
    }
    let layers = layers.into_iter().zip(ids).map(|(desc, id)| Ok(Layer { desc, diff_id: Digest::parse(id)?, form: Form::Tar }));
    let layers = layers.collect::<Result<_>>();
    let layers = layers.during(|| format!("image configuration {}: a diff ID", config_desc.digest))?;
    Ok(Resolved { manifest, manifest_desc, shape: Shape::Image, config, config_desc, layers })
}

/// Whether a manifest with this configuration is an artifact's. Old pushes of images have application/octet-stream.
pub fn is_artifact(config: &Descriptor) -> bool {
    !matches!(config.media_type.as_str(), "" | "application/octet-stream") && !media::is_config(&config.media_type)
}

/// The blobs of an artifact as files, named by their titles, else by their digests.
fn files(layers: &[Descriptor]) -> Result<Vec<Layer>> {
    let mut files: Vec<Layer> = vec![];
    for desc in layers {
        let path = file_path(desc)?;
        if files.iter().any(|f| matches!(&f.form, Form::File(taken) if taken.starts_with(&path) || path.starts_with(taken))) {
            return Err(Error::invalid(format!("two blobs of the artifact are for the file {}", path.display())));
        }
        let diff_id = Digest::of(format!("artifact file {} {}", path.display(), desc.digest));
        files.push(Layer { desc: desc.clone(), diff_id, form: Form::File(path) });
    }
    Ok(files)
}

fn file_path(desc: &Descriptor) -> Result<PathBuf> {
    let Some(title) = desc.annotations.get(TITLE).filter(|t| !t.is_empty()) else { return Ok(desc.digest.hex().into()) };
    let path: PathBuf = PathBuf::from(title).components().filter(|c| *c != Component::CurDir).collect();
    let plain = path.components().all(|c| matches!(c, Component::Normal(name) if name.len() <= 255));
    if !plain || path.as_os_str().is_empty() || title.len() > 4000 || title.chars().any(char::is_control) {
        return Err(Error::invalid(format!("blob {}: its {TITLE} {title:?} is no safe name for a file", desc.digest)));
    }
    Ok(path)
}

/// Parses a manifest; `"layers": null` is Go's way to say that there are none.
fn parse_manifest(bytes: &[u8]) -> std::result::Result<ImageManifest, serde_json::Error> {
    let mut json: serde_json::Value = serde_json::from_slice(bytes)?;
    if let Some(fields) = json.as_object_mut()
        && fields.get("layers").is_none_or(serde_json::Value::is_null)
    {
        fields.insert("layers".into(), serde_json::Value::Array(vec![]));
    }
    serde_json::from_value(json)
}

fn fitting(image: Resolved, platform: &Platform) -> Result<Resolved> {
    if image.shape == Shape::Artifact {
        return Ok(image);
    }
    let config = &image.config;
    let theirs = Platform::new(&config.os().to_string(), &config.architecture().to_string(), config.variant().as_deref().unwrap_or(""));
    // Hand-made images often do not say; then the user is right.
    if theirs.os.is_empty() || theirs.architecture.is_empty() || platform.matches(&theirs) {
        return Ok(image);
    }
    Err(Error::new(Kind::NotFound, format!("image manifest {}: is for {theirs}, not for {platform}", image.manifest_desc.digest)))
}

/// The chain IDs of layers from their diff IDs: a layer's name together with all below it.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => diff_id.clone(),
            Some(below) => Digest::of(format!("{below} {diff_id}")),
        });
    }
    chain
}
