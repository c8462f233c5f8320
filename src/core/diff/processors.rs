//! Stream processors: programs of the config that turn a layer of one media type into another, as decryption does. A layer goes
//! through as many of them as it needs until it is a tar that can be unpacked.
use super::{Compression, decompress};
use crate::config::StreamProcessor;
use crate::core::image::Descriptor;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::filter;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use rustix::fs::{MemfdFlags, memfd_create};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::process::Command;

/// Programs that one layer may go through; more is a ring.
const CHAIN_MAX: usize = 8;
/// Tells the program what it gets.
const MEDIA_TYPE: &str = "STREAM_PROCESSOR_MEDIATYPE";
/// What containerd's decryption program gets as its descriptor 3: the layer's descriptor, whose annotations hold wrapped keys.
const PAYLOAD: &str = "io.containerd.ocicrypt.v1.Payload";

/// The programs, by name.
#[derive(Clone, Default)]
pub struct Processors {
    by_name: BTreeMap<String, StreamProcessor>,
    /// Whether the node has keys: without, no encrypted layer goes to a program.
    decrypts: bool,
}

/// One program on a layer's way.
struct Step<'a> {
    /// The media type that it gets.
    kind: &'a str,
    name: &'a str,
    processor: &'a StreamProcessor,
}

impl Processors {
    /// From the config's `stream_processors` and `image_decryption.key_model`.
    pub fn new(by_name: BTreeMap<String, StreamProcessor>, key_model: &str) -> Processors {
        Processors { by_name, decrypts: key_model == "node" }
    }
    /// Whether a layer of this type can be unpacked; the error names the type and the remedy.
    pub fn check(&self, media_type: &str) -> Result<()> {
        self.chain(media_type).map(drop)
    }
    /// The layer's tar, not packed any more. `cancelled` ends waits for a program.
    pub fn open<'a>(
        &self,
        layer: &Descriptor,
        packed: impl Read + Send + 'a,
        cancelled: impl Fn() -> bool + Clone + Send + 'a,
    ) -> Result<Box<dyn Read + Send + 'a>> {
        let (chain, compression) = self.chain(&layer.media_type)?;
        let mut stream: Box<dyn Read + Send + 'a> = Box::new(packed);
        for Step { kind, name, processor } in chain {
            let mut command = Command::new(&processor.path);
            command.args(&processor.args).env(MEDIA_TYPE, kind);
            command.envs(processor.env.iter().map(|pair| pair.split_once('=').unwrap_or((pair, ""))));
            let started = filter::start(&mut command, vec![payload(layer)?], stream, cancelled.clone());
            stream = Box::new(Named {
                name: name.to_string(),
                stream: started.during(|| format!("stream processor \"{name}\": start {}", processor.path))?,
            });
        }
        decompress(compression, stream)
    }
    /// The programs in their order, each with the type that it gets, and how the last one's output is packed.
    fn chain<'a>(&'a self, media_type: &'a str) -> Result<(Vec<Step<'a>>, Compression)> {
        let mut chain = vec![];
        let mut kind = media_type;
        while chain.len() < CHAIN_MAX {
            let usable = self.decrypts || !is_encrypted(kind);
            // The config's programs come before what is built in, as in containerd.
            let found = self.by_name.iter().find(|(_, p)| usable && p.accepts.iter().any(|a| a == kind));
            let Some((name, processor)) = found else {
                return match Compression::of_media_type(kind) {
                    Ok(compression) => Ok((chain, compression)),
                    Err(e) => Err(refusal(kind, usable, e)),
                };
            };
            chain.push(Step { kind, name, processor });
            // "" = the same as tar without packing.
            kind = if processor.returns.is_empty() { crate::core::image::media::OCI_LAYER } else { &processor.returns };
        }
        Err(Error::invalid(format!("media type \"{media_type}\": goes through more than {CHAIN_MAX} entries of stream_processors")))
    }
}

fn is_encrypted(kind: &str) -> bool {
    kind.ends_with("+encrypted")
}

fn refusal(kind: &str, usable: bool, error: Error) -> Error {
    if !is_encrypted(kind) {
        return error;
    }
    let why = if usable {
        "no entry of stream_processors in the config accepts it: add one whose program decrypts it"
    } else {
        "image_decryption.key_model in the config is not \"node\", so encrypted images are not decrypted here"
    };
    Error::new(Kind::Unimplemented, format!("a layer of type \"{kind}\" is encrypted, and {why}"))
}

/// A file with a protobuf `Any` around JSON, as containerd hands it over.
fn payload(layer: &Descriptor) -> Result<OwnedFd> {
    let what = || "write a stream processor's payload";
    let json = serde_json::json!({"DecryptConfig": {"Parameters": {}}, "Descriptor": layer});
    let any = Any { type_url: PAYLOAD.into(), value: json.to_string().into_bytes(), ..Any::default() };
    let bytes = any.write_to_bytes().during(what)?;
    let mut file = File::from(memfd_create("payload", MemfdFlags::CLOEXEC).during(what)?);
    file.write_all(&bytes).and_then(|()| file.rewind()).during(what)?;
    Ok(file.into())
}

/// Puts the program's name before its errors.
struct Named<R> {
    name: String,
    stream: R,
}

impl<R: Read> Read for Named<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.stream.read(into).map_err(|e| std::io::Error::other(format!("stream processor \"{}\": {e}", self.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::content::Digest;
    use crate::core::image::media::OCI_LAYER;

    fn processor(accepts: &str, returns: &str, script: &str) -> StreamProcessor {
        StreamProcessor {
            accepts: vec![accepts.into()],
            returns: returns.into(),
            path: "sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec!["KEY=k=1".into()],
        }
    }

    fn processors(all: Vec<StreamProcessor>, key_model: &str) -> Processors {
        Processors::new(all.into_iter().enumerate().map(|(i, p)| (format!("p{i}"), p)).collect(), key_model)
    }

    fn read(all: &Processors, kind: &str) -> Result<String> {
        let layer = Descriptor::new(kind, Digest::of("x"), 3);
        let mut text = String::new();
        all.open(&layer, &b"abc"[..], || false)?.read_to_string(&mut text).during(|| "read")?;
        Ok(text)
    }

    #[test]
    fn a_layer_goes_through_program_after_program() {
        let encrypted = format!("{OCI_LAYER}+encrypted");
        let all = processors(
            vec![
                processor(&encrypted, "x/half", "tr abc bcd; echo $STREAM_PROCESSOR_MEDIATYPE $KEY"),
                processor("x/half", OCI_LAYER, "tr b B"),
            ],
            "node",
        );
        assert_eq!(read(&all, &encrypted).unwrap(), format!("Bcd{} k=1\n", encrypted.replace('b', "B")));
        assert_eq!(read(&all, OCI_LAYER).unwrap(), "abc");
    }

    #[test]
    fn the_layers_descriptor_is_the_third_descriptors_content() {
        let all = processors(vec![processor("x/y", OCI_LAYER, "cat >/dev/null; cat <&3")], "node");
        let layer = Descriptor { annotations: [("wrapped".into(), "key".into())].into(), ..Descriptor::new("x/y", Digest::of("x"), 3) };
        let mut bytes = vec![];
        all.open(&layer, &b"abc"[..], || false).unwrap().read_to_end(&mut bytes).unwrap();
        let any = Any::parse_from_bytes(&bytes).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&any.value).unwrap();
        assert_eq!((any.type_url.as_str(), json["Descriptor"]["annotations"]["wrapped"].as_str()), (PAYLOAD, Some("key")));
    }

    #[test]
    fn what_cannot_be_unpacked_is_refused_with_the_reason() {
        let encrypted = format!("{OCI_LAYER}+gzip+encrypted");
        let one = |key_model| processors(vec![processor(&encrypted, &format!("{OCI_LAYER}+gzip"), "cat")], key_model);
        one("node").check(&encrypted).unwrap();
        for (all, kind, word) in [
            (one(""), encrypted.as_str(), "key_model"),
            (processors(vec![], "node"), &encrypted, "stream_processors"),
            (processors(vec![processor("x/y", "x/y", "cat")], "node"), "x/y", "more than 8"),
            (processors(vec![], "node"), "text/html", "text/html"),
        ] {
            let e = all.check(kind).unwrap_err();
            assert!(e.chain().contains(word) && e.chain().contains(kind), "{}", e.chain());
        }
    }

    #[test]
    fn a_program_that_fails_or_is_missing_is_named() {
        let failing = processors(vec![processor("x/y", OCI_LAYER, "echo no key for it >&2; exit 2")], "node");
        let error = read(&failing, "x/y").unwrap_err().chain();
        assert!(error.contains("\"p0\"") && error.contains("no key for it"), "{error}");
        let mut missing = processor("x/y", OCI_LAYER, "");
        missing.path = "/nowhere/decoder".into();
        let error = read(&processors(vec![missing], "node"), "x/y").unwrap_err().chain();
        assert!(error.contains("/nowhere/decoder"), "{error}");
    }
}
