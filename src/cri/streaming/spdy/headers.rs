//! Header blocks: names and values under one zlib stream a direction, primed with a dictionary that both sides know.
//!
//! All headers that we send are none, so our direction needs no compressor, whose quarter of a megabyte each connection would
//! hold: its bytes are constants.
use crate::cri::streaming::wire::{Headers, Violation};
use flate2::{Decompress, FlushDecompress};

/// Longest block, unpacked.
const BLOCK_MAX: usize = 64 << 10;
/// Names that the dictionary begins with, each after its length in four bytes.
#[rustfmt::skip]
const NAMES: &[&str] = &[
    "options", "head", "post", "put", "delete", "trace", "accept", "accept-charset", "accept-encoding", "accept-language",
    "accept-ranges", "age", "allow", "authorization", "cache-control", "connection", "content-base", "content-encoding",
    "content-language", "content-length", "content-location", "content-md5", "content-range", "content-type", "date", "etag",
    "expect", "expires", "from", "host", "if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since",
    "last-modified", "location", "max-forwards", "pragma", "proxy-authenticate", "proxy-authorization", "range", "referer",
    "retry-after", "server", "te", "trailer", "transfer-encoding", "upgrade", "user-agent", "vary", "via", "warning",
    "www-authenticate", "method", "get", "status", "200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive",
    "origin",
];
/// What follows them, as it is.
const REST: &str = concat!(
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505",
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden",
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable",
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT",
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,public",
    "privatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.",
);

fn dictionary() -> Vec<u8> {
    let mut all = vec![];
    for name in NAMES {
        all.extend((name.len() as u32).to_be_bytes());
        all.extend(name.as_bytes());
    }
    all.extend(REST.as_bytes());
    all
}

/// Unpacks the client's blocks, in the order in which they come.
pub struct Decoder(Decompress);

impl Decoder {
    /// At the beginning of a connection.
    pub fn new() -> Decoder {
        Decoder(Decompress::new(true))
    }
    /// Names and values of one block.
    pub fn decode(&mut self, block: &[u8]) -> Result<Headers, Violation> {
        let plain = self.inflate(block)?;
        parse(&plain).ok_or_else(|| Violation("header block does not hold what it says".into()))
    }
    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>, Violation> {
        let start = self.0.total_in();
        let mut plain = Vec::with_capacity(1024);
        loop {
            let done = (self.0.total_in() - start) as usize;
            let before = (self.0.total_in(), plain.len());
            let result = self.0.decompress_vec(&block[done..], &mut plain, FlushDecompress::Sync);
            match result {
                Ok(_) => {}
                Err(e) if e.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&dictionary()).map_err(|e| Violation(format!("header block: {e}")))?;
                    continue;
                }
                Err(e) => return Err(Violation(format!("header block: {e}"))),
            }
            if plain.len() > BLOCK_MAX {
                return Err(Violation(format!("header block of more than {BLOCK_MAX} bytes")));
            }
            if plain.len() < plain.capacity() || before == (self.0.total_in(), plain.len()) {
                return Ok(plain);
            }
            plain.reserve(1024);
        }
    }
}

fn parse(mut plain: &[u8]) -> Option<Headers> {
    let mut headers = Headers::default();
    let count = number(&mut plain)?;
    for _ in 0..count {
        let name = text(&mut plain)?;
        // Several values of one name stand side by side, with a zero byte in between.
        let values = text(&mut plain)?;
        headers.0.extend(values.split('\0').map(|value| (name.clone(), value.to_owned())));
    }
    Some(headers)
}

fn number(plain: &mut &[u8]) -> Option<usize> {
    let (head, rest) = plain.split_first_chunk::<4>()?;
    *plain = rest;
    usize::try_from(u32::from_be_bytes(*head)).ok()
}

fn text(plain: &mut &[u8]) -> Option<String> {
    let len = number(plain)?;
    let (head, rest) = plain.split_at_checked(len)?;
    *plain = rest;
    String::from_utf8(head.to_vec()).ok()
}

/// Beginning of a zlib stream.
const ZLIB_HEAD: &[u8] = &[0x78, 0x01];
/// A block without headers, uncompressed, and the empty block that ends each piece.
const NONE: &[u8] = &[0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// Packs our blocks without headers.
#[derive(Default)]
pub struct Empty {
    begun: bool,
}

impl Empty {
    /// The next block.
    pub fn next(&mut self) -> Vec<u8> {
        let head = if std::mem::replace(&mut self.begun, true) { &[] } else { ZLIB_HEAD };
        [head, NONE].concat()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};

    /// Packs blocks as a client does.
    pub struct Encoder(Compress);

    impl Encoder {
        pub fn new() -> Encoder {
            let mut zlib = Compress::new(Compression::best(), true);
            zlib.set_dictionary(&dictionary()).unwrap();
            Encoder(zlib)
        }
        pub fn encode(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
            let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
            for text in headers.iter().flat_map(|(n, v)| [n, v]) {
                plain.extend((text.len() as u32).to_be_bytes());
                plain.extend(text.as_bytes());
            }
            let mut block = Vec::with_capacity(plain.len() + 1024);
            self.0.compress_vec(&plain, &mut block, FlushCompress::Sync).unwrap();
            block
        }
    }

    #[test]
    fn the_dictionary_is_the_drafts() {
        let all = dictionary();
        let (mut a, mut b) = (1u32, 0u32);
        for byte in &all {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((all.len(), b << 16 | a), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn blocks_share_one_history() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        for port in ["80", "443"] {
            let headers = decoder.decode(&encoder.encode(&[("streamtype", "data"), ("port", port)])).unwrap();
            assert_eq!((headers.get("streamType"), headers.get("port"), headers.get("x")), (Some("data"), Some(port), None));
        }
        let long = "x".repeat(5000);
        assert_eq!(decoder.decode(&encoder.encode(&[("a", &long), ("b", "1\x002")])).unwrap().0.len(), 3);
        assert!(decoder.decode(b"nonsense").is_err());
    }

    #[test]
    fn a_block_that_unpacks_to_very_much_is_refused() {
        let huge = "x".repeat(10 << 20);
        let block = {
            let mut encoder = Encoder::new();
            let mut plain = 1u32.to_be_bytes().to_vec();
            plain.extend(1u32.to_be_bytes());
            plain.extend(b"a");
            plain.extend((huge.len() as u32).to_be_bytes());
            plain.extend(huge.as_bytes());
            let mut block = Vec::with_capacity(1 << 20);
            encoder.0.compress_vec(&plain, &mut block, FlushCompress::Sync).unwrap();
            block
        };
        assert!(block.len() < 64 << 10);
        assert!(Decoder::new().decode(&block).is_err());
    }

    #[test]
    fn our_blocks_are_zlib_to_others() {
        let (mut ours, mut decoder) = (Empty::default(), Decoder::new());
        for _ in 0..3 {
            assert_eq!(decoder.decode(&ours.next()).unwrap(), Headers::default());
        }
    }
}
