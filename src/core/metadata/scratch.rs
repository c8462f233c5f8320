//! A scratch directory of one test, removed when dropped.
use std::path::{Path, PathBuf};

/// The directory; dropping it removes it.
pub struct Scratch(PathBuf);

/// A fresh directory `/tmp/cradle-store-<name>-<pid>`.
pub fn dir(name: &str) -> Scratch {
    let path = std::env::temp_dir().join(format!("cradle-store-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    Scratch(path)
}

impl Scratch {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
