//! Ingest: bytes on their way in, hashed as they are written. Committing makes them a blob; dropping removes them; keeping
//! leaves them for a later writer of the same reference.
use super::{Blob, Digest, Hasher, Shared, Store, make_dir};
use crate::core::metadata::{Labels, labels, time};
use crate::error::{Context, Error, Kind, Result};
use log::warn;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What the writer knows of the blob beforehand.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Expected {
    /// Its digest; without one it is sha256 of whatever comes.
    pub digest: Option<Digest>,
    /// Its length in bytes.
    pub size: Option<u64>,
}

/// How far an ingest is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IngestStatus {
    /// The writer's name for it.
    pub reference: String,
    /// Bytes written.
    pub offset: u64,
    /// Bytes expected, 0 if not known.
    pub total: u64,
    /// When its first writer began.
    pub started_at: SystemTime,
    /// When bytes came last.
    pub updated_at: SystemTime,
    /// The digest that was announced.
    pub expected: Option<Digest>,
}

/// An open ingest.
pub struct Ingest {
    shared: Arc<Shared>,
    ns: String,
    reference: String,
    dir: PathBuf,
    file: File,
    hasher: Hasher,
    offset: u64,
    expected: Expected,
    end: End,
}

/// What dropping does with the files.
#[derive(Clone, Copy)]
enum End {
    Remove,
    Keep,
}

impl Ingest {
    pub(super) fn open(shared: Arc<Shared>, ns: &str, reference: &str, expected: Expected) -> Result<Ingest> {
        if reference.is_empty() {
            return Err(Error::invalid("an ingest needs a reference"));
        }
        let dir = dir_of(&shared, ns, reference);
        if !shared.claim(&dir) {
            return Err(Error::new(Kind::Unavailable, format!("ingest \"{reference}\": another writer has it open; try again")));
        }
        match prepare(&dir, ns, reference, &expected) {
            Ok(file) => {
                let hasher = Hasher::new(algorithm(&expected));
                let (ns, reference) = (ns.to_owned(), reference.to_owned());
                let mut ingest = Ingest { shared, ns, reference, dir, file, hasher, offset: 0, expected, end: End::Remove };
                ingest.resume()?;
                Ok(ingest)
            }
            Err(e) => {
                shared.release(&dir);
                Err(e)
            }
        }
    }
    /// Bytes written so far, by earlier writers too.
    pub fn offset(&self) -> u64 {
        self.offset
    }
    /// Where it is.
    pub fn status(&self) -> IngestStatus {
        IngestStatus {
            reference: self.reference.clone(),
            offset: self.offset,
            total: self.expected.size.unwrap_or(0),
            started_at: read_text(&self.dir.join("startedat")).and_then(|t| time::parse(&t).ok()).unwrap_or(SystemTime::UNIX_EPOCH),
            updated_at: self.file.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH),
            expected: self.expected.digest.clone(),
        }
    }
    /// Goes back to the first `size` bytes; more than there are is `OutOfRange`.
    pub fn truncate(&mut self, size: u64) -> Result<()> {
        if size > self.offset {
            let what = format!("ingest \"{}\": cannot be cut to {size} bytes, it has {}", self.reference, self.offset);
            return Err(Error::new(Kind::OutOfRange, what));
        }
        self.file.set_len(size).during(|| format!("cut ingest {}", self.reference))?;
        self.rehash()
    }
    /// Makes it a blob of the namespace: verified, on the disk, registered with `labels`. Other bytes than expected are
    /// `FailedPrecondition`, and gone. A blob that the namespace got meanwhile from another writer is success.
    pub fn commit(self, labels: Labels) -> Result<Digest> {
        labels::check(&labels)?;
        let digest = self.verify()?;
        // The slow part comes before the gate, so that a collection never waits for a disk to write a layer.
        self.file.sync_all().during(|| format!("write ingest {} to the disk", self.reference))?;
        let blob = self.shared.blob(&digest);
        self.shared.db.gate().hold(|| {
            let moved = fs::rename(self.dir.join("data"), &blob);
            moved.during(|| format!("commit ingest {} as {digest}", self.reference))?;
            sync_dir(&self.shared.blobs(digest.algorithm()))?;
            self.register(&digest, labels)
        })?;
        Ok(digest)
    }
    /// Ends the writer and leaves what was written for another one to resume.
    pub fn keep(mut self) {
        self.end = End::Keep;
    }
    fn register(&self, digest: &Digest, labels: Labels) -> Result<()> {
        let mut blob = Blob::new(self.offset, Labels::new());
        self.shared.db.write(|w| {
            if let Some(known) = w.get::<Blob>(&self.ns, digest.as_str())? {
                blob.labels = known.labels;
                blob.created_at = known.created_at;
            }
            labels::merge(&mut blob.labels, labels);
            w.put(&self.ns, digest.as_str(), &blob)
        })
    }
    fn verify(&self) -> Result<Digest> {
        if let Some(size) = self.expected.size.filter(|size| *size != self.offset) {
            let what = format!("ingest \"{}\": {} bytes came, but {size} are expected", self.reference, self.offset);
            return Err(Error::precondition(what));
        }
        let digest = self.hasher.clone().finish();
        match &self.expected.digest {
            Some(expected) if *expected != digest => {
                let what = format!("ingest \"{}\": the digest is {digest}, but {expected} is expected", self.reference);
                Err(Error::precondition(what))
            }
            _ => Ok(digest),
        }
    }
    /// Takes up what an earlier writer left, unless it cannot be a beginning of what is expected now.
    fn resume(&mut self) -> Result<()> {
        let there = self.file.metadata().during(|| format!("stat ingest {}", self.reference))?.len();
        if self.expected.size.is_some_and(|size| there > size) {
            self.file.set_len(0).during(|| format!("restart ingest {}", self.reference))?;
        }
        self.rehash()
    }
    fn rehash(&mut self) -> Result<()> {
        self.hasher = Hasher::new(algorithm(&self.expected));
        self.offset = 0;
        let what = || format!("resume ingest {}", self.reference);
        self.file.seek(SeekFrom::Start(0)).during(what)?;
        let mut buffer = vec![0; 128 << 10];
        loop {
            let n = match self.file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e).during(what),
            };
            self.hasher.update(&buffer[..n]);
            self.offset += n as u64;
        }
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(size) = self.expected.size.filter(|size| self.offset + bytes.len() as u64 > *size) {
            // Said at once: an endless body must not fill the disk first.
            return Err(io::Error::other(Error::precondition(format!(
                "ingest \"{}\": more than the {size} bytes that are expected came",
                self.reference
            ))));
        }
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.offset += n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if let End::Remove = self.end
            && let Err(e) = fs::remove_dir_all(&self.dir)
        {
            warn!("ingest {}: left for the next start: {e}", self.reference);
        }
        self.shared.release(&self.dir);
    }
}

impl Store {
    /// The ingests of a namespace, open or kept.
    pub fn ingests(&self, ns: &str) -> Result<Vec<IngestStatus>> {
        let found = self.shared.ingest_dirs()?.into_iter().filter_map(|dir| read_status(&dir));
        Ok(found.filter(|(of, _)| of == ns).map(|(_, status)| status).collect())
    }
    /// An ingest, open or kept; `NotFound` names it.
    pub fn ingest(&self, ns: &str, reference: &str) -> Result<IngestStatus> {
        let found = read_status(&dir_of(&self.shared, ns, reference));
        found.map(|(_, status)| status).ok_or_else(|| Error::not_found("ingest", reference))
    }
    /// Removes a kept ingest; `Unavailable` while it is written.
    pub fn abort(&self, ns: &str, reference: &str) -> Result<()> {
        let dir = dir_of(&self.shared, ns, reference);
        if !self.shared.claim(&dir) {
            return Err(Error::new(Kind::Unavailable, format!("ingest \"{reference}\": a writer has it open")));
        }
        let removed = match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::not_found("ingest", reference)),
            other => other.during(|| format!("remove ingest {reference}")),
        };
        self.shared.release(&dir);
        removed
    }
}

impl Shared {
    pub(super) fn ingest_dirs(&self) -> Result<Vec<PathBuf>> {
        let what = || format!("list {}", self.ingests().display());
        let entries = fs::read_dir(self.ingests()).during(what)?;
        entries.map(|entry| entry.map(|e| e.path()).during(what)).collect()
    }
}

/// Namespaces hold no slash, so the pair is told apart.
fn name_of(ns: &str, reference: &str) -> String {
    format!("{ns}/{reference}")
}

fn dir_of(shared: &Shared, ns: &str, reference: &str) -> PathBuf {
    shared.ingests().join(Digest::of(name_of(ns, reference)).hex())
}

fn algorithm(expected: &Expected) -> super::Algorithm {
    expected.digest.as_ref().map_or(super::Algorithm::Sha256, Digest::algorithm)
}

/// Makes the directory, or takes the one that is there if it was begun for the same blob.
fn prepare(dir: &Path, ns: &str, reference: &str, expected: &Expected) -> Result<File> {
    let what = || format!("open ingest {reference}");
    let begun = read_status(dir).is_some_and(|(_, status)| status.expected == expected.digest);
    if !begun {
        match fs::remove_dir_all(dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).during(what),
            _ => {}
        }
        make_dir(dir)?;
        write_text(dir, "ref", &name_of(ns, reference))?;
        if let Some(digest) = &expected.digest {
            write_text(dir, "expected", digest.as_str())?;
        }
        write_text(dir, "startedat", &time::format(SystemTime::now()))?;
    }
    write_text(dir, "total", &expected.size.unwrap_or(0).to_string())?;
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    options.open(dir.join("data")).during(what)
}

fn write_text(dir: &Path, name: &str, text: &str) -> Result<()> {
    let path = dir.join(name);
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
    file.and_then(|mut f| f.write_all(text.as_bytes())).during(|| format!("write {}", path.display()))
}

fn read_text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// Namespace and status of an ingest directory; nothing if it is torn.
pub(super) fn read_status(dir: &Path) -> Option<(String, IngestStatus)> {
    let name = read_text(&dir.join("ref"))?;
    let (ns, reference) = name.split_once('/')?;
    let started_at = time::parse(&read_text(&dir.join("startedat"))?).ok()?;
    let expected = match read_text(&dir.join("expected")) {
        Some(text) => Some(Digest::parse(&text).ok()?),
        None => None,
    };
    let data = fs::metadata(dir.join("data")).ok();
    let status = IngestStatus {
        reference: reference.to_owned(),
        offset: data.as_ref().map_or(0, |m| m.len()),
        total: read_text(&dir.join("total")).and_then(|t| t.parse().ok()).unwrap_or(0),
        started_at,
        updated_at: data.and_then(|m| m.modified().ok()).unwrap_or(started_at),
        expected,
    };
    Some((ns.to_owned(), status))
}

/// How long a kept ingest waits for a writer before the collector takes it.
pub(super) const KEPT: Duration = Duration::from_secs(24 * 3600);

fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).during(|| format!("write {} to the disk", path.display()))
}
