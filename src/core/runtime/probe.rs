//! Probe: which OCI runtime works on this host, found by running a container with it.
use crate::error::{Context, Error, Result};
use crate::sys::{hybrid, pause, spawn};
use log::{info, warn};
use serde::{Deserialize, Serialize};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// In the order of preference: crun starts containers several times faster.
const NAMES: [&str; 2] = ["crun", "runc"];
/// Each command of the trial.
const LIMIT: Duration = Duration::from_secs(10);
/// The result, in the state directory.
const CACHE: &str = "oci-runtime.json";

/// An OCI runtime that works.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Found {
    /// Its program.
    pub path: PathBuf,
    /// How it has to be run.
    pub way: Way,
}

/// How an OCI runtime has to be run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Way {
    /// As it is.
    Plain,
    /// Without sight of the hybrid host's cgroup2, see [`hybrid`].
    WithoutUnified,
}

/// What runs in the trial container.
struct Trial<'a> {
    program: &'a [u8],
    args: &'a [&'a str],
}

#[derive(Serialize, Deserialize)]
struct Cached {
    found: Found,
    stamp: String,
}

/// The first of crun and runc that runs a container here. The answer is kept in `state` until the program changes.
pub fn find(state: &Path, root: &Path) -> Result<Found> {
    find_with(state, root, &Trial { program: pause::BYTES, args: &["/pause"] })
}

fn find_with(state: &Path, root: &Path, trial: &Trial<'_>) -> Result<Found> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]).collect();
    let programs: Vec<PathBuf> = NAMES.iter().filter_map(|n| dirs.iter().map(|d| d.join(n)).find(|p| p.is_file())).collect();
    let cached = fs::read(state.join(CACHE)).ok().and_then(|b| serde_json::from_slice::<Cached>(&b).ok());
    let mut refused = vec![];
    for program in programs {
        let stamp = stamp(&program)?;
        if let Some(cached) = cached.as_ref().filter(|c| c.found.path == program && c.stamp == stamp) {
            return Ok(cached.found.clone());
        }
        match ways(&program, root, trial) {
            Ok(way) => {
                info!("OCI runtime {}: works here ({way:?})", program.display());
                let found = Found { path: program, way };
                keep(state, &Cached { found: found.clone(), stamp });
                return Ok(found);
            }
            Err(e) => {
                warn!("OCI runtime {}: does not work here: {}", program.display(), e.chain());
                refused.push(format!("{}: {}", program.display(), e.chain()));
            }
        }
    }
    let why = if refused.is_empty() { "neither crun nor runc is on the PATH".into() } else { refused.join("; ") };
    Err(Error::precondition(format!("no OCI runtime works here, install crun or runc: {why}")))
}

fn ways(program: &Path, root: &Path, trial: &Trial<'_>) -> Result<Way> {
    let plain = run(program, Way::Plain, root, trial);
    match plain {
        Ok(()) => Ok(Way::Plain),
        Err(e) if !hybrid::present() => Err(e),
        Err(first) => run(program, Way::WithoutUnified, root, trial).map(|()| Way::WithoutUnified).map_err(|e| first.and_also(e)),
    }
}

/// Runs a container detached, kills and deletes it. The directory is below root, since the state's is often noexec.
fn run(program: &Path, way: Way, root: &Path, trial: &Trial<'_>) -> Result<()> {
    let id = format!("cradle-probe-{}", std::process::id());
    let scratch = root.join(&id);
    let filled = fill(&scratch, &id, trial);
    let tried = filled.and_then(|()| {
        let bundle = scratch.join("bundle");
        let run = oci(program, way, &scratch, &["run", "--detach", "--bundle", &bundle.to_string_lossy(), &id]);
        let ran = run.and_then(|()| oci(program, way, &scratch, &["kill", &id, "KILL"]));
        // Also after a failure, for what it left.
        let deleted = oci(program, way, &scratch, &["delete", "--force", &id]);
        ran.and(deleted)
    });
    let removed = fs::remove_dir_all(&scratch).during(|| format!("remove {}", scratch.display()));
    tried.and(removed)
}

fn fill(scratch: &Path, id: &str, trial: &Trial<'_>) -> Result<()> {
    let rootfs = scratch.join("bundle/rootfs");
    let spec = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": trial.args, "cwd": "/", "noNewPrivileges": true},
        "root": {"path": "rootfs", "readonly": true},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
        ],
        "linux": {
            "cgroupsPath": format!("/{id}"),
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}],
        },
    });
    let name = trial.args.first().unwrap_or(&"/pause").trim_start_matches('/');
    let program = rootfs.join(name);
    let made = fs::create_dir_all(&rootfs)
        .and_then(|()| fs::write(&program, trial.program))
        .and_then(|()| fs::set_permissions(&program, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::write(scratch.join("bundle/config.json"), spec.to_string()));
    made.during(|| format!("fill {}", scratch.display()))
}

fn oci(program: &Path, way: Way, scratch: &Path, args: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    command.arg("--root").arg(scratch.join("state")).args(args).current_dir(scratch);
    if way == Way::WithoutUnified {
        hybrid::without_unified(&mut command);
    }
    let what = || format!("{} {}", program.display(), args[0]);
    let output = spawn::run(&mut command, &[], LIMIT, 4096).during(what)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::internal(format!("{}: {}: {}", what(), output.status, String::from_utf8_lossy(&output.stderr).trim())))
}

/// What the answer depends on: the program, and the kernel under it.
fn stamp(program: &Path) -> Result<String> {
    let meta = fs::metadata(program).during(|| format!("look at {}", program.display()))?;
    let kernel = rustix::system::uname();
    Ok(format!("{}.{} {} {}", meta.mtime(), meta.mtime_nsec(), meta.size(), kernel.release().to_string_lossy()))
}

/// Losing it costs only another trial.
fn keep(state: &Path, cached: &Cached) {
    let (path, fresh) = (state.join(CACHE), state.join(format!(".{CACHE}")));
    let json = serde_json::to_vec(cached).unwrap_or_default();
    if let Err(e) = fs::write(&fresh, json).and_then(|()| fs::rename(&fresh, &path)) {
        warn!("{}: the probe's result is not kept: {e}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_found_by_running_it_and_remembered() {
        let Ok(busybox) = fs::read("/bin/busybox") else {
            eprintln!("skipped: no /bin/busybox");
            return;
        };
        let scratch = std::env::temp_dir().join(format!("cradle-runtime-probe-{}", std::process::id()));
        fs::create_dir_all(&scratch).unwrap();
        let trial = Trial { program: &busybox, args: &["/busybox", "sleep", "60"] };
        let found = find_with(&scratch, &scratch, &trial).unwrap();
        // The second time nothing is run: an unrunnable program would fail.
        let again = find_with(&scratch, &scratch, &Trial { program: b"", args: &["/x"] }).unwrap();
        let left: Vec<_> = fs::read_dir(&scratch).unwrap().map(|e| e.unwrap().file_name()).collect();
        fs::remove_dir_all(&scratch).unwrap();
        assert_eq!(found, again);
        assert_eq!(left, [CACHE]);
        eprintln!("found {} ({:?})", found.path.display(), found.way);
    }
}
