//! Pipes: between the streams of a client and the descriptors of a process or a socket, with bounded memory. What is full is
//! not read from, so whoever is slow holds back its own peer and nobody else.
use super::poll::{Poll, Want, Watched};
use super::wire::Wire;
use crate::error::{Context, Result};
use crate::sys::fifo::{self, Found};
use rustix::io::{Errno, ioctl_fionread, write};
use std::os::fd::OwnedFd;

/// From here on no more is read for a client for whom bytes wait. The next piece still fits, as below.
pub const FULL: usize = 32 << 10;
/// With more than this waiting for a process, its client is not read from. One that heeds its stream's window of 64 KiB never
/// comes so far, so none of its streams holds back another. The next piece fits: 16 KiB, or one message.
const INPUT_FULL: usize = 64 << 10;

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
        self.pending.len() > INPUT_FULL
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
    /// None: nobody wants it.
    stream: Option<u32>,
    wanted: Wanted,
}

/// Whether the client could take more when we last looked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Yes,
    /// No, and nothing is there anyway.
    No,
    /// No, and bytes wait.
    Held,
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
    /// Bytes of `fd` go to `stream`; without one they are dropped.
    pub fn new(fd: OwnedFd, stream: Option<u32>) -> Outlet {
        Outlet { fd: Some(Watched::new(fd)), stream, wanted: Wanted::Yes }
    }
    /// Reads once and sends it.
    pub fn pump(&mut self, wire: &mut dyn Wire, buffer: &mut [u8]) -> Pumped {
        let Some(watched) = &self.fd else { return Pumped::Nothing };
        let room = match self.stream {
            None => buffer.len(),
            Some(_) if wire.output().len() >= FULL => 0,
            Some(stream) => wire.room(stream).min(buffer.len()),
        };
        self.wanted = Wanted::Yes;
        if room == 0 {
            let waiting = ioctl_fionread(&watched.fd).unwrap_or(0);
            self.wanted = if waiting > 0 { Wanted::Held } else { Wanted::No };
            // The end needs no room, and a client that has everything may never make any.
            if waiting > 0 || !fifo::hung_up(&watched.fd) {
                return Pumped::Nothing;
            }
            self.fd = None;
            return Pumped::End;
        }
        match fifo::read(&watched.fd, &mut buffer[..room]) {
            Found::Bytes(n) => {
                if let Some(stream) = self.stream {
                    wire.send(stream, &buffer[..n]);
                }
                Pumped::Some
            }
            Found::Nothing => Pumped::Nothing,
            Found::End => {
                self.fd = None;
                Pumped::End
            }
        }
    }
    /// Where it goes.
    pub fn stream(&self) -> Option<u32> {
        self.stream
    }
    /// Whether nothing more will come.
    pub fn ended(&self) -> bool {
        self.fd.is_none()
    }
    /// Whether bytes wait that the client has no room for.
    pub fn held(&self) -> bool {
        self.fd.is_some() && self.wanted == Wanted::Held
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::streaming::http::{Codec, Version};
    use crate::cri::streaming::wire::{Event, Violation};
    use crate::sys::fifo::{pipe, set_nonblocking};
    use rustix::io::read;

    /// A client with so much room.
    struct Room(usize, Vec<u8>);

    impl Wire for Room {
        fn receive(&mut self, _: &[u8], _: &mut Vec<Event>) -> Result<(), Violation> {
            Ok(())
        }
        fn accept(&mut self, _: u32) {}
        fn refuse(&mut self, _: u32) {}
        fn room(&self, _: u32) -> usize {
            self.0
        }
        fn send(&mut self, _: u32, bytes: &[u8]) {
            self.0 -= bytes.len();
            self.1.extend(bytes);
        }
        fn end(&mut self, _: u32) {}
        fn reset(&mut self, _: u32) {}
        fn consumed(&mut self, _: u32, _: usize) {}
        fn leave(&mut self) {}
        fn output(&mut self) -> &mut Vec<u8> {
            &mut self.1
        }
    }

    #[test]
    fn output_waits_for_room_but_its_end_does_not() {
        let (reader, writer) = pipe().unwrap();
        set_nonblocking(&reader).unwrap();
        write(&writer, b"hello").unwrap();
        let (mut outlet, mut wire, mut buffer) = (Outlet::new(reader, Some(1)), Room(3, vec![]), [0; 64]);
        assert_eq!((outlet.pump(&mut wire, &mut buffer), outlet.held()), (Pumped::Some, false));
        assert_eq!((outlet.pump(&mut wire, &mut buffer), outlet.held()), (Pumped::Nothing, true));
        wire.0 = 2;
        assert_eq!(outlet.pump(&mut wire, &mut buffer), Pumped::Some);
        assert_eq!((outlet.pump(&mut wire, &mut buffer), outlet.held()), (Pumped::Nothing, false));
        drop(writer);
        assert_eq!((outlet.pump(&mut wire, &mut buffer), outlet.ended()), (Pumped::End, true));
        assert_eq!(wire.1, b"hello");
    }

    #[test]
    fn a_full_client_is_not_read_for() {
        let (reader, writer) = pipe().unwrap();
        write(&writer, b"x").unwrap();
        let mut wire = crate::cri::streaming::websocket::Channels::new(Version::V4, Codec::Binary, 5);
        wire.output().resize(FULL, 0);
        let mut outlet = Outlet::new(reader, Some(1));
        assert_eq!((outlet.pump(&mut wire, &mut [0; 64]), outlet.held()), (Pumped::Nothing, true));
    }

    #[test]
    fn input_waits_is_written_and_ends() {
        let (reader, writer) = pipe().unwrap();
        set_nonblocking(&writer).unwrap();
        let mut inlet = Inlet::new();
        inlet.put(&[b'x'; INPUT_FULL]);
        assert!(!inlet.full());
        inlet.put(b"y");
        inlet.end();
        assert!(inlet.full() && !inlet.flush().finished, "there is no descriptor yet");
        inlet.connect(writer);
        let first = inlet.flush();
        assert!(!first.finished && !inlet.full());
        let mut got = vec![0; INPUT_FULL + 2];
        let mut had = read(&reader, &mut got).unwrap();
        let second = inlet.flush();
        assert!(second.finished && first.bytes + second.bytes == INPUT_FULL + 1);
        had += read(&reader, &mut got).unwrap();
        assert_eq!(had, INPUT_FULL + 1);
        inlet.close();
        inlet.put(b"more");
        assert!(inlet.useless() && !inlet.full());
        assert_eq!(read(&reader, &mut got).unwrap(), 0);
    }

    #[test]
    fn input_that_nobody_takes_is_dropped() {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let mut inlet = Inlet::new();
        inlet.connect(writer);
        inlet.put(b"x");
        let flushed = inlet.flush();
        assert!(flushed.finished && flushed.bytes == 1 && inlet.useless());
    }
}
