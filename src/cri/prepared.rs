//! Prepared mounts: mapped owners and read only with all below are made by us, on a bind mount of our own that the OCI runtime then
//! takes as it is; so they work with each runtime. They are there only while the container is created: it has its own by then.
use super::dirs;
use crate::error::{Context, Error, Result};
use crate::sys::mount::{self, Bond, Changes, Depth, UnmountFlags};
use crate::sys::userns::{IdMap, IdRange};
use crate::undo::Undo;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A bind mount to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Prepared {
    source: PathBuf,
    at: PathBuf,
    changes: Changes,
}

/// Makes the mounts of `spec` that need it below `dir`, and points `spec` at them. They go when the result is dropped.
pub fn make(spec: &mut Value, dir: &Path) -> Result<Undo> {
    let list = take_over(spec, dir)?;
    let mut undo = Undo::new();
    if list.is_empty() {
        return Ok(undo);
    }
    dirs::make(dir)?;
    let own = dir.to_path_buf();
    undo.push("remove prepared mounts", move || clear(&own));
    for one in &list {
        let held = std::fs::metadata(&one.source).during(|| format!("mount source {}", one.source.display()))?;
        let made = if held.is_dir() { std::fs::create_dir(&one.at) } else { std::fs::File::create_new(&one.at).map(drop) };
        made.during(|| format!("create {}", one.at.display()))?;
        mount::bind_changed(&one.source, &one.at, &one.changes).during(|| format!("prepare the mount of {}", one.source.display()))?;
    }
    Ok(undo)
}

/// Fails, before anything is made, where the owners of a mount's source cannot be mapped.
pub fn check(spec: &Value) -> Result<()> {
    for one in take_over(&mut spec.clone(), Path::new("/"))? {
        if let Some(map) = &one.changes.map {
            let tried = mount::can_map(&one.source, map);
            tried.map_err(|e| {
                let text =
                    "mounts.uidMappings: its file system cannot be id-mapped by this kernel; use another volume, or no user namespace";
                Error::precondition(format!("{}: {text}", one.source.display())).because(e)
            })?;
        }
    }
    Ok(())
}

fn clear(dir: &Path) -> Result<()> {
    // A runtime that still starts something of its own may hold a copy for a moment; the container never needs ours.
    mount::unmount_tree(dir, UnmountFlags::DETACH).during(|| format!("unmount what is under {}", dir.display()))?;
    std::fs::remove_dir_all(dir).during(|| format!("remove {}", dir.display()))
}

/// Takes out of `spec` what we do, and says what that is.
fn take_over(spec: &mut Value, dir: &Path) -> Result<Vec<Prepared>> {
    let mut list = vec![];
    let mounts = spec.get_mut("mounts").and_then(Value::as_array_mut).into_iter().flatten();
    for (number, one) in mounts.enumerate() {
        let map = map_of(one)?;
        let Some(source) = one.get("source").and_then(Value::as_str).map(PathBuf::from) else { continue };
        let mut options: Vec<String> = strings(one.get("options"));
        let bound = |o: &String| matches!(o.as_str(), "bind" | "rbind");
        let read_only = options.iter().any(|o| o == "rro");
        if !options.iter().any(bound) || (map.is_none() && !read_only) {
            continue;
        }
        let depth = if options.iter().any(|o| o == "rbind") { Depth::Recursive } else { Depth::One };
        options.iter_mut().filter(|o| *o == "rro").for_each(|o| *o = "ro".into());
        let both = options.iter().any(|o| matches!(o.as_str(), "shared" | "rshared"));
        let bond = if both { Bond::Both } else { Bond::FromSource };
        let at = dir.join(number.to_string());
        if let Some(fields) = one.as_object_mut() {
            fields.remove("uidMappings");
            fields.remove("gidMappings");
            fields.insert("options".into(), options.into());
            fields.insert("source".into(), at.display().to_string().into());
        }
        list.push(Prepared { source, at, changes: Changes { depth, map, read_only, bond } });
    }
    Ok(list)
}

fn map_of(mount: &Value) -> Result<Option<IdMap>> {
    let map = IdMap { uids: ranges(mount.get("uidMappings")), gids: ranges(mount.get("gidMappings")) };
    match (map.uids.is_empty(), map.gids.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some(map)),
        _ => Err(Error::invalid("mounts.uidMappings, mounts.gidMappings: they go together")),
    }
}

fn ranges(list: Option<&Value>) -> Vec<IdRange> {
    let number = |v: &Value, key: &str| v.get(key).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()).unwrap_or_default();
    let range = |v: &Value| IdRange { inside: number(v, "containerID"), outside: number(v, "hostID"), count: number(v, "size") };
    list.and_then(Value::as_array).into_iter().flatten().map(range).collect()
}

fn strings(list: Option<&Value>) -> Vec<String> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fs::Scratch;
    use serde_json::json;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn mapped_and_deeply_read_only_mounts_are_ours_and_go_again() {
        let scratch = Scratch::with_private_mounts("prepared");
        let (source, dir) = (scratch.dir("source"), scratch.path.join("mounts"));
        std::fs::write(source.join("file"), "").unwrap();
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        let plain = json!({"destination": "/p", "type": "bind", "source": source, "options": ["rbind", "ro"]});
        let mut spec = json!({"mounts": [
            plain,
            {"destination": "/m", "type": "bind", "source": source, "options": ["rbind", "rw"], "uidMappings": map, "gidMappings": map},
            {"destination": "/r", "type": "bind", "source": source.join("file"), "options": ["rbind", "rro"]},
            {"destination": "/proc", "type": "proc", "source": "proc"},
        ]});
        check(&spec).unwrap();
        let undo = make(&mut spec, &dir).unwrap();
        assert_eq!(spec["mounts"][0], plain);
        assert_eq!(spec["mounts"][1], json!({"destination": "/m", "type": "bind", "source": dir.join("1"), "options": ["rbind", "rw"]}));
        assert_eq!((&spec["mounts"][2]["source"], &spec["mounts"][2]["options"]), (&json!(dir.join("2")), &json!(["rbind", "ro"])));
        assert_eq!(std::fs::metadata(dir.join("1/file")).unwrap().uid(), 100_000);
        assert_eq!(std::fs::write(dir.join("2"), "x").unwrap_err().raw_os_error(), Some(libc::EROFS));
        drop(undo);
        assert!(!dir.exists() && source.join("file").exists());
    }

    #[test]
    fn what_cannot_be_mapped_is_known_before() {
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        let of = |uids: &Value, gids: &Value| json!({"mounts": [{"source": "/proc", "options": ["rbind"], "uidMappings": uids, "gidMappings": gids}]});
        assert!(check(&of(&map, &map)).unwrap_err().chain().contains("/proc: mounts.uidMappings"));
        assert!(check(&of(&map, &json!([]))).unwrap_err().chain().contains("go together"));
    }
}
