//! Devices: nodes that a container gets, and the cgroup rules that let it use them.
use super::ContainerInput;
use super::resources::all_devices;
use crate::error::{Context, Error, Result};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};
use rustix::fs::{AtFlags, CWD, FileType, Stat};
use std::path::{Path, PathBuf};

/// Of directories in /dev that have file systems of their own, or nothing for a container.
const NOT_FROM_DEV: [&str; 8] = ["pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev"];
/// How deep a directory of devices is looked into.
const DEEPEST: usize = 8;

/// Nodes and rules.
#[derive(Default)]
pub struct Devices {
    /// Nodes to be made.
    pub nodes: Vec<LinuxDevice>,
    /// Rules, first to last.
    pub rules: Vec<LinuxDeviceCgroup>,
}

/// A container's devices.
pub fn of_container(input: &ContainerInput<'_>) -> Result<Devices> {
    let context = input.config.linux.get_or_default().security_context.get_or_default();
    let host_devices = context.privileged && !input.options.privileged_without_host_devices;
    let mut all = Devices { nodes: vec![], rules: vec![all_devices(host_devices)] };
    if host_devices {
        tree(Path::new("/dev"), Path::new("/dev"), "rwm", &mut all, 0)?;
        all.rules.truncate(1);
        return Ok(all);
    }
    for device in &input.config.devices {
        let source = std::fs::canonicalize(&device.host_path)
            .map_err(|e| Error::invalid(format!("devices: host_path \"{}\"", device.host_path)).because(e))?;
        let before = all.nodes.len();
        tree(&source, Path::new(&device.container_path), &device.permissions, &mut all, 0)?;
        if all.nodes.len() == before {
            return Err(Error::invalid(format!("devices: \"{}\" is no device and has none below it", device.host_path)));
        }
    }
    Ok(all)
}

fn tree(source: &Path, target: &Path, permissions: &str, all: &mut Devices, depth: usize) -> Result<()> {
    let shown = || format!("look at device {}", source.display());
    let stat = rustix::fs::statat(CWD, source, AtFlags::SYMLINK_NOFOLLOW).during(shown)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => LinuxDeviceType::C,
        FileType::BlockDevice => LinuxDeviceType::B,
        FileType::Directory if depth < DEEPEST => return directory(source, target, permissions, all, depth),
        _ => return Ok(()),
    };
    all.nodes.push(node(target.to_path_buf(), kind, &stat));
    let mut rule = LinuxDeviceCgroup::default();
    let (major, minor) = numbers(&stat);
    rule.set_allow(true).set_typ(Some(kind)).set_major(Some(major)).set_minor(Some(minor)).set_access(Some(permissions.into()));
    all.rules.push(rule);
    Ok(())
}

fn directory(source: &Path, target: &Path, permissions: &str, all: &mut Devices, depth: usize) -> Result<()> {
    let shown = || format!("list devices in {}", source.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(source).during(shown)? {
        names.push(entry.during(shown)?.file_name());
    }
    names.sort();
    for name in names.iter().filter(|n| !NOT_FROM_DEV.iter().any(|skipped| n == skipped)) {
        match tree(&source.join(name), &target.join(name), permissions, all, depth + 1) {
            // A device may be unplugged meanwhile.
            Err(_) if !source.join(name).exists() => {}
            done => done?,
        }
    }
    Ok(())
}

fn numbers(stat: &Stat) -> (i64, i64) {
    (i64::from(rustix::fs::major(stat.st_rdev)), i64::from(rustix::fs::minor(stat.st_rdev)))
}

fn node(path: PathBuf, kind: LinuxDeviceType, stat: &Stat) -> LinuxDevice {
    let (major, minor) = numbers(stat);
    let mut device = LinuxDevice::default();
    device.set_path(path).set_typ(kind).set_major(major).set_minor(minor);
    device.set_file_mode(Some(stat.st_mode & 0o7777)).set_uid(Some(stat.st_uid)).set_gid(Some(stat.st_gid));
    device
}
