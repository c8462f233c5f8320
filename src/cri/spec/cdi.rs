//! CDI: devices that files of their vendors describe, by names like `vendor.com/gpu=0`. A device stands for edits of the spec.
//!
//! All files are read when a device is asked for, so that a new one counts at once. A later directory wins over an earlier; one
//! name in two files of the same directory is an error for that name, and a file that cannot be read for the devices it may have.
use super::oci::{Device, DeviceRule, IntelRdt, Mount, Spec};
use super::{devices, process, yaml};
use crate::error::{Context, Error, Result};
use crate::proto::cri;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Annotations that ask for devices begin so.
const PREFIX: &str = "cdi.k8s.io/";

/// A file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SpecFile {
    cdi_version: String,
    kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: Map<String, Value>,
    devices: Vec<Described>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Described {
    name: String,
    #[serde(default, rename = "annotations")]
    _annotations: Map<String, Value>,
    container_edits: Edits,
}

/// What becomes of a container's spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    net_devices: Vec<NetDevice>,
    hooks: Vec<Hook>,
    mounts: Vec<Bind>,
    intel_rdt: Option<Rdt>,
    additional_gids: Vec<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Node {
    path: String,
    host_path: String,
    #[serde(rename = "type")]
    kind: String,
    major: i64,
    minor: i64,
    file_mode: Option<u32>,
    permissions: String,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NetDevice {
    host_interface_name: String,
    name: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Hook {
    hook_name: String,
    path: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    timeout: Option<i64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Bind {
    host_path: String,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
    #[serde(default, rename = "type")]
    kind: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Rdt {
    #[serde(rename = "closID")]
    clos_id: String,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// The names that a request has: its field, and its annotations for kubelets that know no field.
pub fn asked(config: &cri::ContainerConfig) -> Vec<String> {
    let mut names: Vec<String> = config.CDI_devices.iter().map(|d| d.name.clone()).collect();
    let mut annotations: Vec<_> = config.annotations.iter().filter(|(key, _)| key.starts_with(PREFIX)).collect();
    annotations.sort();
    let listed = annotations.into_iter().flat_map(|(_, value)| value.split(',')).map(|name| name.trim().to_owned());
    for name in listed {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Refuses what is no device's name.
pub fn check(config: &cri::ContainerConfig) -> Result<()> {
    match asked(config).iter().find(|name| !is_qualified(name)) {
        None => Ok(()),
        Some(bad) => Err(Error::invalid(format!("CDI_devices: {bad:?} is not a device's full name, like vendor.com/class=name"))),
    }
}

fn is_qualified(name: &str) -> bool {
    let word = |text: &str, more: &[u8]| {
        let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = text.as_bytes();
        ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || more.contains(b))
    };
    let Some((kind, device)) = name.split_once('=') else { return false };
    is_kind(kind, word) && word(device, b"_-.:")
}

fn is_kind(kind: &str, word: impl Fn(&str, &[u8]) -> bool) -> bool {
    kind.split_once('/').is_some_and(|(vendor, class)| word(vendor, b"_-.") && word(class, b"_-."))
}

/// Applies the edits of these devices, in this order; what all devices of a file share comes once, before the first of them.
pub fn apply(spec: &mut Spec, names: &[String], dirs: &[PathBuf]) -> Result<()> {
    let found = Registry::read(dirs);
    let mut shared: Vec<*const SpecFile> = Vec::new();
    for name in names {
        let (file, device) = found.device(name)?;
        let what = || format!("CDI device {name} of {}", file.path.display());
        if !shared.contains(&Arc::as_ptr(&file.content)) {
            shared.push(Arc::as_ptr(&file.content));
            edit(spec, &file.content.container_edits).during(what)?;
        }
        edit(spec, &file.content.devices[device].container_edits).during(what)?;
    }
    // As the library for this does: a mount must not hide one beneath it.
    spec.mounts.sort_by_key(|m| Path::new(&m.destination).components().count());
    Ok(())
}

#[derive(Clone)]
struct Found {
    path: PathBuf,
    content: Arc<SpecFile>,
}

#[derive(Default)]
struct Registry {
    /// By full name: the last directory's files that have it, with its place there.
    devices: BTreeMap<String, Vec<(Found, usize)>>,
    errors: Vec<Error>,
}

impl Registry {
    fn read(dirs: &[PathBuf]) -> Registry {
        let mut all = Registry::default();
        for dir in dirs {
            let mut of_dir: BTreeMap<String, Vec<(Found, usize)>> = BTreeMap::new();
            for path in all.files(dir) {
                match load(&path) {
                    Err(e) => all.errors.push(e),
                    Ok(content) => {
                        let content = Arc::new(content);
                        for (at, device) in content.devices.iter().enumerate() {
                            let name = format!("{}={}", content.kind, device.name);
                            let found = Found { path: path.clone(), content: content.clone() };
                            of_dir.entry(name).or_default().push((found, at));
                        }
                    }
                }
            }
            all.devices.extend(of_dir);
        }
        all
    }

    fn files(&mut self, dir: &Path) -> Vec<PathBuf> {
        let entries = match std::fs::read_dir(dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return vec![],
            found => found.and_then(|list| list.map(|e| e.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>()),
        };
        match entries.during(|| format!("list {} (cdi_spec_dirs)", dir.display())) {
            Err(e) => {
                self.errors.push(e);
                vec![]
            }
            Ok(mut paths) => {
                paths.retain(|p| p.extension().is_some_and(|e| e == "json" || e == "yaml" || e == "yml"));
                paths.sort();
                paths
            }
        }
    }

    fn device(&self, name: &str) -> Result<(Found, usize)> {
        match self.devices.get(name).map(Vec::as_slice) {
            Some([one]) => Ok(one.clone()),
            Some(many) => {
                let files: Vec<String> = many.iter().map(|(f, _)| f.path.display().to_string()).collect();
                Err(Error::precondition(format!("CDI_devices: {name} is in several files: {}", files.join(", "))))
            }
            None => {
                let known: Vec<&str> = self.devices.keys().map(String::as_str).collect();
                let mut text = format!("CDI_devices: unresolvable CDI device {name}; known: {}", known.join(", "));
                for error in &self.errors {
                    text.push_str(&format!("; {}", error.chain()));
                }
                Err(Error::precondition(text))
            }
        }
    }
}

fn load(path: &Path) -> Result<SpecFile> {
    let file: SpecFile = yaml::load(path)?;
    let word = |text: &str, more: &[u8]| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b));
    if !is_kind(&file.kind, word) {
        return Err(Error::invalid(format!("{}: kind {:?} is not like vendor.com/class", path.display(), file.kind)));
    }
    let version: Vec<u32> = file.cdi_version.trim_start_matches('v').split('.').map_while(|n| n.parse().ok()).collect();
    if version.len() != 3 || version[0] > 1 {
        return Err(Error::invalid(format!("{}: cdiVersion {:?} is not known here", path.display(), file.cdi_version)));
    }
    Ok(file)
}

fn edit(spec: &mut Spec, edits: &Edits) -> Result<()> {
    let process = spec.process.get_or_insert_default();
    for variable in &edits.env {
        if !variable.contains('=') || variable.contains('\0') {
            return Err(Error::invalid(format!("env {variable:?} is not NAME=value")));
        }
        process::set_variable(&mut process.env, variable);
    }
    for gid in edits.additional_gids.iter().filter(|g| **g != 0) {
        if !process.user.additional_gids.contains(gid) {
            process.user.additional_gids.push(*gid);
        }
    }
    for node in &edits.device_nodes {
        add_node(spec, node)?;
    }
    for mount in &edits.mounts {
        let made = Mount {
            destination: super::mounts::clean(&mount.container_path),
            kind: if mount.kind.is_empty() { "bind".into() } else { mount.kind.clone() },
            source: mount.host_path.clone(),
            options: mount.options.clone(),
            ..Mount::default()
        };
        spec.mounts.retain(|m| m.destination != made.destination);
        spec.mounts.push(made);
    }
    for hook in &edits.hooks {
        add_hook(spec, hook)?;
    }
    if let Some(rdt) = &edits.intel_rdt {
        spec.linux.intel_rdt = Some(IntelRdt { clos_id: rdt.clos_id.clone(), other: rdt.other.clone() });
    }
    for device in &edits.net_devices {
        let all = spec.linux.other.entry("netDevices").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(all) = all {
            all.insert(device.host_interface_name.clone(), serde_json::json!({ "name": device.name }));
        }
    }
    Ok(())
}

/// What a node does not say is as on the host; what says no owner is the container's user's, if that is not root.
fn add_node(spec: &mut Spec, node: &Node) -> Result<()> {
    let host = if node.host_path.is_empty() { &node.path } else { &node.host_path };
    let mut made = Device {
        path: node.path.clone(),
        kind: node.kind.clone(),
        major: node.major,
        minor: node.minor,
        file_mode: node.file_mode,
        uid: node.uid,
        gid: node.gid,
    };
    if made.kind.is_empty() || (made.major == 0 && made.kind != "p") {
        let on_host = devices::at(Path::new(host))?.ok_or_else(|| Error::precondition(format!("device {host} is not on this node")))?;
        if !made.kind.is_empty() && made.kind != on_host.kind {
            return Err(Error::precondition(format!("device {host} is of type {}, not {}", on_host.kind, made.kind)));
        }
        made = Device {
            kind: on_host.kind,
            major: on_host.major,
            minor: on_host.minor,
            file_mode: made.file_mode.or(on_host.file_mode),
            ..made
        };
    }
    let process = spec.process.get_or_insert_default();
    let owner = |id: u32| (id > 0).then_some(id);
    made.uid = made.uid.or(owner(process.user.uid));
    made.gid = made.gid.or(owner(process.user.gid));
    if made.kind == "b" || made.kind == "c" {
        let access = if node.permissions.is_empty() { "rwm" } else { &node.permissions };
        let rule = DeviceRule {
            allow: true,
            kind: made.kind.clone(),
            major: Some(made.major),
            minor: Some(made.minor),
            access: access.to_owned(),
        };
        if let Some(limits) = &mut spec.linux.resources {
            limits.devices.push(rule);
        }
    }
    spec.linux.devices.retain(|d| d.path != made.path);
    spec.linux.devices.push(made);
    Ok(())
}

fn add_hook(spec: &mut Spec, hook: &Hook) -> Result<()> {
    const NAMES: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    if !NAMES.contains(&hook.hook_name.as_str()) || !hook.path.starts_with('/') {
        return Err(Error::invalid(format!("hook {:?} with path {:?}: not one that a runtime knows", hook.hook_name, hook.path)));
    }
    let mut made = serde_json::json!({ "path": hook.path });
    for (key, list) in [("args", &hook.args), ("env", &hook.env)] {
        if !list.is_empty() {
            made[key] = list.clone().into();
        }
    }
    if let Some(timeout) = hook.timeout {
        made["timeout"] = timeout.into();
    }
    let hooks = spec.other.entry("hooks").or_insert_with(|| Value::Object(Map::new()));
    match &mut hooks[hook.hook_name.as_str()] {
        Value::Array(list) => list.push(made),
        empty => *empty = Value::Array(vec![made]),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
