//! Check: a file's keys against the default config, which is the list of all keys and of their types.
//!
//! What is unknown is a warning and is left out; what has the wrong type is an error. Both name the key and its line.
use super::duration::GoDuration;
use super::tree::{Item, Keys, Node, Origin, dotted, merge, parse};
use super::{RUNC, RUNTIME, default_keys};
use crate::error::{Error, Result};
use std::fmt;
use std::path::Path;
use toml::Value;

/// The name of a map's sample entry.
const ANY: &str = "*";
/// Marks a table whose keys are its plugin's own affair.
const OPEN: &str = "**";
/// Plugins of containerd that have no counterpart here; their sections are no mistake.
const FOREIGN: [&str; 19] = [
    "io.containerd.differ.v1.erofs",
    "io.containerd.image-verifier.v1.bindir",
    "io.containerd.internal.v1.tracing",
    "io.containerd.mount-handler.v1.erofs",
    "io.containerd.mount-manager.v1.bolt",
    "io.containerd.monitor.container.v1.restart",
    "io.containerd.monitor.task.v1.cgroups",
    "io.containerd.monitor.v1.cgroups",
    "io.containerd.podsandbox.controller.v1.podsandbox",
    "io.containerd.runtime.v1.linux",
    "io.containerd.sandbox.controller.v1.shim",
    "io.containerd.shim.v1.manager",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.erofs",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.tracing.processor.v1.otlp",
];

/// Something in a file that has no effect, or another than its writer may think.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warning {
    /// The key's dotted name.
    pub key: String,
    /// Where it is.
    pub origin: Option<Origin>,
    /// What about it.
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        write!(f, "{}: {}", self.key, self.text)
    }
}

/// All keys there are.
pub(super) struct Schema(Keys);

impl Schema {
    pub fn new() -> Result<Schema> {
        let mut keys = default_keys()?;
        merge(&mut keys, parse(include_str!("extra.toml"), Path::new("extra.toml"))?);
        let runtimes = ["plugins", RUNTIME, "containerd", "runtimes"].iter().try_fold(&mut keys, |at, key| at.get_mut(*key)?.keys_mut());
        if let Some(runtimes) = runtimes
            && let Some(sample) = runtimes.get("runc").cloned()
        {
            runtimes.insert(ANY.into(), sample);
        }
        Ok(Schema(keys))
    }

    /// Takes out what is unknown, with a warning each. All wrong types come in one error.
    pub fn check(&self, keys: &mut Keys, warnings: &mut Vec<Warning>) -> Result<()> {
        let mut check = Check { schema: &self.0, warnings, errors: vec![] };
        check.table(keys, &self.0, &mut vec![]);
        if check.errors.is_empty() { Ok(()) } else { Err(Error::invalid(check.errors.join("; "))) }
    }
}

struct Check<'a> {
    schema: &'a Keys,
    warnings: &'a mut Vec<Warning>,
    errors: Vec<String>,
}

impl Check<'_> {
    fn table(&mut self, keys: &mut Keys, known: &Keys, path: &mut Vec<String>) {
        if known.contains_key(OPEN) {
            return;
        }
        // Only our own runtime's options are known; another shim's are passed on as they are.
        let foreign = keys.get("runtime_type").and_then(Node::str).is_some_and(|t| !t.is_empty() && t != RUNC);
        keys.retain(|key, node| {
            path.push(key.clone());
            let keep = match known.get(key).or_else(|| known.get(ANY)) {
                _ if foreign && key == "options" && node.keys().is_some() => true,
                Some(sample) => {
                    self.node(node, sample, path);
                    true
                }
                None => self.unknown(key, node, known, path),
            };
            path.pop();
            keep
        });
    }

    fn node(&mut self, node: &mut Node, sample: &Node, path: &mut Vec<String>) {
        let at = node.at();
        match (&mut node.item, &sample.item) {
            (Item::Table(keys), Item::Table(known)) => self.table(keys, known, path),
            (Item::Value(value), Item::Value(sample)) if fits(value, sample) => {
                // "100ms" as a default says that the key is a duration.
                if let (Some(text), Some(default)) = (value.as_str(), sample.as_str())
                    && is_duration(default)
                    && GoDuration::parse(text).is_none()
                {
                    self.errors.push(format!("{}{at}: \"{text}\" is no duration such as \"1m30s\"", name(path)));
                }
            }
            _ => self.errors.push(format!("{}{at}: is {}, must be {}", name(path), node.kind(), sample.kind())),
        }
    }

    fn unknown(&mut self, key: &str, node: &Node, known: &Keys, path: &[String]) -> bool {
        let plugin = path.len() == 2 && path[0] == "plugins";
        if plugin && FOREIGN.contains(&key) {
            return false;
        }
        let hint = match nearest(key, known.keys()) {
            Some(near) => format!(", did you mean {}?", dotted(&[near])),
            None => match self.elsewhere(key) {
                Some(place) if !plugin => format!(", did you mean {place}?"),
                _ => String::new(),
            },
        };
        let what = if plugin { "no such plugin" } else { "unknown key" };
        self.warnings.push(Warning { key: name(path), origin: node.origin.clone(), text: format!("{what}, ignored{hint}") });
        false
    }

    /// The place where a key of that very name is known.
    fn elsewhere(&self, key: &str) -> Option<String> {
        fn find<'a>(keys: &'a Keys, key: &str, path: &mut Vec<&'a str>) -> Option<String> {
            for (name, node) in keys.iter().filter(|(name, _)| *name != ANY) {
                path.push(name);
                let found = if name == key { Some(dotted(path)) } else { node.keys().and_then(|below| find(below, key, path)) };
                path.pop();
                if found.is_some() {
                    return found;
                }
            }
            None
        }
        find(self.schema, key, &mut vec![])
    }
}

fn name(path: &[String]) -> String {
    dotted(&path.iter().map(String::as_str).collect::<Vec<_>>())
}

fn fits(value: &Value, sample: &Value) -> bool {
    match (value, sample) {
        (Value::Integer(_), Value::Float(_)) => true,
        // Every list here is one of strings, but for the tables of unpack_config.
        (Value::Array(list), Value::Array(_)) => list.iter().all(|v| v.is_str() || v.is_table()),
        _ => value.same_type(sample),
    }
}

fn is_duration(default: &str) -> bool {
    default.ends_with('s') && default.starts_with(|c: char| c.is_ascii_digit()) && GoDuration::parse(default).is_some()
}

/// The known name that a slip of the pen away is.
fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a str> {
    let slips = (key.len() / 4).clamp(1, 3);
    let all = known.filter(|k| *k != ANY).map(|k| (distance(&key.to_lowercase(), &k.to_lowercase()), k));
    all.filter(|(d, _)| *d <= slips).min().map(|(_, k)| k.as_str())
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = change.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
