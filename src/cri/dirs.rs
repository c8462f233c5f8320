//! Dirs: where CRI keeps what is no record: files for a pod's /etc, FIFOs, volumes.
use crate::error::{Context, Result};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// CRI's own directories.
#[derive(Clone, Debug)]
pub struct Dirs {
    /// Survives a reboot.
    pub root: PathBuf,
    /// Does not.
    pub state: PathBuf,
}

impl Dirs {
    /// `sandboxes/<id>` of the state directory.
    pub fn sandbox(&self, id: &str) -> PathBuf {
        self.state.join("sandboxes").join(id)
    }
    /// `containers/<id>` of the state directory.
    pub fn container(&self, id: &str) -> PathBuf {
        self.state.join("containers").join(id)
    }
    /// Where volumes that the image defines live.
    pub fn volumes(&self, id: &str) -> PathBuf {
        self.root.join("containers").join(id).join("volumes")
    }
    /// FIFOs of one client's connection.
    pub fn fifo(&self, id: &str) -> PathBuf {
        self.state.join("fifo").join(id)
    }
    /// FIFOs of one command, whose process has this ID in the container: a daemon that comes back must be able to end it.
    pub fn command(&self, container: &str, id: &str) -> PathBuf {
        self.state.join("fifo").join(format!("{container}.{id}"))
    }
    /// A place to look into a root filesystem.
    pub fn peek(&self, id: &str) -> PathBuf {
        self.state.join("peek").join(id)
    }
}

/// Makes a directory and its parents, for root alone.
pub fn make(dir: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).during(|| format!("create {}", dir.display()))
}
