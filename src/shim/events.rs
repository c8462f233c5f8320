//! Events to the daemon, in the order in which they happened. While it is down they wait, bounded; nobody waits for them.
use super::clock::timestamp;
use crate::call::Call;
use crate::error::{Kind, Result};
use crate::proto::event::Envelope;
use crate::proto::forward::ForwardRequest;
use crate::proto::forward_names::events;
use crate::rpc::ttrpc::{Client, Method, Mux};
use crate::thread::{Stop, Threads, lock};
use crossbeam_channel::{Receiver, Sender, bounded, select};
use log::{debug, warn};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::empty::Empty;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// Most events that wait. A daemon that comes back reads the state of every task, so the oldest may go.
const WAITING_MAX: usize = 1024;
/// How long one Forward may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Pauses between attempts grow up to here.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The queue; a thread `events` empties it.
pub struct Events {
    namespace: String,
    queue: Mutex<VecDeque<Envelope>>,
    wake: Sender<()>,
    idle: Receiver<()>,
}

struct Sending {
    address: String,
    mux: Option<Arc<Mux>>,
    client: Option<Client>,
    threads: Arc<Threads>,
    empty: Sender<()>,
}

impl Events {
    /// A queue for the daemon at `address`; without an address events are dropped.
    pub fn new(threads: &Arc<Threads>, namespace: &str, address: &str) -> Result<Arc<Events>> {
        let ((wake, woken), (empty, idle)) = (bounded(1), bounded(1));
        let events = Arc::new(Events { namespace: namespace.into(), queue: Mutex::default(), wake, idle });
        if address.is_empty() {
            warn!("no TTRPC_ADDRESS: task events are not published");
            return Ok(events);
        }
        let sending = Sending { address: address.into(), mux: None, client: None, threads: Arc::new(Threads::new()?), empty };
        let own = events.clone();
        threads.spawn("events", move |stop| sending.run(&own, &woken, stop))?;
        Ok(events)
    }
    /// Queues an event and returns.
    pub fn publish<M: Message>(&self, topic: &str, event: &M) {
        let mut any = Any::new();
        any.type_url = format!("containerd.events.{}", type_of::<M>());
        any.value = event.write_to_bytes().unwrap_or_default();
        let mut envelope = Envelope::new();
        envelope.timestamp = Some(timestamp(SystemTime::now())).into();
        envelope.namespace = self.namespace.clone();
        envelope.topic = topic.into();
        envelope.event = Some(any).into();
        let mut queue = lock(&self.queue);
        if queue.len() >= WAITING_MAX {
            queue.pop_front();
        }
        queue.push_back(envelope);
        drop(queue);
        let _ = self.wake.try_send(());
    }
    /// Waits a moment for the queue to empty, before the shim ends.
    pub fn settle(&self, limit: Duration) {
        let until = std::time::Instant::now() + limit;
        while !lock(&self.queue).is_empty() && std::time::Instant::now() < until {
            let _ = self.idle.recv_timeout(Duration::from_millis(50));
        }
    }
}

impl Sending {
    fn run(mut self, events: &Events, woken: &Receiver<()>, stop: &Stop) {
        let mut pause = Duration::from_millis(50);
        while !stop.stopped() {
            let Some(front) = lock(&events.queue).front().cloned() else {
                let _ = self.empty.try_send(());
                select! { recv(woken) -> _ => {}, recv(stop.channel()) -> _ => return }
                continue;
            };
            let seen = front.timestamp.clone();
            let forwarded = match self.forward(front) {
                // Not the daemon's absence but its refusal: trying again would hold up all that follow.
                Err(e) if !matches!(e.kind(), Kind::Unavailable | Kind::DeadlineExceeded) => {
                    warn!("event refused by the daemon: {}", e.chain());
                    Ok(())
                }
                other => other,
            };
            match forwarded {
                Ok(()) => {
                    pause = Duration::from_millis(50);
                    let mut queue = lock(&events.queue);
                    // The front may have been dropped for want of room meanwhile.
                    if queue.front().is_some_and(|e| e.timestamp == seen) {
                        queue.pop_front();
                    }
                    if queue.is_empty() {
                        *queue = VecDeque::new();
                    }
                }
                Err(e) => {
                    debug!("event not forwarded, trying again in {pause:?}: {}", e.chain());
                    self.client = None;
                    if stop.sleep(pause) {
                        return;
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }
    fn forward(&mut self, envelope: Envelope) -> Result<()> {
        if self.client.is_none() {
            let mux = match &self.mux {
                Some(mux) => mux.clone(),
                None => self.mux.insert(Mux::new(&self.threads)?).clone(),
            };
            self.client = Some(mux.connect(&self.address)?);
        }
        let Some(client) = &self.client else { return Ok(()) };
        let call = Call::background(envelope.namespace.clone());
        let mut request = ForwardRequest::new();
        request.envelope = Some(envelope).into();
        client.call::<_, Empty>(Method { service: events::SERVICE, method: events::FORWARD }, &call, LIMIT, &request).map(drop)
    }
}

/// Name of a message type without its package: Rust's last path segment is the same.
fn type_of<M>() -> &'static str {
    std::any::type_name::<M>().rsplit("::").next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::task_events::TaskExit;
    use crate::rpc::ttrpc::{Reply, Request, Server, Service};
    use std::os::unix::net::UnixListener;

    struct Daemon(Sender<(String, String)>);
    impl Service for Daemon {
        fn call(&self, request: Request, reply: Reply) {
            let envelope = request.decode::<ForwardRequest>().unwrap().envelope.unwrap();
            self.0.send((envelope.topic, envelope.event.unwrap().type_url)).unwrap();
            reply.send(Ok(Empty::new()));
        }
    }

    #[test]
    fn events_wait_for_the_daemon_and_keep_their_order() {
        let path = std::env::temp_dir().join(format!("cradle-shim-events-{}", std::process::id()));
        let threads = Arc::new(Threads::new().unwrap());
        let events = Events::new(&threads, "k8s.io", path.to_str().unwrap()).unwrap();
        for topic in ["/tasks/a", "/tasks/b", "/tasks/c"] {
            events.publish(topic, &TaskExit::new());
        }
        std::thread::sleep(Duration::from_millis(100));
        let (tx, rx) = bounded(8);
        let server = Server::new(UnixListener::bind(&path).unwrap(), Arc::new(Daemon(tx))).unwrap();
        threads.spawn("daemon", move |stop| server.serve(stop)).unwrap();
        for topic in ["/tasks/a", "/tasks/b", "/tasks/c"] {
            let got = rx.recv_timeout(Duration::from_secs(5)).unwrap();
            assert_eq!((&*got.0, &*got.1), (topic, "containerd.events.TaskExit"));
        }
        events.settle(Duration::from_secs(5));
        std::fs::remove_file(&path).unwrap();
    }
}
