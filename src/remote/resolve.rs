//! From a reference to a digest, and from a digest to a document: manifests, indexes and configs, never more than 8 MiB.
use super::blob::Wanted;
use super::fault::{self, Cure, Fault};
use super::http::Answer;
use super::session::{Get, Need, Session};
use crate::core::content::{Digest, Hasher};
use crate::error::{Error, Kind, Result};
use std::io::Read;
use ureq::http::Method;

/// Largest manifest, index or config that is read.
pub const DOCUMENT_MAX: u64 = 8 << 20;

/// What a registry may send for a manifest. Schema 1 is left out, and refused where it comes unasked.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, */*";

/// A document that a registry has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its media type.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size.
    pub size: u64,
    /// Its bytes, when they had to be read to know the rest.
    pub bytes: Option<Vec<u8>>,
}

impl Session {
    /// What the reference names now. A HEAD is tried first: it is not counted by registries that limit pulls.
    pub fn resolve(&self) -> Result<Found> {
        let object = self.reference().object();
        let need = if self.reference().digest.is_some() { Need::Pull } else { Need::Resolve };
        let path = format!("manifests/{object}");
        self.on_hosts(need, |host| {
            let get = |method| Get { method, object: &path, headers: vec![("accept", ACCEPT.to_string())] };
            match self.get(host, &get(Method::HEAD)) {
                Ok(answer) => {
                    if let Some(found) = self.by_headers(&answer)? {
                        return Ok(found);
                    }
                }
                // The answer to a HEAD has no body, so the reason is asked for once more.
                Err(fault) if fault.cure != Cure::OtherHost => return Err(fault),
                Err(_) => {}
            }
            self.by_body(self.get(host, &get(Method::GET))?)
        })
    }

    fn by_headers(&self, answer: &Answer) -> Result<Option<Found>, Fault> {
        let digest = answer.header("docker-content-digest");
        let (Some(size), false) = (answer.length().filter(|s| *s > 0), digest.is_empty()) else { return Ok(None) };
        let digest = Digest::parse(digest).map_err(|_| self.bad("sends a malformed Docker-Content-Digest"))?;
        let media_type = media_type(answer);
        if media_type.is_empty() || media_type.starts_with("text/") || media_type == "application/octet-stream" {
            return Ok(None);
        }
        if self.reference().digest.as_ref().is_some_and(|want| *want != digest) {
            return Err(self.bad("answers with another digest than was asked for"));
        }
        if size > DOCUMENT_MAX {
            return Err(self.bad(&format!("the manifest has {size} bytes, more than {DOCUMENT_MAX}")));
        }
        Ok(Some(Found { media_type, digest, size, bytes: None }))
    }

    fn by_body(&self, answer: Answer) -> Result<Found, Fault> {
        let media_type = media_type(&answer);
        let mut bytes = vec![];
        let told = answer.length();
        answer.body.take(DOCUMENT_MAX + 1).read_to_end(&mut bytes).map_err(|e| Fault::of_body(&self.reference().host, e))?;
        if bytes.len() as u64 > DOCUMENT_MAX {
            return Err(self.bad(&format!("the manifest has more than {DOCUMENT_MAX} bytes")));
        }
        if told.is_some_and(|t| t != bytes.len() as u64) {
            return Err(Fault::new(Cure::Later, self.bad("the manifest was cut off").error));
        }
        if fault::is_html(&media_type, &String::from_utf8_lossy(&bytes[..bytes.len().min(64)])) {
            return Err(self.bad(&fault::reason(&media_type, &bytes, &[])));
        }
        let digest = Digest::of(&bytes);
        if let Some(want) = &self.reference().digest
            && !matches(want, &bytes)
        {
            return Err(self.bad(&format!("the manifest has digest {digest}, not {want}")));
        }
        let digest = self.reference().digest.clone().unwrap_or(digest);
        Ok(Found { media_type, digest, size: bytes.len() as u64, bytes: Some(bytes) })
    }

    /// The bytes of a manifest, index or config: as large as said, with the digest said.
    pub fn document(self: &std::sync::Arc<Self>, wanted: &Wanted) -> Result<Vec<u8>> {
        if wanted.size > DOCUMENT_MAX {
            return Err(self.bad(&format!("{}: {} bytes are more than {DOCUMENT_MAX}", wanted.digest, wanted.size)).error);
        }
        let mut bytes = Vec::with_capacity(wanted.size as usize);
        super::blob::Blob::new(self, wanted.clone(), 0).read_to_end(&mut bytes).map_err(super::blob::into_error)?;
        if !matches(&wanted.digest, &bytes) {
            return Err(self.bad(&format!("what came for {} has digest {}", wanted.digest, Digest::of(&bytes))).error);
        }
        Ok(bytes)
    }

    fn bad(&self, why: &str) -> Fault {
        Fault::new(Cure::OtherHost, Error::new(Kind::Unknown, why.to_string()))
    }
}

fn media_type(answer: &Answer) -> String {
    answer.header("content-type").split(';').next().unwrap_or_default().trim().to_string()
}

fn matches(want: &Digest, bytes: &[u8]) -> bool {
    let mut hasher = Hasher::new(want.algorithm());
    hasher.update(bytes);
    hasher.finish() == *want
}
