//! Turn: calls that change one pod or container take turns, without a lock that others could meet.
use crate::call::Call;
use crate::error::{Error, Kind, Result};
use crossbeam_channel::{Receiver, Sender, bounded, select};

/// Whose turn it is: a channel with room for one.
#[derive(Debug)]
pub struct Turns {
    take: Sender<()>,
    give: Receiver<()>,
}

/// The turn; the next caller's when dropped.
pub struct Turn(Receiver<()>);

impl Default for Turns {
    fn default() -> Turns {
        let (take, give) = bounded(1);
        Turns { take, give }
    }
}

impl Turns {
    /// Waits for the turn, as long as the call wants it.
    pub fn take(&self, call: &Call, what: &str) -> Result<Turn> {
        let until = call.deadline().map_or_else(crossbeam_channel::never, crossbeam_channel::at);
        select! {
            send(self.take, ()) -> _ => Ok(Turn(self.give.clone())),
            recv(call.done()) -> _ => Err(Error::new(Kind::Cancelled, format!("{what}: the client went away while another call was at work on it"))),
            recv(until) -> _ => Err(Error::new(Kind::DeadlineExceeded, format!("{what}: another call was at work on it for too long"))),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let _ = self.0.try_recv();
    }
}
