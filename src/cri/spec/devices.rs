//! Devices: those of the request, with rules to use them, or all of the node for a privileged container.
use super::host::Host;
use super::oci::{Device, DeviceRule};
use crate::error::{Context, Error, Result};
use crate::proto::cri;
use rustix::fs::FileType;
use std::path::{Path, PathBuf};

/// Directories of /dev that belong to a namespace or to other tools.
const SKIPPED: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];

/// How deep a directory of devices is looked into.
const DEEPEST: usize = 8;

/// Devices and rules, in the order in which they are added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// Nodes.
    pub nodes: Vec<Device>,
    /// Rules.
    pub rules: Vec<DeviceRule>,
}

/// A rule for all devices.
pub fn all(allow: bool) -> DeviceRule {
    DeviceRule { allow, access: "rwm".into(), ..DeviceRule::default() }
}

/// Refuses bad paths and permissions.
pub fn check(devices: &[cri::Device]) -> Result<()> {
    for (at, device) in devices.iter().enumerate() {
        for (path, field) in [(&device.host_path, "host_path"), (&device.container_path, "container_path")] {
            if !path.starts_with('/') || path.contains('\0') || path.split('/').any(|p| p == "..") {
                return Err(Error::invalid(format!("devices[{at}].{field}: {path:?} is not an absolute path")));
            }
        }
        let permissions = &device.permissions;
        if permissions.is_empty() || !permissions.bytes().all(|b| b"rwm".contains(&b)) {
            return Err(Error::invalid(format!("devices[{at}].permissions: {permissions:?} is not of r, w, m")));
        }
    }
    Ok(())
}

/// Nodes and rules of the request's devices; a directory stands for all devices beneath it.
pub fn asked(devices: &[cri::Device]) -> Result<Devices> {
    let mut found = Devices::default();
    for device in devices {
        let host = std::fs::canonicalize(&device.host_path)
            .during(|| format!("devices: host_path {}", device.host_path))
            .map_err(|e| e.with_kind(crate::error::Kind::InvalidArgument))?;
        let nodes = beneath(&host, Some(Path::new(&device.container_path)), 0)?;
        if nodes.is_empty() {
            return Err(Error::invalid(format!("devices: host_path {} is not a device and has none beneath it", device.host_path)));
        }
        for node in nodes {
            found.rules.push(DeviceRule {
                allow: true,
                kind: node.kind.clone(),
                major: Some(node.major),
                minor: Some(node.minor),
                access: device.permissions.clone(),
            });
            found.nodes.push(node);
        }
    }
    Ok(found)
}

/// All devices of the node.
pub fn of_node(host: &Host) -> Result<Vec<Device>> {
    beneath(&host.dev, None, 0)
}

fn beneath(path: &Path, inside: Option<&Path>, depth: usize) -> Result<Vec<Device>> {
    let meta = std::fs::metadata(path).during(|| format!("device {}", path.display()))?;
    if !meta.is_dir() {
        let node = node(path, inside)?;
        return node.map(|n| vec![n]).ok_or_else(|| Error::invalid(format!("devices: host_path {} is not a device", path.display())));
    }
    let mut found = Vec::new();
    let mut entries: Vec<_> = std::fs::read_dir(path)
        .during(|| format!("list {}", path.display()))?
        .collect::<std::io::Result<_>>()
        .during(|| format!("list {}", path.display()))?;
    entries.sort_by_key(|e| e.file_name());
    for entry in entries {
        let name = entry.file_name();
        let inside: Option<PathBuf> = inside.map(|i| i.join(&name));
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            if depth < DEEPEST && !SKIPPED.iter().any(|s| name == *s) {
                found.extend(beneath(&entry.path(), inside.as_deref(), depth + 1)?);
            }
        } else if name != "console" {
            found.extend(node(&entry.path(), inside.as_deref())?.filter(|n| n.kind != "p"));
        }
    }
    Ok(found)
}

/// The device at a path of the node; `None` if there is something else, or nothing.
pub fn at(path: &Path) -> Result<Option<Device>> {
    node(path, None)
}

/// The device at a path; `None` if it is something else or just went away. Links are not followed.
fn node(path: &Path, inside: Option<&Path>) -> Result<Option<Device>> {
    let stat = match rustix::fs::lstat(path) {
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        other => other.during(|| format!("device {}", path.display()))?,
    };
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => "b",
        FileType::CharacterDevice => "c",
        FileType::Fifo => "p",
        _ => return Ok(None),
    };
    Ok(Some(Device {
        path: inside.unwrap_or(path).display().to_string(),
        kind: kind.into(),
        major: i64::from(rustix::fs::major(stat.st_rdev)),
        minor: i64::from(rustix::fs::minor(stat.st_rdev)),
        file_mode: Some(stat.st_mode & 0o7777),
        uid: Some(stat.st_uid),
        gid: Some(stat.st_gid),
    }))
}

/// Gives devices to the user of the security context (`device_ownership_from_security_context`).
pub fn own(nodes: &mut [Device], uid: Option<i64>, gid: Option<i64>) {
    let id = |v: Option<i64>| v.and_then(|v| u32::try_from(v).ok()).filter(|v| *v != 0);
    for node in nodes {
        node.uid = id(uid).or(node.uid);
        node.gid = id(gid).or(node.gid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(host: &str, container: &str, permissions: &str) -> cri::Device {
        cri::Device { host_path: host.into(), container_path: container.into(), permissions: permissions.into(), ..Default::default() }
    }

    #[test]
    fn device_of_the_request_is_looked_up_through_links() {
        let link = std::env::temp_dir().join(format!("cradle-spec-dev-{}", std::process::id()));
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        let found = asked(&[device(link.to_str().unwrap(), "/dev/nix", "rw")]).unwrap();
        std::fs::remove_file(&link).unwrap();
        assert_eq!((found.nodes[0].path.as_str(), found.nodes[0].major, found.nodes[0].minor), ("/dev/nix", 1, 3));
        assert_eq!((found.rules[0].kind.as_str(), found.rules[0].access.as_str()), ("c", "rw"));
        let mut nodes = found.nodes;
        own(&mut nodes, Some(1000), Some(0));
        assert_eq!((nodes[0].uid, nodes[0].gid), (Some(1000), Some(0)));
    }

    #[test]
    fn what_is_no_device_is_refused() {
        assert!(asked(&[device("/etc/passwd", "/dev/x", "r")]).unwrap_err().chain().contains("not a device"));
        assert!(asked(&[device("/nowhere", "/dev/x", "r")]).is_err());
        for bad in [
            device("dev/null", "/x", "r"),
            device("/dev/null", "", "r"),
            device("/dev/null", "/x", "rx"),
            device("/dev/null", "/x", ""),
            device("/dev/null", "/a/../b", "r"),
        ] {
            assert!(check(&[bad]).unwrap_err().chain().starts_with("devices[0]."));
        }
    }

    #[test]
    fn node_devices_leave_out_terminals_and_console() {
        let all = of_node(&Host::plain()).unwrap();
        assert!(all.iter().any(|d| d.path == "/dev/null"));
        assert!(!all.iter().any(|d| d.path.starts_with("/dev/pts/") || d.path == "/dev/console"));
    }
}
