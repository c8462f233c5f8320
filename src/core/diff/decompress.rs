//! Decompression: the media type says what to expect, the first bytes decide, for registries mislabel layers.
use super::reading;
use crate::error::{Error, Result};
use flate2::bufread::MultiGzDecoder;
use std::io::{self, BufReader, Cursor, Read};

/// Largest zstd window, 128 MiB as a power of two: the largest that `zstd --long` makes and decoders take unasked.
const ZSTD_WINDOW: u32 = 27;
const INPUT: usize = 64 << 10;

/// How a layer is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// Not.
    None,
    /// gzip, of one or more members.
    Gzip,
    /// zstd, of one or more frames.
    Zstd,
}

impl Compression {
    /// What a layer's media type says, Docker's and OCI's; `InvalidArgument` if it is no layer that can be unpacked.
    pub fn of_media_type(media_type: &str) -> Result<Compression> {
        let rest = ["application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs."].iter();
        let rest = rest.filter_map(|p| media_type.strip_prefix(p)).next();
        let rest = rest.map(|r| r.trim_start_matches("nondistributable.").trim_start_matches("v1."));
        let rest = rest.map(|r| r.trim_start_matches("diff.").trim_start_matches("foreign.diff."));
        match rest {
            Some("tar") => Ok(Compression::None),
            Some("tar+gzip" | "tar.gzip") => Ok(Compression::Gzip),
            Some("tar+zstd" | "tar.zstd") => Ok(Compression::Zstd),
            _ => Err(Error::invalid(format!("media type \"{media_type}\": not a layer of tar, plain or with gzip or zstd"))),
        }
    }
    fn of_first_bytes(bytes: &[u8]) -> Option<Compression> {
        match bytes {
            [0x1f, 0x8b, 0x08, ..] => Some(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstd),
            // A skippable frame, as the zstd:chunked format begins with.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Compression::Zstd),
            _ => None,
        }
    }
}

/// The uncompressed stream of `reader`. What is cut off or followed by anything else is an error when it is read.
pub fn decompress<'a>(expected: Compression, mut reader: impl Read + Send + 'a) -> Result<Box<dyn Read + Send + 'a>> {
    let mut head = Vec::with_capacity(4);
    reader.by_ref().take(4).read_to_end(&mut head).map_err(reading)?;
    let found = Compression::of_first_bytes(&head).unwrap_or(Compression::None);
    if found != expected {
        log::debug!("layer: its media type says {expected:?}, its first bytes {found:?}; the bytes are believed");
    }
    let whole = Cursor::new(head).chain(reader);
    Ok(match found {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(MultiGzDecoder::new(BufReader::with_capacity(INPUT, whole))),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(BufReader::with_capacity(INPUT, whole)).map_err(reading)?;
            decoder.window_log_max(ZSTD_WINDOW).map_err(reading)?;
            Box::new(decoder)
        }
    })
}

/// Reads on until `buf` is full or the stream ends.
pub(super) fn read_full(reader: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buf.len() {
        match reader.read(&mut buf[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use std::io::Write;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut to = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        to.write_all(data).unwrap();
        to.finish().unwrap()
    }
    fn read(kind: Compression, data: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = vec![];
        decompress(kind, data).unwrap().read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn members_and_frames_are_one_stream_and_bytes_are_believed() {
        assert_eq!(read(Compression::Gzip, &[gzip(b"ab"), gzip(b""), gzip(b"cd")].concat()).unwrap(), b"abcd");
        let frames = [zstd::encode_all(&b"ab"[..], 1).unwrap(), zstd::encode_all(&b"cd"[..], 1).unwrap()].concat();
        assert_eq!(read(Compression::Gzip, &frames).unwrap(), b"abcd");
        let skippable = [&[0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &frames].concat();
        assert_eq!(read(Compression::Zstd, &skippable).unwrap(), b"abcd");
        for plain in [&b""[..], b"x", b"plain text"] {
            assert_eq!(read(Compression::Gzip, plain).unwrap(), plain);
        }
    }

    #[test]
    fn truncation_and_garbage_are_errors_at_every_length() {
        let noise: Vec<u8> = (0..5000u32).map(|i| (i.wrapping_mul(2654435761) >> 13) as u8).collect();
        for whole in [gzip(&noise), zstd::encode_all(&noise[..], 3).unwrap()] {
            for length in 4..whole.len() {
                assert!(read(Compression::Gzip, &whole[..length]).is_err(), "cut at {length} of {}", whole.len());
            }
            assert!(read(Compression::Gzip, &[&whole[..], b"garbage"].concat()).is_err());
            assert!(read(Compression::Gzip, &[&whole[..], &[0; 512]].concat()).is_err());
        }
    }

    #[test]
    fn a_zstd_window_above_the_limit_is_refused() {
        for (log, good) in [(27, true), (28, false)] {
            let mut to = zstd::Encoder::new(vec![], 1).unwrap();
            to.window_log(log).unwrap();
            to.include_contentsize(false).unwrap();
            to.write_all(&[7; 1000]).unwrap();
            assert_eq!(read(Compression::Zstd, &to.finish().unwrap()).is_ok(), good, "{log}");
        }
    }

    #[test]
    fn media_types() {
        use Compression::{Gzip, None, Zstd};
        for (text, want) in [
            ("application/vnd.oci.image.layer.v1.tar", None),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Gzip),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Zstd),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Gzip),
            ("application/vnd.docker.image.rootfs.diff.tar", None),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Gzip),
            ("application/vnd.docker.image.rootfs.diff.tar.zstd", Zstd),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Gzip),
        ] {
            assert_eq!(Compression::of_media_type(text).unwrap(), want, "{text}");
        }
        for bad in ["", "application/json", "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"] {
            assert_eq!(Compression::of_media_type(bad).unwrap_err().kind(), Kind::InvalidArgument);
        }
    }
}
