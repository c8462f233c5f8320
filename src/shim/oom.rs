//! Out of memory: every container's watch, polled by the main loop, told as an event before the exit that it causes.
use super::events::Events;
use crate::error::{Context, Result};
use crate::proto::task_events::TaskOOM;
use crate::sys::cgroup::{Cgroup, OomWatch, watch_oom};
use crate::thread::lock;
use log::warn;
use rustix::event::epoll;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

/// All watches behind one descriptor.
pub struct Oom {
    /// Watches are added by pool threads while the main loop polls, which an epoll descriptor allows and a poll set does not.
    set: OwnedFd,
    watches: Mutex<Vec<(String, OomWatch)>>,
}

impl Oom {
    /// None yet.
    pub fn new() -> Result<Oom> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).during(|| "create an epoll descriptor")?;
        Ok(Oom { set, watches: Mutex::default() })
    }
    /// Readable when there may be news.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
    /// Watches a container's group.
    pub fn add(&self, id: &str, group: &Cgroup) {
        let watch = match watch_oom(group) {
            Ok(watch) => watch,
            Err(e) => return warn!("container {id}: its kills for want of memory will not be told: {e}"),
        };
        if let Err(e) = epoll::add(&self.set, watch.fd(), epoll::EventData::new_u64(0), epoll::EventFlags::IN) {
            return warn!("container {id}: its kills for want of memory will not be told: {e}");
        }
        lock(&self.watches).push((id.into(), watch));
    }
    /// Ends a watch.
    pub fn remove(&self, id: &str) {
        lock(&self.watches).retain(|(i, _)| i != id);
    }
    /// Tells the news of all.
    pub fn check_all(&self, events: &Events) {
        for (id, watch) in lock(&self.watches).iter_mut() {
            tell(id, watch, events);
        }
    }
    /// Tells the news of one container.
    pub fn check(&self, id: &str, events: &Events) {
        for (id, watch) in lock(&self.watches).iter_mut().filter(|(i, _)| i == id) {
            tell(id, watch, events);
        }
    }
}

fn tell(id: &str, watch: &mut OomWatch, events: &Events) {
    if watch.killed() {
        let mut event = TaskOOM::new();
        event.container_id = id.into();
        events.publish("/tasks/oom", &event);
    }
}
