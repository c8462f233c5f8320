//! Metadata: one ACID store for every record of the daemon. A write is durable when it returns, or has not happened.
//!
//! Records are JSON under the key (namespace, id), a table a type. Readers see one state of all tables and never wait for a
//! writer; writers wait for each other, so [`Db::write`] must not be called from within a `write`.
mod gate;
pub mod labels;
mod objects;
pub mod time;
mod transaction;

pub use gate::Gate;
pub use labels::Labels;
pub use objects::{Object, Objects};
pub use transaction::{Reader, Scan, Writer};

use crate::error::{Context, Error, Kind, Result};
use crate::thread::lock;
use log::warn;
use redb::{Database, Durability, ReadableDatabase};
use serde::{Serialize, de::DeserializeOwned};
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

/// Page cache; the records of a busy node fit, and an idle daemon stays small.
const CACHE: usize = 1 << 20;
/// The store's file inside its directory.
const FILE: &str = "meta.redb";

/// A type of record: what it is stored as, and where.
pub trait Record: Serialize + DeserializeOwned {
    /// Name of the table; part of the on-disk format.
    const TABLE: &'static str;
}

/// The metadata store.
pub struct Db {
    path: PathBuf,
    slot: Mutex<Slot>,
    gate: Gate,
}

/// redb refuses all work after an I/O error (as a full disk) until its file is opened anew, so the handle can be replaced.
enum Slot {
    Open(Arc<Database>),
    /// Waits until the transactions on the failed handle have ended; then the next caller opens the file again.
    Failed(Weak<Database>),
}

impl Db {
    /// Opens or creates `meta.redb` in `dir`, which is made with mode 0700. A file that is damaged is an error that says so.
    pub fn open(dir: &Path) -> Result<Db> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).during(|| format!("create {}", dir.display()))?;
        let path = dir.join(FILE);
        let slot = Mutex::new(Slot::Open(Arc::new(open_file(&path)?)));
        Ok(Db { path, slot, gate: Gate::default() })
    }
    /// Keeps the collector away while something is created and then referenced.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }
    /// Runs `f` on one state of the store.
    pub fn read<T>(&self, f: impl FnOnce(&Reader) -> Result<T>) -> Result<T> {
        let db = self.handle()?;
        // `reader` is declared after `db` and so dropped before it: a handle without owners has no transaction.
        let reader = Reader::new(self.watch(&db, db.begin_read())?);
        f(&reader).inspect_err(|_| self.retire_if_failed(&db))
    }
    /// Runs `f` as one transaction: durable if it returns `Ok`, without effect if it returns `Err`.
    pub fn write<T>(&self, f: impl FnOnce(&Writer) -> Result<T>) -> Result<T> {
        let db = self.handle()?;
        let mut transaction = self.watch(&db, db.begin_write())?;
        transaction.set_durability(Durability::Immediate).map_err(|e| fault("start a durable write", e))?;
        let writer = Writer::new(transaction);
        let outcome = f(&writer);
        match (outcome, writer.into_changed()) {
            (Ok(value), Some(transaction)) => {
                self.watch(&db, transaction.commit())?;
                Ok(value)
            }
            // Nothing was changed: no reason to wake the disk. The transaction is dropped, which rolls back.
            (Ok(value), None) => Ok(value),
            (Err(e), changed) => {
                drop(changed);
                self.retire_if_failed(&db);
                Err(e)
            }
        }
    }
    fn handle(&self) -> Result<Arc<Database>> {
        let mut slot = lock(&self.slot);
        match &*slot {
            Slot::Open(db) => Ok(db.clone()),
            Slot::Failed(old) if old.strong_count() > 0 => {
                Err(Error::new(Kind::Unavailable, format!("{}: is opened again after an I/O error; try again", self.path.display())))
            }
            Slot::Failed(_) => {
                // Under the lock, against the rule: two openers of one file would refuse each other.
                let db = Arc::new(open_file(&self.path)?);
                warn!("metadata {}: opened again after an I/O error", self.path.display());
                *slot = Slot::Open(db.clone());
                Ok(db)
            }
        }
    }
    fn watch<T>(&self, db: &Arc<Database>, result: std::result::Result<T, impl Into<redb::Error>>) -> Result<T> {
        result.map_err(|e| {
            self.retire_if_failed(db);
            fault(format!("use {}", self.path.display()), e)
        })
    }
    /// After an I/O error a handle refuses even to begin a write; then it is put away.
    fn retire_if_failed(&self, db: &Arc<Database>) {
        let failed = match db.begin_read() {
            Ok(_) => false,
            Err(e) => matches!(redb::Error::from(e), redb::Error::Io(_) | redb::Error::PreviousIo),
        };
        let mut slot = lock(&self.slot);
        if failed && matches!(&*slot, Slot::Open(current) if Arc::ptr_eq(current, db)) {
            *slot = Slot::Failed(Arc::downgrade(db));
        }
    }
}

fn open_file(path: &Path) -> Result<Database> {
    // redb would create the file readable for all.
    fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path).during(|| format!("open {}", path.display()))?;
    let mut builder = Database::builder();
    // The check reads the whole file: megabytes at most, and a damaged page is an error now instead of a panic later.
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
    builder.create(path).map_err(|e| match e {
        redb::DatabaseError::DatabaseAlreadyOpen => Error::new(
            Kind::FailedPrecondition,
            format!("{}: is in use by another process; stop the other daemon or choose another root", path.display()),
        ),
        e => {
            let damaged = matches!(&e, redb::DatabaseError::Storage(redb::StorageError::Corrupted(_)))
                || matches!(&e, redb::DatabaseError::Storage(redb::StorageError::Io(io)) if io.kind() == std::io::ErrorKind::InvalidData);
            let error = fault(format!("open {}", path.display()), e);
            if damaged { error.with_kind(Kind::DataLoss) } else { error }
        }
    })
}

/// Wraps redb's errors; a full disk keeps its own kind.
fn fault(what: impl Into<std::borrow::Cow<'static, str>>, error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Io(e) => match Err::<(), _>(e).during(|| what) {
            Err(e) => e,
            Ok(()) => Error::internal("unreachable"),
        },
        redb::Error::PreviousIo => Error::new(Kind::Unavailable, what).because(redb::Error::PreviousIo),
        e => Error::internal(what).because(e),
    }
}

#[cfg(test)]
pub(crate) mod scratch;
#[cfg(test)]
mod tests;
