//! Event monitor: puts exits and OOM kills of tasks on record and keeps the image store in step, whoever changed an image. What fails is tried again with
//! growing pauses; nothing is lost, since a dropped event makes it ask every task itself.
use crate::core::events::{Bus, Envelope, Subscription};
use crate::core::runtime::Exit;
use crate::cri::store::container::{Container, Oom, State};
use crate::cri::{Cri, NAMESPACE, runtime};
use crate::error::{Error, Result};
use crate::proto::image_events::ImageDelete;
use crate::proto::task_events::{TaskExit, TaskOOM};
use crate::thread::{Stop, lock};
use crossbeam_channel::{after, never, select};
use log::{debug, warn};
use protobuf::Message;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// First and longest pause before another try.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(300));

/// Something to put on record.
#[derive(Clone, Debug)]
struct Ended {
    id: String,
    exit: Exit,
}

/// What failed, and when it is tried again.
struct Again {
    at: Instant,
    pause: Duration,
    ended: Ended,
}

/// Failed handling, shared with the pool that handles.
type Backlog = Arc<Mutex<VecDeque<Again>>>;

/// The topics that matter here.
pub fn subscribe(bus: &Bus) -> Subscription {
    bus.subscribe(&["/tasks/exit", "/tasks/oom", "/images/"])
}

/// The loop `cri-events`.
pub fn run(cri: &Arc<Cri>, events: &Subscription, stop: &Stop) {
    let backlog = Backlog::default();
    let mut lost = 0;
    loop {
        let next = lock(&backlog).iter().map(|a| a.at).min();
        let due = next.map_or_else(never, |at| after(at.saturating_duration_since(Instant::now()).max(Duration::from_millis(10))));
        select! {
            recv(events.channel()) -> event => match event {
                Ok(event) => take(cri, &event, &backlog),
                Err(_) => return,
            },
            recv(due) -> _ => retry(cri, &backlog),
            // While something is being handled, its failure may come into the backlog at any time.
            recv(after(Duration::from_secs(30))) -> _ => {}
            recv(stop.channel()) -> _ => return,
        }
        if events.dropped() != lost {
            lost = events.dropped();
            ask_all(cri, &backlog);
        }
    }
}

fn take(cri: &Arc<Cri>, event: &Envelope, backlog: &Backlog) {
    if event.namespace != NAMESPACE {
        return;
    }
    let taken = match event.topic.as_str() {
        "/tasks/exit" => exit_of(event).map(|ended| ended.into_iter().for_each(|e| handle(cri, e, PAUSES.0, backlog))),
        "/tasks/oom" => TaskOOM::parse_from_bytes(&event.event.value)
            .map_err(|e| Error::invalid("decode TaskOOM").because(e))
            .map(|oom| drop(cri.containers.by_id.swap(&oom.container_id, |c| Container { oom: Oom::Seen, ..c.clone() }))),
        _ => image_of(event).and_then(|name| cri.images.refresh(&name)),
    };
    if let Err(e) = taken {
        warn!("event {} not handled: {}", event.topic, e.chain());
    }
}

/// The image that an event is about; its three messages have the name in the same field.
fn image_of(event: &Envelope) -> Result<String> {
    let message = ImageDelete::parse_from_bytes(&event.event.value);
    message.map(|m| m.name).map_err(|e| Error::invalid("decode an image's event").because(e))
}

/// The end of a container's first process; those of commands in it are not CRI's.
fn exit_of(event: &Envelope) -> Result<Option<Ended>> {
    let exit = TaskExit::parse_from_bytes(&event.event.value).map_err(|e| Error::invalid("decode TaskExit").because(e))?;
    if exit.id != exit.container_id && !exit.id.is_empty() {
        return Ok(None);
    }
    let at = exit.exited_at.as_ref().and_then(|t| {
        let since = Duration::new(u64::try_from(t.seconds).ok()?, u32::try_from(t.nanos).ok()?);
        SystemTime::UNIX_EPOCH.checked_add(since)
    });
    Ok(Some(Ended { id: exit.container_id, exit: Exit { code: exit.exit_status, at: at.unwrap_or_else(SystemTime::now) } }))
}

/// Handles one end on the pool, so that a frozen shim delays no other.
fn handle(cri: &Arc<Cri>, ended: Ended, pause: Duration, backlog: &Backlog) {
    let (cri2, backlog) = (cri.clone(), backlog.clone());
    cri.io.run(move || {
        let handled = match cri2.containers.by_id.get(&ended.id) {
            Ok(_) => runtime::exit::container(&cri2, &ended.id, &ended.exit),
            Err(_) => runtime::exit::sandbox(&cri2, &ended.id),
        };
        match handled {
            Ok(()) => {}
            Err(e) if e.is_not_found() => debug!("exit of {}: not one of CRI's: {}", ended.id, e.chain()),
            Err(e) => {
                debug!("exit of {} not handled, trying again in {pause:?}: {}", ended.id, e.chain());
                lock(&backlog).push_back(Again { at: Instant::now() + pause, pause: (pause * 2).min(PAUSES.1), ended });
            }
        }
    });
}

fn retry(cri: &Arc<Cri>, backlog: &Backlog) {
    let now = Instant::now();
    let due: Vec<Again> = {
        let mut waiting = lock(backlog);
        let (due, later) = waiting.drain(..).partition(|a: &Again| a.at <= now);
        *waiting = later;
        due.into_iter().collect()
    };
    for again in due {
        handle(cri, again.ended, again.pause, backlog);
    }
}

/// Events were dropped: whoever has ended is found by asking, and images are read anew.
fn ask_all(cri: &Arc<Cri>, backlog: &Backlog) {
    if let Err(e) = cri.images.reload() {
        warn!("images not read anew: {}", e.chain());
    }
    for container in cri.containers.by_id.list().iter().filter(|c| matches!(c.state, State::Running { .. })) {
        let exit = cri.ports.tasks.get(NAMESPACE, &container.id).ok().and_then(|t| t.exited());
        if let Some(exit) = exit {
            handle(cri, Ended { id: container.id.clone(), exit }, PAUSES.0, backlog);
        }
    }
}
