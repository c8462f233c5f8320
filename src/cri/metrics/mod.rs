//! Metrics: what cAdvisor would tell of pods and containers, read when it is asked for.
mod collect;
mod descriptors;

pub use collect::Collector;
pub use descriptors::{ALL, Descriptor};

use crate::proto::cri::{Metric, UInt64Value};
use protobuf::MessageField;

/// The metrics of one pod or container.
pub struct Samples {
    labels: Vec<String>,
    found: Vec<Metric>,
}

impl Samples {
    /// None yet; `labels` are the values of [`descriptors::BASE`].
    fn new(labels: [&str; descriptors::BASE.len()]) -> Samples {
        Samples { labels: labels.map(String::from).into(), found: Vec::with_capacity(ALL.len()) }
    }
    fn put(&mut self, descriptor: &Descriptor, value: u64) {
        self.put_of(descriptor, &[], value);
    }
    /// With values for the descriptor's own labels.
    fn put_of(&mut self, descriptor: &Descriptor, own: &[&str], value: u64) {
        debug_assert_eq!(own.len(), descriptor.labels.len(), "{}", descriptor.name);
        self.found.push(Metric {
            name: descriptor.name.into(),
            // No time: it was read just now.
            metric_type: descriptor.kind.into(),
            label_values: self.labels.iter().map(String::as_str).chain(own.iter().copied()).map(String::from).collect(),
            value: MessageField::some(UInt64Value { value, ..UInt64Value::default() }),
            ..Metric::default()
        });
    }
}
