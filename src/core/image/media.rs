//! Media types: what a descriptor's bytes are, in OCI's and in Docker's words.

/// OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI layer, uncompressed; `+gzip` and `+zstd` follow it.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Docker's index.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker's layer; it is gzip as a rule.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
const OCI_FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1";

/// How a layer is packed, as its media type says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// Whether it lists manifests by platform.
pub fn is_index(kind: &str) -> bool {
    matches!(kind, OCI_INDEX | DOCKER_INDEX)
}

/// Whether it is one image's manifest.
pub fn is_manifest(kind: &str) -> bool {
    matches!(kind, OCI_MANIFEST | DOCKER_MANIFEST)
}

/// Whether it is an image's configuration.
pub fn is_config(kind: &str) -> bool {
    matches!(kind, OCI_CONFIG | DOCKER_CONFIG)
}

/// Whether it is Docker's old signed manifest, which nobody should use any more.
pub fn is_schema1(kind: &str) -> bool {
    kind.starts_with(DOCKER_SCHEMA1)
}

/// Whether it is a filesystem layer that we can unpack.
pub fn is_layer(kind: &str) -> bool {
    compression(kind).is_some()
}

/// Whether it is a layer that registries may not hand out; its descriptor says where else it is.
pub fn is_foreign(kind: &str) -> bool {
    kind.starts_with(DOCKER_FOREIGN) || kind.starts_with(OCI_FOREIGN)
}

/// How a layer is packed; nothing if it is no layer, or one that is packed or encrypted in another way.
pub fn compression(kind: &str) -> Option<Compression> {
    // The longer names first: each is a beginning of the next.
    let packing = [OCI_LAYER, OCI_FOREIGN, DOCKER_FOREIGN, DOCKER_LAYER].iter().find_map(|base| kind.strip_prefix(base))?;
    match packing {
        "" => Some(Compression::None),
        "+gzip" | ".gzip" => Some(Compression::Gzip),
        "+zstd" | ".zstd" => Some(Compression::Zstd),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_say_how_they_are_packed() {
        for (kind, packing) in [
            (DOCKER_LAYER_GZIP, Some(Compression::Gzip)),
            (DOCKER_LAYER, Some(Compression::None)),
            ("application/vnd.docker.image.rootfs.diff.tar.zstd", Some(Compression::Zstd)),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Some(Compression::Gzip)),
            (OCI_LAYER, Some(Compression::None)),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Some(Compression::Gzip)),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Some(Compression::Zstd)),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Some(Compression::Gzip)),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", None),
            (OCI_CONFIG, None),
            ("text/html", None),
        ] {
            assert_eq!(compression(kind), packing, "{kind}");
        }
        assert!(is_foreign("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip") && !is_foreign(OCI_LAYER));
        assert!(is_schema1("application/vnd.docker.distribution.manifest.v1+prettyjws"));
    }
}
