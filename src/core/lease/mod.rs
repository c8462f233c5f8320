//! Leases: what a lease names, the collector keeps, with all that it refers to. A lease ends when it is deleted, at the time
//! of its label `containerd.io/gc.expire`, or, if a pull of a dead daemon made it, at the next start.
//!
//! Name a thing in the lease first and create it then: a resource need not exist yet.
use crate::core::content::Digest;
use crate::core::metadata::{Db, Labels, Record, Writer, labels, time};
use crate::error::{Context, Error, Result};
use log::{error, info};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

/// Label with the RFC 3339 time at which a lease ends.
pub const EXPIRE: &str = "containerd.io/gc.expire";
/// Label (any value) of a lease that keeps just what it names, not what that refers to.
pub const FLAT: &str = "containerd.io/gc.flat";
/// Label with the daemon instance that pulls under the lease.
pub const PULL: &str = "cradle.io/pull";

/// A lease.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lease {
    /// Its ID.
    pub id: String,
    /// Labels.
    #[serde(default)]
    pub labels: Labels,
    /// When it was created.
    #[serde(with = "time")]
    pub created_at: SystemTime,
}

impl Record for Lease {
    const TABLE: &'static str = "leases";
}

impl Lease {
    /// When it ends by itself. A label that is no time does not end it: rather too much is kept than too little.
    pub fn expires_at(&self) -> Option<SystemTime> {
        let text = self.labels.get(EXPIRE)?;
        time::parse(text).inspect_err(|e| error!("lease {}: label {EXPIRE} is ignored: {}", self.id, e.chain())).ok()
    }
    /// Whether it keeps just what it names.
    pub fn is_flat(&self) -> bool {
        self.labels.contains_key(FLAT)
    }
}

/// What a lease can keep.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    /// A blob.
    Content(Digest),
    /// A snapshot and its parents.
    Snapshot {
        /// Name of the snapshotter.
        snapshotter: String,
        /// Its key in the lease's namespace, scoped or not.
        key: String,
    },
    /// A partial ingest, by its reference.
    Ingest(String),
}

/// What a lease keeps; the key is the lease's ID.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) resources: BTreeSet<Resource>,
}

impl Record for Held {
    const TABLE: &'static str = "lease-resources";
}

/// The leases.
#[derive(Clone)]
pub struct Leases {
    db: Arc<Db>,
}

impl Leases {
    /// Leases in `db`.
    pub fn new(db: Arc<Db>) -> Leases {
        Leases { db }
    }
    /// Makes a lease; `AlreadyExists` if the ID is taken.
    pub fn create(&self, ns: &str, id: &str, labels: Labels) -> Result<Lease> {
        if id.is_empty() {
            return Err(Error::invalid("a lease needs an id"));
        }
        labels::check(&labels)?;
        if let Some(text) = labels.get(EXPIRE) {
            time::parse(text).during(|| format!("lease \"{id}\": label {EXPIRE}"))?;
        }
        let lease = Lease { id: id.to_owned(), labels, created_at: SystemTime::now() };
        self.change(|w| match w.get::<Lease>(ns, id)? {
            Some(_) => Err(Error::already_exists("lease", id)),
            None => w.put(ns, id, &lease),
        })?;
        Ok(lease)
    }
    /// A lease; `NotFound` names it.
    pub fn get(&self, ns: &str, id: &str) -> Result<Lease> {
        self.db.read(|r| r.get(ns, id))?.ok_or_else(|| Error::not_found("lease", id))
    }
    /// The leases of a namespace, by ID.
    pub fn list(&self, ns: &str) -> Result<Vec<Lease>> {
        Ok(self.db.read(|r| r.list(ns))?.into_iter().map(|(_, lease)| lease).collect())
    }
    /// Ends a lease; `NotFound` names it. What it kept goes with the next collection.
    pub fn delete(&self, ns: &str, id: &str) -> Result<()> {
        self.db.write(|w| if remove(w, ns, id)? { Ok(()) } else { Err(Error::not_found("lease", id)) })
    }
    /// Keeps one thing more.
    pub fn add(&self, ns: &str, lease: &str, resource: Resource) -> Result<()> {
        self.add_all(ns, lease, [resource])
    }
    /// Keeps more things, in one transaction: one wait for the disk, not one a layer.
    pub fn add_all(&self, ns: &str, lease: &str, resources: impl IntoIterator<Item = Resource>) -> Result<()> {
        self.change(|w| {
            let mut held = held(w, ns, lease)?;
            held.resources.extend(resources);
            w.put(ns, lease, &held)
        })
    }
    /// Keeps one thing less.
    pub fn remove(&self, ns: &str, lease: &str, resource: &Resource) -> Result<()> {
        self.change(|w| {
            let mut held = held(w, ns, lease)?;
            if !held.resources.remove(resource) {
                return Err(Error::not_found("resource of the lease", lease));
            }
            w.put(ns, lease, &held)
        })
    }
    /// What a lease keeps.
    pub fn resources(&self, ns: &str, lease: &str) -> Result<Vec<Resource>> {
        self.get(ns, lease)?;
        let held = self.db.read(|r| r.get::<Held>(ns, lease))?.unwrap_or_default();
        Ok(held.resources.into_iter().collect())
    }
    /// Ends the leases of pulls that another instance of the daemon made, which must be dead. Says how many.
    pub fn drop_stale(&self, instance: &str) -> Result<usize> {
        let dropped = self.db.write(|w| {
            let mut dropped = vec![];
            for (ns, id, lease) in w.list_all::<Lease>()? {
                if lease.labels.get(PULL).is_some_and(|owner| owner != instance) {
                    remove(w, &ns, &id)?;
                    dropped.push(id);
                }
            }
            Ok(dropped)
        })?;
        if !dropped.is_empty() {
            info!("leases: {} of pulls that a dead daemon began are dropped: {}", dropped.len(), dropped.join(", "));
        }
        Ok(dropped.len())
    }
    fn change<T>(&self, f: impl FnOnce(&Writer) -> Result<T>) -> Result<T> {
        self.db.gate().hold(|| self.db.write(f))
    }
}

/// Removes a lease and what it names, in the caller's transaction.
pub(crate) fn remove(w: &Writer, ns: &str, id: &str) -> Result<bool> {
    w.remove::<Held>(ns, id)?;
    w.remove::<Lease>(ns, id)
}

/// (namespace, reference) of the ingests that leases keep.
pub(crate) fn held_ingests(db: &Db) -> Result<BTreeSet<(String, String)>> {
    let mut ingests = BTreeSet::new();
    for (ns, _, held) in db.read(|r| r.list_all::<Held>())? {
        ingests.extend(held.resources.into_iter().filter_map(|resource| match resource {
            Resource::Ingest(reference) => Some((ns.clone(), reference)),
            _ => None,
        }));
    }
    Ok(ingests)
}

fn held(w: &Writer, ns: &str, lease: &str) -> Result<Held> {
    w.get::<Lease>(ns, lease)?.ok_or_else(|| Error::not_found("lease", lease))?;
    Ok(w.get::<Held>(ns, lease)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::metadata::scratch;
    use crate::error::Kind;

    fn label(key: &str, value: &str) -> Labels {
        Labels::from([(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn a_lease_names_things_until_it_is_deleted() {
        let dir = scratch::dir("lease");
        let leases = Leases::new(Arc::new(Db::open(dir.path()).unwrap()));
        leases.create("n", "a", Labels::new()).unwrap();
        assert_eq!(leases.create("n", "a", Labels::new()).unwrap_err().kind(), Kind::AlreadyExists);
        let content = Resource::Content(Digest::of("x"));
        let snapshot = Resource::Snapshot { snapshotter: "overlayfs".into(), key: "k".into() };
        leases.add("n", "a", content.clone()).unwrap();
        leases.add_all("n", "a", [snapshot.clone(), content.clone()]).unwrap();
        assert_eq!(leases.resources("n", "a").unwrap(), [content.clone(), snapshot]);
        leases.remove("n", "a", &content).unwrap();
        assert!(leases.remove("n", "a", &content).unwrap_err().is_not_found());
        leases.delete("n", "a").unwrap();
        assert!(leases.add("n", "a", content).unwrap_err().is_not_found());
        assert!(leases.resources("n", "a").unwrap_err().is_not_found());
        leases.create("n", "a", Labels::new()).unwrap();
        assert!(leases.resources("n", "a").unwrap().is_empty());
    }

    #[test]
    fn stale_pulls_are_those_of_other_instances() {
        let dir = scratch::dir("lease-stale");
        let leases = Leases::new(Arc::new(Db::open(dir.path()).unwrap()));
        leases.create("n", "dead", label(PULL, "one")).unwrap();
        leases.create("m", "alive", label(PULL, "two")).unwrap();
        leases.create("n", "client", Labels::new()).unwrap();
        assert_eq!(leases.drop_stale("two").unwrap(), 1);
        assert!(leases.get("n", "dead").unwrap_err().is_not_found());
        leases.get("m", "alive").unwrap();
        leases.get("n", "client").unwrap();
    }

    #[test]
    fn an_expiry_that_is_no_time_is_refused() {
        let dir = scratch::dir("lease-expiry");
        let leases = Leases::new(Arc::new(Db::open(dir.path()).unwrap()));
        let error = leases.create("n", "a", label(EXPIRE, "soon")).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        let lease = leases.create("n", "b", label(EXPIRE, "2030-01-01T00:00:00+01:00")).unwrap();
        assert_eq!(lease.expires_at(), Some(time::parse("2029-12-31T23:00:00Z").unwrap()));
    }
}
