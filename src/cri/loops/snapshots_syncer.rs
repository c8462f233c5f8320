//! Snapshots syncer: sizes of snapshots, collected now and then, so that statistics never walk a tree. Committed snapshots are
//! measured once, active ones each time.
use crate::core::content::Store as Content;
use crate::core::snapshot::{Info, Kind, Snapshotter, Usage, scoped};
use crate::cri::{NAMESPACE, Ports, now};
use crate::thread::{Stop, read, write};
use log::warn;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

/// A size, and when it was measured.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Bytes and inodes.
    pub usage: Usage,
    /// Nanoseconds since 1970.
    pub at: i64,
    kind: Kind,
}

/// Sizes of all snapshots, by snapshotter and key.
#[derive(Default)]
pub struct Sizes {
    by_key: RwLock<HashMap<(String, String), Size>>,
    blobs: RwLock<(Usage, i64)>,
}

/// Of which snapshots the sum is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All.
    All,
    /// Layers of images.
    Committed,
    /// Writable layers.
    Active,
}

impl Sizes {
    /// The writable layer of a container and its snapshotter.
    pub fn of_container(&self, id: &str) -> Option<(String, Size)> {
        let key = scoped(NAMESPACE, id);
        read(&self.by_key).iter().find(|((_, k), _)| *k == key).map(|((s, _), size)| (s.clone(), *size))
    }
    /// What the content store holds, and when that was measured.
    pub fn of_blobs(&self) -> (Usage, i64) {
        *read(&self.blobs)
    }
    /// What a snapshotter holds, and the time of its latest measure.
    pub fn of_snapshotter(&self, name: &str, part: Part) -> (Usage, i64) {
        let mut sum = Usage::default();
        let mut at = 0;
        for ((s, _), size) in read(&self.by_key).iter() {
            let wanted = part == Part::All || (part == Part::Committed) == (size.kind == Kind::Committed);
            if s == name && wanted {
                sum.bytes += size.usage.bytes;
                sum.inodes += size.usage.inodes;
                at = at.max(size.at);
            }
        }
        (sum, at)
    }
    /// Measures once.
    pub fn collect(&self, snapshotters: &BTreeMap<String, Arc<dyn Snapshotter>>, content: &Content) {
        match content.usage() {
            Ok((bytes, inodes)) => *write(&self.blobs) = (Usage { bytes, inodes }, now()),
            Err(e) => warn!("content: sizes not collected: {}", e.chain()),
        }
        let mut fresh = HashMap::new();
        for (name, snapshotter) in snapshotters {
            match snapshotter.list() {
                Ok(list) => list.into_iter().for_each(|info| self.measure(name, snapshotter.as_ref(), info, &mut fresh)),
                Err(e) => warn!("snapshotter {name}: sizes not collected: {}", e.chain()),
            }
        }
        *write(&self.by_key) = fresh;
    }
    fn measure(&self, name: &str, snapshotter: &dyn Snapshotter, info: Info, into: &mut HashMap<(String, String), Size>) {
        let key = (name.to_string(), info.name);
        let known = read(&self.by_key).get(&key).copied();
        let size = match known {
            Some(size) if size.kind == Kind::Committed && info.kind == Kind::Committed => Some(size),
            // One that goes while it is measured has no size.
            _ => snapshotter.usage(&key.1).ok().map(|usage| Size { usage, at: now(), kind: info.kind }),
        };
        if let Some(size) = size {
            into.insert(key, size);
        }
    }
}

/// The loop `snap-sync`: a slow disk gets longer pauses, at least half the period.
pub fn run(sizes: &Sizes, ports: &Ports, period: Duration, stop: &Stop) {
    loop {
        let begun = Instant::now();
        sizes.collect(&ports.snapshotters, &ports.content);
        let pause = period.saturating_sub(begun.elapsed()).max(period / 2);
        if stop.sleep(pause) {
            return;
        }
    }
}
