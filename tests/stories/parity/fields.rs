//! Fields: a spec as a list of fields with values, free of what differs from run to run and from host to host. Reference and
//! own specs go through the same rules: what has a name is found by its name, what is a set is sorted, nothing stands for null,
//! false and empty.
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Fields by path, such as `mounts[/proc].options`.
pub type Fields = BTreeMap<String, Value>;

/// Objects whose keys are names, not fields.
const KEYED: [&str; 3] = ["annotations", "linux.sysctl", "linux.resources.unified"];
/// Lists whose entries have a name.
const NAMED: [(&str, &str); 4] =
    [("mounts", "destination"), ("linux.namespaces", "type"), ("linux.devices", "path"), ("process.rlimits", "type")];
/// Lists that are sets.
const SETS: [&str; 4] = ["maskedPaths", "readonlyPaths", "options", "architectures"];
/// Those of a host's devices that every host has; a privileged container gets all that there are.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
/// The host of the reference had it not to give.
const NOT_COMPARED: &str = "CAP_SYS_RESOURCE";

/// Every text in a value replaced.
pub fn each_text(value: Value, f: &dyn Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => f(&text).into(),
        Value::Array(list) => list.into_iter().map(|v| each_text(v, f)).collect(),
        Value::Object(map) => map.into_iter().map(|(k, v)| (k, each_text(v, f))).collect(),
        other => other,
    }
}

/// The fields of a spec whose texts have their placeholders already.
pub fn fields(spec: &Value) -> Fields {
    let mut out = Fields::new();
    flatten(spec, "", &mut out);
    out
}

fn flatten(value: &Value, path: &str, out: &mut Fields) {
    match value {
        Value::Null | Value::Bool(false) => {}
        Value::Object(sets) if path == "process.capabilities" => capabilities(sets, out),
        Value::Object(map) => {
            for (key, value) in map {
                let at = match (path.is_empty(), KEYED.contains(&path)) {
                    (true, _) => key.clone(),
                    (_, true) => format!("{path}[{key}]"),
                    _ => format!("{path}.{key}"),
                };
                flatten(value, &at, out);
            }
        }
        Value::Array(list) if list.is_empty() => {}
        Value::Array(list) => entries(list, path, out),
        plain => put(path, plain.clone(), out),
    }
}

fn entries(list: &[Value], path: &str, out: &mut Fields) {
    let last = path.rsplit('.').next().unwrap_or(path);
    if path == "process.env" {
        for entry in list {
            let (name, value) = entry.as_str().unwrap().split_once('=').unwrap();
            put(&format!("{path}[{name}]"), value.into(), out);
        }
    } else if path == "linux.seccomp.syscalls" {
        syscalls(list, path, out);
    } else if let Some((_, key)) = NAMED.iter().find(|(at, _)| *at == path) {
        named(list, path, key, out);
    } else if path == "linux.resources.devices" || path.starts_with("hooks.") {
        for (i, entry) in list.iter().enumerate() {
            out.insert(format!("{path}[{i}]"), bare(entry));
        }
    } else {
        let mut list = list.to_vec();
        if SETS.contains(&last) {
            list.sort_by_key(Value::to_string);
        }
        out.insert(path.into(), list.into());
    }
}

fn named(list: &[Value], path: &str, key: &str, out: &mut Fields) {
    if path == "mounts" {
        out.insert("mounts.order".into(), list.iter().map(|m| m["destination"].clone()).collect());
    }
    for entry in list {
        let name = entry[key].as_str().unwrap();
        if path == "linux.devices" && !DEVICES.contains(&name) && !name.starts_with("/dev/parity") {
            continue;
        }
        let free = |at: &String| !out.keys().any(|k| k == at || k.strip_prefix(at.as_str()).is_some_and(|rest| rest.starts_with('.')));
        let mut numbered = (2..).map(|i| format!("{path}[{name}#{i}]"));
        let at = Some(format!("{path}[{name}]")).filter(free).or_else(|| numbered.find(free)).unwrap();
        let mut rest = bare(entry);
        rest.as_object_mut().unwrap().remove(key);
        match rest.as_object().unwrap().is_empty() {
            true => drop(out.insert(at, "".into())),
            false if path == "linux.devices" => drop(out.insert(at, rest)),
            false => flatten(&rest, &at, out),
        }
    }
}

/// Capabilities by name, with the sets that they are in.
fn capabilities(sets: &serde_json::Map<String, Value>, out: &mut Fields) {
    let mut found = BTreeMap::<&str, Vec<&str>>::new();
    for (set, list) in sets {
        for name in list.as_array().into_iter().flatten().filter_map(Value::as_str).filter(|n| *n != NOT_COMPARED) {
            found.entry(name).or_default().push(set);
        }
    }
    for (name, mut sets) in found {
        sets.sort_unstable();
        out.insert(format!("process.capabilities[{name}]"), sets.join(" ").into());
    }
}

/// Calls by name, with their rules.
fn syscalls(list: &[Value], path: &str, out: &mut Fields) {
    let mut found = BTreeMap::<String, BTreeMap<String, Value>>::new();
    for entry in list {
        let mut rule = bare(entry);
        rule.as_object_mut().unwrap().remove("names");
        for name in entry["names"].as_array().unwrap() {
            found.entry(name.as_str().unwrap().into()).or_default().insert(rule.to_string(), rule.clone());
        }
    }
    for (name, rules) in found {
        out.insert(format!("{path}[{name}]"), rules.into_values().collect());
    }
}

/// Without what says nothing.
fn bare(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let says = |key: &str, v: &Value| !v.is_null() && *v != json!([]) && (key != "valueTwo" || *v != json!(0));
            let said = map.iter().filter(|(k, v)| says(k, v)).map(|(k, v)| (k.clone(), bare(v)));
            said.collect()
        }
        Value::Array(list) => list.iter().map(bare).collect(),
        other => other.clone(),
    }
}

fn put(path: &str, value: Value, out: &mut Fields) {
    let mut at = path.to_string();
    let mut number = 2;
    while out.contains_key(&at) {
        at = format!("{path}#{number}");
        number += 1;
    }
    out.insert(at, value);
}
