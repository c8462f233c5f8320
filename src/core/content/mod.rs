//! Content: blobs by digest. What is listed is whole, verified and on the disk; each namespace sees only what was registered
//! in it, while the bytes are kept once.
//!
//! `blobs/<algorithm>/<hex>` are the bytes, `ingest/<hash of namespace and reference>/` is what is being written. A namespace
//! that asks for a blob whose bytes are here for another one gets it without a transfer: whoever knows a digest may have it.
//! Deleting removes the record; the collector removes bytes that no namespace has.
mod digest;
mod ingest;
mod remains;
#[cfg(test)]
mod tests;

pub use digest::{Algorithm, Digest, Hasher};
pub use ingest::{Expected, Ingest, IngestStatus};

use crate::core::metadata::{Db, Labels, Reader, Record, labels, time};
use crate::error::{Context, Error, Kind, Result};
use crate::thread::lock;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File};
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// The content store; clones share it.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

/// What the store and its open ingests share.
struct Shared {
    root: PathBuf,
    db: Arc<Db>,
    /// Ingest directories that are being written: one writer a reference.
    open: Mutex<BTreeSet<PathBuf>>,
}

/// A blob as a namespace sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Info {
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Labels, those of the garbage collector among them.
    pub labels: Labels,
    /// When it was registered in the namespace.
    pub created_at: SystemTime,
    /// When its labels changed last.
    pub updated_at: SystemTime,
}

/// That a namespace has a blob; the key is the digest.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Blob {
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) labels: Labels,
    #[serde(with = "time")]
    created_at: SystemTime,
    #[serde(with = "time")]
    updated_at: SystemTime,
}

impl Record for Blob {
    const TABLE: &'static str = "content";
}

impl Blob {
    fn new(size: u64, labels: Labels) -> Blob {
        let now = SystemTime::now();
        Blob { size, labels, created_at: now, updated_at: now }
    }
    fn info(self, digest: Digest) -> Info {
        Info { digest, size: self.size, labels: self.labels, created_at: self.created_at, updated_at: self.updated_at }
    }
}

impl Store {
    /// Opens or creates the store in its own directory `root`.
    pub fn open(root: &Path, db: Arc<Db>) -> Result<Store> {
        let shared = Shared { root: root.to_owned(), db, open: Mutex::default() };
        for algorithm in Algorithm::ALL {
            make_dir(&shared.blobs(algorithm))?;
        }
        make_dir(&shared.ingests())?;
        let store = Store { shared: Arc::new(shared) };
        store.trash()?.empty();
        Ok(store)
    }
    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.shared.root
    }
    /// Bytes and number of all blobs, of every namespace.
    pub fn usage(&self) -> Result<(u64, u64)> {
        let all: BTreeMap<String, u64> = self.shared.db.read(|r| r.scan::<Blob>())?.good.into_iter().map(|(_, d, b)| (d, b.size)).collect();
        Ok((all.values().sum(), all.len() as u64))
    }
    /// Starts or resumes the ingest `reference`; what is there already is `Ingest::offset` bytes. `Unavailable` if another
    /// writer has the reference, `AlreadyExists` if the namespace has the expected digest, also when that came true by this
    /// call because the bytes were here for another namespace.
    pub fn writer(&self, ns: &str, reference: &str, expected: Expected) -> Result<Ingest> {
        if let Some(digest) = &expected.digest
            && self.adopt(ns, digest, expected.size)?
        {
            return Err(Error::already_exists("content", digest));
        }
        Ingest::open(self.shared.clone(), ns, reference, expected)
    }
    /// A blob's record.
    pub fn info(&self, ns: &str, digest: &Digest) -> Result<Info> {
        Ok(self.shared.db.read(|r| blob(r, ns, digest))?.info(digest.clone()))
    }
    /// Opens a blob for reading.
    pub fn open_blob(&self, ns: &str, digest: &Digest) -> Result<File> {
        let size = self.info(ns, digest)?.size;
        let lost = |what: String| Error::new(Kind::DataLoss, format!("content \"{digest}\": {what}; pull the image again"));
        let file = File::open(self.shared.blob(digest)).map_err(|e| lost("its file cannot be opened".into()).because(e))?;
        let found = file.metadata().during(|| format!("stat content {digest}"))?.len();
        if found == size { Ok(file) } else { Err(lost(format!("its file has {found} of {size} bytes"))) }
    }
    /// A small blob as a whole, verified. More than `limit` bytes are `ResourceExhausted`, other bytes than were stored `DataLoss`.
    pub fn read(&self, ns: &str, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let size = self.info(ns, digest)?.size;
        if size > limit {
            let what = format!("content \"{digest}\": has {size} bytes, more than the {limit} that are read at once");
            return Err(Error::new(Kind::ResourceExhausted, what));
        }
        let mut bytes = Vec::with_capacity(size as usize);
        self.open_blob(ns, digest)?.take(limit).read_to_end(&mut bytes).during(|| format!("read content {digest}"))?;
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        let found = hasher.finish();
        if found != *digest {
            // Out of the way, so that the next pull fetches it instead of finding it.
            let _ = std::fs::remove_file(self.shared.blob(digest));
            let what = format!("content \"{digest}\": its file now has the digest {found}; pull the image again");
            return Err(Error::new(Kind::DataLoss, what));
        }
        Ok(bytes)
    }
    /// Merges labels; an empty value deletes one.
    pub fn set_labels(&self, ns: &str, digest: &Digest, changes: Labels) -> Result<Info> {
        labels::check(&changes)?;
        let changed = self.shared.db.gate().hold(|| {
            self.shared.db.write(|w| {
                let mut blob = w.get::<Blob>(ns, digest.as_str())?.ok_or_else(|| Error::not_found("content", digest))?;
                labels::merge(&mut blob.labels, changes);
                blob.updated_at = SystemTime::now();
                w.put(ns, digest.as_str(), &blob)?;
                Ok(blob)
            })
        })?;
        Ok(changed.info(digest.clone()))
    }
    /// Takes a blob away from a namespace. Its bytes go with the next collection, if no other namespace has it.
    pub fn delete(&self, ns: &str, digest: &Digest) -> Result<()> {
        let was_there = self.shared.db.write(|w| w.remove::<Blob>(ns, digest.as_str()))?;
        if was_there { Ok(()) } else { Err(Error::not_found("content", digest)) }
    }
    /// The blobs of a namespace.
    pub fn list(&self, ns: &str) -> Result<Vec<Info>> {
        let records = self.shared.db.read(|r| r.list::<Blob>(ns))?;
        // A key that is no digest was not written by us.
        Ok(records.into_iter().filter_map(|(key, blob)| Some(blob.info(Digest::parse(&key).ok()?))).collect())
    }
    /// Registers a blob whose bytes are here; whether the namespace has it now. Bytes without any record (a crash came between
    /// the rename and the record) are as good: they were verified and on the disk before they got their name.
    fn adopt(&self, ns: &str, digest: &Digest, size: Option<u64>) -> Result<bool> {
        self.shared.db.gate().hold(|| {
            let Some(found) = self.shared.size_on_disk(digest)? else { return Ok(false) };
            if let Some(size) = size.filter(|size| *size != found) {
                return Err(Error::precondition(format!("content \"{digest}\": has {found} bytes here, but {size} are expected")));
            }
            self.shared.db.write(|w| {
                match w.get::<Blob>(ns, digest.as_str())? {
                    // A file of another length than its record was cut short by a crash of the disk: fetch it again.
                    Some(blob) => Ok(blob.size == found),
                    None => {
                        w.put(ns, digest.as_str(), &Blob::new(found, Labels::new()))?;
                        Ok(true)
                    }
                }
            })
        })
    }
}

impl Shared {
    fn blobs(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("blobs").join(algorithm.name())
    }
    fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs(digest.algorithm()).join(digest.hex())
    }
    fn ingests(&self) -> PathBuf {
        self.root.join("ingest")
    }
    fn size_on_disk(&self, digest: &Digest) -> Result<Option<u64>> {
        match std::fs::metadata(self.blob(digest)) {
            Ok(found) => Ok(Some(found.len())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).during(|| format!("stat content {digest}")),
        }
    }
    fn claim(&self, dir: &Path) -> bool {
        lock(&self.open).insert(dir.to_owned())
    }
    fn release(&self, dir: &Path) {
        lock(&self.open).remove(dir);
    }
}

fn blob(r: &Reader, ns: &str, digest: &Digest) -> Result<Blob> {
    r.get(ns, digest.as_str())?.ok_or_else(|| Error::not_found("content", digest))
}

fn make_dir(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).during(|| format!("create {}", path.display()))
}
