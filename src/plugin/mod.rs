//! Plugins: what is loaded, in which order, and what they hand to each other. One constant a plugin beside its code, one list in
//! `server::builtins`; a plugin that fails takes along only what needs it.
mod context;
mod graph;

pub use context::{Context, Provided};
pub use graph::{Loaded, Status, load, order};

use crate::error::Result;

/// What a plugin is, in containerd's names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Blobs.
    Content,
    /// The metadata store.
    Metadata,
    /// Filesystem layers.
    Snapshotter,
    /// Unpacks layers.
    Differ,
    /// The event bus.
    Event,
    /// Images, leases and other parts that others stand on.
    Service,
    /// Leases.
    Lease,
    /// Garbage collection.
    Gc,
    /// Shims and tasks.
    Runtime,
    /// Parts of CRI.
    Cri,
    /// What serves the kubelet.
    Grpc,
    /// What serves shims.
    Ttrpc,
}

impl Kind {
    /// As containerd spells it.
    pub fn uri(self) -> &'static str {
        match self {
            Kind::Content => "io.containerd.content.v1",
            Kind::Metadata => "io.containerd.metadata.v1",
            Kind::Snapshotter => "io.containerd.snapshotter.v1",
            Kind::Differ => "io.containerd.differ.v1",
            Kind::Event => "io.containerd.event.v1",
            Kind::Service => "io.containerd.service.v1",
            Kind::Lease => "io.containerd.lease.v1",
            Kind::Gc => "io.containerd.gc.v1",
            Kind::Runtime => "io.containerd.runtime.v2",
            Kind::Cri => "io.containerd.cri.v1",
            Kind::Grpc => "io.containerd.grpc.v1",
            Kind::Ttrpc => "io.containerd.ttrpc.v1",
        }
    }
}

/// A plugin.
pub struct Registration {
    /// What it is.
    pub kind: Kind,
    /// Which one of its kind.
    pub id: &'static str,
    /// Kinds that are started before it; one of each must have started well.
    pub requires: &'static [Kind],
    /// Makes it, hands over what it offers with [`Context::provide`], starts its loops, and returns.
    pub start: fn(&mut Context<'_>) -> Result<()>,
}

impl Registration {
    /// `io.containerd.content.v1.content`.
    pub fn uri(&self) -> String {
        format!("{}.{}", self.kind.uri(), self.id)
    }
}
