//! Bootstrap: where a shim listens and what it speaks, in every form that shims have answered `start` with.
use crate::error::{Context, Error, Kind, Result};
use crate::proto::bootstrap::BootstrapResult;
use protobuf::Message;
use serde::{Deserialize, Serialize};

/// What a shim said of itself; kept as `bootstrap.json` in the bundle.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Version of the Task API: 2 or 3.
    pub version: u32,
    /// `unix:///path`.
    pub address: String,
    /// `ttrpc`.
    pub protocol: String,
}

impl Bootstrap {
    /// Reads the answer of `start`: JSON since containerd 1.7, binary protobuf since 2.3, before that the bare address.
    pub fn parse(answer: &[u8]) -> Result<Bootstrap> {
        let text = answer.trim_ascii();
        let parsed = if text.starts_with(b"{") {
            serde_json::from_slice(text).during(|| "decode the shim's JSON answer")?
        } else if text.starts_with(b"unix:") || text.starts_with(b"/") {
            let address = std::str::from_utf8(text).map_err(|e| Error::internal("the shim's address is not UTF-8").because(e))?;
            Bootstrap { version: 2, address: address.into(), protocol: "ttrpc".into() }
        } else {
            // Begins with the tag of `version` (0x08), never with what the others begin with.
            let result = BootstrapResult::parse_from_bytes(answer).during(|| "decode the shim's answer to start")?;
            Bootstrap { version: u32::try_from(result.version).unwrap_or(0), address: result.address, protocol: result.protocol }
        };
        parsed.checked()
    }
    fn checked(self) -> Result<Bootstrap> {
        if !matches!(self.version, 2 | 3) {
            return Err(Error::new(Kind::Unimplemented, format!("the shim speaks Task API version {}; known: 2, 3", self.version)));
        }
        if self.protocol != "ttrpc" {
            return Err(Error::new(Kind::Unimplemented, format!("the shim speaks \"{}\"; known: ttrpc", self.protocol)));
        }
        let path = self.address.strip_prefix("unix://").unwrap_or(&self.address);
        if !path.starts_with('/') {
            return Err(Error::new(Kind::Unimplemented, format!("shim address \"{}\" is no unix socket", self.address)));
        }
        Ok(self)
    }
    /// As kept in the bundle.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).during(|| "encode bootstrap.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_answer_is_read() {
        let want = |version| Bootstrap { version, address: "unix:///run/s/a".into(), protocol: "ttrpc".into() };
        assert_eq!(Bootstrap::parse(b"unix:///run/s/a\n").unwrap(), want(2));
        assert_eq!(Bootstrap::parse(br#"{"version":3,"address":"unix:///run/s/a","protocol":"ttrpc"}"#).unwrap(), want(3));
        let mut binary = BootstrapResult::new();
        (binary.version, binary.address, binary.protocol) = (3, "unix:///run/s/a".into(), "ttrpc".into());
        assert_eq!(Bootstrap::parse(&binary.write_to_bytes().unwrap()).unwrap(), want(3));
        assert_eq!(Bootstrap::parse(&want(3).to_json().unwrap()).unwrap(), want(3));
    }

    #[test]
    fn what_is_not_spoken_is_refused() {
        for bad in [&b""[..], b"error: no such file", br#"{"version":9,"address":"/a","protocol":"ttrpc"}"#, b"{\"version\":3"] {
            Bootstrap::parse(bad).unwrap_err();
        }
        let grpc = Bootstrap::parse(br#"{"version":3,"address":"unix:///a","protocol":"grpc"}"#).unwrap_err();
        assert_eq!(grpc.kind(), Kind::Unimplemented);
    }
}
