//! Config: containerd's file format, versions 1 to 4, checked and with the line of each mistake.
//!
//! `conf/config.toml` is the one list of keys: their defaults, their types and what they mean come from it.
mod check;
mod cri;
mod duration;
mod file;
mod migrate;
pub mod pattern;
mod sections;
mod tree;

pub use check::Warning;
pub use cri::*;
pub use duration::GoDuration;
pub use sections::*;
pub use tree::{Origin, Origins};

use crate::error::{Error, Result};
use file::Missing;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tree::{Item, Keys, Node};

/// The default config file; it may be missing.
pub const PATH: &str = "/etc/cradled/config.toml";
/// The newest version of the format.
const NEWEST: i64 = 4;

/// The CRI server's section.
pub const CRI: &str = "io.containerd.grpc.v1.cri";
/// CRI's section about images.
pub const IMAGES: &str = "io.containerd.cri.v1.images";
/// CRI's section about pods and containers.
pub const RUNTIME: &str = "io.containerd.cri.v1.runtime";
const RUNC: &str = "io.containerd.runc.v2";
const GRPC: &str = "io.containerd.server.v1.grpc";
const GRPC_TCP: &str = "io.containerd.server.v1.grpc-tcp";
const TTRPC: &str = "io.containerd.server.v1.ttrpc";
const DEBUG: &str = "io.containerd.server.v1.debug";
const METRICS: &str = "io.containerd.server.v1.metrics";

/// What the command line says; it wins over every file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--root`
    pub root: Option<PathBuf>,
    /// `--state`
    pub state: Option<PathBuf>,
    /// `--address`
    pub address: Option<String>,
    /// `--log-level`
    pub log_level: Option<String>,
    /// `--log-format`
    pub log_format: Option<String>,
}

/// The effective configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of what survives a reboot.
    pub root: PathBuf,
    /// Directory of what does not.
    pub state: PathBuf,
    /// Directory of temporary files; none = the system's.
    pub temp: Option<PathBuf>,
    /// Patterns of files that were read too.
    pub imports: Vec<String>,
    /// Plugins that shall not start.
    pub disabled_plugins: Vec<String>,
    /// Plugins without which the daemon must not run.
    pub required_plugins: Vec<String>,
    /// OOM score of the daemon; 0 = as inherited.
    pub oom_score: i32,
    /// The daemon's cgroup.
    pub cgroup: Cgroup,
    /// The daemon's log.
    pub log: Log,
    /// Limits of single steps, by name.
    pub timeouts: BTreeMap<String, GoDuration>,
    /// Plugins of other processes, by name.
    pub proxy_plugins: BTreeMap<String, ProxyPlugin>,
    /// Converters of layers, by name.
    pub stream_processors: BTreeMap<String, StreamProcessor>,
    /// The GRPC socket.
    pub grpc: Grpc,
    /// The GRPC server on TCP; off without an address.
    pub grpc_tcp: GrpcTcp,
    /// The TTRPC socket, its address filled in.
    pub ttrpc: Socket,
    /// The debug server; off without an address.
    pub debug: Socket,
    /// The metrics server; off without an address.
    pub metrics: Metrics,
    /// The collector's schedule.
    pub gc: GcScheduler,
    /// The metadata store.
    pub metadata: Metadata,
    /// The overlay snapshotter.
    pub overlayfs: Overlayfs,
    /// The native snapshotter.
    pub native: Native,
    /// Pulls by containerd's API.
    pub transfer: Transfer,
    /// Classes of block I/O and RDT.
    pub tasks: Tasks,
    /// NRI.
    pub nri: Nri,
    /// CRI's server and streams.
    pub cri_server: CriServer,
    /// CRI's images.
    pub cri_images: CriImages,
    /// CRI's pods and containers.
    pub cri_runtime: CriRuntime,
    keys: Keys,
}

/// The top level without its tables of plugins.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Top {
    #[serde(rename = "version")]
    _version: i64,
    root: PathBuf,
    state: PathBuf,
    temp: String,
    imports: Vec<String>,
    disabled_plugins: Vec<String>,
    required_plugins: Vec<String>,
    oom_score: i32,
    cgroup: Cgroup,
    debug: Log,
    timeouts: BTreeMap<String, GoDuration>,
    proxy_plugins: BTreeMap<String, ProxyPlugin>,
    stream_processors: BTreeMap<String, StreamProcessor>,
}

/// The default configuration as a commented file.
pub fn default_toml() -> String {
    include_str!("../../conf/config.toml").to_owned()
}

fn default_keys() -> Result<Keys> {
    fn built_in(keys: &mut Keys) {
        for node in keys.values_mut() {
            node.origin = None;
            node.keys_mut().into_iter().for_each(built_in);
        }
    }
    let mut keys = tree::parse(include_str!("../../conf/config.toml"), Path::new("conf/config.toml"))?;
    built_in(&mut keys);
    Ok(keys)
}

/// Reads `path`, or the default file and its drop-in directory if they are there, with their imports.
pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<(Config, Vec<Warning>)> {
    let mut warnings = vec![];
    let mut keys = default_keys()?;
    let missing = if path.is_some() { Missing::Error } else { Missing::Fine };
    file::read(&mut keys, path.unwrap_or(Path::new(PATH)), missing, &mut warnings)?;
    overlay(&mut keys, overrides);
    let config = Config::from_keys(keys)?;
    config.check(&mut warnings)?;
    Ok((config, warnings))
}

/// What `cradled config check` says: the warnings of a file that would load, or why it would not.
pub fn check(path: Option<&Path>) -> Result<Vec<Warning>> {
    load(path, &Overrides::default()).map(|(_, warnings)| warnings)
}

fn overlay(keys: &mut Keys, overrides: &Overrides) {
    let text = |path: &Option<PathBuf>| path.as_ref().map(|p| p.display().to_string());
    let all = [
        (vec!["root"], text(&overrides.root)),
        (vec!["state"], text(&overrides.state)),
        (vec!["plugins", GRPC, "address"], overrides.address.clone()),
        (vec!["debug", "level"], overrides.log_level.clone()),
        (vec!["debug", "format"], overrides.log_format.clone()),
    ];
    let origin = Origin { file: Arc::from(Path::new("command line")), line: 1 };
    for (path, value) in all {
        let Some((value, (key, tables))) = value.zip(path.split_last()) else { continue };
        let table = tables.iter().try_fold(&mut *keys, |at, key| at.get_mut(*key)?.keys_mut());
        if let Some(table) = table {
            table.insert((*key).to_owned(), Node::value(value, Some(origin.clone())));
        }
    }
}

#[cfg(test)]
impl Default for Config {
    /// The defaults alone, for tests of those who take a config.
    fn default() -> Config {
        Config::from_keys(default_keys().unwrap()).unwrap()
    }
}

impl Config {
    fn from_keys(keys: Keys) -> Result<Config> {
        let mut top = keys.clone();
        top.remove("plugins");
        let top: Top = decode("the top level", &Node::table(top, None))?;
        let mut config = Config {
            root: top.root,
            state: top.state,
            temp: Some(top.temp).filter(|t| !t.is_empty()).map(PathBuf::from),
            imports: top.imports,
            disabled_plugins: top.disabled_plugins,
            required_plugins: top.required_plugins,
            oom_score: top.oom_score,
            cgroup: top.cgroup,
            log: top.debug,
            timeouts: top.timeouts,
            proxy_plugins: top.proxy_plugins,
            stream_processors: top.stream_processors,
            grpc: section(&keys, GRPC)?,
            grpc_tcp: section(&keys, GRPC_TCP)?,
            ttrpc: section(&keys, TTRPC)?,
            debug: section(&keys, DEBUG)?,
            metrics: section(&keys, METRICS)?,
            gc: section(&keys, "io.containerd.gc.v1.scheduler")?,
            metadata: section(&keys, "io.containerd.metadata.v1.bolt")?,
            overlayfs: section(&keys, "io.containerd.snapshotter.v1.overlayfs")?,
            native: section(&keys, "io.containerd.snapshotter.v1.native")?,
            transfer: section(&keys, "io.containerd.transfer.v1.local")?,
            tasks: section(&keys, "io.containerd.service.v1.tasks-service")?,
            nri: section(&keys, "io.containerd.nri.v1.nri")?,
            cri_server: section(&keys, CRI)?,
            cri_images: section(&keys, IMAGES)?,
            cri_runtime: section(&keys, RUNTIME)?,
            keys,
        };
        if config.ttrpc.address.is_empty() {
            config.ttrpc.address = format!("{}.ttrpc", config.grpc.address);
        }
        Ok(config)
    }

    /// A plugin's section as the plugin's own type.
    pub fn section<T: DeserializeOwned>(&self, uri: &str) -> Result<T> {
        section(&self.keys, uri)
    }

    /// The plugins that have a section.
    pub fn plugins(&self) -> Vec<String> {
        self.keys.get("plugins").and_then(Node::keys).map(|p| p.keys().cloned().collect()).unwrap_or_default()
    }

    /// The limit of a step; none if it has no name or is "0s".
    pub fn timeout(&self, name: &str) -> Option<Duration> {
        self.timeouts.get(name).and_then(|t| t.limit())
    }

    /// The effective configuration as TOML that loads the same.
    pub fn dump(&self) -> String {
        tree::print(&self.keys, Origins::Hide)
    }

    /// The same, each key that was set with the file and line that set it.
    pub fn dump_with_origins(&self) -> String {
        tree::print(&self.keys, Origins::Show)
    }

    /// ` (file:line)` of a key, or nothing for a default.
    fn at(&self, path: &[&str]) -> String {
        let (last, tables) = match path.split_last() {
            Some(split) => split,
            None => return String::new(),
        };
        let table = tables.iter().try_fold(&self.keys, |at, key| at.get(*key)?.keys());
        table.and_then(|t| t.get(*last)).map(Node::at).unwrap_or_default()
    }

    fn wrong(&self, path: &[&str], what: impl std::fmt::Display) -> Error {
        Error::invalid(format!("{}{}: {what}", tree::dotted(path), self.at(path)))
    }

    /// What types cannot say.
    fn check(&self, warnings: &mut Vec<Warning>) -> Result<()> {
        for (key, dir) in [("root", &self.root), ("state", &self.state)] {
            if !dir.is_absolute() {
                return Err(self.wrong(&[key], format!("\"{}\" must be an absolute path", dir.display())));
            }
        }
        if self.root == self.state {
            return Err(self.wrong(&["state"], "root and state must be different paths"));
        }
        for (key, list) in [("disabled_plugins", &self.disabled_plugins), ("required_plugins", &self.required_plugins)] {
            if let Some(short) = list.iter().find(|uri| !uri.contains('.')) {
                return Err(self.wrong(&[key], format!("\"{short}\" is no plugin URI such as \"{RUNTIME}\"")));
            }
        }
        self.one_of(&["debug", "level"], &self.log.level, &["", "trace", "debug", "info", "warn", "warning", "error", "fatal", "panic"])?;
        self.one_of(&["debug", "format"], &self.log.format, &["", "text", "json"])?;
        self.one_of(&["plugins", RUNTIME, "cni", "ip_pref"], &self.cri_runtime.cni.ip_pref, &["", "ipv4", "ipv6", "cni"])?;
        if self.grpc.address.is_empty() {
            return Err(self.wrong(&["plugins", GRPC, "address"], "must not be empty"));
        }
        self.check_registry(warnings)?;
        self.check_images(warnings)?;
        self.check_runtimes()
    }

    fn one_of(&self, path: &[&str], value: &str, known: &[&str]) -> Result<()> {
        if known.contains(&value) {
            return Ok(());
        }
        let known: Vec<_> = known.iter().filter(|k| !k.is_empty()).copied().collect();
        Err(self.wrong(path, format!("\"{value}\" is none of {}", known.join(", "))))
    }

    fn check_registry(&self, warnings: &mut Vec<Warning>) -> Result<()> {
        let registry = &self.cri_images.registry;
        let path = ["plugins", IMAGES, "registry"];
        if !registry.config_path.is_empty() && !registry.mirrors.is_empty() {
            return Err(self.wrong(&[&path[..], &["mirrors"]].concat(), "cannot be set when config_path is"));
        }
        if let Some(host) = registry.configs.iter().find(|(_, c)| c.tls.is_some() && !registry.config_path.is_empty()).map(|(host, _)| host)
        {
            return Err(self.wrong(&[&path[..], &["configs", host, "tls"]].concat(), "cannot be set when config_path is; use hosts.toml"));
        }
        let old =
            [("mirrors", registry.mirrors.is_empty()), ("configs", registry.configs.is_empty()), ("auths", registry.auths.is_empty())];
        for (key, _) in old.iter().filter(|(_, empty)| !empty) {
            let key = tree::dotted(&[&path[..], &[key]].concat());
            warnings.push(Warning { key, origin: None, text: "is an old way, use config_path and hosts.toml".into() });
        }
        Ok(())
    }

    fn check_images(&self, warnings: &mut Vec<Warning>) -> Result<()> {
        let path = ["plugins", IMAGES];
        if self.cri_images.concurrent_layer_fetch_buffer > 0 {
            let key = tree::dotted(&[&path[..], &["concurrent_layer_fetch_buffer"]].concat());
            warnings.push(Warning { key, origin: None, text: "has no effect: a layer comes as one stream".into() });
        }
        let host = match std::env::consts::ARCH {
            "x86_64" => "linux/amd64",
            "aarch64" => "linux/arm64",
            _ => return Ok(()),
        };
        for (name, of) in &self.cri_images.runtime_platforms {
            if !of.platform.is_empty() && of.platform != host && !of.platform.starts_with(&format!("{host}/")) {
                let key = [&path[..], &["runtime_platforms", name, "platform"]].concat();
                return Err(self.wrong(&key, format!("\"{}\": only images for {host} can be pulled on this machine", of.platform)));
            }
        }
        Ok(())
    }

    fn check_runtimes(&self) -> Result<()> {
        let all = &self.cri_runtime.containerd;
        let path = ["plugins", RUNTIME, "containerd"];
        if !all.runtimes.contains_key(&all.default_runtime_name) {
            let known: Vec<_> = all.runtimes.keys().map(String::as_str).collect();
            let text = format!("no runtime \"{}\", known: {}", all.default_runtime_name, known.join(", "));
            return Err(self.wrong(&[&path[..], &["default_runtime_name"]].concat(), text));
        }
        for (name, runtime) in &all.runtimes {
            let wrong = |key: &str, text: String| Err(self.wrong(&[&path[..], &["runtimes", name, key]].concat(), text));
            if runtime.runtime_type.is_empty() {
                return wrong("runtime_type", format!("must be set, for example to \"{RUNC}\""));
            }
            if !runtime.runtime_path.is_empty() && !runtime.runtime_path.starts_with('/') {
                return wrong("runtime_path", format!("\"{}\" must be an absolute path", runtime.runtime_path));
            }
            if runtime.privileged_without_host_devices_all_devices_allowed && !runtime.privileged_without_host_devices {
                return wrong("privileged_without_host_devices_all_devices_allowed", "needs privileged_without_host_devices".into());
            }
            if !["", "fifo", "streaming"].contains(&runtime.io_type.as_str()) {
                return wrong("io_type", format!("\"{}\" is none of fifo, streaming", runtime.io_type));
            }
        }
        Ok(())
    }
}

fn section<T: DeserializeOwned>(keys: &Keys, uri: &str) -> Result<T> {
    let empty = Node { item: Item::Table(Keys::new()), origin: None };
    let node = keys.get("plugins").and_then(Node::keys).and_then(|p| p.get(uri)).unwrap_or(&empty);
    decode(&tree::dotted(&["plugins", uri]), node)
}

/// The check has seen to names and types; what is left are numbers out of range and words that are none of a few.
fn decode<T: DeserializeOwned>(name: &str, node: &Node) -> Result<T> {
    node.to_toml().try_into().map_err(|e: toml::de::Error| Error::invalid(format!("{name}{}: {}", node.at(), e.to_string().trim())))
}

#[cfg(test)]
mod tests;
