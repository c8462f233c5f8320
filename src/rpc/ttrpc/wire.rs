//! Wire: frames on a non-blocking socket. A sender never blocks; what the peer does not take yet waits here, up to a cap.
use crate::error::{Context, Error, Kind, Result};
use crate::thread::lock;
use rustix::event::{EventfdFlags, eventfd};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use ttrpc::proto::{MESSAGE_HEADER_LENGTH, MESSAGE_LENGTH_MAX, MessageHeader};

/// Most bytes that wait for a peer that does not read (a stopped shim, say).
const OUTBOX_MAX: usize = 16 << 20;

/// Wakes a poll loop.
#[derive(Clone)]
pub(super) struct Wake(Arc<OwnedFd>);

impl Wake {
    pub(super) fn new() -> Result<Wake> {
        Ok(Wake(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).during(|| "create a wake eventfd")?)))
    }
    pub(super) fn wake(&self) {
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
    pub(super) fn clear(&self) {
        let _ = rustix::io::read(&*self.0, &mut [0u8; 8]);
    }
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The sending half, shared by all who answer or ask on this connection.
pub(super) struct Wire {
    stream: UnixStream,
    wake: Wake,
    out: Mutex<Outbox>,
}

#[derive(Default)]
struct Outbox {
    bytes: Vec<u8>,
    closed: bool,
}

impl Wire {
    pub(super) fn new(stream: UnixStream, wake: Wake) -> Result<Wire> {
        stream.set_nonblocking(true).during(|| "make a ttrpc socket non-blocking")?;
        Ok(Wire { stream, wake, out: Mutex::default() })
    }
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
    /// Sends a frame, or queues what the socket does not take.
    pub(super) fn send(&self, header: MessageHeader, body: &[u8]) -> Result<()> {
        if body.len() > MESSAGE_LENGTH_MAX {
            return Err(Error::new(
                Kind::ResourceExhausted,
                format!("ttrpc message of {} bytes is over the limit of {MESSAGE_LENGTH_MAX}", body.len()),
            ));
        }
        let mut frame: Vec<u8> = header.into();
        frame.extend_from_slice(body);
        let mut out = lock(&self.out);
        if out.closed {
            return Err(Error::new(Kind::Unavailable, "ttrpc connection is closed"));
        }
        if out.bytes.len() + frame.len() > OUTBOX_MAX {
            return Err(Error::new(Kind::Unavailable, "ttrpc peer does not read its socket"));
        }
        out.bytes.extend_from_slice(&frame);
        if out.bytes.len() > frame.len() {
            return Ok(());
        }
        self.write_out(&mut out)?;
        if !out.bytes.is_empty() {
            self.wake.wake();
        }
        Ok(())
    }
    /// Whether bytes wait for the socket to become writable.
    pub(super) fn pending(&self) -> bool {
        !lock(&self.out).bytes.is_empty()
    }
    /// Writes what waits; called when the socket is writable.
    pub(super) fn flush(&self) -> Result<()> {
        self.write_out(&mut lock(&self.out))
    }
    /// No more sends; wakes the peer's reader.
    pub(super) fn close(&self) {
        let mut out = lock(&self.out);
        out.closed = true;
        out.bytes = Vec::new();
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
    fn write_out(&self, out: &mut Outbox) -> Result<()> {
        let mut sent = 0;
        while sent < out.bytes.len() {
            match (&self.stream).write(&out.bytes[sent..]) {
                Ok(n) => sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => {
                    out.closed = true;
                    out.bytes = Vec::new();
                    return Err(Error::new(Kind::Unavailable, "write to ttrpc peer").because(e));
                }
            }
        }
        out.bytes.drain(..sent);
        if out.bytes.is_empty() && out.bytes.capacity() > 64 << 10 {
            out.bytes = Vec::new();
        }
        Ok(())
    }
}

/// The receiving half, owned by the loop.
#[derive(Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
}

/// What a read found.
#[derive(PartialEq, Eq)]
pub(super) enum Peer {
    Open,
    Gone,
}

impl Inbox {
    /// Reads what is there and hands over each complete frame. A peer that breaks the protocol is as good as gone.
    pub(super) fn receive(&mut self, wire: &Wire, mut frame: impl FnMut(MessageHeader, &[u8])) -> Peer {
        let mut buffer = [0u8; 4096];
        let peer = loop {
            match (&wire.stream).read(&mut buffer) {
                Ok(0) => break Peer::Gone,
                Ok(n) => {
                    self.bytes.extend_from_slice(&buffer[..n]);
                    if n < buffer.len() {
                        break Peer::Open;
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break Peer::Open,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => break Peer::Gone,
            }
        };
        let mut at = 0;
        while self.bytes.len() - at >= MESSAGE_HEADER_LENGTH {
            let header = MessageHeader::from(&self.bytes[at..at + MESSAGE_HEADER_LENGTH]);
            let length = header.length as usize;
            if length > MESSAGE_LENGTH_MAX {
                return Peer::Gone;
            }
            let end = at + MESSAGE_HEADER_LENGTH + length;
            if self.bytes.len() < end {
                break;
            }
            frame(header, &self.bytes[at + MESSAGE_HEADER_LENGTH..end]);
            at = end;
        }
        self.bytes.drain(..at);
        if self.bytes.is_empty() && self.bytes.capacity() > 16 << 10 {
            self.bytes = Vec::new();
        }
        peer
    }
}
