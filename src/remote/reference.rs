//! Image references: what a user writes becomes host, repository, tag and digest, by the rules of distribution's grammar.
use crate::core::content::Digest;
use crate::error::{Error, Result};
use std::fmt;

/// The host that short names belong to.
const DEFAULT_HOST: &str = "docker.io";
/// Longest name that the grammar allows, host included.
const NAME_MAX: usize = 255;
/// Longest tag that the grammar allows.
const TAG_MAX: usize = 128;

/// A normalised reference; it has a tag, a digest, or both.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Reference {
    /// `docker.io`, `registry.example:5000`: the registry's name, not the host that is asked.
    pub host: String,
    /// `library/busybox`.
    pub repository: String,
    /// `latest` if neither a tag nor a digest was given.
    pub tag: Option<String>,
    /// Wins over the tag.
    pub digest: Option<Digest>,
}

impl Reference {
    /// Parses `busybox`, `host:5000/a/b:tag`, `a@sha256:…`; the error names the reference and its fault.
    pub fn parse(text: &str) -> Result<Reference> {
        let bad = |why: &str| Error::invalid(format!("image reference \"{}\": {why}", text.escape_debug()));
        if text.is_empty() {
            return Err(bad("it is empty"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest).map_err(|e| bad(&e.chain()))?)),
            None => (text, None),
        };
        // A colon after the last slash begins the tag; one before it is a port's.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|t| !is_tag(t)) {
            return Err(bad("the tag must be 1 to 128 letters, digits, '_', '.' or '-', and not begin with '.' or '-'"));
        }
        if name.len() == 64 && name.bytes().all(is_lower_hex) {
            return Err(bad("64 hexadecimal digits are an image ID, not a name"));
        }
        let (host, repository) = split_host(name);
        if !is_host(&host) {
            return Err(bad("the host is not a name, an address or host:port"));
        }
        if repository.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(bad("the repository must be lower case"));
        }
        if repository.is_empty() || !repository.split('/').all(is_component) {
            return Err(bad("the repository must be lower-case words joined by '/', '.', '_', '__' or '-'"));
        }
        if host.len() + 1 + repository.len() > NAME_MAX {
            return Err(bad("the name is longer than 255 characters"));
        }
        let tag = match (tag, &digest) {
            (None, None) => Some("latest".to_string()),
            (tag, _) => tag.map(str::to_string),
        };
        Ok(Reference { host, repository, tag, digest })
    }

    /// `host/repository`, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// What the manifest is asked for by: the digest if there is one.
    pub fn object(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_string(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The first word is a host if it looks like one; what has no host is docker.io's, and its one-word names are `library/`'s.
fn split_host(name: &str) -> (String, String) {
    let (host, path) = match name.split_once('/') {
        Some((first, path)) if first.contains(['.', ':']) || first == "localhost" || first.chars().any(|c| c.is_ascii_uppercase()) => {
            (first, path)
        }
        _ => (DEFAULT_HOST, name),
    };
    let host = if host == "index.docker.io" { DEFAULT_HOST } else { host };
    if host == DEFAULT_HOST && !path.contains('/') && !path.is_empty() {
        return (host.to_string(), format!("library/{path}"));
    }
    (host.to_string(), path.to_string())
}

fn is_lower_hex(b: u8) -> bool {
    b.is_ascii_digit() || (b'a'..=b'f').contains(&b)
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !tag.is_empty()
        && tag.len() <= TAG_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return false };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            if port.is_empty() {
                return true;
            }
            let Some(port) = port.strip_prefix(':') else { return false };
            ("v6", Some(port))
        }
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    let label =
        |l: &str| !l.is_empty() && !l.starts_with('-') && !l.ends_with('-') && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    name.split('.').all(label) && port.is_none_or(|p| p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok())
}

/// Runs of lower-case letters and digits, joined by `.`, `_`, `__` or any number of `-`.
fn is_component(part: &str) -> bool {
    let alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !part.starts_with(alnum) || !part.ends_with(alnum) {
        return false;
    }
    part.split(alnum).filter(|sep| !sep.is_empty()).all(|sep| matches!(sep, "." | "_" | "__") || sep.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn short_names_belong_to_docker_io() {
        for (given, want) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("a/b", "docker.io/a/b:latest"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a:x", "localhost:5000/a:x"),
            ("Host/a", "Host/a:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("quay.io/a/b_c/d__e-f--g.h", "quay.io/a/b_c/d__e-f--g.h:latest"),
        ] {
            assert_eq!(Reference::parse(given).unwrap().to_string(), want);
        }
    }

    #[test]
    fn a_digest_needs_no_tag_and_wins() {
        let both = Reference::parse(&format!("a:1@sha256:{HEX}")).unwrap();
        assert_eq!(both.to_string(), format!("docker.io/library/a:1@sha256:{HEX}"));
        assert_eq!(both.object(), format!("sha256:{HEX}"));
        let one = Reference::parse(&format!("a@sha256:{HEX}")).unwrap();
        assert_eq!(one.tag, None);
    }

    #[test]
    fn what_the_grammar_forbids_is_refused() {
        let long = "a".repeat(300);
        for bad in [
            "",
            ":",
            "@",
            "a:",
            "a@",
            "A/B:",
            "docker.io/",
            "a//b",
            "a/../b",
            "a/-b",
            "a___b",
            "a..b",
            "a:-x",
            "a b",
            "http://x/y",
            "a@sha256:../../x",
            "a@md5:abc",
            "host:99999/a",
            "[::g]/a",
            "x.y/UPPER",
            "a\nb",
            &long,
            HEX,
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(Reference::parse(&format!("a@sha256:{}", HEX.to_uppercase())).is_err());
    }
}
