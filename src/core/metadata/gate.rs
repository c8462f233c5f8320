//! Gate: while anything is created and not yet referenced, the garbage collector waits; while it collects, creators wait.
use crate::thread::lock;
use std::sync::{Condvar, Mutex, PoisonError};

/// Many holders or one collector. Unlike a `RwLock`, a waiting collector does not stop new holders, so holds may nest.
#[derive(Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
enum State {
    #[default]
    Free,
    Held(usize),
    Collecting,
}

impl Gate {
    /// Runs `f` while the collector is kept out. For the moments between making a thing and referencing it: no network inside.
    pub fn hold<T>(&self, f: impl FnOnce() -> T) -> T {
        let mut state = lock(&self.state);
        while let State::Collecting = *state {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        *state = match *state {
            State::Held(n) => State::Held(n + 1),
            _ => State::Held(1),
        };
        drop(state);
        let _leave = Leave(self);
        f()
    }
    /// Runs `f` while nobody holds the gate. Must not be called by a holder.
    pub(crate) fn collect<T>(&self, f: impl FnOnce() -> T) -> T {
        let mut state = lock(&self.state);
        while !matches!(*state, State::Free) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        *state = State::Collecting;
        drop(state);
        let _leave = Leave(self);
        f()
    }
}

/// Also runs when `f` panics: a gate that stays shut would stop every pull.
struct Leave<'a>(&'a Gate);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        *state = match *state {
            State::Held(n) if n > 1 => State::Held(n - 1),
            _ => State::Free,
        };
        drop(state);
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn holds_nest_while_a_collector_waits_and_exclude_it() {
        let gate = Arc::new(Gate::default());
        let (done, collected) = bounded(1);
        gate.hold(|| {
            let other = gate.clone();
            std::thread::spawn(move || other.collect(|| done.send(()).unwrap()));
            assert!(collected.recv_timeout(Duration::from_millis(50)).is_err());
            gate.hold(|| ());
            assert!(collected.recv_timeout(Duration::from_millis(50)).is_err());
        });
        collected.recv_timeout(Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn a_panic_opens_the_gate() {
        let gate = Gate::default();
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| gate.collect(|| panic!("for the test"))));
        gate.hold(|| ());
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| gate.hold(|| panic!("for the test"))));
        gate.collect(|| ());
    }
}
