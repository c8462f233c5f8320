//! Time as a log line and an event want it: UTC to the nanosecond.
use protobuf::well_known_types::timestamp::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes `2006-01-02T15:04:05.000000000Z`; the date is worked out anew only when the second changes.
#[derive(Default)]
pub struct Stamp {
    second: i64,
    text: Vec<u8>,
}

impl Stamp {
    /// Appends the time of now.
    pub fn now(&mut self, to: &mut Vec<u8>) {
        let now = clock_gettime(ClockId::Realtime);
        if now.tv_sec != self.second || self.text.is_empty() {
            self.second = now.tv_sec;
            self.text.clear();
            let (year, month, day) = civil(now.tv_sec.div_euclid(86400));
            let second = now.tv_sec.rem_euclid(86400);
            let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
            let _ = write!(self.text, "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.");
        }
        to.extend_from_slice(&self.text);
        let mut digits = *b"000000000Z";
        let mut rest = now.tv_nsec as u64;
        for digit in digits[..9].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        to.extend_from_slice(&digits);
    }
}

/// Days since 1970 to a date: years begin in March here, so that the leap day is the last of its year.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// A point in time as messages carry it.
pub fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut stamp = Timestamp::new();
    stamp.seconds = since.as_secs() as i64;
    stamp.nanos = since.subsec_nanos() as i32;
    stamp
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_form() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_781), (2026, 11, 24));
        let mut text = vec![];
        Stamp::default().now(&mut text);
        let text = String::from_utf8(text).unwrap();
        let seconds = text[..19].to_string() + "Z";
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        assert_eq!((text.len(), &seconds[..16]), (30, &now[..16]));
    }
}
