//! Call: who asks, for which namespace, until when, and whether the answer is still wanted. No RPC library inside.
use crate::error::{Error, Kind, Result};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::time::{Duration, Instant};

/// A channel that nothing is ever sent on: it disconnects when the call is over.
pub type Done = Receiver<std::convert::Infallible>;

/// One request's context.
#[derive(Clone, Debug)]
pub struct Call {
    /// containerd namespace, `k8s.io` for CRI.
    pub namespace: String,
    /// The client's address, for the log.
    pub peer: String,
    deadline: Option<Instant>,
    done: Done,
}

/// Keeps a call alive; dropping it cancels the call.
pub struct Alive(#[allow(dead_code, reason = "held for its drop")] Sender<std::convert::Infallible>);

impl Call {
    /// A call that ends when the returned guard is dropped.
    pub fn new(namespace: impl Into<String>, peer: impl Into<String>, deadline: Option<Instant>) -> (Call, Alive) {
        let (alive, done) = bounded(0);
        (Call { namespace: namespace.into(), peer: peer.into(), deadline, done }, Alive(alive))
    }
    /// A call of the daemon's own, that nobody cancels.
    pub fn background(namespace: impl Into<String>) -> Call {
        Call { namespace: namespace.into(), peer: "daemon".into(), deadline: None, done: crossbeam_channel::never() }
    }
    /// The same request, no longer bound to its client, with a limit of its own: for work that runs on and is joined by a retry.
    pub fn detached(&self, limit: Duration) -> Call {
        Call {
            namespace: self.namespace.clone(),
            peer: self.peer.clone(),
            deadline: Some(Instant::now() + limit),
            done: crossbeam_channel::never(),
        }
    }
    /// The same call with an earlier deadline.
    pub fn within(&self, limit: Duration) -> Call {
        let at = Instant::now() + limit;
        Call { deadline: Some(self.deadline.map_or(at, |d| d.min(at))), ..self.clone() }
    }
    /// Disconnects when the client is gone, has cancelled, or its deadline has passed: for `select!`.
    pub fn done(&self) -> &Done {
        &self.done
    }
    /// When it ends at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
    /// Time left, at most `cap`; `DeadlineExceeded` or `Cancelled` once there is none.
    pub fn remaining(&self, cap: Duration) -> Result<Duration> {
        self.check()?;
        Ok(self.deadline.map_or(cap, |d| d.saturating_duration_since(Instant::now()).min(cap)))
    }
    /// Whether the answer is no longer wanted.
    pub fn cancelled(&self) -> bool {
        self.check().is_err()
    }
    /// For loops of unknown length: an error once the answer is no longer wanted.
    pub fn check(&self) -> Result<()> {
        if self.deadline.is_some_and(|d| d <= Instant::now()) {
            return Err(Error::new(Kind::DeadlineExceeded, "the call's deadline has passed"));
        }
        match self.done.try_recv() {
            Err(crossbeam_channel::TryRecvError::Disconnected) => Err(Error::new(Kind::Cancelled, "the client has cancelled the call")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_the_guard_cancels_but_not_what_was_detached() {
        let (call, alive) = Call::new("k8s.io", "test", None);
        let on = call.detached(Duration::from_secs(60));
        assert!(!call.cancelled());
        drop(alive);
        assert_eq!(call.check().unwrap_err().kind(), Kind::Cancelled);
        assert!(!on.cancelled());
    }

    #[test]
    fn past_deadline_is_told_apart_from_cancel() {
        let (call, _alive) = Call::new("k8s.io", "test", Some(Instant::now()));
        assert_eq!(call.remaining(Duration::from_secs(1)).unwrap_err().kind(), Kind::DeadlineExceeded);
    }
}
