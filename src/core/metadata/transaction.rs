//! What can be done inside one transaction. A record that does not parse is skipped by lists, and its name logged.
use super::{Record, fault};
use crate::error::{Context, Error, Kind, Result};
use log::error;
use redb::{ReadTransaction, ReadableTable, TableDefinition, TableError, WriteTransaction};
use std::cell::Cell;

type Key = (&'static str, &'static str);

fn table<R: Record>() -> TableDefinition<'static, Key, &'static [u8]> {
    TableDefinition::new(R::TABLE)
}

/// A look at one state of the store.
pub struct Reader {
    transaction: ReadTransaction,
}

/// A look at the store as the transaction has made it, and its changes.
pub struct Writer {
    transaction: WriteTransaction,
    changed: Cell<bool>,
}

/// All records of a type, and the keys of those that cannot be read.
pub struct Scan<R> {
    /// (namespace, key, record).
    pub good: Vec<(String, String, R)>,
    /// (namespace, key).
    pub bad: Vec<(String, String)>,
}

impl Reader {
    pub(super) fn new(transaction: ReadTransaction) -> Reader {
        Reader { transaction }
    }
    /// A record; one that does not parse is `DataLoss`.
    pub fn get<R: Record>(&self, ns: &str, key: &str) -> Result<Option<R>> {
        match present(self.transaction.open_table(table::<R>()))? {
            Some(table) => get(&table, ns, key),
            None => Ok(None),
        }
    }
    /// The records of a namespace, by key.
    pub fn list<R: Record>(&self, ns: &str) -> Result<Vec<(String, R)>> {
        match present(self.transaction.open_table(table::<R>()))? {
            Some(table) => list(&table, ns),
            None => Ok(vec![]),
        }
    }
    /// The records of all namespaces.
    pub fn list_all<R: Record>(&self) -> Result<Vec<(String, String, R)>> {
        Ok(self.scan()?.good)
    }
    /// The records of all namespaces, and which could not be read.
    pub fn scan<R: Record>(&self) -> Result<Scan<R>> {
        match present(self.transaction.open_table(table::<R>()))? {
            Some(table) => scan(&table),
            None => Ok(Scan { good: vec![], bad: vec![] }),
        }
    }
}

impl Writer {
    pub(super) fn new(transaction: WriteTransaction) -> Writer {
        Writer { transaction, changed: Cell::new(false) }
    }
    /// The transaction, if it has anything to commit.
    pub(super) fn into_changed(self) -> Option<WriteTransaction> {
        self.changed.get().then_some(self.transaction)
    }
    /// A record; one that does not parse is `DataLoss`.
    pub fn get<R: Record>(&self, ns: &str, key: &str) -> Result<Option<R>> {
        get(&self.open::<R>()?, ns, key)
    }
    /// The records of a namespace, by key.
    pub fn list<R: Record>(&self, ns: &str) -> Result<Vec<(String, R)>> {
        list(&self.open::<R>()?, ns)
    }
    /// The records of all namespaces.
    pub fn list_all<R: Record>(&self) -> Result<Vec<(String, String, R)>> {
        Ok(self.scan()?.good)
    }
    /// The records of all namespaces, and which could not be read.
    pub fn scan<R: Record>(&self) -> Result<Scan<R>> {
        scan(&self.open::<R>()?)
    }
    /// Writes a record, new or not.
    pub fn put<R: Record>(&self, ns: &str, key: &str, record: &R) -> Result<()> {
        let bytes = serde_json::to_vec(record).during(|| named::<R>("write", ns, key))?;
        self.changed.set(true);
        self.open::<R>()?.insert((ns, key), bytes.as_slice()).map_err(|e| fault(named::<R>("write", ns, key), e))?;
        Ok(())
    }
    /// Removes a record, even one that does not parse; says whether it was there.
    pub fn remove<R: Record>(&self, ns: &str, key: &str) -> Result<bool> {
        let mut table = self.open::<R>()?;
        let was_there = table.remove((ns, key)).map_err(|e| fault(named::<R>("remove", ns, key), e))?.is_some();
        self.changed.set(self.changed.get() || was_there);
        Ok(was_there)
    }
    #[cfg(test)]
    pub(crate) fn put_raw<R: Record>(&self, ns: &str, key: &str, bytes: &[u8]) {
        self.changed.set(true);
        self.open::<R>().unwrap().insert((ns, key), bytes).unwrap();
    }
    fn open<R: Record>(&self) -> Result<redb::Table<'_, Key, &'static [u8]>> {
        self.transaction.open_table(table::<R>()).map_err(|e| fault(format!("open table {}", R::TABLE), e))
    }
}

/// A table that nothing was ever written to does not exist.
fn present<T>(table: std::result::Result<T, TableError>) -> Result<Option<T>> {
    match table {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(e) => Err(fault("open a table", e)),
    }
}

fn named<R: Record>(verb: &str, ns: &str, key: &str) -> String {
    format!("{verb} record {}/{ns}/{key}", R::TABLE)
}

fn parse<R: Record>(ns: &str, key: &str, bytes: &[u8]) -> Result<R> {
    serde_json::from_slice(bytes).during(|| named::<R>("read", ns, key)).map_err(|e| e.with_kind(Kind::DataLoss))
}

fn get<R: Record>(table: &impl ReadableTable<Key, &'static [u8]>, ns: &str, key: &str) -> Result<Option<R>> {
    let found = table.get((ns, key)).map_err(|e| fault(named::<R>("read", ns, key), e))?;
    found.map(|bytes| parse(ns, key, bytes.value())).transpose()
}

fn list<R: Record>(table: &impl ReadableTable<Key, &'static [u8]>, ns: &str) -> Result<Vec<(String, R)>> {
    let mut records = vec![];
    let mut skipped = |_: &str, _: &str| ();
    each(table, Some(ns), &mut |_, key, record| records.push((key.to_owned(), record)), &mut skipped)?;
    Ok(records)
}

fn scan<R: Record>(table: &impl ReadableTable<Key, &'static [u8]>) -> Result<Scan<R>> {
    let (mut good, mut bad) = (vec![], vec![]);
    each(table, None, &mut |ns, key, record| good.push((ns.to_owned(), key.to_owned(), record)), &mut |ns, key| {
        bad.push((ns.to_owned(), key.to_owned()))
    })?;
    Ok(Scan { good, bad })
}

/// Walks a namespace, or all.
fn each<R: Record>(
    table: &impl ReadableTable<Key, &'static [u8]>,
    only: Option<&str>,
    good: &mut dyn FnMut(&str, &str, R),
    bad: &mut dyn FnMut(&str, &str),
) -> Result<()> {
    let what = || format!("list table {}", R::TABLE);
    let from = (only.unwrap_or(""), "");
    for entry in table.range(from..).map_err(|e| fault(what(), e))? {
        let (key, bytes) = entry.map_err(|e| fault(what(), e))?;
        let (ns, id) = key.value();
        if only.is_some_and(|only| only != ns) {
            break;
        }
        match parse::<R>(ns, id, bytes.value()) {
            Ok(record) => good(ns, id, record),
            Err(e) => {
                error!("record {}/{ns}/{id}: skipped, it cannot be read: {}", R::TABLE, Error::chain(&e));
                bad(ns, id);
            }
        }
    }
    Ok(())
}
