//! Wire: what the protocols have in common, numbered streams of bytes in one connection. No wire does any I/O: bytes from the
//! client go in by [`Wire::receive`], bytes for it are taken from [`Wire::output`].
use std::fmt;

/// Headers of a stream; names are in lower case.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The first value of a header, whatever its case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// What the client did.
#[derive(PartialEq, Eq, Debug)]
pub enum Event {
    /// It opens a stream; [`Wire::accept`] or [`Wire::refuse`] answers.
    Opened {
        /// Which.
        stream: u32,
        /// What for.
        headers: Headers,
    },
    /// It sends.
    Data {
        /// Where.
        stream: u32,
        /// What.
        bytes: Vec<u8>,
    },
    /// It will send no more there.
    Ended {
        /// Where.
        stream: u32,
    },
    /// It gives a stream up, in both directions.
    Reset {
        /// Which.
        stream: u32,
    },
    /// It takes its leave.
    Left,
}

/// The client broke the protocol: the connection ends.
#[derive(PartialEq, Eq, Debug)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One connection's protocol.
pub trait Wire: Send {
    /// Takes bytes from the client and adds what they mean to `events`.
    fn receive(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), Violation>;
    /// Takes an opened stream.
    fn accept(&mut self, stream: u32);
    /// Does not.
    fn refuse(&mut self, stream: u32);
    /// How many bytes the client takes now on a stream.
    fn room(&self, stream: u32) -> usize;
    /// Sends on a stream, within its room.
    fn send(&mut self, stream: u32, bytes: &[u8]);
    /// Says that nothing more comes on a stream.
    fn end(&mut self, stream: u32);
    /// Gives a stream up, in both directions.
    fn reset(&mut self, stream: u32);
    /// Received bytes have found their way: the client may send as many again.
    fn consumed(&mut self, stream: u32, bytes: usize);
    /// No further stream will be accepted: what only served to open some is let go.
    fn settled(&mut self) {}
    /// Takes leave.
    fn leave(&mut self);
    /// Bytes for the client; the caller takes them away.
    fn output(&mut self) -> &mut Vec<u8>;
}
