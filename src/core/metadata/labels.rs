//! Labels: free text on records, within the limits that containerd's clients know.
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// Labels of a record.
pub type Labels = BTreeMap<String, String>;

/// Largest sum of the bytes of a key and its value (containerd: `labels.maxSize`).
const MAX: usize = 4096;

/// Refuses labels that are too long or have no key.
pub fn check(labels: &Labels) -> Result<()> {
    for (key, value) in labels {
        if key.is_empty() {
            return Err(Error::invalid("a label has an empty key"));
        }
        if key.len() + value.len() > MAX {
            let start: String = key.chars().take(32).collect();
            return Err(Error::invalid(format!("label \"{start}…\": key and value have more than {MAX} bytes")));
        }
    }
    Ok(())
}

/// Adds `changes` to `labels`; an empty value deletes the label.
pub fn merge(labels: &mut Labels, changes: Labels) {
    for (key, value) in changes {
        if value.is_empty() {
            labels.remove(&key);
        } else {
            labels.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_value_deletes() {
        let mut labels = Labels::from([("a".into(), "1".into()), ("b".into(), "2".into())]);
        merge(&mut labels, Labels::from([("a".into(), String::new()), ("c".into(), "3".into())]));
        assert_eq!(labels, Labels::from([("b".into(), "2".into()), ("c".into(), "3".into())]));
    }

    #[test]
    fn long_and_nameless_labels_are_refused() {
        check(&Labels::from([("k".into(), "v".repeat(MAX - 1))])).unwrap();
        check(&Labels::from([("k".into(), "v".repeat(MAX))])).unwrap_err();
        check(&Labels::from([(String::new(), "v".into())])).unwrap_err();
    }
}
