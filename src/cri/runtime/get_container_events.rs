//! GetContainerEvents: what happens to pods and containers from the call on, until the client leaves. A client that calls it and
//! then lists has missed nothing; one that reads too slowly loses its oldest events.
use super::{container_status, pod_sandbox_status};
use crate::call::Call;
use crate::core::events::Subscription;
use crate::cri::Cri;
use crate::cri::batches::Send;
use crate::cri::changes::Change;
use crate::error::{Error, Kind, Result};
use crate::proto::cri::{ContainerEventResponse, GetEventsRequest};
use crossbeam_channel::select;
use protobuf::MessageField;

/// Begins to listen; never waits.
pub fn subscribe(cri: &Cri, _: &Call, _: GetEventsRequest) -> Result<Subscription<Change>> {
    Ok(cri.changes.subscribe())
}

/// GetContainerEvents.
pub fn get_container_events(cri: &Cri, call: &Call, changes: Subscription<Change>, send: Send<'_, ContainerEventResponse>) -> Result<()> {
    let stop = cri.threads.stop();
    loop {
        select! {
            recv(changes.channel()) -> change => match change {
                Ok(change) => send(event_of(&change))?,
                Err(_) => return Ok(()),
            },
            recv(call.done()) -> _ => return Ok(()),
            recv(stop.channel()) -> _ => return Err(Error::new(Kind::Unavailable, "the daemon is shutting down")),
        }
    }
}

fn event_of(change: &Change) -> ContainerEventResponse {
    ContainerEventResponse {
        container_id: change.id.clone(),
        container_event_type: change.kind.into(),
        created_at: change.at,
        pod_sandbox_status: change.pod.as_ref().map_or_else(MessageField::none, |p| MessageField::some(pod_sandbox_status::status_of(p))),
        containers_statuses: change.containers.iter().map(|c| container_status::status_of(c)).collect(),
        ..ContainerEventResponse::default()
    }
}
