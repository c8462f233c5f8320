//! YAML, of which JSON is a part, as a JSON value: for files that other tools of the node write, such as CDI's.
//!
//! Bounded: a file that nests too deep, or that its aliases would blow up, is an error.
use crate::error::{Context, Error, Result};
use saphyr_parser::{Event, Parser, ScalarStyle};
use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Far more than any file has; a GPU node's CDI file has some hundred KiB.
const LARGEST: u64 = 4 << 20;
const DEEPEST: usize = 64;
/// With those that aliases repeat.
const MOST_NODES: usize = 1_000_000;

/// Reads a file.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let what = || format!("read {}", path.display());
    let file = File::open(path).during(what)?;
    if !file.metadata().during(what)?.is_file() {
        return Err(Error::precondition(format!("{} is not a regular file", path.display())));
    }
    let mut text = String::new();
    file.take(LARGEST + 1).read_to_string(&mut text).during(what)?;
    if text.len() as u64 > LARGEST {
        return Err(Error::precondition(format!("{} is larger than {LARGEST} bytes", path.display())));
    }
    serde_json::from_value(parse(&text).during(what)?).during(what)
}

/// The first document of a text.
pub fn parse(text: &str) -> Result<Value> {
    let mut reader = Reader { parser: Parser::new_from_str(text), anchors: BTreeMap::new(), nodes: 0 };
    loop {
        match reader.next()? {
            Event::StreamStart | Event::DocumentStart(_) => {}
            Event::StreamEnd | Event::DocumentEnd => return Ok(Value::Null),
            first => return reader.node(first, 0),
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: BTreeMap<usize, (Value, usize)>,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Event<'a>> {
        match self.parser.next() {
            Some(event) => event.map(|(event, _)| event).map_err(|e| Error::invalid(format!("YAML: {e}"))),
            None => Err(Error::invalid("YAML: the text ends in the middle")),
        }
    }

    fn count(&mut self, nodes: usize) -> Result<()> {
        self.nodes += nodes;
        if self.nodes > MOST_NODES { Err(Error::invalid(format!("YAML: more than {MOST_NODES} values"))) } else { Ok(()) }
    }

    fn node(&mut self, event: Event<'a>, depth: usize) -> Result<Value> {
        if depth > DEEPEST {
            return Err(Error::invalid(format!("YAML: nested deeper than {DEEPEST}")));
        }
        self.count(1)?;
        let before = self.nodes;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                (if plain { plain_scalar(&text) } else { Value::String(text.into_owned()) }, anchor)
            }
            Event::SequenceStart(anchor, _) => (self.sequence(depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.mapping(depth)?, anchor),
            Event::Alias(of) => {
                let Some((value, size)) = self.anchors.get(&of).cloned() else {
                    return Err(Error::invalid("YAML: an alias of what is not there, or of itself"));
                };
                self.count(size)?;
                return Ok(value);
            }
            other => return Err(Error::invalid(format!("YAML: unexpected {other:?}"))),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, (value.clone(), self.nodes - before + 1));
        }
        Ok(value)
    }

    fn sequence(&mut self, depth: usize) -> Result<Value> {
        let mut list = Vec::new();
        loop {
            match self.next()? {
                Event::SequenceEnd => return Ok(Value::Array(list)),
                event => list.push(self.node(event, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value> {
        let mut map = Map::new();
        loop {
            let key = match self.next()? {
                Event::MappingEnd => return Ok(Value::Object(map)),
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return Err(Error::invalid("YAML: a key that is not a plain word")),
            };
            let event = self.next()?;
            let value = self.node(event, depth + 1)?;
            if map.contains_key(&key) {
                return Err(Error::invalid(format!("YAML: key {key:?} is there twice")));
            }
            map.insert(key, value);
        }
    }
}

/// What an unquoted word means. A number with a leading zero is octal, as file modes are written.
fn plain_scalar(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let in_base = |digits: &str, base| {
        // A second sign would slip through.
        let number = if digits.starts_with(['-', '+']) { None } else { i64::from_str_radix(digits, base).ok() }?;
        Some(Value::from(if text.starts_with('-') { -number } else { number }))
    };
    let number = match digits.as_bytes() {
        [b'0', b'x', ..] => in_base(&digits[2..], 16),
        [b'0', b'o', ..] => in_base(&digits[2..], 8),
        [b'0', b'0'..=b'7', ..] if digits.bytes().all(|b| (b'0'..=b'7').contains(&b)) => in_base(digits, 8),
        [b'0'..=b'9', ..] if digits.bytes().all(|b| b.is_ascii_digit()) => {
            in_base(digits, 10).or_else(|| text.parse::<u64>().ok().map(Value::from))
        }
        [b'0'..=b'9' | b'.', ..] => text.parse::<f64>().ok().and_then(Number::from_f64).map(Value::Number),
        _ => None,
    };
    number.unwrap_or_else(|| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_are_what_they_look_like() {
        let text =
            "a: 1\nb: 0666\nc: \"1\"\nd: [x, true, ~, 1.5, 5M, -3]\ne:\n  - f: 0x10\n    g: |\n      l1\n      l2\n# note\nh: {i: j}\n";
        let want = json!({"a": 1, "b": 0o666, "c": "1", "d": ["x", true, null, 1.5, "5M", -3], "e": [{"f": 16, "g": "l1\nl2\n"}], "h": {"i": "j"}});
        assert_eq!(parse(text).unwrap(), want);
        assert_eq!(parse(r#"{"a": [1, "b\n", null]}"#).unwrap(), json!({"a": [1, "b\n", null]}));
        assert_eq!(parse("").unwrap(), Value::Null);
    }

    #[test]
    fn anchors_are_followed_within_bounds() {
        assert_eq!(parse("a: &x [1, 2]\nb: *x\n").unwrap(), json!({"a": [1, 2], "b": [1, 2]}));
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 1..9 {
            let of = format!("*a{}", n - 1);
            bomb.push_str(&format!("a{n}: &a{n} [{}]\n", vec![of; 10].join(", ")));
        }
        assert!(parse(&bomb).unwrap_err().chain().contains("more than"));
        assert!(parse(&"[".repeat(100)).unwrap_err().chain().contains("YAML"));
        for bad in ["a: *x", "a: [1", "a: 1\na: 2", "{a: 1, : ]"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
