//! A bounded pipe between a download and its unpacking: both run at once, and neither gets far ahead of the other.
use crossbeam_channel::{Receiver, Sender, bounded};
use std::io::{self, Read};

/// Pieces under way; with the download's 128 KiB pieces this is 1 MiB a layer at most.
const PIECES: usize = 8;

/// The writing end.
pub struct Feed(Sender<Piece>);

/// The reading end; the stream ends only where [`Feed::finish`] said so.
pub struct Drain {
    pieces: Receiver<Piece>,
    current: Vec<u8>,
    read: usize,
    finished: bool,
}

enum Piece {
    Bytes(Vec<u8>),
    End,
}

/// A new pipe.
pub fn pipe() -> (Feed, Drain) {
    let (to, from) = bounded(PIECES);
    (Feed(to), Drain { pieces: from, current: vec![], read: 0, finished: false })
}

impl Feed {
    /// Hands bytes over; `false` when nobody reads any more.
    pub fn send(&self, bytes: Vec<u8>) -> bool {
        self.0.send(Piece::Bytes(bytes)).is_ok()
    }
    /// All bytes were sent. Without it the reader sees a broken stream.
    pub fn finish(self) {
        let _ = self.0.send(Piece::End);
    }
}

impl Read for Drain {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.read == self.current.len() {
            if self.finished || into.is_empty() {
                return Ok(0);
            }
            match self.pieces.recv() {
                Ok(Piece::Bytes(bytes)) => (self.current, self.read) = (bytes, 0),
                Ok(Piece::End) => self.finished = true,
                Err(_) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the download ended early")),
            }
        }
        let n = into.len().min(self.current.len() - self.read);
        into[..n].copy_from_slice(&self.current[self.read..self.read + n]);
        self.read += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_ends_only_where_the_writer_says() {
        let (feed, mut drain) = pipe();
        assert!(feed.send(vec![1, 2, 3]));
        feed.finish();
        let mut all = vec![];
        drain.read_to_end(&mut all).unwrap();
        assert_eq!(all, [1, 2, 3]);
        let (feed, mut drain) = pipe();
        feed.send(vec![1]);
        drop(feed);
        assert!(drain.read_to_end(&mut vec![]).is_err());
        let (feed, drain) = pipe();
        drop(drain);
        assert!(!feed.send(vec![1]));
    }
}
