//! PAX extended headers: `length key=value\n` records. Values are bytes: attributes hold newlines and zeros.
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// The records of one header; the last of several with one key counts.
#[derive(Default, Debug)]
pub(super) struct Records {
    map: BTreeMap<Vec<u8>, Vec<u8>>,
    /// `GNU.sparse.offset` and `.numbytes` come in pairs, in order.
    sparse: Vec<u64>,
}

impl Records {
    pub(super) fn parse(mut rest: &[u8]) -> Result<Records> {
        let mut records = Records::default();
        while !rest.is_empty() {
            let (key, value, tail) = record(rest).ok_or_else(|| Error::invalid("malformed PAX record"))?;
            rest = tail;
            if matches!(key, b"path" | b"linkpath") && value.contains(&0) || key.contains(&0) {
                return Err(Error::invalid("PAX record with a zero byte in a name"));
            }
            if matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes") {
                let turn = usize::from(key == b"GNU.sparse.numbytes");
                let number = decimal(value).filter(|_| records.sparse.len() % 2 == turn);
                records.sparse.push(number.ok_or_else(|| Error::invalid("malformed sparse map in PAX records"))?);
                continue;
            }
            records.map.insert(key.to_vec(), value.to_vec());
        }
        Ok(records)
    }
    /// A value; an empty one means that the plain header's counts.
    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        self.map.get(key.as_bytes()).map(Vec::as_slice).filter(|v| !v.is_empty())
    }
    /// A value that is a decimal number.
    pub(super) fn number(&self, key: &str) -> Result<Option<u64>> {
        self.get(key).map(|v| decimal(v).ok_or_else(|| Error::invalid(format!("PAX record {key} is no number")))).transpose()
    }
    /// A time as seconds and nanoseconds; fractions finer than that are cut.
    pub(super) fn time(&self, key: &str) -> Result<Option<(i64, u32)>> {
        self.get(key).map(|v| time(v).ok_or_else(|| Error::invalid(format!("PAX record {key} is no time")))).transpose()
    }
    /// Extended attributes.
    pub(super) fn xattrs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let prefix = b"SCHILY.xattr.";
        self.map.iter().filter_map(move |(k, v)| Some((k.strip_prefix(prefix)?, v.as_slice())))
    }
    /// The sparse map of GNU formats 0.0 (pairs of records) and 0.1 (one list), as offset, length, offset, …
    pub(super) fn sparse_map(&self) -> Result<Vec<u64>> {
        let Some(list) = self.get("GNU.sparse.map") else { return Ok(self.sparse.clone()) };
        let numbers: Option<Vec<u64>> = list.split(|b| *b == b',').map(decimal).collect();
        numbers.ok_or_else(|| Error::invalid("malformed GNU.sparse.map"))
    }
}

fn record(rest: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = rest.iter().take(20).position(|b| *b == b' ')?;
    let length = usize::try_from(decimal(&rest[..space])?).ok()?;
    let body = rest.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|b| *b == b'=').filter(|at| *at > 0)?;
    Some((&body[..equals], &body[equals + 1..], &rest[length..]))
}

/// Plain digits, nothing else.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |n, d| n.checked_mul(10)?.checked_add(u64::from(d.checked_sub(b'0').filter(|d| *d < 10)?)))
}

fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |t| (true, t));
    let (whole, fraction) = text.iter().position(|b| *b == b'.').map_or((text, &b""[..]), |at| (&text[..at], &text[at + 1..]));
    let seconds = if whole.is_empty() && !fraction.is_empty() { 0 } else { i64::try_from(decimal(whole)?).ok()? };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0u32, |n, i| n * 10 + fraction.get(i).map_or(0, |d| u32::from(d - b'0')));
    Some(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_bytes_and_the_last_counts() {
        let r = Records::parse(b"10 path=a\n10 path=b\n28 SCHILY.xattr.user.x=1\n\x002\n7 uid=\n").unwrap();
        assert_eq!(r.get("path"), Some(&b"b"[..]));
        assert_eq!(r.get("uid"), None);
        assert_eq!(r.xattrs().collect::<Vec<_>>(), [(&b"user.x"[..], &b"1\n\x002"[..])]);
    }

    #[test]
    fn malformed_records_are_errors() {
        for bad in [
            &b"10 path=a"[..],
            b"8 path=a\n",
            b"11 path=a\n",
            b"x",
            b"5 =\na",
            b"10 path a\n",
            b"99999999999999999999999 a=b\n",
            b"11 path=\0b\n",
        ] {
            assert!(Records::parse(bad).is_err(), "{}", bad.escape_ascii());
        }
        assert!(Records::parse(b"23 GNU.sparse.offset=1\n23 GNU.sparse.offset=1\n").is_err());
    }

    #[test]
    fn times() {
        for (text, want) in [
            ("1", Some((1, 0))),
            ("1.5", Some((1, 500_000_000))),
            ("1.0000000019", Some((1, 1))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-1", Some((-1, 0))),
            (".5", Some((0, 500_000_000))),
            ("", None),
            ("1.x", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(time(text.as_bytes()), want, "{text}");
        }
    }
}
