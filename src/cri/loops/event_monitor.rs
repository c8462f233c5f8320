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
use crossbeam_channel::{Sender, after, bounded, never, select};
use log::{debug, warn};
use protobuf::Message;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// First and longest pause before another try.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(300));

/// Something to put on record.
#[derive(Clone, Debug)]
enum Work {
    /// A container or a pod's process ended.
    Ended { id: String, exit: Exit },
    /// An image has changed.
    Image { name: String },
    /// Images may have changed.
    Images,
}

/// What failed, and when it is tried again.
struct Again {
    at: Instant,
    pause: Duration,
    work: Work,
}

/// Failed handling, shared with the pool that handles.
#[derive(Clone)]
struct Backlog {
    waiting: Arc<Mutex<VecDeque<Again>>>,
    /// Wakes the loop when something has come in.
    wake: Sender<()>,
    /// Where the loop's health is told.
    stop: Stop,
}

/// The topics that matter here.
pub fn subscribe(bus: &Bus) -> Subscription {
    bus.subscribe(&["/tasks/exit", "/tasks/oom", "/images/"])
}

/// The loop `cri-events`.
pub fn run(cri: &Arc<Cri>, events: &Subscription, stop: &Stop) {
    // One place: a second word while one waits says nothing new.
    let (wake, woken) = bounded(1);
    let backlog = Backlog { waiting: Arc::default(), wake, stop: stop.clone() };
    let mut lost = 0;
    loop {
        let next = lock(&backlog.waiting).iter().map(|a| a.at).min();
        let due = next.map_or_else(never, |at| after(at.saturating_duration_since(Instant::now()).max(Duration::from_millis(10))));
        select! {
            recv(events.channel()) -> event => match event {
                Ok(event) => take(cri, &event, &backlog),
                Err(_) => return,
            },
            recv(due) -> _ => retry(cri, &backlog),
            recv(woken) -> _ => {}
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
        "/tasks/exit" => exit_of(event).map(|ended| ended.into_iter().for_each(|work| handle(cri, work, PAUSES.0, backlog))),
        "/tasks/oom" => TaskOOM::parse_from_bytes(&event.event.value)
            .map_err(|e| Error::invalid("decode TaskOOM").because(e))
            .map(|oom| drop(cri.containers.by_id.swap(&oom.container_id, |c| Container { oom: Oom::Seen, ..c.clone() }))),
        _ => image_of(event).map(|name| handle(cri, Work::Image { name }, PAUSES.0, backlog)),
    };
    if let Err(e) = taken {
        warn!("event {} not handled: {}", event.topic, e.chain());
        backlog.stop.went_wrong(&e);
    }
}

/// The image that an event is about; its three messages have the name in the same field.
fn image_of(event: &Envelope) -> Result<String> {
    let message = ImageDelete::parse_from_bytes(&event.event.value);
    message.map(|m| m.name).map_err(|e| Error::invalid("decode an image's event").because(e))
}

/// The end of a container's first process; those of commands in it are not CRI's.
fn exit_of(event: &Envelope) -> Result<Option<Work>> {
    let exit = TaskExit::parse_from_bytes(&event.event.value).map_err(|e| Error::invalid("decode TaskExit").because(e))?;
    if exit.id != exit.container_id && !exit.id.is_empty() {
        return Ok(None);
    }
    let at = exit.exited_at.as_ref().and_then(|t| {
        let since = Duration::new(u64::try_from(t.seconds).ok()?, u32::try_from(t.nanos).ok()?);
        SystemTime::UNIX_EPOCH.checked_add(since)
    });
    Ok(Some(Work::Ended { id: exit.container_id, exit: Exit { code: exit.exit_status, at: at.unwrap_or_else(SystemTime::now) } }))
}

/// Ends are handled on the pool, so that a frozen shim delays no other; images one after the other.
fn handle(cri: &Arc<Cri>, work: Work, pause: Duration, backlog: &Backlog) {
    let (cri2, again) = (cri.clone(), backlog.clone());
    match &work {
        Work::Image { .. } | Work::Images => again.handled(put_on_record(cri, &work), work, pause),
        Work::Ended { .. } => cri.io.run(move || again.handled(put_on_record(&cri2, &work), work, pause)),
    }
}

fn put_on_record(cri: &Cri, work: &Work) -> Result<()> {
    match work {
        Work::Image { name } => cri.images.refresh(name),
        Work::Images => cri.images.reload(),
        Work::Ended { id, exit } => match cri.containers.by_id.get(id) {
            Ok(_) => runtime::exit::container(cri, id, exit),
            Err(_) => runtime::exit::sandbox(cri, id),
        },
    }
}

impl Backlog {
    fn handled(&self, result: Result<()>, work: Work, pause: Duration) {
        match result {
            Ok(()) => self.stop.went_well(),
            Err(e) if e.is_not_found() => debug!("{work:?}: not one of CRI's: {}", e.chain()),
            Err(e) => {
                debug!("{work:?} not handled, trying again in {pause:?}: {}", e.chain());
                self.stop.went_wrong(&e);
                lock(&self.waiting).push_back(Again { at: Instant::now() + pause, pause: (pause * 2).min(PAUSES.1), work });
                let _ = self.wake.try_send(());
            }
        }
    }
}

fn retry(cri: &Arc<Cri>, backlog: &Backlog) {
    let now = Instant::now();
    let due: Vec<Again> = {
        let mut waiting = lock(&backlog.waiting);
        let (due, later) = waiting.drain(..).partition(|a: &Again| a.at <= now);
        *waiting = later;
        due.into_iter().collect()
    };
    for again in due {
        handle(cri, again.work, again.pause, backlog);
    }
}

/// Events were dropped: whoever has ended is found by asking, and images are read anew.
fn ask_all(cri: &Arc<Cri>, backlog: &Backlog) {
    handle(cri, Work::Images, PAUSES.0, backlog);
    for container in cri.containers.by_id.list().iter().filter(|c| matches!(c.state, State::Running { .. })) {
        let exit = cri.ports.tasks.get(NAMESPACE, &container.id).ok().and_then(|t| t.exited());
        if let Some(exit) = exit {
            handle(cri, Work::Ended { id: container.id.clone(), exit }, PAUSES.0, backlog);
        }
    }
}
