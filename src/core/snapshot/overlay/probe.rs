//! Whether overlayfs works here, and which options it needs, found out by a real mount.
use crate::error::{Context, Error, Kind, Result};
use crate::sys::fs::{make_dir, open_dir, remove_tree, tells_types};
use crate::sys::mount::{Mount, UnmountFlags, mount, mounted, unmount_all};
use std::fs::read_to_string;
use std::io;
use std::path::Path;

/// Name of the directory to try in; it looks like rubbish to a cleanup.
const DIR: &str = "probe";
/// The same for a trial with mapped owners, which is made while the daemon works.
const MAPPED_DIR: &str = "probe-idmap";

/// Adds the options that overlayfs needs on this system to the configured ones, and tries them on the file system of `shelf`.
pub(super) fn complete(shelf: &Path, options: &mut Vec<String>) -> Result<()> {
    let given = |key: &str| options.iter().any(|o| o == key || o.split_once('=').is_some_and(|(k, _)| k == key));
    let mut wanted = vec![];
    // Two snapshots share lower directories; an index would tie each to the first.
    if parameter("index").is_some() && !given("index") {
        wanted.push("index=off".to_string());
    }
    // A layer whose files lack their data cannot be exported or measured.
    if parameter("metacopy").as_deref() == Some("Y") && !given("metacopy") {
        wanted.push("metacopy=off".to_string());
    }
    options.extend(wanted);
    let userns = in_user_namespace() && !options.iter().any(|o| o == "userxattr");
    if userns {
        options.push("userxattr".into());
        if attempt(shelf, options).is_ok() {
            return Ok(());
        }
        // Distributions allowed overlayfs in user namespaces before the kernel did, without the option.
        options.pop();
    }
    attempt(shelf, options).map_err(|e| {
        let text = format!(
            "overlayfs cannot be used on {} ({}); use a local ext4 or xfs file system, or the native snapshotter",
            shelf.display(),
            file_system(shelf)
        );
        Error::new(Kind::FailedPrecondition, text).because(e)
    })
}

/// Tries an overlay on id-mapped layers.
pub(super) fn maps_owners(shelf: &Path, options: &[String]) -> Result<()> {
    const MAP: [&str; 2] = ["uidmap=0:100000:65536", "gidmap=0:100000:65536"];
    let options: Vec<String> = MAP.into_iter().map(String::from).chain(options.iter().cloned()).collect();
    attempt_in(&shelf.join(MAPPED_DIR), &options)
}

fn attempt(shelf: &Path, options: &[String]) -> Result<()> {
    attempt_in(&shelf.join(DIR), options)
}

fn attempt_in(dir: &Path, options: &[String]) -> Result<()> {
    // A daemon that was killed at this very point left its mount.
    clear(dir).during(|| format!("clear {}", dir.display()))?;
    let tried = try_mount(dir, options);
    let cleared = clear(dir).during(|| format!("clear {}", dir.display()));
    tried.during(|| "try an overlay mount")?;
    cleared
}

fn clear(dir: &Path) -> io::Result<()> {
    unmount_all(&dir.join("merged"), UnmountFlags::DETACH)?;
    remove_tree(dir)
}

fn try_mount(dir: &Path, options: &[String]) -> io::Result<()> {
    make_dir(dir, 0o700)?;
    for name in ["lower1", "lower2", "upper", "work", "merged"] {
        make_dir(&dir.join(name), 0o755)?;
    }
    if !tells_types(&open_dir(dir)?)? {
        return Err(io::Error::other("it does not tell file types in directories (on xfs: mkfs with ftype=1)"));
    }
    std::fs::write(dir.join("lower1/file"), "")?;
    let at = |name: &str| dir.join(name).display().to_string();
    let mut all =
        vec![format!("workdir={}", at("work")), format!("upperdir={}", at("upper")), format!("lowerdir={}:{}", at("lower2"), at("lower1"))];
    all.extend(options.iter().cloned());
    let merged = dir.join("merged");
    mount(&Mount { kind: "overlay".into(), source: "overlay".into(), target: None, options: all }, &merged)?;
    // A removal needs whiteouts to work, not only the mount.
    std::fs::remove_file(merged.join("file"))?;
    if merged.join("file").exists() {
        return Err(io::Error::other("a removed file is still there"));
    }
    Ok(())
}

/// A default of the overlay module.
fn parameter(name: &str) -> Option<String> {
    read_to_string(format!("/sys/module/overlay/parameters/{name}")).ok().map(|text| text.trim().to_string())
}

fn in_user_namespace() -> bool {
    let map = read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"]
}

/// Type of the file system that holds `path`, as far as the mount table tells.
fn file_system(path: &Path) -> String {
    let all = mounted().unwrap_or_default();
    let holder = all.iter().rev().filter(|m| path.starts_with(&m.point)).max_by_key(|m| m.point.as_os_str().len());
    holder.map_or_else(|| "unknown file system".to_string(), |m| format!("{} of {}", m.kind, m.point.display()))
}
