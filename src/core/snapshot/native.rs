//! The native snapshotter: every snapshot is a full copy of its parent, on any file system. Shares blocks where they can be shared.
use super::base::{Base, New, Removal, measure};
use super::{Info, Kind, Labels, Snapshotter, Usage};
use crate::core::metadata::Db;
use crate::error::{Context, Error, Kind as ErrorKind, Result};
use crate::sys::fs::{copy_tree, make_dir};
use crate::sys::mount::Mount;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const NAME: &str = "native";

/// The native snapshotter.
pub struct Native(Base);

impl Native {
    /// Opens or creates it in `root`.
    pub fn open(root: &Path, db: Arc<Db>) -> Result<Native> {
        Ok(Native(Base::open(NAME, root, db, Removal::Now)?))
    }

    fn create(&self, new: &New<'_>) -> Result<Vec<Mount>> {
        let (stored, ancestors) = self.0.create(new, |dir, ancestors| {
            make_dir(dir, 0o755).during(|| format!("create {}", dir.display()))?;
            match ancestors.first() {
                Some(parent) if new.kind == Kind::Active => {
                    let from = self.0.dir(*parent);
                    copy_tree(&from, dir).during(|| format!("copy {} to {}", from.display(), dir.display()))
                }
                _ => Ok(()),
            }
        })?;
        Ok(self.bind(stored.kind, ancestors.first().copied(), stored.id))
    }

    /// A view of a parent is the parent's own directory.
    fn bind(&self, kind: Kind, parent: Option<u64>, id: u64) -> Vec<Mount> {
        let (shown, mode) = match kind {
            Kind::Active => (id, "rw"),
            _ => (parent.unwrap_or(id), "ro"),
        };
        let source = self.0.dir(shown).display().to_string();
        vec![Mount { kind: "bind".into(), source, target: None, options: vec![mode.into(), "rbind".into()] }]
    }
}

impl Snapshotter for Native {
    fn name(&self) -> &str {
        NAME
    }
    fn root(&self) -> &Path {
        &self.0.root
    }
    fn stat(&self, key: &str) -> Result<Info> {
        Ok(self.0.get(key)?.info(key))
    }
    fn prepare(&self, key: &str, parent: Option<&str>, labels: &Labels) -> Result<Vec<Mount>> {
        self.create(&New { kind: Kind::Active, key, parent, labels })
    }
    fn view(&self, key: &str, parent: Option<&str>, labels: &Labels) -> Result<Vec<Mount>> {
        self.create(&New { kind: Kind::View, key, parent, labels })
    }
    fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let stored = self.0.get(key)?;
        if stored.kind == Kind::Committed {
            return Err(Error::precondition(format!("snapshot \"{key}\" is committed; make a view to mount it")));
        }
        let parent = stored.parent.as_deref().map(|p| self.0.get(p)).transpose()?;
        Ok(self.bind(stored.kind, parent.map(|p| p.id), stored.id))
    }
    fn commit(&self, name: &str, key: &str, labels: &Labels) -> Result<()> {
        let stored = self.0.get(key)?.active(key)?;
        let usage = measure(&self.0.dir(stored.id))?;
        self.0.commit(name, (key, stored.id), None, labels, usage)
    }
    fn commit_onto(&self, name: &str, key: &str, parent: Option<&str>, labels: &Labels) -> Result<()> {
        match parent {
            None => self.commit(name, key, labels),
            Some(_) => Err(Error::new(ErrorKind::Unimplemented, "native snapshots are copies of their parents; prepare on the parent")),
        }
    }
    fn rebases(&self) -> bool {
        false
    }
    fn upper_dir(&self, key: &str) -> Result<PathBuf> {
        Ok(self.0.dir(self.0.get(key)?.active(key)?.id))
    }
    fn remove(&self, key: &str) -> Result<()> {
        self.0.remove(key)
    }
    fn list(&self) -> Result<Vec<Info>> {
        Ok(self.0.list()?.into_iter().map(|(key, stored)| stored.info(&key)).collect())
    }
    fn usage(&self, key: &str) -> Result<Usage> {
        self.0.usage(key, measure)
    }
    fn set_labels(&self, key: &str, labels: &Labels) -> Result<Info> {
        Ok(self.0.set_labels(key, labels)?.info(key))
    }
    fn cleanup(&self) -> Result<()> {
        self.0.cleanup()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::snapshot::suite;

    #[test]
    fn the_suite_passes() {
        suite::run("native", &|root, db| Box::new(Native::open(root, db).unwrap()));
    }
}
