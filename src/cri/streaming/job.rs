//! Jobs: what may block is done in the pool; its outcome comes back to the loop as a note.
use crate::core::runtime::Exit;
use crate::cri::Cri;
use crate::cri::streaming::exec::Io;
use crate::error::Result;
use crate::thread::Pool;
use crossbeam_channel::Sender;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What a job has come to.
pub enum News {
    /// The process' streams are there, or why not.
    Ready(Box<Result<Io>>),
    /// The process has ended.
    Exited(Exit),
    /// The terminal has the size that was asked for, or not.
    Resized,
    /// A port was dialled.
    Dialled {
        /// For which pair of streams.
        pair: u32,
        /// The socket.
        socket: Result<OwnedFd>,
    },
}

/// For one connection.
pub struct Note {
    /// Which.
    pub connection: u64,
    /// What.
    pub news: News,
}

/// A connection's way to the pool and back.
#[derive(Clone)]
pub struct Link {
    /// CRI.
    pub cri: Arc<Cri>,
    /// Runs what may block.
    pub pool: Pool,
    /// The connection.
    pub connection: u64,
    /// The loop's inbox.
    pub notes: Sender<Note>,
    /// Wakes the loop.
    pub wake: Arc<OwnedFd>,
}

impl Link {
    /// Tells the loop. A connection that is gone by then drops the news, and with it what it holds.
    pub fn tell(&self, news: News) {
        let _ = self.notes.send(Note { connection: self.connection, news });
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }
    /// Runs what may block.
    pub fn run(&self, job: impl FnOnce(&Link) + Send + 'static) {
        let link = self.clone();
        self.pool.run(move || job(&link));
    }
}
