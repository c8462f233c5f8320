//! The kernel's text formats: `key value` lines, limits with `max`, pressure, per-device lines.

/// `some` or `full` of a pressure file.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Stall {
    /// Share of time over 10 s, in percent.
    pub avg10: f64,
    /// Share of time over 60 s, in percent.
    pub avg60: f64,
    /// Share of time over 300 s, in percent.
    pub avg300: f64,
    /// Total in microseconds.
    pub total_us: u64,
}

/// Pressure stall information of one resource.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Pressure {
    /// At least one task waited.
    pub some: Stall,
    /// All tasks waited.
    pub full: Stall,
}

/// What one block device did.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Device {
    /// Device number, high part.
    pub major: u64,
    /// Device number, low part.
    pub minor: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// `key value` lines; lines of any other form are left out.
pub fn flat_keyed(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.trim().parse().ok()?))
    })
}

/// A file with one number.
pub fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// A limit: None where there is none, that is `max` on v2 and a number of about 2^63 on v1 (rounded down to pages).
pub fn limit(text: &str) -> Option<u64> {
    number(text).filter(|n| *n < 0x7fff_ffff_0000_0000)
}

/// A pressure file; None if it has no `some` line.
pub(super) fn pressure(text: &str) -> Option<Pressure> {
    let mut found = Pressure::default();
    let mut seen = false;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let stall = match words.next() {
            Some("some") => {
                seen = true;
                &mut found.some
            }
            Some("full") => &mut found.full,
            _ => continue,
        };
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            match key {
                "avg10" => stall.avg10 = value.parse().unwrap_or_default(),
                "avg60" => stall.avg60 = value.parse().unwrap_or_default(),
                "avg300" => stall.avg300 = value.parse().unwrap_or_default(),
                "total" => stall.total_us = value.parse().unwrap_or_default(),
                _ => {}
            }
        }
    }
    seen.then_some(found)
}

/// v2's `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`.
pub(super) fn io_stat(text: &str) -> Vec<Device> {
    let mut found = vec![];
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(device) else { continue };
        let mut one = Device { major, minor, ..Device::default() };
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            let value = value.parse().unwrap_or_default();
            match key {
                "rbytes" => one.read_bytes = value,
                "wbytes" => one.write_bytes = value,
                "rios" => one.reads = value,
                "wios" => one.writes = value,
                _ => {}
            }
        }
        found.push(one);
    }
    found
}

/// v1's `8:0 Read 4096` lines, of bytes and of operations.
pub(super) fn blkio(bytes: &str, operations: &str) -> Vec<Device> {
    let mut found: Vec<Device> = vec![];
    let mut each = |text: &str, set: fn(&mut Device, &str, u64)| {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let Some((major, minor)) = words.next().and_then(device) else { continue };
            let (Some(what), Some(value)) = (words.next(), words.next().and_then(|v| v.parse().ok())) else { continue };
            let at = found.iter().position(|d| (d.major, d.minor) == (major, minor)).unwrap_or_else(|| {
                found.push(Device { major, minor, ..Device::default() });
                found.len() - 1
            });
            set(&mut found[at], what, value);
        }
    };
    each(bytes, |device, what, value| match what {
        "Read" => device.read_bytes = value,
        "Write" => device.write_bytes = value,
        _ => {}
    });
    each(operations, |device, what, value| match what {
        "Read" => device.reads = value,
        "Write" => device.writes = value,
        _ => {}
    });
    found
}

fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_both_layouts() {
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("9223372036854771712\n"), None);
        assert_eq!(limit("4096\n"), Some(4096));
    }

    #[test]
    fn pressure_and_devices() {
        let p = pressure("some avg10=1.50 avg60=0.00 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.25 total=3\n").unwrap();
        assert_eq!((p.some.avg10, p.some.total_us, p.full.avg300, p.full.total_us), (1.5, 12, 0.25, 3));
        assert!(pressure("").is_none());
        let expected = [Device { major: 8, minor: 0, read_bytes: 1, write_bytes: 2, reads: 3, writes: 4 }];
        assert_eq!(io_stat("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"), expected);
        assert_eq!(blkio("8:0 Read 1\n8:0 Write 2\n8:0 Sync 9\nTotal 3\n", "8:0 Read 3\n8:0 Write 4\n"), expected);
    }
}
