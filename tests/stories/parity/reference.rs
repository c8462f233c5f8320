//! Reference: what containerd wrote, from `tests/parity/reference.json`. There each spec is told by what differs from another one
//! (`from`); capabilities and system calls of one kind share a line.
use super::fields::Fields;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What containerd made of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A spec.
    Spec(Fields),
    /// An error, and what it says.
    Refused(String),
}

/// All of one kind (`pods`, `containers`), by the request's name.
pub fn reference(kind: &str) -> BTreeMap<String, Answer> {
    let file: Value = serde_json::from_str(&super::data("reference.json")).unwrap();
    let all = file[kind].as_object().unwrap();
    all.iter().map(|(name, entry)| (name.clone(), answer(all, entry))).collect()
}

fn answer(all: &Map<String, Value>, entry: &Value) -> Answer {
    match entry["refused"].as_str() {
        Some(why) => Answer::Refused(why.into()),
        None => Answer::Spec(spec(all, entry)),
    }
}

fn spec(all: &Map<String, Value>, entry: &Value) -> Fields {
    let mut fields = entry["from"].as_str().map_or_else(Fields::new, |from| spec(all, &all[from]));
    for (path, value) in entry["changes"].as_object().unwrap() {
        for path in unpacked(path) {
            match value {
                Value::Null => drop(fields.remove(&path)),
                value => drop(fields.insert(path, value.clone())),
            }
        }
    }
    fields
}

fn unpacked(path: &str) -> Vec<String> {
    let packed = ["process.capabilities[", "linux.seccomp.syscalls["];
    match packed.iter().find(|p| path.starts_with(*p)) {
        Some(start) => path[start.len()..].trim_end_matches(']').split(' ').map(|name| format!("{start}{name}]")).collect(),
        None => vec![path.into()],
    }
}
