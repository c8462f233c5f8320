//! Remains: what nothing refers to any more. Files are put aside under the collector's gate and deleted after it.
use super::ingest::{KEPT, read_status};
use super::{Algorithm, Digest, Store, make_dir};
use crate::core::lease;
use crate::error::{Context, Result};
use log::warn;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Files that were put aside: invisible at once, deleted without anybody waiting.
pub(crate) struct Trash {
    dir: PathBuf,
}

impl Trash {
    /// Deletes what was put aside; what fails is left for the next time.
    pub(crate) fn empty(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for path in entries.flatten().map(|e| e.path()) {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            if let Err(e) = removed {
                warn!("content {}: left for the next collection: {e}", path.display());
            }
        }
    }
    fn take(&self, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or_default();
        fs::rename(path, self.dir.join(name)).during(|| format!("put {} aside", path.display()))
    }
}

impl Store {
    /// Removes what a dead daemon was writing, except the ingests that a lease names. For the start, before any writer.
    pub fn clean_stale_ingests(&self) -> Result<usize> {
        let held = lease::held_ingests(&self.shared.db)?;
        self.remove_ingests(&|ns, status| !held.contains(&(ns.to_owned(), status.reference.clone())))
    }
    /// The trash of this store.
    pub(crate) fn trash(&self) -> Result<Trash> {
        let dir = self.shared.root.join("trash");
        make_dir(&dir)?;
        Ok(Trash { dir })
    }
    /// Puts the files aside that `registered` does not know; digest and bytes of each. Only under the collector's gate.
    pub(crate) fn discard_unregistered(&self, trash: &Trash, registered: &dyn Fn(&Digest) -> bool) -> Result<Vec<(Digest, u64)>> {
        let mut discarded = vec![];
        for algorithm in Algorithm::ALL {
            let dir = self.shared.blobs(algorithm);
            for entry in fs::read_dir(&dir).during(|| format!("list {}", dir.display()))? {
                let entry = entry.during(|| format!("list {}", dir.display()))?;
                // What is not named by a digest was not put there by us.
                let Ok(digest) = Digest::parse(&format!("{}:{}", algorithm.name(), entry.file_name().to_string_lossy())) else { continue };
                if registered(&digest) {
                    continue;
                }
                let bytes = entry.metadata().map_or(0, |m| m.len());
                trash.take(&entry.path())?;
                discarded.push((digest, bytes));
            }
        }
        Ok(discarded)
    }
    /// Removes kept ingests that nobody resumed in a day, except those that a lease names.
    pub(crate) fn discard_old_ingests(&self) -> Result<usize> {
        let (now, held) = (SystemTime::now(), lease::held_ingests(&self.shared.db)?);
        self.remove_ingests(&|ns, status| {
            let old = now.duration_since(status.started_at).is_ok_and(|age| age > KEPT);
            old && !held.contains(&(ns.to_owned(), status.reference.clone()))
        })
    }
    /// Removes closed ingests that `unwanted` picks, and those whose files are torn.
    fn remove_ingests(&self, unwanted: &dyn Fn(&str, &super::IngestStatus) -> bool) -> Result<usize> {
        let mut removed = 0;
        for dir in self.shared.ingest_dirs()? {
            // Claimed first: a writer that opens it now waits for no torn state, it gets Unavailable.
            if !self.shared.claim(&dir) {
                continue;
            }
            if read_status(&dir).is_none_or(|(ns, status)| unwanted(&ns, &status)) {
                match fs::remove_dir_all(&dir) {
                    Ok(()) => removed += 1,
                    Err(e) => warn!("ingest {}: left for the next start: {e}", dir.display()),
                }
            }
            self.shared.release(&dir);
        }
        Ok(removed)
    }
}
