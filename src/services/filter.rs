//! Filters: containerd's language to choose objects: `field==value`, `field!=value` or a bare `field` that must be there; a
//! comma joins conditions that must all hold, several filters are alternatives. A regular expression (`~=`) is refused.
use crate::error::{Error, Kind, Result};

/// Parsed filters; none at all lets everything pass.
#[derive(Debug, Default)]
pub struct Filters(Vec<Vec<Condition>>);

#[derive(Debug, PartialEq, Eq)]
struct Condition {
    field: Vec<String>,
    test: Test,
}

#[derive(Debug, PartialEq, Eq)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
}

impl Filters {
    /// Parses; the error shows the filter that cannot be read.
    pub fn parse(filters: &[String]) -> Result<Filters> {
        let parsed = filters.iter().filter(|f| !f.is_empty()).map(|f| one(f));
        let parsed = parsed.collect::<Result<_>>()?;
        // An empty filter is an alternative that holds always.
        Ok(if filters.iter().any(String::is_empty) { Filters::default() } else { Filters(parsed) })
    }
    /// Whether an object passes, whose fields `get` tells.
    pub fn pass(&self, get: impl Fn(&[String]) -> Option<String>) -> bool {
        let holds = |c: &Condition| match &c.test {
            Test::Present => get(&c.field).is_some(),
            Test::Equal(value) => get(&c.field).as_ref() == Some(value),
            Test::NotEqual(value) => get(&c.field).unwrap_or_default() != *value,
        };
        self.0.is_empty() || self.0.iter().any(|all| all.iter().all(holds))
    }
}

fn one(filter: &str) -> Result<Vec<Condition>> {
    let mut text = Text { whole: filter, rest: filter };
    let mut conditions = vec![];
    loop {
        let field = text.path()?;
        let test = match text.operator()? {
            None => Test::Present,
            Some("==") => Test::Equal(text.value(",")?),
            Some("!=") => Test::NotEqual(text.value(",")?),
            Some(other) => {
                let why = format!("filter \"{filter}\": the operator {other} is not offered here; use == or !=");
                return Err(Error::new(Kind::Unimplemented, why));
            }
        };
        conditions.push(Condition { field, test });
        match text.rest.strip_prefix(',') {
            Some(rest) => text.rest = rest,
            None if text.rest.is_empty() => return Ok(conditions),
            None => return Err(text.bad()),
        }
    }
}

struct Text<'a> {
    whole: &'a str,
    rest: &'a str,
}

impl<'a> Text<'a> {
    fn bad(&self) -> Error {
        let at = self.whole.len() - self.rest.len();
        Error::invalid(format!("filter \"{}\": cannot be read from byte {at} on; wanted is field==value", self.whole))
    }
    /// `labels."a/b"` is two steps.
    fn path(&mut self) -> Result<Vec<String>> {
        let mut path = vec![];
        loop {
            path.push(self.value(".,=!~")?);
            match self.rest.strip_prefix('.') {
                Some(rest) => self.rest = rest,
                None => return Ok(path),
            }
        }
    }
    fn operator(&mut self) -> Result<Option<&'a str>> {
        if self.rest.is_empty() || self.rest.starts_with(',') {
            return Ok(None);
        }
        let found = self.rest.get(..2).filter(|o| matches!(*o, "==" | "!=" | "~=")).ok_or_else(|| self.bad())?;
        self.rest = &self.rest[2..];
        Ok(Some(found))
    }
    /// A quoted string, or all up to one of `ends`; never empty unless quoted.
    fn value(&mut self, ends: &str) -> Result<String> {
        if let Some(quoted) = self.rest.strip_prefix('"') {
            let mut value = String::new();
            let mut chars = quoted.char_indices();
            while let Some((at, c)) = chars.next() {
                match c {
                    '"' => {
                        self.rest = &quoted[at + 1..];
                        return Ok(value);
                    }
                    '\\' => value.extend(chars.next().map(|(_, c)| c)),
                    c => value.push(c),
                }
            }
            return Err(self.bad());
        }
        let end = self.rest.find(|c| ends.contains(c)).unwrap_or(self.rest.len());
        if end == 0 {
            return Err(self.bad());
        }
        let value = self.rest[..end].to_string();
        self.rest = &self.rest[end..];
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(filters: &[&str]) -> bool {
        let filters: Vec<String> = filters.iter().map(ToString::to_string).collect();
        Filters::parse(&filters).unwrap().pass(|path| match path.join("|").as_str() {
            "ref" => Some("layer-sha256:12".into()),
            "labels|a/b" => Some("c,d".into()),
            _ => None,
        })
    }

    #[test]
    fn commas_join_and_filters_are_alternatives() {
        for (filters, want) in [
            (&[][..], true),
            (&[""], true),
            (&["ref==layer-sha256:12"], true),
            (&["ref==x"], false),
            (&["ref!=x"], true),
            (&["ref"], true),
            (&["nosuch"], false),
            (&["nosuch!=x"], true),
            (&["ref==x", "ref==\"layer-sha256:12\""], true),
            (&["ref==layer-sha256:12,labels.\"a/b\"==\"c,d\""], true),
            (&["ref==layer-sha256:12,nosuch"], false),
        ] {
            assert_eq!(pass(filters), want, "{filters:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_shown() {
        for (filter, word) in [("ref=x", "byte 3"), ("==x", "byte 0"), ("ref==\"x", "ref=="), ("ref==a,", "byte 7"), ("ref~=x", "~=")] {
            let e = Filters::parse(&[filter.to_string()]).unwrap_err();
            assert!(e.chain().contains(word), "{}", e.chain());
        }
    }
}
