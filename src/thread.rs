//! Threads: the only place that spawns. Every thread has a name, an owner, a way to stop, and is joined.
//!
//! A loop waits on [`Stop::channel`] in a `select!`, or on [`Stop::fd`] in a poll. Dropping [`Threads`] stops all loops and
//! joins them, newest first. A panic in a loop is logged and kept for the plugin's health, and so is what a loop says of its
//! rounds by [`Stop::went_well`] and [`Stop::went_wrong`].
use crate::error::{Context, Error, Result};
use crossbeam_channel::{Receiver, Sender, bounded};
use log::error;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, SystemTime};

/// Stack of each thread; what is not touched costs no memory.
const STACK: usize = 512 << 10;
/// How long an idle pool worker waits for work before it ends.
const IDLE: Duration = Duration::from_secs(10);

/// What a loop has of its owner: word when it shall end, and a place to say how it goes.
#[derive(Clone)]
pub struct Stop {
    channel: Receiver<std::convert::Infallible>,
    fd: Arc<OwnedFd>,
    rounds: Arc<Mutex<Rounds>>,
}

#[derive(Clone, Default)]
struct Rounds {
    last: Option<SystemTime>,
    error: Option<(SystemTime, String)>,
}

/// How a loop is.
#[derive(Clone, Debug)]
pub struct Health {
    /// Its name.
    pub name: String,
    /// Whether it runs.
    pub state: LoopState,
    /// Its last round that went well, if it tells.
    pub last_run: Option<SystemTime>,
    /// Its last round that did not, and why.
    pub last_error: Option<(SystemTime, String)>,
}

/// Whether a loop runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoopState {
    /// It does.
    Running,
    /// It came to its end.
    Ended,
    /// Its part is down until a restart.
    Panicked,
}

impl LoopState {
    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            LoopState::Running => "running",
            LoopState::Ended => "ended",
            LoopState::Panicked => "panicked",
        }
    }
}

impl Stop {
    /// Disconnects at the end: for `select!`.
    pub fn channel(&self) -> &Receiver<std::convert::Infallible> {
        &self.channel
    }
    /// Readable at the end: for `poll`.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
    /// Whether the end has come.
    pub fn stopped(&self) -> bool {
        matches!(self.channel.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected))
    }
    /// Sleeps, or returns `true` early because the end has come.
    pub fn sleep(&self, time: Duration) -> bool {
        matches!(self.channel.recv_timeout(time), Err(crossbeam_channel::RecvTimeoutError::Disconnected))
    }
    /// A round is through.
    pub fn went_well(&self) {
        lock(&self.rounds).last = Some(SystemTime::now());
    }
    /// A round failed.
    pub fn went_wrong(&self, error: &Error) {
        lock(&self.rounds).error = Some((SystemTime::now(), error.chain()));
    }
}

/// The threads of one owner.
pub struct Threads {
    stop: Stop,
    signal: Mutex<Option<Sender<std::convert::Infallible>>>,
    joins: Mutex<Vec<Loop>>,
}

struct Loop {
    name: String,
    join: JoinHandle<()>,
    panicked: Arc<AtomicBool>,
    rounds: Arc<Mutex<Rounds>>,
}

impl Loop {
    fn state(&self) -> LoopState {
        match self.join.is_finished() {
            _ if self.panicked.load(Ordering::SeqCst) => LoopState::Panicked,
            true => LoopState::Ended,
            false => LoopState::Running,
        }
    }
    fn health(&self) -> Health {
        let rounds = lock(&self.rounds).clone();
        Health { name: self.name.clone(), state: self.state(), last_run: rounds.last, last_error: rounds.error }
    }
}

impl Threads {
    /// No thread yet.
    pub fn new() -> Result<Threads> {
        let (signal, channel) = bounded(0);
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).during(|| "create a stop eventfd")?;
        Ok(Threads {
            stop: Stop { channel, fd: Arc::new(fd), rounds: Arc::default() },
            signal: Mutex::new(Some(signal)),
            joins: Mutex::default(),
        })
    }
    /// Starts a loop; the kernel shows the first 15 bytes of its name.
    pub fn spawn(&self, name: impl Into<String>, body: impl FnOnce(&Stop) + Send + 'static) -> Result<()> {
        let name = name.into();
        let (rounds, panicked) = (Arc::<Mutex<Rounds>>::default(), Arc::<AtomicBool>::default());
        let (stop, flag, label) = (Stop { rounds: rounds.clone(), ..self.stop.clone() }, panicked.clone(), name.clone());
        let join = Builder::new()
            .name(name.clone())
            .stack_size(STACK)
            .spawn(move || {
                if catch_unwind(AssertUnwindSafe(|| body(&stop))).is_err() {
                    error!("thread {label} panicked; the part that it served is down until a restart");
                    flag.store(true, Ordering::SeqCst);
                }
            })
            .during(|| format!("start thread {name}"))?;
        let mut joins = lock(&self.joins);
        joins.retain(|l| l.state() != LoopState::Ended);
        joins.push(Loop { name, join, panicked, rounds });
        Ok(())
    }
    /// The token that its loops get.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }
    /// Names of the threads that run.
    pub fn names(&self) -> Vec<String> {
        lock(&self.joins).iter().filter(|l| !l.join.is_finished()).map(|l| l.name.clone()).collect()
    }
    /// How each loop is.
    pub fn health(&self) -> Vec<Health> {
        lock(&self.joins).iter().map(Loop::health).collect()
    }
    /// Names of loops that ended by a panic: the owner is unhealthy.
    pub fn panicked(&self) -> Vec<String> {
        self.health().into_iter().filter(|h| h.state == LoopState::Panicked).map(|h| h.name).collect()
    }
    /// Stops and joins all, newest first. Dropping does the same.
    pub fn shutdown(&self) {
        lock(&self.signal).take();
        let _ = rustix::io::write(&*self.stop.fd, &1u64.to_ne_bytes());
        loop {
            let next = lock(&self.joins).pop();
            let Some(Loop { name, join, .. }) = next else { return };
            if join.thread().id() == std::thread::current().id() {
                continue;
            }
            if join.join().is_err() {
                error!("thread {name} could not be joined");
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shutdown();
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Workers that come with the work, up to a cap, and go when idle.
#[derive(Clone)]
pub struct Pool(Arc<PoolShared>);

struct PoolShared {
    name: &'static str,
    cap: usize,
    queue: Mutex<Queue>,
    wake: Condvar,
    threads: Threads,
}

#[derive(Default)]
struct Queue {
    jobs: std::collections::VecDeque<Job>,
    workers: usize,
    idle: usize,
    closed: bool,
}

impl Pool {
    /// A pool without workers so far; `name` must leave room for the number in 15 bytes.
    pub fn new(name: &'static str, cap: usize) -> Result<Pool> {
        Ok(Pool(Arc::new(PoolShared { name, cap, queue: Mutex::default(), wake: Condvar::new(), threads: Threads::new()? })))
    }
    /// Queues a job; after [`Pool::close`] it is dropped.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut queue = lock(&self.0.queue);
        if queue.closed {
            return;
        }
        queue.jobs.push_back(Box::new(job));
        if queue.idle >= queue.jobs.len() || queue.workers >= self.0.cap {
            self.0.wake.notify_one();
            return;
        }
        queue.workers += 1;
        let number = queue.workers;
        drop(queue);
        let shared = Arc::downgrade(&self.0);
        if let Err(e) = self.0.threads.spawn(format!("{}:{number}", self.0.name), move |_| {
            if let Some(shared) = shared.upgrade() {
                shared.work();
            }
        }) {
            error!("{}", e.chain());
            lock(&self.0.queue).workers -= 1;
        }
    }
    /// Takes no more jobs, lets the running ones end and joins the workers. Queued jobs are dropped.
    pub fn close(&self) {
        let dropped = {
            let mut queue = lock(&self.0.queue);
            queue.closed = true;
            std::mem::take(&mut queue.jobs)
        };
        drop(dropped);
        self.0.wake.notify_all();
        self.0.threads.shutdown();
    }
}

impl PoolShared {
    fn work(&self) {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                if catch_unwind(AssertUnwindSafe(job)).is_err() {
                    error!("a job of pool {} panicked", self.name);
                }
                queue = lock(&self.queue);
                continue;
            }
            if queue.closed {
                break;
            }
            queue.idle += 1;
            let (back, wait) = self.wake.wait_timeout(queue, IDLE).unwrap_or_else(PoisonError::into_inner);
            queue = back;
            queue.idle -= 1;
            if wait.timed_out() && queue.jobs.is_empty() {
                break;
            }
        }
        queue.workers -= 1;
    }
}

/// Locks a mutex whose data stays valid when a holder panics.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
/// Reads a lock whose data stays valid when a holder panics.
pub fn read<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}
/// Writes a lock whose data stays valid when a holder panics.
pub fn write<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn dropping_threads_stops_and_joins_loops() {
        let ended = Arc::new(AtomicUsize::new(0));
        let threads = Threads::new().unwrap();
        for i in 0..3 {
            let ended = ended.clone();
            threads
                .spawn(format!("loop:{i}"), move |stop| {
                    assert!(stop.sleep(Duration::from_secs(60)));
                    ended.fetch_add(1, Ordering::SeqCst);
                })
                .unwrap();
        }
        drop(threads);
        assert_eq!(ended.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn a_panic_makes_the_owner_unhealthy() {
        let threads = Threads::new().unwrap();
        let (tx, rx) = bounded::<()>(1);
        threads
            .spawn("bad", move |_| {
                let _held = tx;
                panic!("for the test")
            })
            .unwrap();
        assert!(rx.recv_timeout(Duration::from_secs(5)).is_err());
        let until = std::time::Instant::now() + Duration::from_secs(5);
        while threads.panicked().is_empty() && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(threads.panicked(), ["bad"]);
    }

    #[test]
    fn a_loop_tells_of_its_rounds() {
        let threads = Threads::new().unwrap();
        let (tx, rx) = bounded(0);
        let tell = move |stop: &Stop| {
            stop.went_well();
            stop.went_wrong(&Error::internal("disk on fire"));
            tx.send(()).unwrap();
            stop.sleep(Duration::from_secs(60));
        };
        threads.spawn("tells", tell).unwrap();
        rx.recv().unwrap();
        let health = threads.health().remove(0);
        assert_eq!((health.name.as_str(), health.state, health.last_run.is_some()), ("tells", LoopState::Running, true));
        assert_eq!(health.last_error.unwrap().1, "disk on fire");
    }

    #[test]
    fn a_pool_grows_while_workers_are_blocked_and_survives_panics() {
        let pool = Pool::new("p", 8).unwrap();
        let (hold, held) = bounded::<()>(0);
        for _ in 0..7 {
            let held = held.clone();
            pool.run(move || {
                let _ = held.recv();
            });
        }
        pool.run(|| panic!("for the test"));
        let (tx, rx) = bounded(1);
        pool.run(move || tx.send(1).unwrap());
        assert_eq!(rx.recv_timeout(Duration::from_secs(5)), Ok(1));
        drop(hold);
        pool.close();
    }
}
