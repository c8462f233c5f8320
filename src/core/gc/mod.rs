//! Garbage collection: removes blobs, snapshots, ingests, and leases and images past their time, that nothing needs, and never what something was about to
//! need: whoever creates does so under a lease, or under the gate together with what refers to it.
//!
//! A run marks and sweeps in one transaction while it has the gate for itself; snapshots and files go after the records, so a
//! crash at any point leaves only garbage that the next run takes.
mod graph;
#[cfg(test)]
mod tests;

use crate::core::content::{Blob, Store};
use crate::core::image::{Image, Images};
use crate::core::lease::{self, Lease};
use crate::core::metadata::{Db, Gate};
use crate::core::snapshot::{Info, Snapshotter, unscoped};
use crate::error::{Kind, Result};
use crate::thread::{Stop, Threads};
use crossbeam_channel::{Receiver, Sender, after, bounded, never, select};
use graph::{Graph, Node, Snapshots};
use log::{debug, error, info, warn};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Requests that come in a bunch are answered by one run.
const SETTLE: Duration = Duration::from_millis(100);
/// A lease's end is looked for at least so often: leases come without telling, and clocks are set.
const LOOK: Duration = Duration::from_secs(3600);
/// Rest after a run that failed, as long as nobody asks: an ended lease that cannot be removed must not make it spin.
const REST: Duration = Duration::from_secs(60);
/// Names in the log line; the rest is counted.
const NAMED: usize = 8;

/// Snapshotters by name.
pub type Snapshotters = BTreeMap<String, Arc<dyn Snapshotter>>;

/// The collector.
pub struct Collector {
    db: Arc<Db>,
    content: Store,
    snapshotters: Snapshotters,
    /// Who tells of images that go.
    images: Images,
    ask: Sender<()>,
    asked: Receiver<()>,
}

/// What a run removed.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Stats {
    /// Blobs whose bytes are gone.
    pub blobs: usize,
    /// Bytes of those.
    pub bytes: u64,
    /// Blobs that a namespace lost, while another may have them.
    pub records: usize,
    /// Snapshots.
    pub snapshots: usize,
    /// Leases whose time was over.
    pub leases: usize,
    /// Images whose time was over.
    pub images: usize,
    /// Partial ingests that nobody resumed.
    pub ingests: usize,
    /// How long creators had to wait at most.
    pub paused: Duration,
    names: Vec<String>,
}

impl Collector {
    /// A collector over these stores.
    pub fn new(db: Arc<Db>, content: Store, snapshotters: Snapshotters, images: Images) -> Collector {
        // One place: a second request while one waits asks for nothing more.
        let (ask, asked) = bounded(1);
        Collector { db, content, snapshotters, images, ask, asked }
    }
    /// Starts the thread `gc`, which runs when asked and when a lease ends.
    pub fn start(self: &Arc<Self>, threads: &Threads) -> Result<()> {
        let collector = self.clone();
        threads.spawn("gc", move |stop| collector.serve(stop))
    }
    /// Asks for a run soon.
    pub fn schedule(&self) {
        // Full = a run is asked for already.
        let _ = self.ask.try_send(());
    }
    /// The gate that keeps the collector away; hold it while creating something and then referencing it.
    pub fn gate(&self) -> &Gate {
        self.db.gate()
    }
    /// Collects now, for a caller who wants the space back before it answers.
    pub fn run_now(&self) -> Result<Stats> {
        self.run()
    }
    /// Collects once.
    pub fn run(&self) -> Result<Stats> {
        let trash = self.content.trash()?;
        let mut stats = self.gate().collect(|| {
            let begun = Instant::now();
            let mut stats = self.sweep()?;
            let registered = self.registered()?;
            for (digest, bytes) in self.content.discard_unregistered(&trash, &|digest| registered.contains(digest.as_str()))? {
                stats.blobs += 1;
                stats.bytes += bytes;
                stats.name(&digest);
            }
            stats.paused = begun.elapsed();
            Ok(stats)
        })?;
        trash.empty();
        stats.ingests = self.content.discard_old_ingests()?;
        if stats.nothing() {
            debug!("{stats}")
        } else {
            info!("{stats}")
        }
        Ok(stats)
    }
    fn serve(&self, stop: &Stop) {
        let mut rest = Duration::ZERO;
        loop {
            let alarm = match self.next_expiry() {
                Ok(Some(wait)) => after(wait.clamp(rest, LOOK)),
                Ok(None) => never(),
                Err(e) => {
                    error!("gc: leases cannot be read: {}", e.chain());
                    after(LOOK)
                }
            };
            select! {
                recv(self.asked) -> _ => {}
                recv(alarm) -> _ => if !matches!(self.next_expiry(), Ok(Some(Duration::ZERO))) { continue },
                recv(stop.channel()) -> _ => return,
            }
            if stop.sleep(SETTLE) {
                return;
            }
            let _ = self.asked.try_recv();
            rest = Duration::ZERO;
            match self.run() {
                Ok(_) => stop.went_well(),
                Err(e) => {
                    error!("gc: failed, the next run tries again: {}", e.chain());
                    stop.went_wrong(&e);
                    rest = REST;
                }
            }
        }
    }
    /// How long until the next lease or image ends.
    fn next_expiry(&self) -> Result<Option<Duration>> {
        let now = SystemTime::now();
        let (leases, images) = self.db.read(|r| Ok((r.list_all::<Lease>()?, r.list_all::<Image>()?)))?;
        let ends = leases.iter().filter_map(|(_, _, lease)| lease.expires_at());
        let ends = ends.chain(images.iter().filter_map(|(_, _, image)| image.expires_at()));
        Ok(ends.min().map(|end| end.duration_since(now).unwrap_or_default()))
    }
    /// Marks, and removes records and snapshots. Under the gate.
    fn sweep(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        let mut snapshots = Snapshots::new();
        for (name, snapshotter) in &self.snapshotters {
            snapshots.insert(name.clone(), snapshotter.list()?);
        }
        let mut expired = vec![];
        let garbage = self.db.write(|w| {
            let graph = Graph::read(w, &snapshots, SystemTime::now())?;
            for (ns, id) in &graph.expired {
                lease::remove(w, ns, id)?;
                stats.leases += 1;
                stats.name(format_args!("lease {ns}/{id}"));
            }
            for (ns, name) in &graph.expired_images {
                w.remove::<Image>(ns, name)?;
                stats.images += 1;
                stats.name(format_args!("image {ns}/{name}"));
            }
            expired = graph.expired_images.clone();
            let reached = graph.reached();
            for (ns, digest) in w.scan::<Blob>()?.good.into_iter().map(|(ns, digest, _)| (ns, digest)) {
                let node = Node::Content { ns: ns.clone(), digest: digest.clone() };
                if !graph.is_frozen(&ns) && !reached.contains(&node) {
                    w.remove::<Blob>(&ns, &digest)?;
                    stats.records += 1;
                }
            }
            Ok(unreached(&graph, &reached, &snapshots))
        })?;
        expired.iter().for_each(|(ns, name)| self.images.tell_delete(ns, name));
        for (snapshotter, keys) in garbage {
            self.remove_snapshots(&snapshotter, &keys, &mut stats);
        }
        Ok(stats)
    }
    fn remove_snapshots(&self, name: &str, keys: &[String], stats: &mut Stats) {
        let Some(snapshotter) = self.snapshotters.get(name) else { return };
        for key in keys {
            match snapshotter.remove(key) {
                Ok(()) => {
                    stats.snapshots += 1;
                    stats.name(format_args!("snapshot {name}/{key}"));
                }
                // Somebody has put a snapshot on top of it since the list, or has removed it.
                Err(e) if matches!(e.kind(), Kind::FailedPrecondition | Kind::NotFound) => debug!("gc: {}", e.chain()),
                Err(e) => warn!("gc: snapshot {name}/{key} is left for the next run: {}", e.chain()),
            }
        }
    }
    /// Digests that any namespace has; by key, so that a record which cannot be read still keeps its bytes.
    fn registered(&self) -> Result<HashSet<String>> {
        let scan = self.db.read(|r| r.scan::<Blob>())?;
        Ok(scan.good.into_iter().map(|(_, key, _)| key).chain(scan.bad.into_iter().map(|(_, key)| key)).collect())
    }
}

/// Snapshots that nothing reaches, children before their parents. A key without a namespace is nobody's garbage.
fn unreached(graph: &Graph, reached: &HashSet<&Node>, snapshots: &Snapshots) -> BTreeMap<String, Vec<String>> {
    let mut garbage = BTreeMap::new();
    for (name, infos) in snapshots {
        let parents: HashMap<&str, Option<&str>> = infos.iter().map(|i| (i.name.as_str(), i.parent.as_deref())).collect();
        let mut keys: Vec<(usize, &Info)> = vec![];
        for info in infos {
            let node = Node::Snapshot { snapshotter: name.clone(), key: info.name.clone() };
            let owned = unscoped(&info.name).is_some_and(|(ns, _)| !graph.is_frozen(ns));
            if owned && !reached.contains(&node) {
                keys.push((depth(&info.name, &parents), info));
            }
        }
        keys.sort_by_key(|(depth, _)| std::cmp::Reverse(*depth));
        garbage.insert(name.clone(), keys.into_iter().map(|(_, info)| info.name.clone()).collect());
    }
    garbage
}

fn depth(key: &str, parents: &HashMap<&str, Option<&str>>) -> usize {
    let up = std::iter::successors(Some(key), |key| parents.get(key).copied().flatten());
    // Bounded, should damaged records ever form a ring.
    up.take(parents.len() + 1).count()
}

impl Stats {
    fn nothing(&self) -> bool {
        self.blobs + self.records + self.snapshots + self.leases + self.ingests == 0
    }
    fn name(&mut self, what: impl fmt::Display) {
        self.names.push(what.to_string());
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nothing() {
            return write!(f, "gc: nothing to remove, {} ms", self.paused.as_millis());
        }
        let (blobs, bytes, snapshots) = (self.blobs, self.bytes, self.snapshots);
        let (leases, images, ingests) = (self.leases, self.images, self.ingests);
        write!(f, "gc: removed {blobs} blobs ({bytes} bytes), {snapshots} snapshots, {leases} leases, {images} images, {ingests} ingests")?;
        write!(f, " in {} ms", self.paused.as_millis())?;
        if !self.names.is_empty() {
            write!(f, ": {}", self.names[..self.names.len().min(NAMED)].join(", "))?;
        }
        if self.names.len() > NAMED { write!(f, " and {} more", self.names.len() - NAMED) } else { Ok(()) }
    }
}
