//! Objects: the create, read, update and delete that containers and sandboxes share. Each call is one transaction.
use super::{Db, Record, labels};
use crate::error::{Error, Result};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::SystemTime;

/// A record that has an ID, labels and times of its own.
pub trait Object: Record {
    /// What error messages call it.
    const NAME: &'static str;
    /// Its ID, which is its key too.
    fn id(&self) -> &str;
    /// Its labels.
    fn labels(&self) -> &labels::Labels;
    /// When it was created.
    fn created_at(&self) -> SystemTime;
    /// Sets both times.
    fn stamp(&mut self, created: SystemTime, updated: SystemTime);
}

/// The objects of one type.
pub struct Objects<O> {
    db: Arc<Db>,
    kind: PhantomData<fn() -> O>,
}

impl<O: Object> Objects<O> {
    /// Objects in `db`.
    pub fn new(db: Arc<Db>) -> Objects<O> {
        Objects { db, kind: PhantomData }
    }
    /// One of them; `NotFound` names it.
    pub fn get(&self, ns: &str, id: &str) -> Result<O> {
        self.db.read(|r| r.get::<O>(ns, id))?.ok_or_else(|| Error::not_found(O::NAME, id))
    }
    /// Those of a namespace, by ID.
    pub fn list(&self, ns: &str) -> Result<Vec<O>> {
        Ok(self.db.read(|r| r.list::<O>(ns))?.into_iter().map(|(_, object)| object).collect())
    }
    /// Stores a new one with the time of now; `AlreadyExists` if the ID is taken.
    pub fn create(&self, ns: &str, mut object: O) -> Result<O> {
        check(&object)?;
        let now = SystemTime::now();
        object.stamp(now, now);
        self.db.gate().hold(|| {
            self.db.write(|w| match w.get::<O>(ns, object.id())? {
                Some(_) => Err(Error::already_exists(O::NAME, object.id())),
                None => w.put(ns, object.id(), &object),
            })
        })?;
        Ok(object)
    }
    /// Replaces one; its creation time stays. `NotFound` names it.
    pub fn update(&self, ns: &str, object: O) -> Result<O> {
        let id = object.id().to_owned();
        self.modify(ns, &id, move |stored| {
            *stored = object;
            Ok(())
        })
    }
    /// Changes what is stored, without a gap in which another change could be lost.
    pub fn modify(&self, ns: &str, id: &str, change: impl FnOnce(&mut O) -> Result<()>) -> Result<O> {
        self.db.gate().hold(|| {
            self.db.write(|w| {
                let mut object = w.get::<O>(ns, id)?.ok_or_else(|| Error::not_found(O::NAME, id))?;
                let created = object.created_at();
                change(&mut object)?;
                if object.id() != id {
                    return Err(Error::invalid(format!("{} \"{id}\": its id cannot change", O::NAME)));
                }
                check(&object)?;
                object.stamp(created, SystemTime::now());
                w.put(ns, id, &object)?;
                Ok(object)
            })
        })
    }
    /// Removes one; `NotFound` names it.
    pub fn delete(&self, ns: &str, id: &str) -> Result<()> {
        self.db.write(|w| if w.remove::<O>(ns, id)? { Ok(()) } else { Err(Error::not_found(O::NAME, id)) })
    }
}

fn check<O: Object>(object: &O) -> Result<()> {
    if object.id().is_empty() {
        return Err(Error::invalid(format!("a {} needs an id", O::NAME)));
    }
    labels::check(object.labels())
}
