//! Events: what happened on the node, to whoever listens now. Publishing never waits: a slow subscriber loses its oldest
//! events, and the loss is counted.
use crate::proto::event;
use crate::thread::lock;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use log::warn;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageField};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime};

/// Events that wait for one subscriber; a pod makes about ten.
const WAITING: usize = 4096;

/// One event.
#[derive(Clone, PartialEq, Debug)]
pub struct Envelope {
    /// When it happened.
    pub timestamp: SystemTime,
    /// The namespace of what it is about.
    pub namespace: String,
    /// What happened, as `/tasks/exit`.
    pub topic: String,
    /// The message that belongs to the topic.
    pub event: Any,
}

impl Envelope {
    /// An event of now. `kind` is the message's full name, as `containerd.events.TaskExit`: lite messages do not know it.
    pub fn new(namespace: &str, topic: &str, kind: &str, message: &impl Message) -> Envelope {
        // Serialising to memory fails only for required fields, which proto3 does not have.
        let value = message.write_to_bytes().unwrap_or_default();
        let event = Any { type_url: kind.to_owned(), value, ..Any::default() };
        Envelope { timestamp: SystemTime::now(), namespace: namespace.to_owned(), topic: topic.to_owned(), event }
    }
}

impl From<event::Envelope> for Envelope {
    fn from(wire: event::Envelope) -> Envelope {
        // A clock before 1970 or no time at all: the time at which it came.
        let since =
            wire.timestamp.as_ref().and_then(|t| Some(Duration::new(t.seconds.try_into().ok()?, t.nanos.clamp(0, 999_999_999) as u32)));
        let timestamp = since.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since)).unwrap_or_else(SystemTime::now);
        Envelope { timestamp, namespace: wire.namespace, topic: wire.topic, event: wire.event.into_option().unwrap_or_default() }
    }
}

impl From<&Envelope> for event::Envelope {
    fn from(envelope: &Envelope) -> event::Envelope {
        let since = envelope.timestamp.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let timestamp = Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32, ..Timestamp::default() };
        event::Envelope {
            timestamp: MessageField::some(timestamp),
            namespace: envelope.namespace.clone(),
            topic: envelope.topic.clone(),
            event: MessageField::some(envelope.event.clone()),
            ..event::Envelope::default()
        }
    }
}

/// What a bus may carry.
pub trait Topic {
    /// What subscribers choose by.
    fn topic(&self) -> &str;
}

impl Topic for Envelope {
    fn topic(&self) -> &str {
        &self.topic
    }
}

/// Hands events out.
pub struct Bus<E = Envelope> {
    listeners: Arc<Mutex<Vec<Listener<E>>>>,
    dropped: Arc<AtomicU64>,
}

struct Listener<E> {
    topics: Vec<String>,
    send: Sender<Arc<E>>,
    /// To take the oldest out of a full queue.
    oldest: Receiver<Arc<E>>,
    dropped: Arc<AtomicU64>,
}

/// One listener's queue; dropping it ends the subscription.
pub struct Subscription<E = Envelope> {
    queue: Receiver<Arc<E>>,
    dropped: Arc<AtomicU64>,
    listeners: Weak<Mutex<Vec<Listener<E>>>>,
}

impl<E> Default for Bus<E> {
    fn default() -> Bus<E> {
        Bus { listeners: Arc::default(), dropped: Arc::default() }
    }
}

impl Bus {
    /// A bus without listeners.
    pub fn new() -> Bus {
        Bus::default()
    }
}

impl<E: Topic> Bus<E> {
    /// Hands an event to all who listen to its topic. All see all events in the same order.
    pub fn publish(&self, event: E) {
        self.publish_after(|| Some(event));
    }
    /// Makes a change in memory and hands its event out, as one step: events are in the order of the changes. `change` must
    /// neither wait nor publish. It makes no event by `None`.
    pub fn publish_after(&self, change: impl FnOnce() -> Option<E>) {
        let listeners = lock(&self.listeners);
        let Some(event) = change() else { return };
        let event = Arc::new(event);
        for listener in listeners.iter().filter(|l| l.wants(event.topic())) {
            self.dropped.fetch_add(listener.push(&event), Ordering::Relaxed);
        }
    }
    /// Events that slow subscribers lost, all together.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
    /// Listens to the topics that begin with one of `prefixes`; without prefixes to all.
    pub fn subscribe(&self, prefixes: &[&str]) -> Subscription<E> {
        self.subscribe_bounded(prefixes, WAITING)
    }
    /// As [`Bus::subscribe`], with a bound of its own on the events that wait.
    pub fn subscribe_bounded(&self, prefixes: &[&str], waiting: usize) -> Subscription<E> {
        let (send, queue) = bounded(waiting);
        let dropped = Arc::new(AtomicU64::new(0));
        let topics = prefixes.iter().map(|p| (*p).to_owned()).collect();
        lock(&self.listeners).push(Listener { topics, send, oldest: queue.clone(), dropped: dropped.clone() });
        Subscription { queue, dropped, listeners: Arc::downgrade(&self.listeners) }
    }
}

impl<E> Listener<E> {
    fn wants(&self, topic: &str) -> bool {
        self.topics.is_empty() || self.topics.iter().any(|prefix| topic.starts_with(prefix.as_str()))
    }
    /// Full = slow reader: the oldest event is dropped and counted.
    fn push(&self, event: &Arc<E>) -> u64 {
        let mut lost = 0;
        while let Err(TrySendError::Full(_)) = self.send.try_send(event.clone()) {
            if self.oldest.try_recv().is_ok() {
                lost += 1;
                if self.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
                    warn!("events: a subscriber of {:?} is too slow, its oldest events are dropped", self.topics);
                }
            }
        }
        lost
    }
}

impl<E> Subscription<E> {
    /// The events: for `select!`, `recv` and `iter`. It disconnects when the bus is gone.
    pub fn channel(&self) -> &Receiver<Arc<E>> {
        &self.queue
    }
    /// Events that were lost because this subscriber was too slow.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl<E> Drop for Subscription<E> {
    fn drop(&mut self) {
        if let Some(listeners) = self.listeners.upgrade() {
            lock(&listeners).retain(|listener| !Arc::ptr_eq(&listener.dropped, &self.dropped));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::task_events::TaskOOM;

    fn event(topic: &str, id: &str) -> Envelope {
        Envelope::new("n", topic, "containerd.events.TaskOOM", &TaskOOM { container_id: id.into(), ..TaskOOM::default() })
    }
    fn topics(subscription: &Subscription) -> Vec<String> {
        subscription.channel().try_iter().map(|e| e.topic.clone()).collect()
    }

    #[test]
    fn a_subscriber_gets_the_topics_it_asked_for() {
        let bus = Bus::new();
        let (all, tasks) = (bus.subscribe(&[]), bus.subscribe(&["/tasks/oom", "/images/"]));
        for topic in ["/tasks/oom", "/tasks/exit", "/images/create"] {
            bus.publish(event(topic, "c"));
        }
        assert_eq!(topics(&all), ["/tasks/oom", "/tasks/exit", "/images/create"]);
        assert_eq!(topics(&tasks), ["/tasks/oom", "/images/create"]);
    }

    #[test]
    fn a_slow_subscriber_loses_its_oldest_events_and_nobody_waits() {
        let bus = Bus::new();
        let (slow, quick) = (bus.subscribe_bounded(&[], 3), bus.subscribe(&[]));
        for i in 0..10 {
            bus.publish(event(&format!("/{i}"), "c"));
        }
        assert_eq!(topics(&slow), ["/7", "/8", "/9"]);
        assert_eq!((slow.dropped(), bus.dropped()), (7, 7));
        assert_eq!(topics(&quick).len(), 10);
        assert_eq!(quick.dropped(), 0);
    }

    #[test]
    fn dropping_ends_the_subscription_and_the_bus_the_channel() {
        let bus = Bus::new();
        drop(bus.subscribe(&[]));
        assert!(lock(&bus.listeners).is_empty());
        let last = bus.subscribe(&[]);
        bus.publish(event("/a", "c"));
        drop(bus);
        assert!(last.channel().recv().is_ok());
        assert!(last.channel().recv().is_err());
    }

    #[test]
    fn the_wire_form_keeps_everything() {
        let one = event("/tasks/oom", "c");
        assert_eq!(Envelope::from(event::Envelope::from(&one)), one);
        assert!(Envelope::from(event::Envelope::default()).timestamp > SystemTime::UNIX_EPOCH);
    }
}
