//! Changes: what happens to pods and containers, told to those who called GetContainerEvents in the order in which it happened.
//!
//! An event holds the objects as they were just after the change, so telling costs a few reference counts, and nothing is
//! encoded while nobody listens. Events are not kept for listeners to come: who subscribes first and lists then has seen all.
use super::store::container::{Container, State as ContainerState};
use super::store::sandbox::{Sandbox, State as PodState};
use super::{Cri, now};
use crate::core::events::{Bus, Subscription, Topic};
use crate::error::Result;
use crate::proto::cri::ContainerEventType as Kind;
use std::collections::HashMap;
use std::sync::Arc;

/// Events that wait for one subscriber. Full = slow reader: the oldest is dropped and counted; the newest tells all of its pod.
const WAITING: usize = 1024;

/// One event.
pub struct Change {
    /// What happened.
    pub kind: Kind,
    /// To which pod or container.
    pub id: String,
    /// Nanoseconds since 1970.
    pub at: i64,
    /// The pod, as it was then.
    pub pod: Option<Arc<Sandbox>>,
    /// The pod's containers, as they were then.
    pub containers: Vec<Arc<Container>>,
}

impl Topic for Change {
    fn topic(&self) -> &str {
        &self.id
    }
}

/// Hands changes out.
#[derive(Default)]
pub struct Changes(Bus<Change>);

impl Changes {
    /// All changes from now on.
    pub fn subscribe(&self) -> Subscription<Change> {
        self.0.subscribe_bounded(&[], WAITING)
    }
    /// Changes that slow subscribers lost.
    pub fn dropped(&self) -> u64 {
        self.0.dropped()
    }
}

impl Cri {
    /// Puts a pod that stands into the store.
    pub fn pod_stands(&self, pod: Sandbox) {
        let id = pod.id.clone();
        self.changes.0.publish_after(|| {
            self.sandboxes.by_id.put(&id, pod);
            self.of_pod(Kind::CONTAINER_CREATED_EVENT, &id, None)
        });
        self.changes.0.publish_after(|| self.of_pod(Kind::CONTAINER_STARTED_EVENT, &id, None));
    }
    /// Changes a pod that is not ready from then on; the first such change is its stop.
    pub fn pod_not_ready(&self, id: &str, change: impl FnOnce(&Sandbox) -> Sandbox) -> Result<()> {
        let mut done = Ok(());
        self.changes.0.publish_after(|| {
            let mut was = PodState::NotReady;
            done = self
                .sandboxes
                .by_id
                .swap(id, |pod| {
                    was = pod.state.clone();
                    change(pod).with_state(PodState::NotReady)
                })
                .map(drop);
            if done.is_err() || was == PodState::NotReady { None } else { self.of_pod(Kind::CONTAINER_STOPPED_EVENT, id, None) }
        });
        done
    }
    /// Takes a pod out of the store.
    pub fn pod_gone(&self, pod: &Arc<Sandbox>) {
        self.changes.0.publish_after(|| {
            self.sandboxes.by_id.remove(&pod.id)?;
            self.of_pod(Kind::CONTAINER_DELETED_EVENT, &pod.id, Some(pod))
        });
    }
    /// Puts a created container into the store.
    pub fn container_created(&self, container: Container) {
        self.changes.0.publish_after(|| {
            let container = self.containers.by_id.put(&container.id.clone(), container);
            Some(self.of_container(Kind::CONTAINER_CREATED_EVENT, &container))
        });
    }
    /// Changes a container that runs from then on.
    pub fn container_runs(&self, id: &str, change: impl FnOnce(&Container) -> Container) -> Result<()> {
        self.container_changes(id, Kind::CONTAINER_STARTED_EVENT, change)
    }
    /// Changes a container that is over from then on; only the first such change is told.
    pub fn container_over(&self, id: &str, change: impl FnOnce(&Container) -> Container) -> Result<()> {
        self.container_changes(id, Kind::CONTAINER_STOPPED_EVENT, change)
    }
    /// Takes a container out of the store.
    pub fn container_gone(&self, container: &Container) {
        self.changes.0.publish_after(|| {
            self.containers.by_id.remove(&container.id)?;
            Some(self.of_container(Kind::CONTAINER_DELETED_EVENT, container))
        });
    }
    fn container_changes(&self, id: &str, kind: Kind, change: impl FnOnce(&Container) -> Container) -> Result<()> {
        let mut done = Ok(());
        self.changes.0.publish_after(|| {
            let mut known = false;
            let swapped = self.containers.by_id.swap(id, |container| {
                known = kind == Kind::CONTAINER_STOPPED_EVENT && matches!(container.state, ContainerState::Exited(_));
                change(container)
            });
            match swapped {
                Ok(container) => (!known).then(|| self.of_container(kind, &container)),
                Err(e) => {
                    done = Err(e);
                    None
                }
            }
        });
        done
    }
    fn of_pod(&self, kind: Kind, id: &str, gone: Option<&Arc<Sandbox>>) -> Option<Change> {
        let pod = gone.cloned().or_else(|| self.sandboxes.by_id.get(id).ok());
        Some(Change { kind, id: id.into(), at: now(), pod, containers: self.containers_of(id) })
    }
    fn of_container(&self, kind: Kind, container: &Container) -> Change {
        let pod = &container.record.sandbox_id;
        let found = self.sandboxes.by_id.get(pod).ok();
        Change { kind, id: container.id.clone(), at: now(), pod: found, containers: self.containers_of(pod) }
    }
    /// The containers of a pod.
    pub fn containers_of(&self, pod: &str) -> Vec<Arc<Container>> {
        self.containers.by_id.filter(|c| c.record.sandbox_id == pod)
    }
    /// All containers by their pod, for calls about all pods.
    pub fn containers_by_pod(&self) -> HashMap<String, Vec<Arc<Container>>> {
        let mut by_pod: HashMap<String, Vec<Arc<Container>>> = HashMap::new();
        for container in self.containers.by_id.list() {
            by_pod.entry(container.record.sandbox_id.clone()).or_default().push(container);
        }
        by_pod
    }
}
