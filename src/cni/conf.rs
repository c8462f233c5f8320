//! Conf lists: what the files of a CNI conf directory say, in lexical order, checked before anything runs.
use super::version;
use crate::error::{Context, Error, Kind, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs;
use std::path::{Path, PathBuf};

/// The newest CNI version spoken here.
const NEWEST: (u32, u32, u32) = (1, 1, 0);

/// One network: a chain of plugins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct List {
    /// The network's name.
    pub name: String,
    /// The CNI version that is spoken with its plugins.
    pub version: String,
    /// Whether CHECK shall not be called.
    pub disable_check: bool,
    /// Whether GC shall not be called.
    pub disable_gc: bool,
    /// Each plugin's conf as it was written.
    pub plugins: Vec<Map<String, Value>>,
    /// The file's text, for status.
    pub source: String,
}

impl List {
    /// Whether its version has a verb: CHECK came with 0.4.0, GC and STATUS with 1.1.0.
    pub(super) fn at_least(&self, least: (u32, u32, u32)) -> bool {
        version(&self.version) >= least
    }
}

/// Loads the first `max` networks of a directory (0 = all); none is an error, and so is a bad file among them.
pub(super) fn load(dir: &Path, max: usize) -> Result<Vec<List>> {
    let files = files(dir, &["conf", "conflist", "json"])?;
    if files.is_empty() {
        return Err(Error::new(Kind::Unavailable, format!("no network config found in {}", dir.display())));
    }
    let max = if max == 0 { usize::MAX } else { max };
    files.iter().take(max).map(|file| load_file(file)).collect()
}

fn files(dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        other => other.during(|| format!("read {}", dir.display()))?,
    };
    let mut found: Vec<_> = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.contains(&e)) && !p.is_dir())
        .collect();
    found.sort();
    Ok(found)
}

fn load_file(path: &Path) -> Result<List> {
    let at = || format!("CNI conf {}", path.display());
    let text = fs::read_to_string(path).during(at)?;
    let parsed = if path.extension().is_some_and(|e| e == "conflist") { parse_list(&text, path) } else { parse_single(&text) };
    parsed.during(at)
}

fn parse_single(text: &str) -> Result<List> {
    let plugin = object(serde_json::from_str(text).map_err(|e| Error::invalid(e.to_string()))?)?;
    if plugin.contains_key("plugins") && !plugin.contains_key("type") {
        return Err(Error::invalid("holds a list of plugins: name it .conflist"));
    }
    let (name, version) = (string(&plugin, "name")?, string(&plugin, "cniVersion")?);
    let list = List { name, version, disable_check: false, disable_gc: false, plugins: vec![plugin], source: text.into() };
    check(list)
}

pub(super) fn parse_list(text: &str, path: &Path) -> Result<List> {
    let conf = object(serde_json::from_str(text).map_err(|e| Error::invalid(e.to_string()))?)?;
    let plugins = match conf.get("plugins") {
        Some(Value::Array(plugins)) => plugins.iter().cloned().map(object).collect::<Result<Vec<_>>>()?,
        Some(_) => return Err(Error::invalid("\"plugins\" is no list")),
        None => vec![],
    };
    let mut list = List {
        name: string(&conf, "name")?,
        version: best_version(&conf)?,
        disable_check: flag(&conf, "disableCheck")?,
        disable_gc: flag(&conf, "disableGC")?,
        plugins,
        source: text.into(),
    };
    if !flag(&conf, "loadOnlyInlinedPlugins")? && valid_id(&list.name) {
        // Others may add plugins to the chain by files of their own beside the list (CNI spec, loadOnlyInlinedPlugins).
        let beside = path.parent().unwrap_or(Path::new("/")).join(&list.name);
        for file in files(&beside, &["conf"])? {
            let text = fs::read_to_string(&file).during(|| format!("read {}", file.display()))?;
            list.plugins.push(object(serde_json::from_str(&text).during(|| format!("read {}", file.display()))?)?);
        }
    }
    check(list)
}

/// Nothing in a conf may make us run a file outside the plugin directories (CVE-2021-20206).
fn check(list: List) -> Result<List> {
    if !valid_id(&list.name) {
        return Err(Error::invalid(format!("network name \"{}\" is not made of letters, digits, '_', '.', '-'", list.name)));
    }
    if list.plugins.is_empty() {
        return Err(Error::invalid("has no plugins"));
    }
    for plugin in &list.plugins {
        plugin_type(plugin)?;
    }
    Ok(list)
}

/// The program that a plugin conf names.
pub(super) fn plugin_type(plugin: &Map<String, Value>) -> Result<&str> {
    match plugin.get("type").and_then(Value::as_str) {
        None | Some("") => Err(Error::invalid("a plugin has no \"type\"")),
        Some(name) if name.contains(['/', '\0']) || name == "." || name == ".." => {
            Err(Error::invalid(format!("plugin type \"{name}\" is a path: only the name of a program in a plugin directory is allowed")))
        }
        Some(name) => Ok(name),
    }
}

/// The spec's rule for network names and container IDs.
pub(super) fn valid_id(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

fn best_version(conf: &Map<String, Value>) -> Result<String> {
    let mut known: Vec<String> = vec![string(conf, "cniVersion")?];
    if let Some(all) = conf.get("cniVersions") {
        let all = all.as_array().ok_or_else(|| Error::invalid("\"cniVersions\" is no list"))?;
        known.extend(all.iter().filter_map(Value::as_str).map(str::to_owned));
        known.retain(|v| version(v) <= NEWEST);
    }
    Ok(known.into_iter().max_by_key(|v| version(v)).unwrap_or_default())
}

fn object(value: Value) -> Result<Map<String, Value>> {
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(Error::invalid("is no JSON object")),
    }
}

fn string(conf: &Map<String, Value>, key: &str) -> Result<String> {
    match conf.get(key) {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(Error::invalid(format!("\"{key}\" is no string"))),
    }
}

fn flag(conf: &Map<String, Value>, key: &str) -> Result<bool> {
    match conf.get(key) {
        None => Ok(false),
        Some(Value::Bool(set)) => Ok(*set),
        // The spec has lists in the wild that quote it.
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(Error::invalid(format!("\"{key}\" is neither true nor false"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = PathBuf::from(format!("/tmp/cradle-cni-conf-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        for (file, text) in files {
            let path = dir.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    const BRIDGE: &str = r#"{"cniVersion":"0.4.0","name":"one","type":"bridge"}"#;

    #[test]
    fn the_first_files_in_lexical_order_win_and_the_number_is_bounded() {
        let two =
            r#"{"name":"two","cniVersions":["0.4.0","1.0.0","9.0.0"],"disableCheck":"true","plugins":[{"type":"ptp"},{"type":"portmap"}]}"#;
        let dir =
            dir("order", &[("20-b.conflist", two), ("10-a.json", BRIDGE), ("05-c.txt", "no"), ("two/x.conf", r#"{"type":"tuning"}"#)]);
        let names = |max| load(&dir, max).unwrap().into_iter().map(|l| l.name).collect::<Vec<_>>();
        assert_eq!(names(1), ["one"]);
        assert_eq!(names(0), ["one", "two"]);
        let two = load(&dir, 2).unwrap().remove(1);
        assert_eq!((two.version.as_str(), two.disable_check, two.plugins.len()), ("1.0.0", true, 3));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn bad_confs_are_refused_with_the_file_and_the_reason() {
        for (text, reason) in [
            (r#"{"name":"x","type":"../../bin/sh"}"#, "is a path"),
            (r#"{"name":"../x","type":"bridge"}"#, "network name"),
            (r#"{"name":"x"}"#, "no \"type\""),
            (r#"{"name":"x","plugins":[{"type":"bridge"}]}"#, ".conflist"),
            ("{", "EOF"),
            ("[]", "no JSON object"),
        ] {
            let dir = dir("bad", &[("1.conf", text)]);
            let error = load(&dir, 1).unwrap_err().chain();
            assert!(error.contains(reason) && error.contains("1.conf"), "{error}");
        }
        let dir = dir("bad", &[("1.conflist", r#"{"name":"x","plugins":[]}"#)]);
        assert!(load(&dir, 1).unwrap_err().chain().contains("no plugins"));
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(load(&dir, 1).unwrap_err().to_string(), format!("no network config found in {}", dir.display()));
    }
}
