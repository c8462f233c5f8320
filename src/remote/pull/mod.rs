//! Pull: an image from a registry into content, snapshots and images, as one pipeline.
//!
//! Equal pulls share one flight: who comes second waits for it. A client that goes away takes the flight with it only if it
//! was the last one. After a failure no ingest, snapshot, lease or image of it is left; what was verified and complete is the
//! collector's.
mod claims;
mod documents;
mod flight;
mod layers;
mod pipe;
#[cfg(test)]
mod tests;
mod unpack;

use super::auth::Login;
use super::reference::Reference;
use super::session::{Client, Session};
use crate::call::Call;
use crate::core::content::{Digest, Store};
use crate::core::diff::Processors;
use crate::core::gc::Collector;
use crate::core::image::{Descriptor, Image, Images, Platform};
use crate::core::lease::Leases;
use crate::core::snapshot::Snapshotter;
use crate::error::{Error, Kind, Result};
use crate::thread::{Pool, lock};
use claims::Claims;
use crossbeam_channel::{Receiver, Sender, at, bounded, never, select};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Pulls that run at once; more wait.
const FLIGHTS_MAX: usize = 64;
/// Downloads of all pulls together.
const DOWNLOADS_MAX: usize = 256;
/// How long a cancelled call waits for its flight to clean up behind it; a name look-up or a connect cannot be broken off.
const CLEAN_UP: Duration = Duration::from_secs(1);

/// Bounds of pulling.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Layers that one pull downloads at once; 0 = all.
    pub max_concurrent_downloads: usize,
    /// Layers that are unpacked at once, of all pulls.
    pub max_concurrent_unpacks: usize,
    /// Whether a layer's blob stays when it is unpacked.
    pub blobs: Blobs,
    /// Whether a layer's snapshot has labels that tell of its image.
    pub labels: SnapshotLabels,
}

/// What becomes of layers' blobs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blobs {
    /// They are kept as long as the image.
    Keep,
    /// The collector takes them once they are unpacked.
    Discard,
}

/// What snapshotters are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SnapshotLabels {
    /// Nothing of the image.
    Bare,
    /// containerd's labels with the image's name, its manifest and the layer's digest.
    OfImage,
}

impl Default for Limits {
    /// containerd's three downloads; unpacks have no such reason to wait as in containerd, where they exclude each other.
    fn default() -> Limits {
        Limits { max_concurrent_downloads: 3, max_concurrent_unpacks: 8, blobs: Blobs::Keep, labels: SnapshotLabels::Bare }
    }
}

/// What a puller works on.
#[derive(Clone)]
pub struct Parts {
    /// Blobs.
    pub content: Store,
    /// Image records.
    pub images: Images,
    /// Leases.
    pub leases: Leases,
    /// Snapshotters by name.
    pub snapshotters: BTreeMap<String, Arc<dyn Snapshotter>>,
    /// Registry client.
    pub client: Client,
    /// Programs that turn layers into what can be unpacked.
    pub processors: Processors,
    /// Told when a failed pull has left garbage.
    pub collector: Option<Arc<Collector>>,
    /// This run of the daemon: leases of another run are dead (`Leases::drop_stale`).
    pub instance: String,
}

/// What to pull.
#[derive(Clone)]
pub struct Request {
    /// Namespace that gets the image.
    pub namespace: String,
    /// The reference as the user wrote it.
    pub reference: String,
    /// What to show to the registry.
    pub login: Login,
    /// Name of the snapshotter that gets the layers.
    pub snapshotter: String,
    /// Labels of the image record.
    pub labels: BTreeMap<String, String>,
    /// The machine that it is for.
    pub platform: Platform,
    /// What the reference names, where that is known: nobody is asked, and what is in the store is not fetched.
    pub target: Option<Descriptor>,
    /// Under which names it is stored.
    pub names: Names,
}

/// The names that a pulled image gets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Names {
    /// None: its record is there already.
    Kept,
    /// The reference alone.
    Reference,
    /// Besides it the repository with the digest, and the image's ID: what the kubelet may ask for.
    All,
}

/// A pulled image.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// Its record under the reference.
    pub image: Image,
    /// Its ID: the digest of its configuration.
    pub id: Digest,
    /// All the names that it has got.
    pub names: Vec<String>,
}

impl Request {
    /// A pull for this machine, anonymous and without labels.
    pub fn new(namespace: impl Into<String>, reference: impl Into<String>, snapshotter: impl Into<String>) -> Request {
        Request {
            namespace: namespace.into(),
            reference: reference.into(),
            login: Login::default(),
            snapshotter: snapshotter.into(),
            labels: BTreeMap::new(),
            platform: Platform::host(),
            target: None,
            names: Names::Reference,
        }
    }
}

/// Equal keys, same flight.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    namespace: String,
    reference: String,
    snapshotter: String,
    login: Login,
    platform: String,
    labels: BTreeMap<String, String>,
    names: Names,
}

/// A pull that runs, and how many wait for it.
struct Flight {
    session: Arc<Session>,
    waiting: usize,
    ended: Receiver<Infallible>,
    outcome: Arc<Mutex<Option<Outcome>>>,
}

type Outcome = Result<Pulled, (Kind, String)>;

/// Pulls images; clones share everything.
#[derive(Clone)]
pub struct Puller(Arc<Shared>);

struct Shared {
    parts: Parts,
    limits: Limits,
    flights: Mutex<HashMap<Key, Flight>>,
    claims: Claims,
    /// Each unpack holds one of these.
    slots: (Sender<()>, Receiver<()>),
    pull: Pool,
    fetch: Pool,
    unpack: Pool,
}

impl Puller {
    /// A puller without threads so far.
    pub fn new(parts: Parts, limits: Limits) -> Result<Puller> {
        let unpacks = limits.max_concurrent_unpacks.max(1);
        let slots = bounded(unpacks);
        for _ in 0..unpacks {
            let _ = slots.0.send(());
        }
        Ok(Puller(Arc::new(Shared {
            parts,
            limits,
            flights: Mutex::default(),
            claims: Claims::default(),
            slots,
            pull: Pool::new("pull", FLIGHTS_MAX)?,
            fetch: Pool::new("fetch", DOWNLOADS_MAX)?,
            // As many as slots, so that no unpack whose download runs ever waits for a thread.
            unpack: Pool::new("unpack", unpacks)?,
        })))
    }

    /// Pulls, or waits for an equal pull that runs. Returns at once when the call is over.
    pub fn pull(&self, call: &Call, request: Request) -> Result<Pulled> {
        call.check()?;
        let reference = Reference::parse(&request.reference)?;
        let snapshotter = self.0.parts.snapshotters.get(&request.snapshotter).cloned();
        let snapshotter = snapshotter.ok_or_else(|| {
            let known: Vec<&str> = self.0.parts.snapshotters.keys().map(String::as_str).collect();
            Error::not_found("snapshotter", &request.snapshotter).and_also(Error::invalid(format!("known: {}", known.join(", "))))
        })?;
        let key = Key {
            namespace: request.namespace.clone(),
            reference: reference.to_string(),
            snapshotter: request.snapshotter.clone(),
            login: request.login.clone(),
            platform: request.platform.to_string(),
            labels: request.labels.clone(),
            names: request.names,
        };
        let (ended, outcome) = self.board(&key, request, reference, snapshotter)?;
        let deadline = call.deadline().map_or_else(never, at);
        select! {
            recv(ended) -> _ => {}
            recv(call.done()) -> _ => self.leave(&key, &ended),
            recv(deadline) -> _ => self.leave(&key, &ended),
        }
        // A call that ended together with the flight still gets the image.
        match (&*lock(&outcome), call.check()) {
            (Some(Ok(pulled)), _) => Ok(pulled.clone()),
            (_, Err(over)) => Err(over),
            (Some(Err((kind, text))), _) => Err(Error::new(*kind, text.clone())),
            (None, _) => Err(Error::internal(format!("pull of {}: its thread failed", key.reference))),
        }
    }

    /// Ends all pulls and joins their threads.
    pub fn close(&self) {
        let sessions: Vec<Arc<Session>> = lock(&self.0.flights).values().map(|f| f.session.clone()).collect();
        sessions.iter().for_each(|s| s.abort());
        self.0.pull.close();
        self.0.fetch.close();
        self.0.unpack.close();
    }

    /// Joins the flight of `key`, or starts it.
    #[allow(clippy::type_complexity, reason = "the two halves of a flight that a waiter needs")]
    fn board(
        &self,
        key: &Key,
        request: Request,
        reference: Reference,
        snapshotter: Arc<dyn Snapshotter>,
    ) -> Result<(Receiver<Infallible>, Arc<Mutex<Option<Outcome>>>)> {
        let session = self.0.parts.client.session(&reference, &request.login)?;
        let mut flights = lock(&self.0.flights);
        if let Some(flight) = flights.get_mut(key) {
            flight.waiting += 1;
            return Ok((flight.ended.clone(), flight.outcome.clone()));
        }
        let (alive, ended) = bounded(0);
        let outcome = Arc::new(Mutex::new(None));
        flights.insert(key.clone(), Flight { session: session.clone(), waiting: 1, ended: ended.clone(), outcome: outcome.clone() });
        drop(flights);
        let (shared, key, told) = (self.0.clone(), key.clone(), outcome.clone());
        let landing = Landing { shared: shared.clone(), key, ended: ended.clone(), _alive: alive };
        self.0.pull.run(move || {
            let result = flight::run(shared, request, session, snapshotter);
            *lock(&told) = Some(result.map_err(|e| (e.kind(), e.chain())));
            drop(landing);
        });
        Ok((ended, outcome))
    }

    /// One waiter less; the last one ends the flight.
    fn leave(&self, key: &Key, ended: &Receiver<Infallible>) {
        let last = {
            let mut flights = lock(&self.0.flights);
            match flights.get_mut(key) {
                Some(flight) if flight.ended.same_channel(ended) => {
                    flight.waiting -= 1;
                    // Taken out at once, so that nobody boards a flight that is being cancelled.
                    if flight.waiting == 0 { flights.remove(key) } else { None }
                }
                _ => None,
            }
        };
        if let Some(flight) = last {
            flight.session.abort();
            let _ = ended.recv_timeout(CLEAN_UP);
        }
    }
}

/// Dropped when a flight has ended, by a panic too: it is taken off the list, then its waiters are told.
struct Landing {
    shared: Arc<Shared>,
    key: Key,
    ended: Receiver<Infallible>,
    _alive: Sender<Infallible>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut flights = lock(&self.shared.flights);
        if flights.get(&self.key).is_some_and(|f| f.ended.same_channel(&self.ended)) {
            flights.remove(&self.key);
        }
    }
}
