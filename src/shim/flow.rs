//! Flow: where one process's output goes and its input comes from, driven by a poll loop.
use super::log::{Log, Stream};
use crate::error::{Context, Error, Result};
use crate::sys::fifo::{self, End};
use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, read, write};
use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most bytes that wait for an attached reader before it is dropped.
const ATTACHED_MAX: usize = 1 << 20;

/// Whether a flow goes on.
#[derive(PartialEq, Eq)]
pub enum Progress {
    /// It does.
    Open,
    /// All output is delivered.
    Done,
}

/// FIFOs of a client that joins; None for what it does not want.
pub struct Attach {
    /// Input.
    pub stdin: Option<OwnedFd>,
    /// Output.
    pub stdout: Option<OwnedFd>,
    /// Error output.
    pub stderr: Option<OwnedFd>,
}

/// The streams of one process.
#[derive(Default)]
pub struct Flow {
    outs: Vec<Out>,
    input: Option<Input>,
    /// The log file that all output goes to.
    pub log: Option<Log>,
    draining: Option<Instant>,
    end: Option<(Sender<Infallible>, Receiver<Infallible>)>,
}

struct Out {
    stream: Stream,
    /// None after the end of file.
    source: Option<Arc<OwnedFd>>,
    sinks: Vec<Sink>,
    last_reader: LastReader,
}

/// What it means for the process that the client it was made for does not read any more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LastReader {
    /// Nothing: output is dropped.
    MayLeave,
    /// Its pipe is closed, so that the next write tells it.
    TakesPipe,
}

struct Sink {
    fd: OwnedFd,
    pending: Vec<u8>,
    when_full: WhenFull,
    reader: Reader,
}

/// The other end of a sink.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    There,
    /// Left, or too slow for an attached one.
    Gone,
}

/// What a reader that does not keep up costs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WhenFull {
    /// The process waits.
    Wait,
    /// The reader is dropped.
    Drop,
}

struct Input {
    to: Arc<OwnedFd>,
    sources: Vec<Source>,
    pending: Vec<u8>,
    primary: Primary,
}

struct Source {
    fd: OwnedFd,
    primary: bool,
}

/// The FIFO that was given when the process was made.
enum Primary {
    /// Kept open, so that clients may come and go.
    Kept(PathBuf),
    /// None was given: input comes from clients that attach, as long as it is not closed.
    Attached,
    /// Ends with its last writer.
    Ending,
}

impl Flow {
    /// Nothing yet.
    pub fn new() -> Flow {
        Flow { outs: vec![], input: None, log: None, draining: None, end: Some(bounded(0)) }
    }
    /// Adds an output; `sink` is a FIFO or pipe that is written without blocking.
    pub fn output(&mut self, stream: Stream, source: Arc<OwnedFd>, sink: Option<OwnedFd>) {
        let sinks = sink.into_iter().map(|fd| Sink::new(fd, WhenFull::Wait)).collect();
        self.outs.push(Out { stream, source: Some(source), sinks, last_reader: LastReader::MayLeave });
    }
    /// The output added last is for its reader alone: once that leaves, the process' next write fails.
    pub fn for_its_reader(&mut self) {
        if let Some(out) = self.outs.last_mut() {
            out.last_reader = LastReader::TakesPipe;
        }
    }
    /// Adds input from a FIFO; attached clients may add more.
    pub fn input(&mut self, to: Arc<OwnedFd>, from: Option<(OwnedFd, PathBuf)>) {
        let (sources, primary) = match from {
            Some((fd, path)) => (vec![Source { fd, primary: true }], Primary::Kept(path)),
            None => (vec![], Primary::Attached),
        };
        self.input = Some(Input { to, sources, pending: vec![], primary });
    }
    /// Whether there is anything to move.
    pub fn is_empty(&self) -> bool {
        self.outs.is_empty() && self.input.is_none()
    }
    /// Disconnects when the flow is over.
    pub fn done(&self) -> Receiver<Infallible> {
        self.end.as_ref().map_or_else(crossbeam_channel::never, |(_, rx)| rx.clone())
    }
    /// Adds its descriptors to a poll set, in the order that [`Flow::turn`] expects.
    pub fn poll<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        for out in &self.outs {
            let held = out.sinks.iter().any(|s| s.when_full == WhenFull::Wait && !s.pending.is_empty());
            if let Some(source) = out.source.as_ref().filter(|_| !held) {
                fds.push(PollFd::from_borrowed_fd(source.as_fd(), PollFlags::IN));
            }
            for sink in &out.sinks {
                fds.push(PollFd::new(&sink.fd, if sink.pending.is_empty() { PollFlags::empty() } else { PollFlags::OUT }));
            }
        }
        if let Some(input) = &self.input {
            if input.pending.is_empty() {
                fds.extend(input.sources.iter().map(|s| PollFd::new(&s.fd, PollFlags::IN)));
            } else {
                fds.push(PollFd::from_borrowed_fd(input.to.as_fd(), PollFlags::OUT));
            }
        }
    }
    /// Moves what is ready.
    pub fn turn(&mut self, events: &[PollFlags], buffer: &mut [u8]) -> Progress {
        let mut events = events.iter().copied();
        let mut next = || events.next().unwrap_or(PollFlags::empty());
        let mut moved = false;
        for out in &mut self.outs {
            let held = out.sinks.iter().any(|s| s.when_full == WhenFull::Wait && !s.pending.is_empty());
            let readable = out.source.is_some() && !held && !next().is_empty();
            for sink in &mut out.sinks {
                let event = next();
                if !event.is_empty() {
                    moved = true;
                    sink.flush();
                    if event.contains(PollFlags::ERR) {
                        sink.leave();
                    }
                }
            }
            if readable {
                moved |= out.read(buffer, &mut self.log);
            }
            if out.last_reader == LastReader::TakesPipe && out.sinks.iter().all(|s| s.reader == Reader::Gone) {
                out.source = None;
            }
            // After the end of file each reader gets its own as soon as it has everything.
            let over = out.source.is_none();
            out.sinks.retain(|s| s.reader == Reader::There && !(over && s.pending.is_empty()));
        }
        if let Some(input) = &mut self.input {
            let ready: Vec<PollFlags> =
                if input.pending.is_empty() { (0..input.sources.len()).map(|_| next()).collect() } else { vec![next()] };
            if input.turn(&ready, buffer) == Progress::Done {
                self.input = None;
            }
        }
        if moved && self.draining.is_some() {
            self.draining = Some(Instant::now());
        }
        let delivered = self.outs.iter().all(|o| o.source.is_none() && o.sinks.iter().all(|s| s.pending.is_empty()));
        if delivered && (!self.outs.is_empty() || self.input.is_none()) { Progress::Done } else { Progress::Open }
    }
    /// From now on, quiet pipes count as ended.
    pub fn drain(&mut self) {
        self.draining = Some(Instant::now());
        self.input = None;
    }
    /// When it will have been quiet for `time`; None if it need not end.
    pub fn quiet_at(&self, time: Duration) -> Option<Instant> {
        let stuck = self.outs.iter().any(|o| o.sinks.iter().any(|s| s.when_full == WhenFull::Wait && !s.pending.is_empty()));
        self.draining.filter(|_| !stuck).map(|since| since + time)
    }
    /// Whether it has been.
    pub fn is_quiet(&self, time: Duration) -> bool {
        self.quiet_at(time).is_some_and(|at| at <= Instant::now())
    }
    /// The client has no more input than what it has already written.
    pub fn close_stdin(&mut self) {
        let Some(input) = &mut self.input else { return };
        if let Primary::Kept(path) = &input.primary {
            // The new end is opened before the old one is closed, or the bytes in between would be lost.
            let ending = fifo::open(path, End::Read);
            input.sources.retain(|s| !s.primary);
            input.sources.extend(ending.map(|fd| Source { fd, primary: true }));
        }
        input.primary = Primary::Ending;
        if input.sources.is_empty() && input.pending.is_empty() {
            self.input = None;
        }
    }
    /// Opens the log path afresh.
    pub fn reopen(&mut self) -> Result<()> {
        let log = self.log.as_mut().ok_or_else(|| Error::precondition("the process has no log file"))?;
        log.reopen()
    }
    /// A client joins.
    pub fn attach(&mut self, attach: Attach) -> Result<()> {
        for (stream, fd) in [(Stream::Stdout, attach.stdout), (Stream::Stderr, attach.stderr)] {
            let (Some(fd), Some(out)) = (fd, self.outs.iter_mut().find(|o| o.stream == stream)) else { continue };
            out.sinks.push(Sink::new(fd, WhenFull::Drop));
        }
        let Some(fd) = attach.stdin else { return Ok(()) };
        let input = self.input.as_mut().ok_or_else(|| Error::precondition("the process has no standard input, or it is closed"))?;
        input.sources.push(Source { fd, primary: false });
        Ok(())
    }
}

impl Out {
    /// One read, handed to all; whether anything came.
    fn read(&mut self, buffer: &mut [u8], log: &mut Option<Log>) -> bool {
        let Some(source) = &self.source else { return false };
        match read(&**source, &mut *buffer) {
            Ok(n) if n > 0 => {
                if let Some(log) = log {
                    log.take(self.stream, &buffer[..n]);
                }
                for sink in &mut self.sinks {
                    sink.put(&buffer[..n]);
                }
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => false,
            // End of file; on a terminal EIO says that the last process has closed it.
            _ => {
                self.source = None;
                if let Some(log) = log {
                    log.finish(self.stream);
                }
                true
            }
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        for out in self.outs.iter().filter(|o| o.source.is_some()) {
            if let Some(log) = &mut self.log {
                log.finish(out.stream);
            }
        }
    }
}

impl Sink {
    fn new(fd: OwnedFd, when_full: WhenFull) -> Sink {
        Sink { fd, pending: vec![], when_full, reader: Reader::There }
    }
    fn put(&mut self, data: &[u8]) {
        let sent = if self.pending.is_empty() { self.write(data) } else { 0 };
        if self.reader == Reader::There {
            self.pending.extend_from_slice(&data[sent..]);
        }
        if self.when_full == WhenFull::Drop && self.pending.len() > ATTACHED_MAX {
            self.leave();
        }
    }
    fn flush(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let sent = if pending.is_empty() { 0 } else { self.write(&pending) };
        if sent < pending.len() && self.reader == Reader::There {
            self.pending = pending;
            self.pending.drain(..sent);
        }
    }
    fn write(&mut self, data: &[u8]) -> usize {
        match write(&self.fd, data) {
            Ok(n) => n,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => {
                self.leave();
                0
            }
        }
    }
    /// Nobody reads this any more: the process goes on without it.
    fn leave(&mut self) {
        self.pending = Vec::new();
        self.reader = Reader::Gone;
    }
}

impl Input {
    fn turn(&mut self, events: &[PollFlags], buffer: &mut [u8]) -> Progress {
        if !self.pending.is_empty() {
            return if events.iter().any(|e| !e.is_empty()) { self.flush() } else { Progress::Open };
        }
        let mut events = events.iter();
        let mut ended = vec![];
        for (at, source) in self.sources.iter().enumerate() {
            if events.next().is_none_or(|e| e.is_empty()) || !self.pending.is_empty() {
                continue;
            }
            match read(&source.fd, &mut *buffer) {
                Ok(n) if n > 0 => self.pending.extend_from_slice(&buffer[..n]),
                Err(Errno::AGAIN | Errno::INTR) => {}
                _ => ended.push(at),
            }
        }
        for at in ended.into_iter().rev() {
            self.sources.remove(at);
        }
        self.flush()
    }
    fn flush(&mut self) -> Progress {
        while !self.pending.is_empty() {
            match write(&*self.to, &self.pending) {
                Ok(n) => drop(self.pending.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Progress::Open,
                // The process does not read any more.
                Err(_) => return Progress::Done,
            }
        }
        self.pending = Vec::new();
        let over = matches!(self.primary, Primary::Ending) && self.sources.is_empty();
        if over { Progress::Done } else { Progress::Open }
    }
}

/// Opens the FIFOs of a client that joins. It has opened its own ends before, so a missing peer means that it is gone.
pub fn open_attached(stdin: &str, stdout: &str, stderr: &str) -> Result<Attach> {
    let open = |path: &str, end| {
        if path.is_empty() {
            return Ok(None);
        }
        fifo::open(path.as_ref(), end).map(Some).during(|| format!("open attached FIFO {path}"))
    };
    Ok(Attach { stdin: open(stdin, End::Read)?, stdout: open(stdout, End::Write)?, stderr: open(stderr, End::Write)? })
}
