//! Rates: CPU use in nanocores, from the figures of the last two askers; nothing is collected while nobody asks. The first asker
//! gets the average since the container's start.
use crate::thread::lock;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

/// Shortest span over which a rate means something, whatever the config says: 100 ms.
const SPAN_MIN: i64 = 100_000_000;

#[derive(Clone, Copy)]
struct Sample {
    at: i64,
    usage: u64,
    rate: u64,
}

/// What a rate is asked for.
#[derive(Clone, Copy)]
pub struct Counter<'a> {
    /// Whose counter it is.
    pub id: &'a str,
    /// When it was zero, in nanoseconds since 1970.
    pub since: i64,
}

/// Last samples by object.
pub struct Rates {
    samples: Mutex<HashMap<String, Sample>>,
    shortest: i64,
    longest: i64,
}

impl Rates {
    /// A rate is over `shortest` at least; a sample older than `longest` is not used any more.
    pub fn new(shortest: Duration, longest: Duration) -> Rates {
        let nanos = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
        let shortest = nanos(shortest).max(SPAN_MIN);
        Rates { samples: Mutex::default(), shortest, longest: nanos(longest).max(shortest) }
    }
    /// The rate since the sample before.
    pub fn nano_cores(&self, counter: Counter<'_>, at: i64, usage: u64) -> u64 {
        let mut samples = lock(&self.samples);
        let Some(last) = samples.get_mut(counter.id) else {
            let rate = rate(counter.since, at, usage);
            samples.insert(counter.id.into(), Sample { at, usage, rate });
            return rate;
        };
        // A smaller usage is that of a group made afresh, or of a pod one of whose groups is gone; an earlier time a clock set back.
        if usage < last.usage || at < last.at {
            *last = Sample { at, usage, rate: last.rate };
        } else if at - last.at > self.longest {
            *last = Sample { at, usage, rate: rate(counter.since, at, usage) };
        } else if at - last.at >= self.shortest {
            *last = Sample { at, usage, rate: rate(last.at, at, usage - last.usage) };
        }
        last.rate
    }
    /// Forgets an object that is gone.
    pub fn forget(&self, id: &str) {
        lock(&self.samples).remove(id);
    }
}

fn rate(from: i64, to: i64, usage: u64) -> u64 {
    // A container whose start and first look fall together: no span, no rate.
    let span = u128::try_from(i128::from(to) - i128::from(from)).unwrap_or_default();
    (u128::from(usage) * 1_000_000_000).checked_div(span).map_or(0, |rate| u64::try_from(rate).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn rates() -> Rates {
        Rates::new(Duration::from_secs(1), Duration::from_secs(120))
    }

    #[test]
    fn half_a_core_is_half_a_billion() {
        let (rates, a) = (rates(), Counter { id: "a", since: 0 });
        assert_eq!(rates.nano_cores(a, 4 * SECOND, 1_000_000_000), 250_000_000, "since the start");
        assert_eq!(rates.nano_cores(a, 5 * SECOND, 1_500_000_000), 500_000_000);
        assert_eq!(rates.nano_cores(a, 5 * SECOND + 1, 1_500_000_001), 500_000_000, "too short a span");
        assert_eq!(rates.nano_cores(a, 7 * SECOND, 1_500_000_001), 0);
        rates.forget("a");
        assert_eq!(rates.nano_cores(a, 8 * SECOND, 8_000_000_000), 1_000_000_000);
    }

    #[test]
    fn samples_get_old_and_counters_begin_again() {
        let (rates, a) = (rates(), Counter { id: "a", since: 0 });
        rates.nano_cores(a, SECOND, 0);
        assert_eq!(rates.nano_cores(a, 200 * SECOND, 100_000_000_000), 500_000_000, "the sample is too old");
        assert_eq!(rates.nano_cores(a, 201 * SECOND, 0), 500_000_000, "the counter began again");
        assert_eq!(rates.nano_cores(a, 202 * SECOND, 1_000_000_000), 1_000_000_000);
        assert_eq!(rates.nano_cores(a, 100 * SECOND, 1_000_000_000), 1_000_000_000, "the clock was set back");
        assert_eq!(rates.nano_cores(Counter { id: "b", since: SECOND }, SECOND, 7), 0);
    }
}
