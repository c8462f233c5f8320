//! Table: the differences that are meant, from `tests/parity/differences.md`: a row says where, what containerd has, what we have,
//! and why. A difference without a row fails, and so does a row, or a request named in it, without a difference.
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// One field of one spec that is not as the reference has it.
#[derive(Clone, Debug)]
pub struct Difference {
    /// `pod` or `container`.
    pub kind: &'static str,
    pub request: String,
    pub field: String,
    pub theirs: Option<Value>,
    pub ours: Option<Value>,
}

struct Row {
    kind: String,
    field: String,
    requests: Vec<String>,
    theirs: String,
    ours: String,
    line: usize,
}

/// What is wrong between the table and the differences found; empty if nothing is. Rows without a difference count only where all
/// fields were compared.
pub fn complaints(found: &[Difference], all_compared: bool) -> Vec<String> {
    let rows = rows(&super::data("differences.md"));
    let mut used = BTreeSet::new();
    let mut complaints = vec![];
    let mut missing = BTreeMap::<(&str, &str, String, String), Vec<&str>>::new();
    for difference in found {
        let matching: Vec<(usize, usize)> = rows.iter().filter_map(|row| Some((row.line, row.matches(difference)?))).collect();
        if matching.is_empty() {
            let cells = (difference.kind, &*difference.field, shown(difference.theirs.as_ref()), shown(difference.ours.as_ref()));
            missing.entry(cells).or_default().push(&difference.request);
        }
        used.extend(matching);
    }
    for ((kind, field, theirs, ours), requests) in missing {
        complaints.push(format!("not in the table: | {kind} | `{field}` | {} | `{theirs}` | `{ours}` |", requests.join(" ")));
    }
    for row in rows.iter().filter(|_| all_compared) {
        for (_, request) in row.requests.iter().enumerate().filter(|(i, _)| !used.contains(&(row.line, *i))) {
            complaints
                .push(format!("differences.md:{}: no such difference any more: {} {}, request {request}", row.line, row.kind, row.field));
        }
    }
    complaints
}

impl Row {
    /// Which of its requests the difference is of.
    fn matches(&self, of: &Difference) -> Option<usize> {
        let fits = self.kind == of.kind
            && glob(&self.field, &of.field)
            && glob(&self.theirs, &shown(of.theirs.as_ref()))
            && glob(&self.ours, &shown(of.ours.as_ref()));
        self.requests.iter().position(|r| glob(r, &of.request)).filter(|_| fits)
    }
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None => "-".into(),
        Some(Value::String(text)) if text.is_empty() => "\"\"".into(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn rows(text: &str) -> Vec<Row> {
    let lines = text.lines().enumerate().filter(|(_, line)| line.starts_with("| pod |") || line.starts_with("| container |"));
    let parsed = lines.map(|(number, line)| {
        let cells: Vec<String> = line.split('|').map(|c| c.trim().trim_matches('`').to_string()).collect();
        let [_, kind, field, requests, theirs, ours, why, _] = &cells[..] else { panic!("differences.md:{}: not six cells", number + 1) };
        assert!(!why.is_empty(), "differences.md:{}: no reason", number + 1);
        let requests = if requests == "all" { "*" } else { requests };
        let requests = requests.split_ascii_whitespace().map(String::from).collect();
        Row { kind: kind.clone(), field: field.clone(), requests, theirs: theirs.clone(), ours: ours.clone(), line: number + 1 }
    });
    parsed.collect()
}

/// `*` stands for anything.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(start) else { return false };
    rest.is_empty() || (0..=text.len()).filter(|i| text.is_char_boundary(*i)).any(|i| glob(rest, &text[i..]))
}

#[test]
fn patterns() {
    for (pattern, text, fits) in [
        ("a*c", "abc", true),
        ("a*c", "abd", false),
        ("*", "", true),
        ("m[*].x", "m[/a].x", true),
        ("a", "ab", false),
        ("*b*", "abc", true),
    ] {
        assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
    }
}
