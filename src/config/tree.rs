//! Tree: TOML in which every key knows the file and line that it came from, through merges and migrations.
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use toml::Value;
use toml::de::{DeTable, DeValue};

/// Where a key was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The file.
    pub file: Arc<Path>,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Keys and what they hold.
pub(super) type Keys = BTreeMap<String, Node>;

/// What a key holds.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Item {
    Table(Keys),
    Value(Value),
}

/// A key's content with its origin; none = built in.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Node {
    pub item: Item,
    pub origin: Option<Origin>,
}

impl Node {
    pub fn value(value: impl Into<Value>, origin: Option<Origin>) -> Node {
        Node { item: Item::Value(value.into()), origin }
    }
    pub fn table(keys: Keys, origin: Option<Origin>) -> Node {
        Node { item: Item::Table(keys), origin }
    }
    pub fn keys(&self) -> Option<&Keys> {
        match &self.item {
            Item::Table(keys) => Some(keys),
            Item::Value(_) => None,
        }
    }
    pub fn keys_mut(&mut self) -> Option<&mut Keys> {
        match &mut self.item {
            Item::Table(keys) => Some(keys),
            Item::Value(_) => None,
        }
    }
    pub fn str(&self) -> Option<&str> {
        match &self.item {
            Item::Value(value) => value.as_str(),
            Item::Table(_) => None,
        }
    }
    /// Whether it is what Go calls a zero value.
    pub fn is_zero(&self) -> bool {
        match &self.item {
            Item::Value(Value::String(text)) => text.is_empty(),
            Item::Value(Value::Integer(number)) => *number == 0,
            Item::Value(Value::Boolean(set)) => !*set,
            Item::Value(Value::Array(list)) => list.is_empty(),
            _ => false,
        }
    }
    /// In words, for errors.
    pub fn kind(&self) -> &'static str {
        match &self.item {
            Item::Table(_) | Item::Value(Value::Table(_)) => "a table",
            Item::Value(Value::String(_)) => "a string",
            Item::Value(Value::Integer(_)) => "an integer",
            Item::Value(Value::Float(_)) => "a number",
            Item::Value(Value::Boolean(_)) => "true or false",
            Item::Value(Value::Datetime(_)) => "a date",
            Item::Value(Value::Array(_)) => "a list",
        }
    }
    pub fn to_toml(&self) -> Value {
        match &self.item {
            Item::Value(value) => value.clone(),
            Item::Table(keys) => Value::Table(keys.iter().map(|(k, n)| (k.clone(), n.to_toml())).collect()),
        }
    }
    /// ` (file:line)`, or nothing for what is built in.
    pub fn at(&self) -> String {
        self.origin.as_ref().map(|o| format!(" ({o})")).unwrap_or_default()
    }
}

/// Reads a file's text.
pub(super) fn parse(text: &str, file: &Path) -> Result<Keys> {
    let file: Arc<Path> = file.into();
    let wrong = |e: toml::de::Error| {
        let line = e.span().map_or(1, |s| line_of(text, s.start));
        Error::invalid(format!("{}:{line}: {}", file.display(), e.message()))
    };
    let spans = DeTable::parse(text).map_err(wrong)?;
    let values: toml::Table = toml::from_str(text).map_err(wrong)?;
    Ok(join(values, spans.get_ref(), &|at| Some(Origin { file: file.clone(), line: line_of(text, at) })))
}

/// The same text read twice: one gives the values, the other their places.
fn join(values: toml::Table, spans: &DeTable<'_>, origin: &dyn Fn(usize) -> Option<Origin>) -> Keys {
    let places: BTreeMap<_, _> = spans.iter().map(|(key, value)| (key.get_ref().as_ref(), (key.span().start, value))).collect();
    let node = |key: &str, value| {
        let place = places.get(key);
        let origin_here = place.and_then(|(at, _)| origin(*at));
        match (value, place.map(|(_, v)| v.get_ref())) {
            (Value::Table(table), Some(DeValue::Table(spans))) => Node::table(join(table, spans, origin), origin_here),
            (value, _) => Node::value(value, origin_here),
        }
    };
    values.into_iter().map(|(key, value)| (key.clone(), node(&key, value))).collect()
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count() + 1
}

/// Lays one table over another; tables join, everything else is replaced.
pub(super) fn merge(base: &mut Keys, over: Keys) {
    for (key, node) in over {
        match (base.get_mut(&key), node) {
            (Some(Node { item: Item::Table(below), origin }), Node { item: Item::Table(above), origin: from }) => {
                *origin = from;
                merge(below, above);
            }
            (_, node) => {
                base.insert(key, node);
            }
        }
    }
}

/// Lays a file over those before it, by containerd's rules: top-level lists grow, top-level values that are empty say
/// nothing, entries of maps are replaced whole, and the plugins' tables join.
pub(super) fn merge_file(base: &mut Keys, over: Keys) {
    for (key, node) in over {
        match (key.as_str(), base.get_mut(&key), node) {
            (
                _,
                Some(Node { item: Item::Value(Value::Array(all)), origin }),
                Node { item: Item::Value(Value::Array(more)), origin: from },
            ) => {
                *origin = from;
                for value in more {
                    if !all.contains(&value) {
                        all.push(value);
                    }
                }
            }
            (_, Some(_), node) if node.is_zero() => {}
            ("timeouts" | "proxy_plugins" | "stream_processors", Some(Node { item: Item::Table(below), .. }), node) => {
                if let Item::Table(above) = node.item {
                    below.extend(above);
                }
            }
            ("debug" | "cgroup", Some(Node { item: Item::Table(below), .. }), Node { item: Item::Table(above), .. }) => {
                below.extend(above.into_iter().filter(|(_, n)| !n.is_zero()));
            }
            ("plugins", Some(Node { item: Item::Table(below), .. }), Node { item: Item::Table(above), .. }) => merge(below, above),
            (_, _, node) => {
                base.insert(key, node);
            }
        }
    }
}

/// A key's full name; parts that TOML would not take bare are quoted.
pub(super) fn dotted(path: &[&str]) -> String {
    path.iter().map(|part| quoted(part)).collect::<Vec<_>>().join(".")
}

fn quoted(part: &str) -> String {
    let bare = !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare { part.to_owned() } else { Value::String(part.to_owned()).to_string() }
}

/// Whether origins are shown.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Origins {
    /// Bare TOML.
    Hide,
    /// Each key that a file has set ends with a comment that names its line.
    Show,
}

/// Prints a table as TOML that reads back the same.
pub(super) fn print(keys: &Keys, origins: Origins) -> String {
    let mut text = String::new();
    print_table(&mut text, keys, &mut vec![], origins);
    text
}

fn print_table<'a>(text: &mut String, keys: &'a Keys, path: &mut Vec<&'a str>, origins: Origins) {
    let tables = || keys.iter().filter_map(|(key, node)| node.keys().map(|below| (key, below)));
    if !path.is_empty() && (keys.len() > tables().count() || keys.is_empty()) {
        text.push_str(&format!("\n[{}]\n", dotted(path)));
    }
    for (key, node) in keys {
        let Item::Value(value) = &node.item else { continue };
        let from = node.origin.as_ref().filter(|_| origins == Origins::Show).map(|o| format!(" # {o}")).unwrap_or_default();
        text.push_str(&format!("{} = {value}{from}\n", quoted(key)));
    }
    for (key, below) in tables() {
        path.push(key);
        print_table(text, below, path, origins);
        path.pop();
    }
}
