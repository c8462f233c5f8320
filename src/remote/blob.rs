//! A blob as a stream: resumed by Range where it broke, from any host that has it, and never longer than it should be.
use super::fault::{Cure, Fault};
use super::http::{self, Answer};
use super::session::{Get, Need, Session};
use crate::core::content::Digest;
use crate::error::{Error, Kind, Result};
use std::io::{self, Read};
use std::sync::Arc;
use ureq::http::Method;

/// Times that a stream may break without a byte in between.
const BREAKS_MAX: u32 = 5;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// `manifests` or `blobs`.
    pub kind: Part,
    /// Digest.
    pub digest: Digest,
    /// Size.
    pub size: u64,
    /// Media type, for a manifest's Accept.
    pub media_type: String,
    /// Addresses of the manifest's own (foreign layers).
    pub urls: Vec<String>,
}

/// The part of a registry's API that has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Manifests and indexes.
    Manifests,
    /// Configs and layers.
    Blobs,
}

/// Reads a blob from `offset` on. An error of ours travels inside the `io::Error`: [`into_error`] gets it back.
pub struct Blob {
    session: Arc<Session>,
    wanted: Wanted,
    offset: u64,
    body: Option<ureq::BodyReader<'static>>,
    /// The host that the body comes from.
    from: String,
    /// Bytes to drop: the host does not know Range and began anew.
    skip: u64,
    /// Whether the header said how much comes, so that nothing can come after it.
    framed: bool,
    breaks: u32,
}

impl Blob {
    /// Nothing is asked before the first read.
    pub fn new(session: &Arc<Session>, wanted: Wanted, offset: u64) -> Blob {
        Blob { session: session.clone(), wanted, offset, body: None, from: String::new(), skip: 0, framed: false, breaks: 0 }
    }

    fn open(&mut self) -> Result<ureq::BodyReader<'static>> {
        let session = self.session.clone();
        let mut headers = vec![("accept-encoding", "identity".to_string())];
        if self.offset > 0 {
            headers.push(("range", format!("bytes={}-", self.offset)));
        }
        let part = match self.wanted.kind {
            Part::Manifests => {
                headers.push(("accept", format!("{}, */*", self.wanted.media_type)));
                "manifests"
            }
            Part::Blobs => "blobs",
        };
        let object = format!("{part}/{}", self.wanted.digest);
        let (answer, skip) = match self.foreign(&headers)? {
            Some(found) => found,
            None => session.on_hosts(Need::Pull, |host| {
                let answer = session.get(host, &Get { method: Method::GET, object: &object, headers: headers.clone() })?;
                let skip = self.accept(&answer)?;
                Ok((answer, skip))
            })?,
        };
        self.skip = skip;
        self.framed = answer.length().is_some();
        self.from = answer.host;
        Ok(answer.body)
    }

    /// Tries the manifest's own addresses, without credentials.
    fn foreign(&self, headers: &[(&'static str, String)]) -> Result<Option<(Answer, u64)>> {
        for url in &self.wanted.urls {
            let found = http::foreign(url).map_err(|e| Fault::new(Cure::OtherHost, e)).and_then(|uri| {
                let answer = self.session.get_foreign(&uri, headers.to_vec())?;
                let skip = self.accept(&answer)?;
                Ok((answer, skip))
            });
            self.session.check()?;
            match found {
                Ok(found) => return Ok(Some(found)),
                Err(fault) if fault.cure == Cure::Nothing => return Err(fault.error),
                Err(fault) => log::info!("pull of {}: {}; the registry is asked instead", self.session.reference(), fault.error.chain()),
            }
        }
        Ok(None)
    }

    /// Checks where the answer begins and how long it is; gives what has to be skipped.
    fn accept(&self, answer: &Answer) -> Result<u64, Fault> {
        let bad =
            |why: String| Fault::new(Cure::OtherHost, Error::new(Kind::Unknown, format!("{}: {}: {why}", answer.host, self.wanted.digest)));
        let skip = match answer.status.as_u16() {
            206 => {
                let begins = answer.header("content-range").strip_prefix("bytes ").and_then(|r| r.split('-').next());
                if begins.and_then(|b| b.trim().parse().ok()) != Some(self.offset) {
                    return Err(bad(format!("asked for bytes from {}, others came", self.offset)));
                }
                0
            }
            _ => self.offset,
        };
        let due = self.wanted.size - self.offset + skip;
        match answer.length() {
            Some(length) if length != due => Err(bad(format!("{length} bytes announced where {due} are due"))),
            _ => Ok(skip),
        }
    }

    fn wrong(&self, why: &str) -> Error {
        let from = if self.from.is_empty() { String::new() } else { format!("{}: ", self.from) };
        Error::new(Kind::Unknown, format!("{from}{}: {why}", self.wanted.digest))
    }

    /// One step: bytes into `into`, or `None` when the stream broke and has to be opened again.
    fn step(&mut self, into: &mut [u8]) -> Result<Option<usize>> {
        let mut body = match self.body.take() {
            Some(body) => body,
            None => self.open()?,
        };
        let left = self.wanted.size - self.offset;
        let most = if self.skip > 0 { self.skip.min(into.len() as u64) } else { left.min(into.len() as u64) };
        match body.read(&mut into[..most as usize]) {
            Ok(0) => self.broke(self.wrong("the connection ended before the last byte")),
            Ok(n) => {
                self.body = Some(body);
                if self.skip > 0 {
                    self.skip -= n as u64;
                    return Ok(None);
                }
                self.offset += n as u64;
                // Only new bytes count as progress: a host that always breaks at the same byte must not be asked for ever.
                self.breaks = 0;
                Ok(Some(n))
            }
            Err(e) => {
                let fault = Fault::of_body(&self.from, e);
                if fault.cure == Cure::Nothing { Err(fault.error) } else { self.broke(fault.error) }
            }
        }
    }

    fn broke(&mut self, error: Error) -> Result<Option<usize>> {
        self.session.check()?;
        self.breaks += 1;
        if self.breaks >= BREAKS_MAX {
            return Err(Error::new(error.kind(), format!("{}: gave up after {BREAKS_MAX} attempts", self.wanted.digest)).because(error));
        }
        log::debug!("pull of {}: resumed at byte {}: {}", self.session.reference(), self.offset, error.chain());
        Ok(None)
    }

    /// After the last byte: a stream that goes on is not the blob.
    fn finish(&mut self) -> Result<()> {
        if self.wanted.size == 0 && self.body.is_none() {
            return Ok(());
        }
        let Some(mut body) = self.body.take() else { return Ok(()) };
        if !self.framed && matches!(body.read(&mut [0]), Ok(1..)) {
            return Err(self.wrong(&format!("more than the {} bytes that the manifest says", self.wanted.size)));
        }
        Ok(())
    }
}

impl Read for Blob {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        while self.offset < self.wanted.size {
            self.session.check().map_err(io::Error::other)?;
            if let Some(n) = self.step(into).map_err(io::Error::other)? {
                return Ok(n);
            }
        }
        self.finish().map_err(io::Error::other)?;
        Ok(0)
    }
}

/// Our own error out of an `io::Error`, or one that says it in words.
pub fn into_error(error: io::Error) -> Error {
    let kind = crate::error::kind_of_io(&error);
    match error.downcast::<Error>() {
        Ok(own) => own,
        Err(error) => Error::new(kind, error.to_string()),
    }
}
