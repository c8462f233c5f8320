//! File: reads the config file and what it imports, later ones over earlier ones.
use super::check::{Schema, Warning};
use super::migrate::migrate;
use super::pattern;
use super::tree::{Item, Keys, Node, merge_file, parse};
use crate::error::{Context, Error, Result};
use std::collections::{HashSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use toml::Value;

/// Where drop-in files are looked for when no `--config` names a file.
const DROP_INS: &str = "/etc/cradled/conf.d/*.toml";

/// Whether a file that is not there is an error.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Missing {
    Error,
    /// The default file; its drop-in directory counts too.
    Fine,
}

/// Lays the file and its imports over the built-in keys.
pub(super) fn read(base: &mut Keys, path: &Path, missing: Missing, warnings: &mut Vec<Warning>) -> Result<()> {
    let schema = Schema::new()?;
    let mut waiting = VecDeque::from([path.to_owned()]);
    let mut seen = HashSet::new();
    if missing == Missing::Fine {
        if !path.exists() {
            waiting.clear();
        }
        waiting.extend(glob(Path::new(DROP_INS))?);
    }
    while let Some(path) = waiting.pop_front() {
        // Files may import each other: each is read once.
        if !seen.insert(path.clone()) {
            continue;
        }
        let text = fs::read_to_string(&path).during(|| format!("read config {}", path.display()))?;
        let mut keys = parse(&text, &path)?;
        migrate(&mut keys, &path, warnings)?;
        schema.check(&mut keys, warnings)?;
        waiting.extend(imports(&path, &keys)?);
        merge_file(base, keys);
    }
    Ok(())
}

fn imports(parent: &Path, keys: &Keys) -> Result<Vec<PathBuf>> {
    let Some(Node { item: Item::Value(Value::Array(list)), .. }) = keys.get("imports") else { return Ok(vec![]) };
    let dir = parent.parent().unwrap_or(Path::new("/"));
    let mut found = vec![];
    for import in list.iter().filter_map(Value::as_str) {
        found.extend(glob(&dir.join(import))?);
    }
    Ok(found)
}

/// The files that a pattern names, sorted. A path without a wildcard is itself, there or not.
fn glob(pattern: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let part = part.as_os_str();
        let Some(wild) = part.to_str().filter(|p| p.contains(['*', '?'])) else {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        };
        let mut next = vec![];
        for dir in &found {
            let Ok(entries) = fs::read_dir(dir) else { continue };
            let names = entries.filter_map(|e| e.ok().map(|e| e.file_name())).filter(|n| n.to_str().is_some_and(|n| matches(wild, n)));
            next.extend(names.map(|name| dir.join(name)));
        }
        next.sort();
        found = next;
    }
    match found.iter().find(|p| p.is_dir()) {
        Some(dir) => Err(Error::invalid(format!("import {}: is a directory, name its files: {}/*.toml", pattern.display(), dir.display()))),
        None => Ok(found),
    }
}

/// A leading dot must be spelled.
fn matches(wild: &str, name: &str) -> bool {
    (!name.starts_with('.') || wild.starts_with('.')) && pattern::matches(wild, name)
}
