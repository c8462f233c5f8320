//! Context: what a plugin gets to start with, and where it puts what it offers. The tree's only `Any`.
use super::{Kind, Registration};
use crate::config::Config;
use crate::error::{Context as _, Error, Result};
use crate::thread::Threads;
use std::any::Any;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

/// What the plugins so far offer.
#[derive(Default)]
pub struct Provided {
    offers: Vec<Offer>,
    threads: Vec<(String, Weak<Threads>)>,
}

struct Offer {
    kind: Kind,
    id: &'static str,
    what: Box<dyn Any + Send + Sync>,
}

/// One plugin's start.
pub struct Context<'a> {
    registration: &'static Registration,
    config: &'a Arc<Config>,
    provided: &'a mut Provided,
    threads: Arc<Threads>,
}

impl<'a> Context<'a> {
    pub(super) fn new(registration: &'static Registration, config: &'a Arc<Config>, provided: &'a mut Provided) -> Result<Context<'a>> {
        Ok(Context { registration, config, provided, threads: Arc::new(Threads::new()?) })
    }
    /// The daemon's config.
    pub fn config(&self) -> &Arc<Config> {
        self.config
    }
    /// The plugin's directory that survives a reboot, made on first use.
    pub fn root(&self) -> Result<PathBuf> {
        self.directory(&self.config.root, 0o700)
    }
    /// The plugin's directory that does not. Root of a user namespace can pass through to what it is given there.
    pub fn state(&self) -> Result<PathBuf> {
        self.directory(&self.config.state, 0o711)
    }
    fn directory(&self, top: &std::path::Path, mode: u32) -> Result<PathBuf> {
        let dir = top.join(self.registration.uri());
        let made = std::fs::create_dir_all(top).and_then(|()| crate::sys::fs::make_dir(&dir, mode));
        made.during(|| format!("create {}", dir.display())).map(|()| dir)
    }
    /// The plugin's own threads: stopped and joined when the plugin is closed.
    pub fn threads(&self) -> &Arc<Threads> {
        &self.threads
    }
    /// Everybody's loops so far and its own, by plugin: for those who tell of the daemon's health.
    pub fn all_threads(&self) -> Vec<(String, Weak<Threads>)> {
        let own = (self.registration.uri(), Arc::downgrade(&self.threads));
        self.provided.threads.iter().cloned().chain([own]).collect()
    }
    /// Offers something to plugins that come later.
    pub fn provide<T: ?Sized + Send + Sync + 'static>(&mut self, what: Arc<T>) {
        self.provided.offers.push(Offer { kind: self.registration.kind, id: self.registration.id, what: Box::new(what) });
    }
    /// What a plugin of a required kind offers.
    pub fn require<T: ?Sized + Send + Sync + 'static>(&self, kind: Kind) -> Result<Arc<T>> {
        self.all::<T>(kind)?.into_values().next().ok_or_else(|| {
            Error::precondition(format!("{}: no plugin of {} offers {}", self.registration.uri(), kind.uri(), std::any::type_name::<T>()))
        })
    }
    /// What all plugins of a required kind offer, by ID.
    pub fn all<T: ?Sized + Send + Sync + 'static>(&self, kind: Kind) -> Result<BTreeMap<String, Arc<T>>> {
        if !self.registration.requires.contains(&kind) {
            return Err(Error::internal(format!("{} uses {} without requiring it", self.registration.uri(), kind.uri())));
        }
        Ok(self.provided.of(kind))
    }
}

impl Provided {
    /// What the plugins of a kind offer, by ID.
    pub fn of<T: ?Sized + Send + Sync + 'static>(&self, kind: Kind) -> BTreeMap<String, Arc<T>> {
        let of_kind = self.offers.iter().filter(|o| o.kind == kind);
        of_kind.filter_map(|o| Some((o.id.to_string(), o.what.downcast_ref::<Arc<T>>()?.clone()))).collect()
    }
    pub(super) fn add_threads(&mut self, uri: String, threads: &Arc<Threads>) {
        self.threads.push((uri, Arc::downgrade(threads)));
    }
    pub(super) fn drop_newest(&mut self) -> bool {
        self.offers.pop().is_some()
    }
}
