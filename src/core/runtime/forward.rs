//! Forward: events that shims publish on the daemon's TTRPC socket reach waiters and the bus, each exit once.
use super::Exit;
use super::bundle::check_id;
use super::published::{DELETE, EXIT};
use super::tasks::Shared;
use crate::core::events::Envelope;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::event::Envelope as WireEnvelope;
use crate::proto::forward::ForwardRequest;
use crate::proto::forward_names::events;
use crate::proto::task_events::{TaskDelete, TaskExit};
use crate::rpc::ttrpc::{self, Reply, Request};
use protobuf::Message;
use protobuf::well_known_types::empty::Empty;
use std::sync::Weak;

/// Larger than any event of containerd's; a shim must not fill the daemon's memory through slow subscribers.
const MAX_EVENT: usize = 256 << 10;

/// The service.
pub struct Service {
    shared: Weak<Shared>,
}

impl ttrpc::Service for Service {
    fn call(&self, request: Request, reply: Reply) {
        // Nothing here blocks: the bus drops for slow subscribers.
        reply.send(self.forward(&request));
    }
}

impl Service {
    pub(super) fn new(shared: Weak<Shared>) -> Service {
        Service { shared }
    }
    fn forward(&self, request: &Request) -> Result<Empty> {
        if request.service != events::SERVICE || request.method != events::FORWARD {
            return Err(Error::new(Kind::Unimplemented, format!("{}/{}: not offered here", request.service, request.method)));
        }
        if request.payload.len() > MAX_EVENT {
            return Err(Error::new(Kind::ResourceExhausted, format!("event of {} bytes; at most {MAX_EVENT}", request.payload.len())));
        }
        let envelope =
            request.decode::<ForwardRequest>()?.envelope.into_option().ok_or_else(|| Error::invalid("an event without envelope"))?;
        let shared = self.shared.upgrade().ok_or_else(|| Error::new(Kind::Unavailable, "the daemon is stopping"))?;
        shared.told(envelope)?;
        Ok(Empty::new())
    }
}

impl Shared {
    fn told(&self, envelope: WireEnvelope) -> Result<()> {
        check_id("namespace", &envelope.namespace)?;
        if !envelope.topic.starts_with('/') || envelope.topic.len() < 2 {
            return Err(Error::invalid(format!("topic \"{}\" must begin with /", envelope.topic)));
        }
        let payload = envelope.event.clone().unwrap_or_default();
        match envelope.topic.as_str() {
            EXIT => {
                let event = TaskExit::parse_from_bytes(&payload.value).during(|| "decode TaskExit")?;
                self.told_exit(&envelope.namespace, &event);
                self.published.exit(&envelope.namespace, &event);
            }
            DELETE => {
                let event = TaskDelete::parse_from_bytes(&payload.value).during(|| "decode TaskDelete")?;
                self.published.delete(&envelope.namespace, &event);
            }
            _ => self.published.pass(Envelope::from(envelope)),
        }
        Ok(())
    }
    fn told_exit(&self, namespace: &str, event: &TaskExit) {
        let Some(task) = self.get(namespace, &event.container_id) else { return };
        let exec = if event.id == event.container_id { "" } else { event.id.as_str() };
        // Another PID: the late event of an earlier namesake.
        if let Some(process) = task.process(exec).filter(|p| p.pid() == 0 || p.pid() == event.pid) {
            process.exited(Exit::of(event.exit_status, event.exited_at.as_ref()));
        }
    }
}
