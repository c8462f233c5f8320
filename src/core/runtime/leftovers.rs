//! Leftovers: kills what still runs in a container's cgroup and removes the cgroup, on v1 and v2 alike.
use super::bundle::Bundle;
use crate::thread::Stop;
use log::warn;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// A fork bomb may win a round, not all of them.
const ROUNDS: u32 = 20;

/// Kills all processes of the container that the bundle's spec describes, and removes their cgroup; no cgroup, no harm.
///
/// crun 1.8 leaves the cgroup of a container that it could not create.
pub fn clear(bundle: &Bundle, stop: &Stop) {
    let Ok(spec) = fs::read(bundle.path.join("config.json")) else { return };
    let Some(path) = cgroup_path(&spec, &bundle.id) else { return };
    for _ in 0..ROUNDS {
        let left = directories(&path);
        // The kernel refuses while a dead process is not reaped yet.
        if left.iter().filter(|d| !remove(d)).count() == 0 {
            return;
        }
        for pid in left.iter().flat_map(|d| processes(d)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        if stop.sleep(Duration::from_millis(20)) {
            return;
        }
    }
    warn!("task {}: cgroup {} is not removed: what is in it does not die", bundle.id, path.display());
}

/// Directories of this cgroup in every hierarchy.
fn directories(path: &Path) -> Vec<PathBuf> {
    let base = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(base).into_iter().flatten().flatten().map(|e| e.path()).filter(|p| p.join("cgroup.procs").exists());
    hierarchies.chain([base.to_path_buf()]).map(|h| h.join(path)).filter(|d| d.join("cgroup.procs").exists()).collect()
}

/// Removes a cgroup and those below it, unless they have processes; whether it is gone.
fn remove(directory: &Path) -> bool {
    let below = fs::read_dir(directory).into_iter().flatten().flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    let gone = below.filter(|e| !remove(&e.path())).count() == 0;
    gone && fs::remove_dir(directory).is_ok()
}

/// Processes of a cgroup and those below it.
fn processes(directory: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let own = text.lines().filter_map(|l| l.parse().ok()).filter_map(Pid::from_raw);
    let below = fs::read_dir(directory).into_iter().flatten().flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    own.chain(below.flat_map(|e| processes(&e.path()))).collect()
}

/// The spec's cgroup below the mount point; systemd's `slice:prefix:name` is spelled out. Never a cgroup of others.
fn cgroup_path(spec: &[u8], id: &str) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Spec {
        linux: Option<Linux>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Linux {
        cgroups_path: Option<String>,
    }
    let given = serde_json::from_slice::<Spec>(spec).ok()?.linux?.cgroups_path?;
    let path = match given.split(':').collect::<Vec<_>>().as_slice() {
        [slice, prefix, name] => slice_path(slice).join(format!("{prefix}-{name}.scope")),
        _ => PathBuf::from(given.trim_start_matches('/')),
    };
    // Only a cgroup that carries the container's ID is its own; a shared parent must live.
    let own = path.file_name().is_some_and(|n| n.to_string_lossy().contains(id));
    (own && path.components().all(|c| matches!(c, Component::Normal(_)))).then_some(path)
}

/// `a-b.slice` → `a.slice/a-b.slice`.
fn slice_path(slice: &str) -> PathBuf {
    let name = slice.strip_suffix(".slice").unwrap_or(slice);
    let ends = name.match_indices('-').map(|(i, _)| i).chain([name.len()]);
    ends.map(|end| format!("{}.slice", &name[..end])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cgroup_of_the_container_itself_is_found() {
        let path = |p: &str| cgroup_path(format!(r#"{{"linux":{{"cgroupsPath":"{p}"}}}}"#).as_bytes(), "c1");
        assert_eq!(path("/kubepods/pod1/c1"), Some("kubepods/pod1/c1".into()));
        assert_eq!(path("kube-pod.slice:cri-containerd:c1"), Some("kube.slice/kube-pod.slice/cri-containerd-c1.scope".into()));
        assert_eq!(path("/kubepods"), None);
        assert_eq!(path("/../c1"), None);
        assert_eq!(path(""), None);
        assert_eq!(cgroup_path(b"{}", "c1"), None);
    }
}
