//! CRI: the kubelet's contract. [`routes`] is the index of calls; each call is a file in `runtime/` or `image/`.
#![doc = ""]
#![doc = include_str!("fields.md")]
mod about;
mod assemble;
mod batches;
pub mod changes;
mod checkpoint;
mod criu;
pub mod dirs;
pub mod exec_output;
pub mod features;
#[cfg(test)]
mod fields_test;
pub mod image;
mod image_volumes;
pub mod loops;
pub mod metrics;
pub mod networks;
mod open;
mod owners;
pub mod pod_files;
mod pod_limits;
mod prepared;
mod rates;
mod records;
pub mod recover;
pub mod routes;
pub mod runtime;
mod sandbox_image;
pub mod spec;
pub mod store;
pub mod streaming;
mod told;
mod unpacked;
mod v1alpha2;

pub use open::{Node, open};

use crate::config::{CriImages, CriRuntime};
use crate::core::content::Store as Content;
use crate::core::gc::Collector;
use crate::core::image::Images as CoreImages;
use crate::core::metadata::Objects;
use crate::core::runtime::Tasks;
use crate::core::snapshot::Snapshotter;
use crate::core::{container, sandbox};
use crate::error::{Error, Kind, Result};
use crate::remote::pull::Puller;
use crate::thread::{Pool, Threads};
use loops::snapshots_syncer::Sizes;
use networks::Networks;
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// containerd's namespace of all that CRI makes.
pub const NAMESPACE: &str = "k8s.io";

/// What the calls work on: stores, and ports to core.
pub struct Cri {
    /// Section `io.containerd.cri.v1.runtime`.
    pub runtime: CriRuntime,
    /// Section `io.containerd.cri.v1.images`.
    pub images_config: CriImages,
    /// Own directories.
    pub dirs: dirs::Dirs,
    /// Pods.
    pub sandboxes: store::sandbox::Sandboxes,
    /// Containers.
    pub containers: store::container::Containers,
    /// Images.
    pub images: store::image::Images,
    /// Pod networks.
    pub networks: Arc<Networks>,
    /// Sizes of snapshots.
    pub sizes: Arc<Sizes>,
    /// Tells of pods and containers that change.
    pub changes: changes::Changes,
    /// CPU rates.
    pub rates: rates::Rates,
    /// Facts about the node.
    pub host: spec::Host,
    /// What the kernel can do.
    pub features: features::Features,
    /// Where clients of exec, attach and port-forward come to.
    pub streaming: Arc<streaming::Front>,
    /// For verbose Status.
    pub about: about::About,
    /// Core's services.
    pub ports: Ports,
    /// Reads output and runs CNI beside the calls.
    pub io: Pool,
    /// The loops.
    pub threads: Arc<Threads>,
}

/// Core's services, as CRI uses them.
pub struct Ports {
    /// Blobs.
    pub content: Arc<Content>,
    /// Named images.
    pub images: Arc<CoreImages>,
    /// Container records.
    pub containers: Objects<container::Container>,
    /// Sandbox records.
    pub sandboxes: Objects<sandbox::Sandbox>,
    /// Running containers.
    pub tasks: Arc<Tasks>,
    /// Garbage collection.
    pub gc: Arc<Collector>,
    /// Pulls.
    pub puller: Arc<Puller>,
    /// Snapshotters by name.
    pub snapshotters: BTreeMap<String, Arc<dyn Snapshotter>>,
}

impl Ports {
    /// A snapshotter by name.
    pub fn snapshotter(&self, name: &str) -> Result<&Arc<dyn Snapshotter>> {
        self.snapshotters.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.snapshotters.keys().map(String::as_str).collect();
            Error::new(Kind::FailedPrecondition, format!("snapshotter \"{name}\" is not loaded; loaded: {}", known.join(", ")))
        })
    }
}

/// Nanoseconds since 1970.
pub fn nanos(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

/// Now, in nanoseconds since 1970.
pub fn now() -> i64 {
    nanos(SystemTime::now())
}

/// 64 random hex digits. cAdvisor looks for them in the cgroup's name.
pub fn new_id() -> Result<String> {
    let mut bytes = [0u8; 32];
    let random = std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes));
    random.map_err(|e| Error::internal("read /dev/urandom for a new ID").because(e))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// JSON text of a value that is made of maps and strings alone.
pub fn json(value: &serde_json::Value) -> String {
    value.to_string()
}
