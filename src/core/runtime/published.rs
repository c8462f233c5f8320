//! Published: an exit or a removal is told once, whether it is learned from the shim's event or from its answers.
use crate::core::events::{Bus, Envelope};
use crate::proto::task_events::{TaskDelete, TaskExit};
use crate::thread::lock;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageField};
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Topic of TaskExit.
pub const EXIT: &str = "/tasks/exit";
/// Topic of TaskDelete.
pub const DELETE: &str = "/tasks/delete";
/// How many are remembered: a shim's queue retries for seconds, in which no node sees this many ends.
const REMEMBERED: usize = 8192;

/// What makes two reports the same. The PID is part of it, since container and exec IDs come again.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Key {
    topic: &'static str,
    namespace: String,
    container: String,
    process: String,
    pid: u32,
}

/// The bus, with a memory.
pub struct Published {
    bus: Arc<Bus>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    keys: HashSet<Key>,
    order: VecDeque<Key>,
}

impl Seen {
    fn first(&mut self, key: Key) -> bool {
        if !self.keys.insert(key.clone()) {
            return false;
        }
        self.order.push_back(key);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
        true
    }
}

impl Published {
    /// Publishes on this bus.
    pub fn new(bus: Arc<Bus>) -> Published {
        Published { bus, seen: Mutex::default() }
    }
    /// Any event of a shim that needs no memory.
    pub fn pass(&self, envelope: Envelope) {
        self.bus.publish(envelope);
    }
    /// An exit, unless it is known.
    pub fn exit(&self, namespace: &str, event: &TaskExit) {
        let key = Key {
            topic: EXIT,
            namespace: namespace.into(),
            container: event.container_id.clone(),
            process: event.id.clone(),
            pid: event.pid,
        };
        self.once(key, "containerd.events.TaskExit", event);
    }
    /// A removal, unless it is known.
    pub fn delete(&self, namespace: &str, event: &TaskDelete) {
        let process = if event.id == event.container_id { String::new() } else { event.id.clone() };
        let key = Key { topic: DELETE, namespace: namespace.into(), container: event.container_id.clone(), process, pid: event.pid };
        self.once(key, "containerd.events.TaskDelete", event);
    }
    fn once(&self, key: Key, kind: &str, message: &impl Message) {
        let envelope = Envelope::new(&key.namespace, key.topic, kind, message);
        if lock(&self.seen).first(key) {
            self.bus.publish(envelope);
        }
    }
}

/// A time as protobuf has it.
pub fn timestamp(at: SystemTime) -> MessageField<Timestamp> {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut stamp = Timestamp::new();
    stamp.seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    stamp.nanos = since.subsec_nanos().try_into().unwrap_or(0);
    MessageField::some(stamp)
}

/// A time from protobuf; a missing one, and Go's zero time, is `None`.
pub fn time(stamp: Option<&Timestamp>) -> Option<SystemTime> {
    let stamp = stamp?;
    let seconds = u64::try_from(stamp.seconds).ok()?;
    UNIX_EPOCH.checked_add(Duration::new(seconds, u32::try_from(stamp.nanos).ok()?)).filter(|t| *t != UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(pid: u32) -> Key {
        Key { topic: EXIT, namespace: "n".into(), container: "c".into(), process: "c".into(), pid }
    }

    #[test]
    fn a_second_report_is_dropped_but_not_that_of_a_namesake() {
        let mut seen = Seen::default();
        assert!(seen.first(key(1)));
        assert!(!seen.first(key(1)));
        assert!(seen.first(key(2)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut seen = Seen::default();
        for pid in 0..REMEMBERED as u32 + 100 {
            assert!(seen.first(key(pid)));
        }
        assert_eq!((seen.keys.len(), seen.order.len()), (REMEMBERED, REMEMBERED));
    }

    #[test]
    fn times_survive_the_way_there_and_back() {
        let at = UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        assert_eq!(time(timestamp(at).as_ref()), Some(at));
        assert_eq!(time(None), None);
        let zero = Timestamp { seconds: -62_135_596_800, ..Timestamp::new() };
        assert_eq!(time(Some(&zero)), None);
    }
}
