//! Bundle: the directory of one container; removed whole or not at all, and never with a mount in it.
use crate::error::{Context, Error, Kind, Result};
use crate::sys::mount::{self, Mount};
use serde::Deserialize;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

/// Directory under the state and the root directory; containerd's name, so that its tools find the bundles.
pub const DIRECTORY: &str = "io.containerd.runtime.v2.task";
/// containerd's limit on identifiers.
const MAX_ID: usize = 76;

/// One container's directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bundle {
    /// containerd namespace.
    pub namespace: String,
    /// Container ID.
    pub id: String,
    /// `<state>/io.containerd.runtime.v2.task/<namespace>/<id>`.
    pub path: PathBuf,
    /// What the shim keeps over a reboot; `work` links to it.
    pub work: PathBuf,
}

/// A namespace or container ID that is safe as a file name: letters and digits joined by single `.`, `_` or `-`.
pub fn check_id(what: &str, id: &str) -> Result<()> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inside = id.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if id.len() > MAX_ID || !edge(id.chars().next()) || !edge(id.chars().last()) || !inside || id.contains("..") {
        return Err(Error::invalid(format!("{what} \"{id}\" must be letters and digits, with . _ - between them, at most {MAX_ID}")));
    }
    Ok(())
}

impl Bundle {
    /// The bundle of a container, whether it is there or not. `state` and `root` are the daemon's directories.
    pub fn at(state: &Path, root: &Path, namespace: &str, id: &str) -> Result<Bundle> {
        check_id("namespace", namespace)?;
        check_id("container ID", id)?;
        let below = |base: &Path| base.join(DIRECTORY).join(namespace).join(id);
        Ok(Bundle { namespace: namespace.into(), id: id.into(), path: below(state), work: below(root) })
    }
    /// Makes the directory; `AlreadyExists` if it is there: making it is what reserves the ID.
    pub fn create(&self, spec: &[u8]) -> Result<()> {
        for base in [&self.path, &self.work] {
            if let Some(parent) = base.parent() {
                fs::DirBuilder::new().recursive(true).mode(0o711).create(parent).during(|| format!("create {}", parent.display()))?;
            }
        }
        match fs::DirBuilder::new().mode(0o700).create(&self.path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(Error::already_exists("task", &self.id)),
            other => other.during(|| format!("create {}", self.path.display()))?,
        }
        let filled = self.fill(spec);
        if filled.is_err() {
            self.remove()?;
        }
        filled
    }
    fn fill(&self, spec: &[u8]) -> Result<()> {
        // A work directory without a bundle is what a power cut left.
        remove_tree(&self.work)?;
        let at = || format!("fill bundle {}", self.path.display());
        fs::DirBuilder::new().mode(0o711).create(&self.work).during(at)?;
        fs::DirBuilder::new().mode(0o711).create(self.rootfs()).during(at)?;
        symlink(&self.work, self.path.join("work")).during(at)?;
        if let Some(group) = mapped_root(spec) {
            chown(&self.path, None, Some(group)).during(at)?;
            fs::set_permissions(&self.path, fs::Permissions::from_mode(0o710)).during(at)?;
        }
        self.write("config.json", spec)
    }
    /// Where the root file system is mounted.
    pub fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }
    /// A small file of the bundle as text, trimmed; `None` if it is not there or empty.
    pub fn read(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.path.join(name)).ok()?;
        Some(text.trim().to_owned()).filter(|t| !t.is_empty())
    }
    /// Writes a file of the bundle so that it is there whole or not at all.
    pub fn write(&self, name: &str, data: &[u8]) -> Result<()> {
        let (path, fresh) = (self.path.join(name), self.path.join(format!(".{name}")));
        let written = fs::File::create(&fresh).and_then(|mut f| f.write_all(data)).and_then(|()| fs::rename(&fresh, &path));
        written.during(|| format!("write {}", path.display()))
    }
    /// Makes a root file system of one program, and how it is mounted. It is in the work directory, since `/run` is often noexec.
    pub fn root_of_program(&self, name: &str, data: &[u8]) -> Result<Mount> {
        let root = self.work.join("rootfs");
        let path = root.join(name);
        // The mount points that OCI runtimes open even where the spec mounts nothing (crun: /dev).
        let made = ["", "dev", "proc", "sys"].iter().try_for_each(|d| fs::DirBuilder::new().mode(0o755).create(root.join(d)));
        let written = made.and_then(|()| fs::write(&path, data));
        let written = written.and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)));
        written.during(|| format!("write {}", path.display()))?;
        let source = root.to_string_lossy().into_owned();
        Ok(Mount { kind: "bind".into(), source, target: None, options: vec!["rbind".into(), "rw".into()] })
    }
    /// Unmounts what is in it and removes bundle and work directory; what is gone already is fine.
    pub fn remove(&self) -> Result<()> {
        unmount_below(&self.path)?;
        let bundle = remove_tree(&self.path);
        let work = remove_tree(&self.work);
        match (bundle, work) {
            (Err(a), Err(b)) => Err(a.and_also(b)),
            (Err(e), _) | (_, Err(e)) => Err(e),
            _ => Ok(()),
        }
    }
}

/// Every bundle in the state directory, and the removal of what a remove left half-done (`.ID`).
pub fn list(state: &Path, root: &Path) -> Result<Vec<Bundle>> {
    let mut found = vec![];
    for namespace in names(&state.join(DIRECTORY))? {
        for id in names(&state.join(DIRECTORY).join(&namespace))? {
            if let Some(bundle_id) = id.strip_prefix('.') {
                let left = state.join(DIRECTORY).join(&namespace).join(&id);
                log::info!("bundle {namespace}/{bundle_id}: finishing its removal");
                unmount_below(&left).and_then(|()| remove_now(&left))?;
            } else if let Ok(bundle) = Bundle::at(state, root, &namespace, &id) {
                found.push(bundle);
            } else {
                log::warn!("{namespace}/{id} below {} is no bundle and left alone", state.display());
            }
        }
    }
    Ok(found)
}

/// Removes work directories whose bundle is gone, as after a reboot.
pub fn remove_orphaned_work(state: &Path, root: &Path) -> Result<()> {
    for namespace in names(&root.join(DIRECTORY))? {
        for id in names(&root.join(DIRECTORY).join(&namespace))? {
            if !state.join(DIRECTORY).join(&namespace).join(&id).exists() {
                remove_now(&root.join(DIRECTORY).join(&namespace).join(&id))?;
            }
        }
    }
    Ok(())
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let at = || format!("list {}", dir.display());
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(vec![]),
        other => other.during(at)?,
    };
    let mut names = vec![];
    for entry in entries {
        let entry = entry.during(at)?;
        if entry.file_type().during(at)?.is_dir() {
            names.extend(entry.file_name().into_string());
        }
    }
    Ok(names)
}

/// Renames first, so that a crash in the middle never leaves half a bundle under its name.
fn remove_tree(path: &Path) -> Result<()> {
    let Some(name) = path.file_name() else { return Ok(()) };
    let hidden = path.with_file_name(format!(".{}", name.to_string_lossy()));
    remove_now(&hidden)?;
    match fs::rename(path, &hidden) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other.during(|| format!("move {} away", path.display())).and_then(|()| remove_now(&hidden)),
    }
}

/// Refuses while anything is mounted below: a bind mount's files are somebody else's.
fn remove_now(path: &Path) -> Result<()> {
    if fs::symlink_metadata(path).is_err_and(|e| e.kind() == ErrorKind::NotFound) {
        return Ok(());
    }
    if let Some(mounted) = mounts_below(path)?.first() {
        let what = format!("remove {}: {} is still mounted", path.display(), mounted.display());
        return Err(Error::new(Kind::FailedPrecondition, what));
    }
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other.during(|| format!("remove {}", path.display())),
    }
}

fn mounts_below(path: &Path) -> Result<Vec<PathBuf>> {
    mount::mounts_under(path).during(|| format!("find mounts below {}", path.display()))
}

/// Unmounts everything below, newest first; lazily only what stays busy.
fn unmount_below(path: &Path) -> Result<()> {
    use rustix::mount::{UnmountFlags, unmount};
    for target in mounts_below(path)?.iter().rev() {
        let plain = unmount(target, UnmountFlags::NOFOLLOW);
        let done = plain.or_else(|e| match e {
            rustix::io::Errno::BUSY => unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH),
            other => Err(other),
        });
        done.during(|| format!("unmount {}", target.display()))?;
    }
    Ok(())
}

/// The host group that user namespaces map to root: it must be able to enter the bundle.
fn mapped_root(spec: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Spec {
        linux: Option<Linux>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Linux {
        #[serde(default)]
        gid_mappings: Vec<Mapping>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Mapping {
        #[serde(rename = "containerID")]
        container_id: u32,
        #[serde(rename = "hostID")]
        host_id: u32,
    }
    let spec: Spec = serde_json::from_slice(spec).ok()?;
    spec.linux?.gid_mappings.into_iter().find(|m| m.container_id == 0).map(|m| m.host_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_plain_file_names() {
        for good in ["a", "k8s.io", "a-b_c.d", &"x".repeat(76)] {
            check_id("id", good).unwrap();
        }
        for bad in ["", ".", "..", "a/b", "-a", "a.", "a..b", "é", &"x".repeat(77)] {
            assert_eq!(check_id("id", bad).unwrap_err().kind(), Kind::InvalidArgument);
        }
    }

    #[test]
    fn the_mapped_root_group_is_found() {
        let spec = br#"{"linux":{"gidMappings":[{"containerID":5,"hostID":7,"size":1},{"containerID":0,"hostID":100000,"size":9}]}}"#;
        assert_eq!(mapped_root(spec), Some(100_000));
        assert_eq!(mapped_root(b"{}"), None);
    }
}
