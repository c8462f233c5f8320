//! Poll: descriptors and what is waited for on each. One that nothing is wanted of is taken out, for its hang-up would wake the
//! loop again and again.
use crate::error::{Context, Result};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

pub use rustix::event::epoll::EventFlags as Want;

/// Most events of one wait.
const EVENTS: usize = 128;

/// The set of all.
pub struct Poll {
    epoll: Arc<OwnedFd>,
    events: Vec<epoll::Event>,
}

impl Poll {
    /// Empty.
    pub fn new() -> Result<Poll> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).during(|| "create an epoll set for streams")?;
        Ok(Poll { epoll: Arc::new(epoll), events: Vec::with_capacity(EVENTS) })
    }
    /// Waits; keys of what is ready, and whether the other side has closed.
    pub fn wait(&mut self, limit: Option<Duration>) -> Vec<(u64, bool)> {
        let limit = limit.map(|l| Timespec { tv_sec: l.as_secs() as i64, tv_nsec: l.subsec_nanos().into() });
        self.events.clear();
        match epoll::wait(&*self.epoll, rustix::buffer::spare_capacity(&mut self.events), limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            // Cannot be but by a fault of ours; spinning on it would make it worse.
            Err(e) => log::error!("wait for streams: {e}"),
        }
        let hung = Want::HUP | Want::RDHUP | Want::ERR;
        let ready = self.events.iter().map(|e| {
            // The struct is packed: a copy, not a reference.
            let flags = e.flags;
            (e.data.u64(), flags.intersects(hung))
        });
        ready.collect()
    }
}

/// A descriptor that may be in the set; dropping it takes it out, which closing alone would not do for a copied one.
pub struct Watched<F: AsFd> {
    /// The descriptor.
    pub fd: F,
    /// The set, while it is in it, and what for.
    wanted: Option<(Arc<OwnedFd>, Want)>,
}

impl<F: AsFd> Watched<F> {
    /// Not waited for so far.
    pub fn new(fd: F) -> Watched<F> {
        Watched { fd, wanted: None }
    }
    /// Waits for this and nothing else; for nothing at all if it is None.
    pub fn want(&mut self, poll: &Poll, key: u64, want: Option<Want>) -> Result<()> {
        let now = self.wanted.as_ref().map(|(_, w)| *w);
        if want == now {
            return Ok(());
        }
        let Some(want) = want else {
            self.leave();
            return Ok(());
        };
        let data = epoll::EventData::new_u64(key);
        let done = match now {
            None => epoll::add(&*poll.epoll, &self.fd, data, want),
            Some(_) => epoll::modify(&*poll.epoll, &self.fd, data, want),
        };
        self.wanted = Some((poll.epoll.clone(), want));
        done.during(|| "wait for a stream's descriptor")
    }
    fn leave(&mut self) {
        if let Some((epoll, _)) = self.wanted.take() {
            let _ = epoll::delete(&*epoll, &self.fd);
        }
    }
}

impl<F: AsFd> Drop for Watched<F> {
    fn drop(&mut self) {
        self.leave();
    }
}
