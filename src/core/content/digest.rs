//! Digest: the name of a blob. What parses is exactly `sha256:` and 64, or `sha512:` and 128 lower-case hex digits, and so is
//! safe as a file name.
use crate::error::{Error, Result};
use openssl::sha;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt::{self, Write as _};
use std::str::FromStr;

/// How a digest is computed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Algorithm {
    /// The usual one.
    Sha256,
    /// The other one that OCI registers.
    Sha512,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];
    /// Its name in a digest and on disk.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }
    fn digits(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

/// A checked digest.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    text: Box<str>,
}

impl Digest {
    /// Reads `sha256:…`; anything but the one exact form is `InvalidArgument`.
    pub fn parse(text: &str) -> Result<Digest> {
        let known = Algorithm::ALL.iter().find_map(|a| Some((a, text.strip_prefix(a.name())?.strip_prefix(':')?)));
        match known {
            Some((algorithm, hex)) if hex.len() == algorithm.digits() && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) => {
                Ok(Digest { text: text.into() })
            }
            _ => {
                let start: String = text.chars().take(140).collect();
                Err(Error::invalid(format!("{start:?}: no digest; it is sha256: and 64, or sha512: and 128 lower-case hex digits")))
            }
        }
    }
    /// The sha256 digest of `bytes`.
    pub fn of(bytes: impl AsRef<[u8]>) -> Digest {
        Digest::from_bytes(Algorithm::Sha256, &sha::sha256(bytes.as_ref()))
    }
    /// How it was computed.
    pub fn algorithm(&self) -> Algorithm {
        if self.text.starts_with("sha512") { Algorithm::Sha512 } else { Algorithm::Sha256 }
    }
    /// The digits after the colon.
    pub fn hex(&self) -> &str {
        &self.text["sha256:".len()..]
    }
    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
    fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut text = String::with_capacity(8 + 2 * bytes.len());
        text.push_str(algorithm.name());
        text.push(':');
        for byte in bytes {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Digest { text: text.into() }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Digest {
    type Err = Error;
    fn from_str(text: &str) -> Result<Digest> {
        Digest::parse(text)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
        Digest::parse(&String::deserialize(from)?).map_err(de::Error::custom)
    }
}

/// Computes a digest of what comes piece by piece.
#[derive(Clone)]
pub enum Hasher {
    /// sha256.
    Sha256(sha::Sha256),
    /// sha512.
    Sha512(sha::Sha512),
}

impl Hasher {
    /// Nothing hashed so far.
    pub fn new(algorithm: Algorithm) -> Hasher {
        match algorithm {
            Algorithm::Sha256 => Hasher::Sha256(sha::Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(sha::Sha512::new()),
        }
    }
    /// Hashes more.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(h) => h.update(bytes),
            Hasher::Sha512(h) => h.update(bytes),
        }
    }
    /// The digest of all of it.
    pub fn finish(self) -> Digest {
        match self {
            Hasher::Sha256(h) => Digest::from_bytes(Algorithm::Sha256, &h.finish()),
            Hasher::Sha512(h) => Digest::from_bytes(Algorithm::Sha512, &h.finish()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_and_hasher_agree_with_the_known_values() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").as_str(), empty);
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(b"ab");
        hasher.update(b"c");
        let digest = hasher.finish();
        assert!(digest.as_str().starts_with("sha512:ddaf35a193617abacc417349ae204131"), "{digest}");
        assert_eq!(digest.algorithm(), Algorithm::Sha512);
        assert_eq!(digest.hex().len(), 128);
        assert_eq!(Digest::parse(digest.as_str()).unwrap(), digest);
    }

    /// CVE-2024-3727's class: a digest of a hostile manifest must never become a path.
    #[test]
    fn only_the_exact_form_parses() {
        let good = "a".repeat(64);
        Digest::parse(&format!("sha256:{good}")).unwrap();
        for bad in [
            String::new(),
            "sha256".into(),
            "sha256:".into(),
            good.clone(),
            format!("sha256:{}", &good[1..]),
            format!("sha256:{good}a"),
            format!("sha256:{}", "A".repeat(64)),
            format!("sha256:{}g", &good[1..]),
            format!("SHA256:{good}"),
            format!("sha256-{good}"),
            format!("sha256:{good}\n"),
            format!(" sha256:{good}"),
            format!("sha512:{good}"),
            format!("sha256:{}", "a".repeat(128)),
            format!("md5:{}", "a".repeat(32)),
            format!("sha384:{}", "a".repeat(96)),
            format!("sha256:../../{}", "a".repeat(58)),
            format!("sha256:..{}", "/".repeat(62)),
            format!("sha256:{}\0", &good[1..]),
            format!("sha256:{}é", &good[2..]),
            format!("sha256+b64u:{good}"),
            format!("sha256:sha256:{}", &good[7..]),
        ] {
            assert!(Digest::parse(&bad).is_err(), "{bad:?}");
            assert!(serde_json::from_value::<Digest>(bad.clone().into()).is_err(), "{bad:?}");
        }
    }
}
