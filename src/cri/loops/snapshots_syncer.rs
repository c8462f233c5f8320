//! Snapshots syncer: sizes of snapshots, collected now and then, so that statistics never walk a tree. Committed snapshots are
//! measured once, active ones each time.
use crate::core::snapshot::{Info, Kind, Snapshotter, Usage, scoped};
use crate::cri::store::container::Container;
use crate::cri::{Cri, NAMESPACE, now};
use crate::error::{Context, Result};
use crate::thread::{Stop, read, write};
use log::{debug, warn};
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

/// Sizes of the snapshots of one snapshotter, by key.
type ByKey = HashMap<String, Size>;

/// Sizes of all snapshots, by snapshotter and key.
#[derive(Default)]
pub struct Sizes {
    by_name: RwLock<BTreeMap<String, ByKey>>,
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
        read(&self.by_name).iter().find_map(|(name, sizes)| Some((name.clone(), *sizes.get(&key)?)))
    }
    /// What a snapshotter holds, and the time of its latest measure.
    pub fn of_snapshotter(&self, name: &str, part: Part) -> (Usage, i64) {
        let mut sum = Usage::default();
        let mut at = 0;
        let wanted = |s: &&Size| part == Part::All || (part == Part::Committed) == (s.kind == Kind::Committed);
        for size in read(&self.by_name).get(name).into_iter().flat_map(HashMap::values).filter(wanted) {
            sum.bytes += size.usage.bytes;
            sum.inodes += size.usage.inodes;
            at = at.max(size.at);
        }
        (sum, at)
    }
    /// Measures once; a snapshotter that cannot be asked is left out, and is the error.
    pub fn collect(&self, snapshotters: &BTreeMap<String, Arc<dyn Snapshotter>>) -> Result<()> {
        let mut failed = Ok(());
        for (name, snapshotter) in snapshotters {
            // Listed first, measured then: a walk over a large tree holds nobody up.
            let list = match snapshotter.list() {
                Ok(list) => list,
                Err(e) => {
                    failed = Err(e).during(|| format!("snapshotter {name}: sizes not collected"));
                    continue;
                }
            };
            let mut fresh = ByKey::with_capacity(list.len());
            for info in list {
                if let Some(size) = self.measure(name, snapshotter.as_ref(), &info) {
                    fresh.insert(info.name, size);
                }
            }
            write(&self.by_name).insert(name.clone(), fresh);
        }
        failed
    }
    fn measure(&self, name: &str, snapshotter: &dyn Snapshotter, info: &Info) -> Option<Size> {
        let known = read(&self.by_name).get(name).and_then(|sizes| sizes.get(&info.name)).copied();
        match known {
            // What cannot change is as fresh as the look that found it again.
            Some(size) if size.kind == info.kind && info.kind != Kind::Active => Some(Size { at: now(), ..size }),
            _ => match snapshotter.usage(&info.name) {
                Ok(usage) => Some(Size { usage, at: now(), kind: info.kind }),
                Err(e) => {
                    // One that goes while it is measured has no size.
                    if !e.is_not_found() {
                        debug!("snapshot {}: not measured: {}", info.name, e.chain());
                    }
                    None
                }
            },
        }
    }
}

impl Cri {
    /// The writable layer of a container and its snapshotter; one that the loop has not come by yet, and so is new, is measured.
    pub fn writable_layer(&self, container: &Container) -> Option<(String, Size)> {
        self.sizes.of_container(&container.id).or_else(|| {
            let pod = self.sandboxes.by_id.get(&container.record.sandbox_id).ok()?;
            let name = self.snapshotter_for(&pod.record.handler);
            let key = scoped(NAMESPACE, &container.id);
            let usage = self.ports.snapshotter(&name).ok()?.usage(&key).ok()?;
            let size = Size { usage, at: now(), kind: Kind::Active };
            write(&self.sizes.by_name).entry(name.clone()).or_default().insert(key, size);
            Some((name, size))
        })
    }
}

/// The loop `snap-sync`: a slow disk gets longer pauses. They follow what the collections left of the period, smoothed, so that
/// one slow collection changes little, and are half the period at least.
pub fn run(sizes: &Sizes, snapshotters: &BTreeMap<String, Arc<dyn Snapshotter>>, period: Duration, stop: &Stop) {
    let mut pause = period;
    loop {
        let begun = Instant::now();
        match sizes.collect(snapshotters) {
            Ok(()) => stop.went_well(),
            Err(e) => {
                warn!("{}", e.chain());
                stop.went_wrong(&e);
            }
        }
        pause = smoothed(pause, period.saturating_sub(begun.elapsed())).max(period / 2);
        if stop.sleep(pause) {
            return;
        }
    }
}

/// A moving average to which the newest sample counts a fifth.
fn smoothed(before: Duration, sample: Duration) -> Duration {
    (before * 4 + sample) / 5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_collection_changes_the_pause_little_and_many_halve_it() {
        let period = Duration::from_secs(10);
        assert_eq!(smoothed(period, Duration::ZERO), Duration::from_secs(8));
        let mut pause = period;
        for _ in 0..20 {
            pause = smoothed(pause, Duration::ZERO).max(period / 2);
        }
        assert_eq!(pause, period / 2);
    }
}
