//! Owners: in a pod with a user namespace all files of a root are the namespace's, as they are root's and its users' in any other:
//! shown so by the snapshotter where it can, else given away on disk.
use super::store::sandbox::id_map;
use crate::core::snapshot::{Labels, Snapshotter, mapping_labels};
use crate::error::{Context, Result};
use crate::proto::cri::PodSandboxConfig;
use crate::sys::fs::shift_owners;
use crate::sys::userns::IdMap;
use std::path::Path;

/// Whose the files of a pod's snapshot are.
pub enum Owners {
    /// As the image says.
    Image,
    /// The snapshotter's mounts show them as the namespace's.
    Mapped(IdMap),
    /// The files themselves become the namespace's.
    GivenAway(IdMap),
}

impl Owners {
    /// Of a pod's snapshots in `snapshotter`.
    pub fn of(config: &PodSandboxConfig, snapshotter: &dyn Snapshotter) -> Owners {
        match id_map(config) {
            None => Owners::Image,
            Some(map) if snapshotter.maps_owners() => Owners::Mapped(map),
            Some(map) => Owners::GivenAway(map),
        }
    }
    /// What the snapshot has to be labelled with.
    pub fn labels(&self) -> Labels {
        match self {
            Owners::Mapped(map) => mapping_labels(map),
            Owners::Image | Owners::GivenAway(_) => Labels::new(),
        }
    }
    /// Gives the files of a fresh snapshot, mounted on `root`, to their owners.
    pub fn give(&self, root: &Path) -> Result<()> {
        match self {
            Owners::GivenAway(map) => shift_owners(root, map).during(|| "give the files to the pod's user namespace"),
            Owners::Image | Owners::Mapped(_) => Ok(()),
        }
    }
    /// Who is root in the pod, if not root.
    pub fn root(&self) -> Option<(u32, u32)> {
        match self {
            Owners::Image => None,
            Owners::Mapped(map) | Owners::GivenAway(map) => map.root(),
        }
    }
}
