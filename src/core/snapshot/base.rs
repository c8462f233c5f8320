//! What snapshotters share: records, and one directory per snapshot, in an order that a crash cannot hurt.
//!
//! A directory comes before its record and goes after it, so each record has its directory, and a directory without a record is
//! rubbish. No lock is held over I/O: the metadata store's transactions decide who wins.
use super::{Info, Kind, Labels, Usage};
use crate::core::metadata::{Db, Record, Writer, labels, time};
use crate::error::{Context, Error, Result};
use crate::sys::fs::{make_dir, remove_tree};
use crate::thread::{Pool, lock};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// Directories that wait for their deletion.
const TRASH: &str = "rm-";

/// A snapshot's record, under (snapshotter, key).
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Stored {
    /// Name of its directory.
    pub(super) id: u64,
    pub(super) kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<String>,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub(super) labels: Labels,
    /// Snapshots on top of it.
    #[serde(default)]
    children: u64,
    /// As measured at commit time.
    #[serde(default)]
    usage: Usage,
    #[serde(with = "time")]
    created_at: SystemTime,
    #[serde(with = "time")]
    updated_at: SystemTime,
}

impl Record for Stored {
    const TABLE: &'static str = "snapshots";
}

impl Stored {
    pub(super) fn info(self, key: &str) -> Info {
        Info {
            kind: self.kind,
            name: key.to_string(),
            parent: self.parent,
            labels: self.labels,
            created_at: self.created_at,
            updated_at: self.updated_at,
        }
    }
    pub(super) fn active(self, key: &str) -> Result<Stored> {
        match self.kind {
            Kind::Active => Ok(self),
            kind => Err(Error::precondition(format!("snapshot \"{key}\" is {kind}, not active"))),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Active => "active",
            Kind::View => "a view",
            Kind::Committed => "committed",
        })
    }
}

/// A request for a new snapshot.
pub(super) struct New<'a> {
    pub(super) kind: Kind,
    pub(super) key: &'a str,
    pub(super) parent: Option<&'a str>,
    pub(super) labels: &'a Labels,
}

/// When a removed snapshot's directory is deleted.
pub(super) enum Removal {
    /// Before the removal returns.
    Now,
    /// Behind it.
    Later(Pool),
}

impl Drop for Removal {
    /// What is not deleted by then is so at the next start.
    fn drop(&mut self) {
        if let Removal::Later(pool) = self {
            pool.close();
        }
    }
}

/// The records and directories of one snapshotter.
pub(super) struct Base {
    pub(super) name: &'static str,
    pub(super) root: PathBuf,
    db: Arc<Db>,
    shelf: Arc<Shelf>,
    removal: Removal,
}

/// The directory of directories.
struct Shelf {
    path: PathBuf,
    next: AtomicU64,
    /// Directories that are being made or deleted: [`Base::cleanup`] keeps off.
    busy: Mutex<HashSet<String>>,
}

impl Base {
    pub(super) fn open(name: &'static str, root: &Path, db: Arc<Db>, removal: Removal) -> Result<Base> {
        let path = root.join("snapshots");
        std::fs::create_dir_all(root).during(|| format!("create {}", root.display()))?;
        // Layers hold setuid programs: no user of the node may get at them.
        for dir in [root, &path] {
            make_dir(dir, 0o700).during(|| format!("create {}", dir.display()))?;
        }
        let root = std::fs::canonicalize(root).during(|| format!("look up {}", root.display()))?;
        let path = root.join("snapshots");
        let mut used = db.read(|r| r.list::<Stored>(name))?.into_iter().map(|(_, s)| s.id).max().unwrap_or(0);
        for entry in names(&path)? {
            used = used.max(entry.trim_start_matches(TRASH).parse().unwrap_or(0));
        }
        let shelf = Arc::new(Shelf { path, next: AtomicU64::new(used + 1), busy: Mutex::default() });
        Ok(Base { name, root, db, shelf, removal })
    }

    pub(super) fn dir(&self, id: u64) -> PathBuf {
        self.shelf.path.join(id.to_string())
    }

    pub(super) fn shelf(&self) -> &Path {
        &self.shelf.path
    }

    pub(super) fn get(&self, key: &str) -> Result<Stored> {
        self.db.read(|r| r.get::<Stored>(self.name, key))?.ok_or_else(|| Error::not_found("snapshot", key))
    }

    /// IDs of a snapshot's ancestors, nearest first.
    pub(super) fn ancestors(&self, parent: Option<&str>) -> Result<Vec<u64>> {
        self.db.read(|r| {
            let mut ids = vec![];
            let mut next = parent.map(str::to_string);
            while let Some(key) = next {
                let stored = r.get::<Stored>(self.name, &key)?.ok_or_else(|| Error::not_found("snapshot", &key))?;
                ids.push(stored.id);
                next = stored.parent;
            }
            Ok(ids)
        })
    }

    /// Makes a directory, has it filled, and records it. `fill` gets the directory and the ancestors' IDs.
    pub(super) fn create(&self, new: &New<'_>, fill: impl FnOnce(&Path, &[u64]) -> Result<()>) -> Result<(Stored, Vec<u64>)> {
        if new.key.is_empty() {
            return Err(Error::invalid("a snapshot's key is empty"));
        }
        labels::check(new.labels)?;
        // Asked before the work, and decided in the transaction after it.
        if self.db.read(|r| r.get::<Stored>(self.name, new.key))?.is_some() {
            return Err(Error::already_exists("snapshot", new.key));
        }
        let ancestors = self.ancestors(new.parent)?;
        if let Some(parent) = new.parent {
            committed(parent, self.get(parent)?)?;
        }
        let id = self.shelf.next.fetch_add(1, Ordering::Relaxed);
        let _busy = self.shelf.occupy(id.to_string());
        let dir = self.dir(id);
        let done = make_dir(&dir, 0o700).during(|| format!("create {}", dir.display()));
        let done = done.and_then(|()| fill(&dir, &ancestors)).and_then(|()| self.record(new, id, ancestors.first()));
        match done {
            Ok(stored) => Ok((stored, ancestors)),
            Err(e) => Err(match remove_tree(&dir).during(|| format!("delete {}", dir.display())) {
                Ok(()) => e,
                Err(also) => e.and_also(also),
            }),
        }
    }

    fn record(&self, new: &New<'_>, id: u64, parent_id: Option<&u64>) -> Result<Stored> {
        let now = SystemTime::now();
        let stored = Stored {
            id,
            kind: new.kind,
            parent: new.parent.map(str::to_string),
            labels: new.labels.clone(),
            children: 0,
            usage: Usage::default(),
            created_at: now,
            updated_at: now,
        };
        self.db.write(|w| {
            if w.get::<Stored>(self.name, new.key)?.is_some() {
                return Err(Error::already_exists("snapshot", new.key));
            }
            if let Some(parent) = new.parent {
                let at = self.adopt(w, parent)?;
                if Some(&at) != parent_id {
                    return Err(Error::not_found("snapshot", parent));
                }
            }
            w.put(self.name, new.key, &stored)
        })?;
        Ok(stored)
    }

    /// Counts one more child of a committed snapshot, and tells its ID.
    fn adopt(&self, w: &Writer, parent: &str) -> Result<u64> {
        let stored = w.get::<Stored>(self.name, parent)?.ok_or_else(|| Error::not_found("snapshot", parent))?;
        let mut stored = committed(parent, stored)?;
        stored.children += 1;
        w.put(self.name, parent, &stored)?;
        Ok(stored.id)
    }

    /// Turns the active `key` with the directory `id` into the committed `name`; `onto` gives a parentless one its parent.
    pub(super) fn commit(&self, name: &str, (key, id): (&str, u64), onto: Option<&str>, labels: &Labels, usage: Usage) -> Result<()> {
        if name.is_empty() {
            return Err(Error::invalid("a snapshot's name is empty"));
        }
        labels::check(labels)?;
        self.db.write(|w| {
            if w.get::<Stored>(self.name, name)?.is_some() {
                return Err(Error::already_exists("snapshot", name));
            }
            let stored = w.get::<Stored>(self.name, key)?.filter(|s| s.id == id);
            let mut stored = stored.ok_or_else(|| Error::not_found("snapshot", key))?.active(key)?;
            if let Some(parent) = onto {
                self.adopt(w, parent)?;
                stored.parent = Some(parent.to_string());
            }
            stored.kind = Kind::Committed;
            // Labels of the active snapshot go with it, as in containerd.
            stored.labels = labels.clone();
            stored.usage = usage;
            stored.created_at = SystemTime::now();
            stored.updated_at = stored.created_at;
            w.remove::<Stored>(self.name, key)?;
            w.put(self.name, name, &stored)
        })
    }

    pub(super) fn list(&self) -> Result<Vec<(String, Stored)>> {
        self.db.read(|r| r.list::<Stored>(self.name))
    }

    pub(super) fn set_labels(&self, key: &str, changes: &Labels) -> Result<Stored> {
        self.db.write(|w| {
            let mut stored = w.get::<Stored>(self.name, key)?.ok_or_else(|| Error::not_found("snapshot", key))?;
            labels::merge(&mut stored.labels, changes.clone());
            labels::check(&stored.labels)?;
            stored.updated_at = SystemTime::now();
            w.put(self.name, key, &stored)?;
            Ok(stored)
        })
    }

    /// What a snapshot takes; `measure` is asked about an active one's directory.
    pub(super) fn usage(&self, key: &str, measure: impl FnOnce(&Path) -> Result<Usage>) -> Result<Usage> {
        let stored = self.get(key)?;
        if stored.kind == Kind::Active { measure(&self.dir(stored.id)) } else { Ok(stored.usage) }
    }

    /// The record goes first: from then on the snapshot is gone, whatever becomes of its directory.
    pub(super) fn remove(&self, key: &str) -> Result<()> {
        let id = self.db.write(|w| {
            let stored = w.get::<Stored>(self.name, key)?.ok_or_else(|| Error::not_found("snapshot", key))?;
            if stored.children > 0 {
                let text = format!("snapshot \"{key}\" has {} on top of it; remove them first", stored.children);
                return Err(Error::precondition(text));
            }
            w.remove::<Stored>(self.name, key)?;
            if let Some(parent) = &stored.parent
                && let Some(mut below) = w.get::<Stored>(self.name, parent)?
            {
                below.children = below.children.saturating_sub(1);
                w.put(self.name, parent, &below)?;
            }
            Ok(stored.id)
        })?;
        let Some(trash) = self.shelf.discard(&id.to_string()) else { return Ok(()) };
        match &self.removal {
            Removal::Now => self.shelf.delete(&trash),
            Removal::Later(pool) => {
                let shelf = self.shelf.clone();
                pool.run(move || shelf.delete(&trash));
            }
        }
        Ok(())
    }

    pub(super) fn cleanup(&self) -> Result<()> {
        let names = names(&self.shelf.path)?;
        // In this order: what is no longer being made when asked has got its record by then.
        let busy = lock(&self.shelf.busy).clone();
        let known: HashSet<String> = self.list()?.into_iter().map(|(_, s)| s.id.to_string()).collect();
        for name in names.into_iter().filter(|n| !busy.contains(n) && !known.contains(n)) {
            log::info!("snapshots {}: directory {name} belongs to no snapshot, deleting it", self.name);
            let trash = if name.starts_with(TRASH) { Some(name) } else { self.shelf.discard(&name) };
            if let Some(trash) = trash {
                self.shelf.delete(&trash);
            }
        }
        Ok(())
    }
}

fn committed(key: &str, stored: Stored) -> Result<Stored> {
    match stored.kind {
        Kind::Committed => Ok(stored),
        kind => Err(Error::precondition(format!("parent snapshot \"{key}\" is {kind}, not committed"))),
    }
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(dir).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let entries = entries.during(|| format!("read {}", dir.display()))?;
    Ok(entries.into_iter().filter_map(|e| e.file_name().into_string().ok()).collect())
}

/// A directory that is being worked on, until dropped.
struct Busy<'a> {
    shelf: &'a Shelf,
    name: String,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        lock(&self.shelf.busy).remove(&self.name);
    }
}

impl Shelf {
    fn occupy(&self, name: String) -> Busy<'_> {
        lock(&self.busy).insert(name.clone());
        Busy { shelf: self, name }
    }
    /// Renames a directory, so that it is rubbish by its name; a fault is logged and left for the next cleanup.
    fn discard(&self, name: &str) -> Option<String> {
        let trash = format!("{TRASH}{name}");
        match std::fs::rename(self.path.join(name), self.path.join(&trash)) {
            Ok(()) => Some(trash),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => {
                log::warn!("directory {}: cannot be renamed, left for the next start: {e}", self.path.join(name).display());
                None
            }
        }
    }
    fn delete(&self, trash: &str) {
        let _busy = self.occupy(trash.to_string());
        if let Err(e) = remove_tree(&self.path.join(trash)) {
            log::warn!("directory {}: cannot be deleted, left for the next start: {e}", self.path.join(trash).display());
        }
    }
}

/// Measures a directory.
pub(super) fn measure(dir: &Path) -> Result<Usage> {
    let space = crate::sys::fs::disk_usage(dir).during(|| format!("measure {}", dir.display()))?;
    Ok(Usage { bytes: space.bytes, inodes: space.inodes })
}
