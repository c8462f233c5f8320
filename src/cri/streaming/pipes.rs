//! Pipes: between the streams of a client and the descriptors of a process or a socket, with bounded memory. What is full is
//! not read from, so whoever is slow holds back its own peer and nobody else.
use super::poll::{Poll, Want, Watched};
use super::wire::Wire;
use crate::error::{Context, Result};
use rustix::io::{Errno, read, write};
use std::os::fd::OwnedFd;

/// From here on no more is read for a place where bytes wait. The next piece still fits: at most 16 KiB over TCP, or one message.
pub const FULL: usize = 32 << 10;

/// From a client to a descriptor.
pub struct Inlet {
    /// None before there is one, and after it is closed.
    fd: Option<Watched<OwnedFd>>,
    pending: Vec<u8>,
    source: Source,
}

/// Where an inlet's bytes come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Open,
    /// What is pending is the last.
    Ended,
    /// The descriptor takes no more: what comes is dropped.
    Useless,
}

/// What a flush did.
pub struct Flushed {
    /// Bytes that found their way.
    pub bytes: usize,
    /// The descriptor has everything that will ever come, or takes no more.
    pub finished: bool,
}

impl Inlet {
    /// Bytes wait until there is a descriptor.
    pub fn new() -> Inlet {
        Inlet { fd: None, pending: vec![], source: Source::Open }
    }
    /// Here they go.
    pub fn connect(&mut self, fd: OwnedFd) {
        self.fd = Some(Watched::new(fd));
    }
    /// There is nowhere to go.
    pub fn close(&mut self) {
        *self = Inlet { fd: None, pending: vec![], source: Source::Useless };
    }
    /// The descriptor is a socket that learns that nothing more comes.
    pub fn end_socket(&mut self) -> Result<()> {
        let done = match &self.fd {
            Some(watched) => rustix::net::shutdown(&watched.fd, rustix::net::Shutdown::Write),
            None => Ok(()),
        };
        self.close();
        done.during(|| "end the sending side of a pod's socket")
    }
    /// From the client.
    pub fn put(&mut self, bytes: &[u8]) {
        if self.source == Source::Open {
            self.pending.extend_from_slice(bytes);
        }
    }
    /// The client will send no more.
    pub fn end(&mut self) {
        if self.source == Source::Open {
            self.source = Source::Ended;
        }
    }
    /// Whether bytes are dropped.
    pub fn useless(&self) -> bool {
        self.source == Source::Useless
    }
    /// Whether no more should be read for it.
    pub fn full(&self) -> bool {
        self.pending.len() >= FULL
    }
    /// Writes what the descriptor takes. Once all is written that will come, it is for the caller to close.
    pub fn flush(&mut self) -> Flushed {
        let Some(watched) = &self.fd else { return Flushed { bytes: 0, finished: false } };
        let mut sent = 0;
        while sent < self.pending.len() {
            match write(&watched.fd, &self.pending[sent..]) {
                Ok(n) => sent += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    let bytes = self.pending.len();
                    self.close();
                    return Flushed { bytes, finished: true };
                }
            }
        }
        self.pending.drain(..sent);
        if self.pending.is_empty() && self.pending.capacity() > 4096 {
            self.pending = vec![];
        }
        Flushed { bytes: sent, finished: self.pending.is_empty() && self.source == Source::Ended }
    }
    /// Sets what is waited for.
    pub fn watch(&mut self, poll: &Poll, key: u64) -> Result<()> {
        let want = (!self.pending.is_empty()).then_some(Want::OUT);
        self.fd.as_mut().map_or(Ok(()), |fd| fd.want(poll, key, want))
    }
}

/// From a descriptor to a client.
pub struct Outlet {
    fd: Option<Watched<OwnedFd>>,
    stream: u32,
    wanted: Wanted,
}

/// Whether the client could take more when we last looked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Yes,
    No,
}

/// What a pump did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pumped {
    /// Nothing: there is nothing, or no room for it.
    Nothing,
    /// Bytes were sent.
    Some,
    /// The descriptor has ended.
    End,
}

impl Outlet {
    /// Bytes of `fd` go to `stream`.
    pub fn new(fd: OwnedFd, stream: u32) -> Outlet {
        Outlet { fd: Some(Watched::new(fd)), stream, wanted: Wanted::Yes }
    }
    /// Reads once and sends it.
    pub fn pump(&mut self, wire: &mut dyn Wire, buffer: &mut [u8]) -> Pumped {
        let Some(watched) = &self.fd else { return Pumped::Nothing };
        let room = if wire.output().len() >= FULL { 0 } else { wire.room(self.stream).min(buffer.len()) };
        self.wanted = if room == 0 { Wanted::No } else { Wanted::Yes };
        if room == 0 {
            return Pumped::Nothing;
        }
        match read(&watched.fd, &mut buffer[..room]) {
            Ok(n) if n > 0 => {
                wire.send(self.stream, &buffer[..n]);
                Pumped::Some
            }
            Err(Errno::AGAIN | Errno::INTR) => Pumped::Nothing,
            _ => {
                self.fd = None;
                Pumped::End
            }
        }
    }
    /// Where it goes.
    pub fn stream(&self) -> u32 {
        self.stream
    }
    /// Whether nothing more will come.
    pub fn ended(&self) -> bool {
        self.fd.is_none()
    }
    /// Whether bytes may wait that the client has no room for.
    pub fn held(&self) -> bool {
        self.fd.is_some() && self.wanted == Wanted::No
    }
    /// Gives it up.
    pub fn close(&mut self) {
        self.fd = None;
    }
    /// Sets what is waited for.
    pub fn watch(&mut self, poll: &Poll, key: u64) -> Result<()> {
        let want = (self.wanted == Wanted::Yes).then_some(Want::IN);
        self.fd.as_mut().map_or(Ok(()), |fd| fd.want(poll, key, want))
    }
}
