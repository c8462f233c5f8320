//! Streams: one poll loop that moves the output and input of processes; nobody in it waits for anybody else.
//!
//! A primary FIFO holds its own process back when it is full, as a pipe would. An attached FIFO that is full is dropped instead.
//! A log file is written in the loop, so a container with one gets a loop, and a thread, of its own.
use super::flow::{Attach, Flow, Progress};
use super::log::Counts;
use crate::error::{Context, Error, Result};
use crate::thread::{Stop, Threads, lock};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a drained process's pipes must be quiet to count as done although somebody still holds them.
const QUIET: Duration = Duration::from_millis(250);

/// Called with the outcome of a command, on the loop's thread.
pub type Answer = Box<dyn FnOnce(Result<()>) + Send>;

enum Command {
    Add(Box<Flow>),
    Attach(Attach, Answer),
    CloseStdin,
    Reopen(Answer),
    /// The process is gone: end once nothing comes any more.
    Drain,
    Close,
}

/// A loop's inbox.
pub struct Streams {
    wake: OwnedFd,
    inbox: Mutex<Vec<(u64, Command)>>,
    next: AtomicU64,
    life: Life,
}

/// When a loop ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    /// With the shim.
    Shared,
    /// With its only flow.
    OneFlow,
}

/// One process's streams in a loop.
#[derive(Clone)]
pub struct Handle {
    streams: Arc<Streams>,
    id: u64,
    done: Receiver<Infallible>,
    /// Path and counts of the log, where there is one.
    pub log: Option<(PathBuf, Arc<Counts>)>,
}

impl Streams {
    /// The loop for processes that write to FIFOs and pipes.
    pub fn shared(threads: &Threads) -> Result<Arc<Streams>> {
        let streams = Streams::new(Life::Shared)?;
        let own = streams.clone();
        threads.spawn("streams", move |stop| own.run(stop))?;
        Ok(streams)
    }
    /// Adds a process's streams; with a log they get a thread of their own.
    pub fn add(self: &Arc<Self>, threads: &Threads, name: &str, flow: Flow) -> Result<Handle> {
        let log = flow.log.as_ref().map(|l| (l.path().to_path_buf(), l.counts()));
        let done = flow.done();
        if log.is_none() {
            let handle = Handle { streams: self.clone(), id: self.next.fetch_add(1, Ordering::Relaxed), done, log };
            handle.send(Command::Add(Box::new(flow)));
            return Ok(handle);
        }
        let streams = Streams::new(Life::OneFlow)?;
        let handle = Handle { streams: streams.clone(), id: 0, done, log };
        handle.send(Command::Add(Box::new(flow)));
        threads.spawn(format!("log:{name}"), move |stop| streams.run(stop))?;
        Ok(handle)
    }
    fn new(life: Life) -> Result<Arc<Streams>> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).during(|| "create a wake eventfd")?;
        Ok(Arc::new(Streams { wake, inbox: Mutex::default(), next: AtomicU64::new(1), life }))
    }
    fn run(&self, stop: &Stop) {
        let mut flows: Vec<(u64, Box<Flow>)> = vec![];
        let mut buffer = vec![0u8; 32 << 10];
        while !stop.stopped() {
            self.obey(&mut flows);
            if self.life == Life::OneFlow && flows.is_empty() {
                // A command that comes now finds nobody: take its answer along.
                return self.obey(&mut flows);
            }
            if flows.is_empty() {
                buffer = Vec::new();
            } else if buffer.is_empty() {
                buffer = vec![0u8; 32 << 10];
            }
            let (events, ends) = self.wait(stop, &flows);
            let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
            let (mut from, mut ends) = (0, ends.into_iter());
            flows.retain_mut(|(_, flow)| {
                let to = ends.next().unwrap_or(from);
                let mine = &events[std::mem::replace(&mut from, to)..to];
                flow.turn(mine, &mut buffer) == Progress::Open && !flow.is_quiet(QUIET)
            });
        }
    }
    /// What is ready, and where each flow's share of it ends.
    fn wait(&self, stop: &Stop, flows: &[(u64, Box<Flow>)]) -> (Vec<PollFlags>, Vec<usize>) {
        let stop_fd = stop.fd();
        let mut fds = vec![PollFd::from_borrowed_fd(stop_fd, PollFlags::IN), PollFd::new(&self.wake, PollFlags::IN)];
        let mut ends = Vec::with_capacity(flows.len());
        for (_, flow) in flows {
            flow.poll(&mut fds);
            ends.push(fds.len() - 2);
        }
        let next = flows.iter().filter_map(|(_, f)| f.quiet_at(QUIET)).min();
        let limit = next.map(|at| at.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        let limit = limit.map(|l| Timespec { tv_sec: l.as_secs() as i64, tv_nsec: l.subsec_nanos().into() });
        let _ = poll(&mut fds, limit.as_ref());
        (fds[2..].iter().map(|f| f.revents()).collect(), ends)
    }
    fn obey(&self, flows: &mut Vec<(u64, Box<Flow>)>) {
        for (id, command) in std::mem::take(&mut *lock(&self.inbox)) {
            if let Command::Add(flow) = command {
                flows.push((id, flow));
                continue;
            }
            let Some(at) = flows.iter().position(|(i, _)| *i == id) else {
                if let Command::Attach(_, answer) | Command::Reopen(answer) = command {
                    answer(Err(Error::precondition("the process has ended and its streams are closed")));
                }
                continue;
            };
            let flow = &mut flows[at].1;
            match command {
                Command::Attach(attach, answer) => answer(flow.attach(attach)),
                Command::Reopen(answer) => answer(flow.reopen()),
                Command::CloseStdin => flow.close_stdin(),
                Command::Drain => flow.drain(),
                Command::Close => drop(flows.swap_remove(at)),
                Command::Add(_) => {}
            }
        }
    }
}

impl Handle {
    /// Copies output from now on into further FIFOs, and input from one.
    pub fn attach(&self, attach: Attach, answer: Answer) {
        self.send(Command::Attach(attach, answer));
    }
    /// Lets input end once the client's end is closed.
    pub fn close_stdin(&self) {
        self.send(Command::CloseStdin);
    }
    /// Opens the log path afresh.
    pub fn reopen(&self, answer: Answer) {
        self.send(Command::Reopen(answer));
    }
    /// Waits until all output of an ended process is delivered, but not for those who merely inherited its pipes.
    pub fn drain(&self, limit: Duration) {
        self.send(Command::Drain);
        if self.done.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            self.send(Command::Close);
            let _ = self.done.recv_timeout(Duration::from_millis(100));
        }
    }
    fn send(&self, command: Command) {
        if let Err(RecvTimeoutError::Disconnected) = self.done.recv_timeout(Duration::ZERO) {
            if let Command::Attach(_, answer) | Command::Reopen(answer) = command {
                answer(Err(Error::precondition("the process has ended and its streams are closed")));
            }
            return;
        }
        lock(&self.streams.inbox).push((self.id, command));
        let _ = rustix::io::write(&self.streams.wake, &1u64.to_ne_bytes());
    }
}
