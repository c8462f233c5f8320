//! Descriptor: what points at a blob, in the JSON form of OCI, with a checked digest.
use super::platform::Platform;
use crate::core::content::Digest;
use crate::error::{Context, Error, Result};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// A typed pointer to a blob.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the bytes are.
    #[serde(default)]
    pub media_type: String,
    /// Which bytes.
    pub digest: Digest,
    /// How many; never more is read.
    pub size: u64,
    /// Which machines it is for, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Free text.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Where else the bytes are, for layers that registries may not hand out.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
}

impl Descriptor {
    /// A descriptor without platform and annotations.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Descriptor {
        Descriptor { media_type: media_type.into(), digest, size, platform: None, annotations: BTreeMap::new(), urls: vec![] }
    }
}

impl TryFrom<&oci_spec::image::Descriptor> for Descriptor {
    type Error = Error;
    fn try_from(foreign: &oci_spec::image::Descriptor) -> Result<Descriptor> {
        let json = serde_json::to_value(foreign).during(|| "write a descriptor")?;
        serde_json::from_value(json).map_err(|e| Error::invalid("a descriptor cannot be used").because(e))
    }
}

/// Go writes an empty list or map as `null`.
pub(super) fn null_is_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> std::result::Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}
