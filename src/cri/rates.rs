//! Rates: CPU use in nanocores, from the figures of the last two askers; nothing is collected while nobody asks.
use crate::thread::lock;
use std::collections::HashMap;
use std::sync::Mutex;

/// Shortest span over which a rate means something: 100 ms.
const SPAN_MIN: i64 = 100_000_000;

#[derive(Clone, Copy)]
struct Sample {
    at: i64,
    usage: u64,
    rate: Option<u64>,
}

/// Last samples by object.
#[derive(Default)]
pub struct Rates(Mutex<HashMap<String, Sample>>);

impl Rates {
    /// The rate since the sample before, from the second sample on.
    pub fn nano_cores(&self, id: &str, at: i64, usage: u64) -> Option<u64> {
        let mut samples = lock(&self.0);
        let Some(last) = samples.get(id).copied() else {
            samples.insert(id.into(), Sample { at, usage, rate: None });
            return None;
        };
        if at - last.at < SPAN_MIN || usage < last.usage {
            return last.rate;
        }
        let rate = u128::from(usage - last.usage) * 1_000_000_000 / u128::from((at - last.at).unsigned_abs());
        let rate = u64::try_from(rate).ok();
        samples.insert(id.into(), Sample { at, usage, rate });
        rate
    }
    /// Forgets an object that is gone.
    pub fn forget(&self, id: &str) {
        lock(&self.0).remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_core_is_half_a_billion() {
        let rates = Rates::default();
        assert_eq!(rates.nano_cores("a", 0, 0), None);
        assert_eq!(rates.nano_cores("a", 1_000_000_000, 500_000_000), Some(500_000_000));
        assert_eq!(rates.nano_cores("a", 1_000_000_001, 500_000_001), Some(500_000_000));
        rates.forget("a");
        assert_eq!(rates.nano_cores("a", 2_000_000_000, 1), None);
    }
}
