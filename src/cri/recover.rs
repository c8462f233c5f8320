//! Recover: after a restart the stores say what is, from the records and the shims; what a killed daemon left half-made is taken
//! down. A record that cannot be read is skipped, with a log line; CRI answers Unavailable until this is done.
use super::runtime::{checkpoint_container, exit, teardown};
use super::store::container::{self, Container, Life, Oom};
use super::store::sandbox::{self, Network, Sandbox};
use super::{Cri, NAMESPACE, now, records};
use crate::call::Call;
use crate::core::runtime::{Exit, Health, Task};
use crate::core::sandbox::Stage;
use crate::error::{Kind, Result};
use crate::sys::mount::{self, UnmountFlags};
use crate::sys::netns;
use crossbeam_channel::after;
use log::{debug, info, warn};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// For each thing that has to be taken down.
const LIMIT: Duration = Duration::from_secs(30);
const SIGKILL: u32 = 9;

/// Fills the stores. Answers which pods that are gone are still attached to a network.
pub fn recover(cri: &Cri) -> Result<BTreeSet<String>> {
    cri.ports.tasks.recover()?;
    looks(cri);
    commands(cri);
    cri.images.reload()?;
    let pods = cri.ports.sandboxes.list(NAMESPACE)?;
    if pods.iter().any(|p| p.state == Stage::Intended) {
        cri.networks.settle();
    }
    for stored in pods {
        match records::unpack::<sandbox::Record>(sandbox::EXTENSION, &stored.id, &stored.extensions) {
            Ok(record) => pod(cri, &stored.id, record, stored.state),
            Err(e) => warn!("sandbox {} skipped: {}", stored.id, e.chain()),
        }
    }
    for stored in cri.ports.containers.list(NAMESPACE)? {
        if !stored.extensions.contains_key(container::EXTENSION) {
            continue;
        }
        match records::unpack::<container::Record>(container::EXTENSION, &stored.id, &stored.extensions) {
            Ok(_) if stored.spec == Value::Null => half_made(cri, &stored.id),
            Ok(record) => one_container(cri, &stored.id, record),
            Err(e) => warn!("container {} skipped: {}", stored.id, e.chain()),
        }
    }
    orphans(cri);
    let stale = networks(cri);
    info!("recovered {} pods and {} containers", cri.sandboxes.by_id.list().len(), cri.containers.by_id.list().len());
    Ok(stale)
}

/// Mounts of root filesystems that a killed daemon was looking into.
fn looks(cri: &Cri) {
    for dir in entries(&cri.dirs.peek("")) {
        let gone = mount::unmount_all(&dir, UnmountFlags::DETACH).and_then(|()| std::fs::remove_dir(&dir));
        if let Err(e) = gone {
            warn!("remove {}: {e}", dir.display());
        }
    }
}

/// Commands whose caller went with the daemon: they are killed, as at their time-out, and their FIFOs removed.
fn commands(cri: &Cri) {
    for dir in entries(&cri.dirs.fifo("")) {
        let name = dir.file_name().and_then(|n| n.to_str()).and_then(|n| n.split_once('.'));
        if let Some((container, exec)) = name
            && let Ok(task) = cri.ports.tasks.get(NAMESPACE, container)
        {
            let exec = exec.to_string();
            cri.io.run(move || end_command(&task, &exec));
        }
        if let Err(e) = std::fs::remove_dir_all(&dir) {
            warn!("remove {}: {e}", dir.display());
        }
    }
}

/// A process is deleted once it has ended, which takes a moment after the kill.
fn end_command(task: &Arc<Task>, exec: &str) {
    let call = Call::background(NAMESPACE).within(LIMIT);
    for _ in 0..50 {
        let _ = task.kill(&call, Some(exec), SIGKILL, false);
        match task.delete_exec(&call, exec) {
            Err(e) if e.kind() == Kind::FailedPrecondition => drop(after(Duration::from_millis(20)).recv()),
            Err(e) if !e.is_not_found() => return debug!("command {exec} of container {}: {}", task.id(), e.chain()),
            _ => return,
        }
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect()
}

fn pod(cri: &Cri, id: &str, record: sandbox::Record, stage: Stage) {
    let task = cri.ports.tasks.get(NAMESPACE, id).ok();
    let state = match (&stage, &task) {
        (Stage::Ready, Some(task)) if record.stopped_at.is_none() => pod_state(task, &record),
        _ => sandbox::State::NotReady,
    };
    let name = record.name.clone();
    let found = Sandbox { id: id.into(), record, state, turns: Arc::default() };
    if stage == Stage::Intended {
        match teardown::pod(cri, &Call::background(NAMESPACE).within(LIMIT), &found) {
            Ok(()) => return info!("pod {name} ({id}): half-made when the daemon died, removed"),
            Err(e) => warn!("pod {name} ({id}): half-made when the daemon died, not removed yet: {}", e.chain()),
        }
    }
    cri.sandboxes.names.adopt(&name, id);
    cri.sandboxes.by_id.put(id, found);
}

fn pod_state(task: &Task, record: &sandbox::Record) -> sandbox::State {
    if task.exited().is_some() {
        return sandbox::State::NotReady;
    }
    // After a reboot the namespaces are gone, whatever a record says.
    let gone = matches!(record.network, Network::Up { .. }) && record.pins.net.as_ref().is_some_and(|p| !netns::is_pinned(p));
    match (gone, task.health()) {
        (true, _) => sandbox::State::NotReady,
        (false, Health::Answering) => sandbox::State::Ready { pid: task.pid() },
        (false, Health::Silent) => sandbox::State::Ready { pid: task.pid() },
    }
}

fn half_made(cri: &Cri, id: &str) {
    match teardown::half_made_container(cri, id) {
        Ok(()) => info!("container {id}: half-made when the daemon died, removed"),
        Err(e) => warn!("container {id}: half-made when the daemon died, not removed: {}", e.chain()),
    }
}

fn one_container(cri: &Cri, id: &str, record: container::Record) {
    let task = cri.ports.tasks.get(NAMESPACE, id).ok();
    let started_at = match &record.life {
        Life::Started { at } => Some(*at),
        _ => None,
    };
    let state = match (&record.life, &task) {
        (Life::Exited(exited), _) => container::State::Exited(exited.clone()),
        (_, Some(task)) if task.pid() > 0 || task.exited().is_some() => {
            container::State::Running { pid: task.pid(), started_at: started_at.unwrap_or_else(now) }
        }
        (Life::Created, _) => container::State::Created,
        (Life::Started { at }, _) => container::State::Running { pid: 0, started_at: *at },
    };
    let ended = Arc::<container::Ended>::default();
    if matches!(state, container::State::Exited(_)) {
        ended.tell();
    }
    cri.containers.names.adopt(&record.name, id);
    let found = Container { id: id.into(), record, state, oom: Oom::NotSeen, turns: Arc::default(), ended, stopping: Arc::default() };
    let found = cri.containers.by_id.put(id, found);
    settle(cri, &found, task.as_deref());
    if let Err(e) = checkpoint_container::end_half_made(cri, &found) {
        warn!("container {id}: its checkpoint was under way when the daemon died, and is not ended: {}", e.chain());
    }
}

/// Puts an end that came while the daemon was down on record.
fn settle(cri: &Cri, found: &Container, task: Option<&Task>) {
    let settled = match (&found.state, task) {
        (container::State::Running { .. }, None) => exit::lost(cri, &found.id, "it ended while the daemon was down, with its shim"),
        (container::State::Running { .. }, Some(task)) => task.exited().map_or(Ok(()), |e: Exit| exit::container(cri, &found.id, &e)),
        _ => Ok(()),
    };
    if let Err(e) = settled {
        warn!("container {}: its end is not on record yet: {}", found.id, e.chain());
    }
}

/// Tasks of pods that no record knows.
fn orphans(cri: &Cri) {
    let call = Call::background(NAMESPACE).within(LIMIT);
    for task in cri.ports.tasks.list(NAMESPACE) {
        let known = cri.sandboxes.by_id.get(task.id()).is_ok() || cri.ports.containers.get(NAMESPACE, task.id()).is_ok();
        if !known {
            match teardown::task(cri, &call, task.id()) {
                Ok(()) => info!("task {}: nobody's, removed", task.id()),
                Err(e) => warn!("task {}: nobody's, not removed: {}", task.id(), e.chain()),
            }
        }
    }
}

/// Networks of pods that no record knows, first those that we know of, then those that only plugins know of.
fn networks(cri: &Cri) -> BTreeSet<String> {
    let call = Call::background(NAMESPACE).within(LIMIT);
    let valid: BTreeSet<String> = cri.sandboxes.by_id.list().iter().map(|s| s.id.clone()).collect();
    let mut stale = cri.networks.stale(&valid).unwrap_or_else(|e| {
        warn!("network attachments of pods that are gone: {}", e.chain());
        BTreeSet::new()
    });
    stale.retain(|id| match cri.networks.detach(&call, id) {
        Ok(()) => {
            info!("sandbox {id}, which is gone: its network attachments are removed");
            false
        }
        Err(e) => {
            warn!("sandbox {id}, which is gone: its network attachments are not removed yet: {}", e.chain());
            true
        }
    });
    if let Err(e) = cri.networks.collect(&call) {
        warn!("what the networks' plugins keep of pods that are gone is not freed: {}", e.chain());
    }
    stale
}
