//! The overlayfs snapshotter: each snapshot holds only its own layer, in `snapshots/<id>/fs`; mounts stack them.
//!
//! Layers that were unpacked without a parent can be committed onto one, for a whiteout is a file of its own layer here.
mod inherit;
mod probe;

use super::base::{Base, New, Removal, Stored, measure};
use super::{GID_LABEL, Info, Kind, Labels, Snapshotter, UID_LABEL, Usage};
use crate::core::metadata::Db;
use crate::error::{Context, Error, Result};
use crate::sys::fs::make_dir;
use crate::sys::mount::Mount;
use crate::thread::Pool;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

const NAME: &str = "overlayfs";
/// Label that tells a snapshot's own directory, if configured.
const UPPER_LABEL: &str = "containerd.io/snapshot/overlay.upperdir";

/// The `overlayfs` section of the configuration.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Directory for the snapshots instead of the plugin's own; empty for that.
    pub root_path: PathBuf,
    /// Whether snapshots tell their directory in the label `containerd.io/snapshot/overlay.upperdir`.
    pub upperdir_label: bool,
    /// Whether a removal waits until the files are deleted; else they are so behind it.
    pub sync_remove: bool,
    /// More options for each overlay mount.
    pub mount_options: Vec<String>,
}

/// The overlayfs snapshotter.
pub struct Overlay {
    base: Base,
    upperdir_label: bool,
    options: Vec<String>,
    userxattr: bool,
    /// Whether lower directories can be id-mapped: tried when it is first asked.
    maps_owners: OnceLock<bool>,
}

impl Overlay {
    /// Opens or creates it in `root`, or in the configuration's `root_path`; a file system that overlayfs cannot use is an error
    /// that names it.
    pub fn open(root: &Path, db: Arc<Db>, config: Config) -> Result<Overlay> {
        let root = if config.root_path.as_os_str().is_empty() { root } else { &config.root_path };
        if root.as_os_str().as_encoded_bytes().iter().any(|b| matches!(b, b':' | b',' | b'\\')) {
            return Err(Error::invalid(format!("{}: overlayfs takes no path with colon, comma or backslash", root.display())));
        }
        let removal = if config.sync_remove { Removal::Now } else { Removal::Later(Pool::new("snapshot-rm", 1)?) };
        let base = Base::open(NAME, root, db, removal)?;
        let mut options = config.mount_options;
        probe::complete(base.shelf(), &mut options)?;
        let userxattr = options.iter().any(|o| o == "userxattr");
        Ok(Overlay { base, upperdir_label: config.upperdir_label, options, userxattr, maps_owners: OnceLock::new() })
    }

    fn upper(&self, id: u64) -> PathBuf {
        self.base.dir(id).join("fs")
    }

    fn create(&self, new: &New<'_>) -> Result<Vec<Mount>> {
        let (stored, ancestors) = self.base.create(new, |dir, ancestors| {
            let upper = dir.join("fs");
            make_dir(&upper, 0o755).during(|| format!("create {}", upper.display()))?;
            if new.kind == Kind::Active {
                let work = dir.join("work");
                make_dir(&work, 0o711).during(|| format!("create {}", work.display()))?;
            }
            // The topmost layer's root is the root that a container sees.
            if let Some(parent) = ancestors.first() {
                inherit::root(&self.upper(*parent), &upper, self.userxattr)?;
            }
            own(&upper, new.labels)
        })?;
        Ok(self.stack(&stored, &ancestors))
    }

    fn stack(&self, stored: &Stored, ancestors: &[u64]) -> Vec<Mount> {
        let path = |id: u64| self.upper(id).display().to_string();
        let mapped = |label: &str, option: &str| stored.labels.get(label).map(|map| format!("{option}={map}"));
        let mut options: Vec<String> = [mapped(UID_LABEL, "uidmap"), mapped(GID_LABEL, "gidmap")].into_iter().flatten().collect();
        // overlayfs wants an upper and a lower, or two lowers; anything less is a bind mount.
        let alone = match (stored.kind, ancestors) {
            (Kind::Active, []) => Some((stored.id, "rw")),
            (_, []) => Some((stored.id, "ro")),
            (Kind::View, [parent]) => Some((*parent, "ro")),
            _ => None,
        };
        if let Some((id, mode)) = alone {
            // Its own directory has the mapped owners on disk.
            if id == stored.id {
                options.clear();
            }
            options.extend([mode.to_string(), "rbind".to_string()]);
            return vec![Mount { kind: "bind".into(), source: path(id), target: None, options }];
        }
        if stored.kind == Kind::Active {
            options.push(format!("workdir={}", self.base.dir(stored.id).join("work").display()));
            options.push(format!("upperdir={}", path(stored.id)));
        }
        let lowers: Vec<String> = ancestors.iter().map(|id| path(*id)).collect();
        options.push(format!("lowerdir={}", lowers.join(":")));
        options.extend(self.options.iter().cloned());
        vec![Mount { kind: "overlay".into(), source: "overlay".into(), target: None, options }]
    }

    fn info(&self, key: &str, stored: Stored) -> Info {
        let id = stored.id;
        let mut info = stored.info(key);
        if self.upperdir_label {
            info.labels.insert(UPPER_LABEL.into(), self.upper(id).display().to_string());
        }
        info
    }

    fn ancestors_paths(&self, parent: &str) -> Result<Vec<PathBuf>> {
        Ok(self.base.ancestors(Some(parent))?.into_iter().map(|id| self.upper(id)).collect())
    }
}

/// Gives the layer's root to the root user of a user namespace, where labels name one.
fn own(upper: &Path, labels: &Labels) -> Result<()> {
    let root = |label: &str| labels.get(label).map(|map| host_root(label, map)).transpose();
    let (uid, gid) = (root(UID_LABEL)?, root(GID_LABEL)?);
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    std::os::unix::fs::lchown(upper, uid, gid).during(|| format!("give {} to the user namespace's root", upper.display()))
}

/// The host's ID of the namespace's root in `container:host:size,…`.
fn host_root(label: &str, map: &str) -> Result<u32> {
    let mut ranges = map.split(',').filter_map(|range| {
        let mut parts = range.split(':').map(str::parse::<u32>);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    });
    let found = ranges.find(|(inside, _)| *inside == 0).map(|(_, host)| host);
    found.ok_or_else(|| Error::invalid(format!("label {label}=\"{map}\": maps no root; the form is 0:100000:65536")))
}

impl Snapshotter for Overlay {
    fn name(&self) -> &str {
        NAME
    }
    fn root(&self) -> &Path {
        &self.base.root
    }
    fn stat(&self, key: &str) -> Result<Info> {
        Ok(self.info(key, self.base.get(key)?))
    }
    fn prepare(&self, key: &str, parent: Option<&str>, labels: &Labels) -> Result<Vec<Mount>> {
        self.create(&New { kind: Kind::Active, key, parent, labels })
    }
    fn view(&self, key: &str, parent: Option<&str>, labels: &Labels) -> Result<Vec<Mount>> {
        self.create(&New { kind: Kind::View, key, parent, labels })
    }
    fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let stored = self.base.get(key)?;
        if stored.kind == Kind::Committed {
            return Err(Error::precondition(format!("snapshot \"{key}\" is committed; make a view to mount it")));
        }
        let ancestors = self.base.ancestors(stored.parent.as_deref())?;
        Ok(self.stack(&stored, &ancestors))
    }
    fn commit(&self, name: &str, key: &str, labels: &Labels) -> Result<()> {
        self.commit_onto(name, key, None, labels)
    }
    fn commit_onto(&self, name: &str, key: &str, parent: Option<&str>, labels: &Labels) -> Result<()> {
        let stored = self.base.get(key)?.active(key)?;
        if let Some(parent) = parent {
            if let Some(other) = &stored.parent {
                return Err(Error::precondition(format!("snapshot \"{key}\" was prepared on \"{other}\", it cannot go onto \"{parent}\"")));
            }
            if let Some(below) = self.ancestors_paths(parent)?.first() {
                inherit::root(below, &self.upper(stored.id), self.userxattr)?;
            }
        }
        let usage = measure(&self.upper(stored.id))?;
        self.base.commit(name, (key, stored.id), parent, labels, usage)
    }
    fn rebases(&self) -> bool {
        true
    }
    fn inherit(&self, key: &str, parent: Option<&str>, implied: &[PathBuf]) -> Result<()> {
        let Some(parent) = parent.filter(|_| !implied.is_empty()) else { return Ok(()) };
        let layers = self.ancestors_paths(parent)?;
        inherit::directories(&layers, &self.upper_dir(key)?, implied, self.userxattr)
    }
    fn upper_dir(&self, key: &str) -> Result<PathBuf> {
        Ok(self.upper(self.base.get(key)?.active(key)?.id))
    }
    fn userxattr(&self) -> bool {
        self.userxattr
    }
    fn maps_owners(&self) -> bool {
        *self.maps_owners.get_or_init(|| match probe::maps_owners(self.base.shelf(), &self.options) {
            Ok(()) => true,
            Err(e) => {
                log::info!("snapshots {NAME}: owners cannot be mapped here, files will be copied for user namespaces: {}", e.chain());
                false
            }
        })
    }
    fn remove(&self, key: &str) -> Result<()> {
        self.base.remove(key)
    }
    fn list(&self) -> Result<Vec<Info>> {
        Ok(self.base.list()?.into_iter().map(|(key, stored)| self.info(&key, stored)).collect())
    }
    fn usage(&self, key: &str) -> Result<Usage> {
        self.base.usage(key, |dir| measure(&dir.join("fs")))
    }
    fn set_labels(&self, key: &str, labels: &Labels) -> Result<Info> {
        Ok(self.info(key, self.base.set_labels(key, labels)?))
    }
    fn cleanup(&self) -> Result<()> {
        self.base.cleanup()
    }
}

#[cfg(test)]
mod tests;
