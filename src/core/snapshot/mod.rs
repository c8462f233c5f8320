//! Snapshots: chains of filesystem layers. A snapshot is *active* (written through its mounts), a *view* (read only) or
//! *committed* (never changes again, may have children).
//!
//! Keys are opaque to a snapshotter; callers keep namespaces apart with [`scoped`].
mod base;
pub mod native;
pub mod overlay;
#[cfg(test)]
mod suite;

pub use crate::core::metadata::Labels;

use crate::error::Result;
use crate::sys::mount::Mount;
use crate::sys::userns::{IdMap, IdRange};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What a snapshot is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Written through its mounts until it is committed or removed.
    Active,
    /// Read only, for as long as somebody looks.
    View,
    /// Immutable; others may be made on top of it.
    Committed,
}

/// What is known of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Info {
    /// Active, view or committed.
    pub kind: Kind,
    /// Its key.
    pub name: String,
    /// Key of the committed snapshot below it.
    pub parent: Option<String>,
    /// Free-form labels.
    pub labels: Labels,
    /// When it was prepared or committed.
    pub created_at: SystemTime,
    /// When its record changed last.
    pub updated_at: SystemTime,
}

/// What a snapshot takes by itself, without its parents.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Usage {
    /// Allocated bytes; a file with several links counts once.
    pub bytes: u64,
    /// Inodes; a file with several links counts once.
    pub inodes: u64,
}

/// A store of snapshots. Each method is atomic: after an error or a crash nothing of it is visible.
pub trait Snapshotter: Send + Sync {
    /// The name that images and configuration use for it, as `overlayfs`.
    fn name(&self) -> &str;
    /// The directory that holds its data, for file system statistics.
    fn root(&self) -> &Path;
    /// Looks a snapshot up; `NotFound` names the key.
    fn stat(&self, key: &str) -> Result<Info>;
    /// Makes an active snapshot; `AlreadyExists` if the key is taken, `NotFound` without the parent, `FailedPrecondition` if
    /// the parent is not committed.
    fn prepare(&self, key: &str, parent: Option<&str>, labels: &Labels) -> Result<Vec<Mount>>;
    /// Makes a read-only view; errors as [`Snapshotter::prepare`].
    fn view(&self, key: &str, parent: Option<&str>, labels: &Labels) -> Result<Vec<Mount>>;
    /// The mounts of an active snapshot or a view again; `FailedPrecondition` for a committed one.
    fn mounts(&self, key: &str) -> Result<Vec<Mount>>;
    /// Turns the active snapshot `key` into the committed snapshot `name`; `key` is free afterwards.
    fn commit(&self, name: &str, key: &str, labels: &Labels) -> Result<()>;
    /// Commits a layer that was prepared without a parent as a child of `parent`, so that the layers of an image unpack in
    /// parallel. `Unimplemented` unless [`Snapshotter::rebases`]. Without a `parent` it is [`Snapshotter::commit`].
    fn commit_onto(&self, name: &str, key: &str, parent: Option<&str>, labels: &Labels) -> Result<()>;
    /// Whether [`Snapshotter::commit_onto`] takes a parent: then whiteouts live inside the layer
    /// (`diff::Whiteouts::Overlay` for every layer but the lowest).
    fn rebases(&self) -> bool;
    /// Gives the directories that a layer needed but did not list (`diff::Applied::implied`) the owner, mode and xattrs that
    /// they have in `parent`. To be called before [`Snapshotter::commit_onto`]; free where directories are not layered.
    fn inherit(&self, key: &str, parent: Option<&str>, implied: &[PathBuf]) -> Result<()> {
        let _ = (key, parent, implied);
        Ok(())
    }
    /// The directory to apply a layer to without mounting anything; `FailedPrecondition` unless active.
    fn upper_dir(&self, key: &str) -> Result<PathBuf>;
    /// Whether whiteouts and opaque marks are `user.overlay.*` attributes (true in a user namespace).
    fn userxattr(&self) -> bool {
        false
    }
    /// Whether the labels [`UID_LABEL`] and [`GID_LABEL`] make a snapshot's mounts show its files with mapped owners. Where they do
    /// not, the files themselves have to be given away (`sys::fs::shift_owners`).
    fn maps_owners(&self) -> bool {
        false
    }
    /// Removes a snapshot; `FailedPrecondition` if it has children, `NotFound` if it is not there.
    fn remove(&self, key: &str) -> Result<()>;
    /// All snapshots, by key.
    fn list(&self) -> Result<Vec<Info>>;
    /// What the snapshot takes: measured now for an active one, at commit time for a committed one.
    fn usage(&self, key: &str) -> Result<Usage>;
    /// Merges labels; an empty value deletes one.
    fn set_labels(&self, key: &str, labels: &Labels) -> Result<Info>;
    /// Deletes directories without a record: what a crash or a deferred removal left. To be called at start.
    fn cleanup(&self) -> Result<()>;
}

/// Label that maps the users of a snapshot for a user namespace, as `container:host:size,…`.
pub const UID_LABEL: &str = "containerd.io/snapshot/uidmapping";
/// The same for groups.
pub const GID_LABEL: &str = "containerd.io/snapshot/gidmapping";

/// The labels of a snapshot for a user namespace.
pub fn mapping_labels(map: &IdMap) -> Labels {
    let text = |ranges: &[IdRange]| ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    Labels::from([(UID_LABEL.to_string(), text(&map.uids)), (GID_LABEL.to_string(), text(&map.gids))])
}

/// The key of namespace `ns`'s snapshot `key`.
pub fn scoped(ns: &str, key: &str) -> String {
    format!("{ns}/{key}")
}

/// Namespace and key out of a [`scoped`] key; keys may hold slashes, namespaces do not.
pub fn unscoped(scoped: &str) -> Option<(&str, &str)> {
    scoped.split_once('/')
}
