//! Care: work that nobody waits for, now or after a delay: burying dead shims, taking silent ones over, late events.
use crate::error::Result;
use crate::thread::{Pool, Stop, Threads};
use crossbeam_channel::{Receiver, Sender, select, unbounded};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

type Job = Box<dyn FnOnce() + Send>;

/// Enough that one node's worth of shims that die together are buried in seconds.
const WORKERS: usize = 16;

/// A pool and a clock for it.
pub struct Care {
    pool: Pool,
    later: Sender<(Instant, Job)>,
}

impl Care {
    /// Starts the loop `task-care`, which sleeps until something is due.
    pub fn new(threads: &Threads) -> Result<Care> {
        let pool = Pool::new("shim-care", WORKERS)?;
        // Not bounded: at most a few entries a container, and the mux thread must never block here.
        let (later, entries) = unbounded();
        let due = pool.clone();
        threads.spawn("task-care", move |stop| keep_time(&entries, &due, stop))?;
        Ok(Care { pool, later })
    }
    /// Runs it on the pool.
    pub fn now(&self, job: impl FnOnce() + Send + 'static) {
        self.pool.run(job);
    }
    /// Runs it on the pool after a while; dropped if the daemon ends before.
    pub fn after(&self, delay: Duration, job: impl FnOnce() + Send + 'static) {
        let _ = self.later.send((Instant::now() + delay, Box::new(job)));
    }
    /// Takes no more work and waits for what runs.
    pub fn close(&self) {
        self.pool.close();
    }
}

fn keep_time(entries: &Receiver<(Instant, Job)>, pool: &Pool, stop: &Stop) {
    let mut waiting: BTreeMap<Reverse<(Instant, u64)>, Job> = BTreeMap::new();
    let mut number = 0;
    loop {
        let sleep = waiting.last_key_value().map_or(Duration::MAX, |(Reverse((at, _)), _)| at.saturating_duration_since(Instant::now()));
        if sleep.is_zero() {
            if let Some((_, job)) = waiting.pop_last() {
                pool.run(job);
            }
            continue;
        }
        let timer = if waiting.is_empty() { crossbeam_channel::never() } else { crossbeam_channel::after(sleep) };
        select! {
            recv(entries) -> entry => match entry {
                Ok((at, job)) => {
                    number += 1;
                    waiting.insert(Reverse((at, number)), job);
                }
                Err(_) => return,
            },
            recv(timer) -> _ => {}
            recv(stop.channel()) -> _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_first_runs_first() {
        let threads = Threads::new().unwrap();
        let care = Care::new(&threads).unwrap();
        let (tx, rx) = unbounded();
        for (delay, name) in [(120, "c"), (0, "a"), (60, "b")] {
            let tx = tx.clone();
            care.after(Duration::from_millis(delay), move || tx.send(name).unwrap());
        }
        let got: Vec<_> = (0..3).map(|_| rx.recv_timeout(Duration::from_secs(5)).unwrap()).collect();
        assert_eq!(got, ["a", "b", "c"]);
        care.close();
    }
}
