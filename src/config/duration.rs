//! Go's durations, the only ones that containerd's files know: `100ms`, `5m0s`, `1h30m`.
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

/// A length of time, written as Go writes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct GoDuration(pub Duration);

impl GoDuration {
    /// Reads a duration; "" is none at all.
    pub fn parse(text: &str) -> Option<GoDuration> {
        let mut rest = text;
        let mut seconds = 0f64;
        if text.is_empty() || text == "0" {
            return Some(GoDuration::default());
        }
        while !rest.is_empty() {
            let unit = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let number: f64 = rest[..unit].parse().ok()?;
            let end = rest[unit..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |n| unit + n);
            seconds += number
                * match &rest[unit..end] {
                    "ns" => 1e-9,
                    "us" | "µs" | "μs" => 1e-6,
                    "ms" => 1e-3,
                    "s" => 1.0,
                    "m" => 60.0,
                    "h" => 3600.0,
                    _ => return None,
                };
            rest = &rest[end..];
        }
        // Go counts nanoseconds in an i64.
        let nanos = (seconds * 1e9).round();
        (nanos <= i64::MAX as f64).then(|| GoDuration(Duration::from_nanos(nanos as u64)))
    }
    /// The limit that it stands for: zero is none.
    pub fn limit(self) -> Option<Duration> {
        Some(self.0).filter(|d| !d.is_zero())
    }
}

impl Deref for GoDuration {
    type Target = Duration;
    fn deref(&self) -> &Duration {
        &self.0
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, nanos) = (self.as_secs(), self.subsec_nanos());
        let (h, m, s) = (whole / 3600, whole / 60 % 60, whole % 60);
        let fraction = |value: f64| format!("{value:.9}").trim_end_matches('0').trim_end_matches('.').to_owned();
        match (h, m) {
            (0, 0) if whole == 0 && nanos == 0 => write!(f, "0s"),
            (0, 0) if whole == 0 && nanos < 1_000 => write!(f, "{nanos}ns"),
            (0, 0) if whole == 0 && nanos < 1_000_000 => write!(f, "{}µs", fraction(nanos as f64 / 1e3)),
            (0, 0) if whole == 0 => write!(f, "{}ms", fraction(nanos as f64 / 1e6)),
            (0, 0) => write!(f, "{}s", fraction(s as f64 + nanos as f64 / 1e9)),
            (0, _) => write!(f, "{m}m{}s", fraction(s as f64 + nanos as f64 / 1e9)),
            _ => write!(f, "{h}h{m}m{}s", fraction(s as f64 + nanos as f64 / 1e9)),
        }
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<GoDuration, D::Error> {
        let text = String::deserialize(from)?;
        GoDuration::parse(&text).ok_or_else(|| de::Error::custom(format!("\"{text}\" is no duration such as \"1m30s\"")))
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print_as_gos() {
        for (text, millis, shown) in [
            ("", 0, "0s"),
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("100ms", 100, "100ms"),
            ("1.5s", 1500, "1.5s"),
            ("5m", 300_000, "5m0s"),
            ("4h0m0s", 14_400_000, "4h0m0s"),
            ("1h2m3s4ms", 3_723_004, "1h2m3.004s"),
        ] {
            let duration = GoDuration::parse(text).unwrap();
            assert_eq!((duration.as_millis(), duration.to_string().as_str()), (millis, shown), "{text}");
        }
        for bad in ["5", "s", "5 s", "-5s", "5d", "1h5", "fast", "99999999999h"] {
            assert_eq!(GoDuration::parse(bad), None, "{bad}");
        }
    }
}
