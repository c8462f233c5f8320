//! Images made of nothing but this machine's busybox and tar entries, and pushed to a registry: as OCI or as Docker schema 2.
use super::layer::Layer;
use cradle::core::content::Digest;
use serde_json::{Value, json};
use std::io::Write;

/// How a layer travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    Plain,
    Gzip,
    Zstd,
}

/// Whose media types the documents have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Oci,
    Docker,
}

/// An image to push.
#[derive(Clone)]
pub struct Image {
    pub format: Format,
    /// The image's `config` object: Cmd, Env, User …
    pub config: Value,
    pub architecture: String,
    layers: Vec<(Vec<u8>, Compression)>,
}

/// A pushed document or blob.
#[derive(Clone, Debug)]
pub struct Pushed {
    pub digest: Digest,
    pub size: usize,
    pub media_type: String,
}

impl Image {
    /// No layers.
    pub fn empty() -> Image {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({ "Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "WorkingDir": "/" });
        Image { format: Format::Oci, config, architecture: architecture.into(), layers: vec![] }
    }
    /// One gzip layer with busybox and a minimal /etc.
    pub fn busybox() -> Image {
        Image::empty().layer(Layer::busybox(), Compression::Gzip)
    }
    /// Adds a layer on top.
    pub fn layer(mut self, layer: Layer, compression: Compression) -> Image {
        self.layers.push((layer.finish(), compression));
        self
    }
    /// Sets a key of the `config` object.
    pub fn set(mut self, key: &str, value: Value) -> Image {
        self.config[key] = value;
        self
    }
    /// Chooses the media types.
    pub fn format(mut self, format: Format) -> Image {
        self.format = format;
        self
    }
    /// Pushes blobs, config and manifest under a tag; the manifest's digest.
    pub fn push(&self, to: &Remote, tag: &str) -> Pushed {
        let layers: Vec<Value> = self.layers.iter().map(|(tar, how)| self.push_layer(to, tar, *how)).collect();
        let diff_ids: Vec<String> = self.layers.iter().map(|(tar, _)| Digest::of(tar).to_string()).collect();
        let config = json!({
            "architecture": self.architecture, "os": "linux", "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = config.to_string().into_bytes();
        let config_digest = to.blob(&config);
        let (manifest_type, config_type) = match self.format {
            Format::Oci => ("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.config.v1+json"),
            Format::Docker => ("application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.container.image.v1+json"),
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": manifest_type, "layers": layers,
            "config": { "mediaType": config_type, "digest": config_digest.to_string(), "size": config.len() },
        });
        to.manifest(tag, manifest_type, &manifest)
    }
    fn push_layer(&self, to: &Remote, tar: &[u8], how: Compression) -> Value {
        let bytes = compress(tar, how);
        let digest = to.blob(&bytes);
        let media_type = match (self.format, how) {
            (Format::Docker, Compression::Plain) => "application/vnd.docker.image.rootfs.diff.tar",
            (Format::Docker, _) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            (Format::Oci, Compression::Plain) => "application/vnd.oci.image.layer.v1.tar",
            (Format::Oci, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (Format::Oci, Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
        };
        json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() })
    }
}

/// An index of manifests by platform (`os/arch`, `os/arch/variant`), pushed under a tag.
pub fn push_index(to: &Remote, tag: &str, entries: &[(&Pushed, &str)]) -> Pushed {
    let media_type = "application/vnd.oci.image.index.v1+json";
    let manifests: Vec<Value> = entries
        .iter()
        .map(|(pushed, platform)| {
            let mut parts = platform.split('/');
            let mut of = json!({ "os": parts.next(), "architecture": parts.next() });
            if let Some(variant) = parts.next() {
                of["variant"] = variant.into();
            }
            json!({ "mediaType": pushed.media_type, "digest": pushed.digest.to_string(), "size": pushed.size, "platform": of })
        })
        .collect();
    to.manifest(tag, media_type, &json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests }))
}

fn compress(tar: &[u8], how: Compression) -> Vec<u8> {
    match how {
        Compression::Plain => tar.to_vec(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
            encoder.write_all(tar).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(tar, 1).unwrap(),
    }
}

/// A repository of a registry over plain HTTP.
#[derive(Clone)]
pub struct Remote {
    /// `http://127.0.0.1:5000/v2/<repository>`.
    base: String,
    agent: ureq::Agent,
}

impl Remote {
    /// `host` is `127.0.0.1:5000`.
    pub fn new(host: &str, repository: &str) -> Remote {
        let config = ureq::Agent::config_builder().proxy(None).http_status_as_error(false).build();
        Remote { base: format!("http://{host}/v2/{repository}"), agent: config.into() }
    }
    /// Uploads a blob in one piece.
    pub fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let begun = self.agent.post(format!("{}/blobs/uploads/", self.base)).send_empty().unwrap();
        let location = begun.headers().get("location").unwrap_or_else(|| panic!("upload to {}: {}", self.base, begun.status()));
        let location = location.to_str().unwrap();
        let glue = if location.contains('?') { '&' } else { '?' };
        let done = self.agent.put(format!("{location}{glue}digest={digest}")).send(bytes).unwrap();
        assert_eq!(done.status(), 201, "put blob {digest} to {}", self.base);
        digest
    }
    /// Uploads a document under a tag.
    pub fn manifest(&self, tag: &str, media_type: &str, document: &Value) -> Pushed {
        let bytes = document.to_string().into_bytes();
        let put = self.agent.put(format!("{}/manifests/{tag}", self.base)).content_type(media_type).send(&bytes[..]).unwrap();
        assert_eq!(put.status(), 201, "put manifest {tag} to {}", self.base);
        Pushed { digest: Digest::of(&bytes), size: bytes.len(), media_type: media_type.into() }
    }
}
