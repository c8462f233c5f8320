//! Times as RFC 3339 text: in records (`#[serde(with = "time")]`) and in labels that clients set with any zone.
use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serializer, de};
use std::time::{Duration, SystemTime};

/// Writes a time in UTC with nanoseconds.
pub fn format(time: SystemTime) -> String {
    humantime::format_rfc3339_nanos(time).to_string()
}

/// Reads a time, `2026-01-02T03:04:05.6Z` or with an offset as `+02:00`.
pub fn parse(text: &str) -> Result<SystemTime> {
    let bad = || Error::invalid(format!("\"{text}\": no RFC 3339 time, as 2026-01-02T03:04:05Z"));
    let (local, offset, ahead) = match text.char_indices().rev().find(|(_, c)| matches!(c, '+' | '-' | 'Z' | 'z')) {
        Some((at, 'Z' | 'z')) if at + 1 == text.len() => (&text[..at], Duration::ZERO, true),
        Some((at, sign @ ('+' | '-'))) if at >= "2026-01-02T03:04:05".len() => {
            let (hours, minutes) = text[at + 1..].split_once(':').ok_or_else(bad)?;
            let number = |s: &str| if s.len() == 2 { s.parse::<u64>().map_err(|_| bad()) } else { Err(bad()) };
            (&text[..at], Duration::from_secs(number(hours)? * 3600 + number(minutes)? * 60), sign == '+')
        }
        _ => return Err(bad()),
    };
    let time = humantime::parse_rfc3339(&format!("{local}Z")).map_err(|e| bad().because(e))?;
    if ahead { time.checked_sub(offset) } else { time.checked_add(offset) }.ok_or_else(bad)
}

/// For serde's `with`.
pub fn serialize<S: Serializer>(time: &SystemTime, to: S) -> std::result::Result<S::Ok, S::Error> {
    // humantime can only write the years 1970 to 9999; a clock outside (embedded boards boot in 1970) must not fail a write.
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    to.serialize_str(&format((*time).clamp(SystemTime::UNIX_EPOCH, end)))
}

/// For serde's `with`.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<SystemTime, D::Error> {
    parse(&String::deserialize(from)?).map_err(de::Error::custom)
}

/// The time of a record that was not stored yet; the store sets the real one.
pub fn unset() -> SystemTime {
    SystemTime::UNIX_EPOCH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_taken_off() {
        let utc = parse("2026-03-01T10:00:00Z").unwrap();
        assert_eq!(parse("2026-03-01T12:00:00+02:00").unwrap(), utc);
        assert_eq!(parse("2026-03-01T04:30:00.000-05:30").unwrap(), utc);
        assert_eq!(format(utc), "2026-03-01T10:00:00.000000000Z");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "Z", "tomorrow", "2026-03-01", "2026-03-01T10:00:00", "2026-03-01T10:00:00+2", "2026-03-01T10:00:00+é:00"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
