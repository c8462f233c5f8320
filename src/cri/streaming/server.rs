//! Server: the loop of thread `stream-loop`, which owns all connections.
use super::Front;
use super::connection::{Connection, Fate};
use super::job::{Link, Note};
use super::poll::{Poll, Want};
use super::tls::Socket;
use crate::cri::Cri;
use crate::error::{Context, Error, Result};
use crate::thread::{Pool, Stop};
use crossbeam_channel::{Receiver, Sender, unbounded};
use log::{debug, warn};
use openssl::ssl::SslAcceptor;
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::sockopt;
use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most connections at a time; further ones wait in the kernel.
const CONNECTIONS_MAX: usize = 4096;
/// Most jobs at a time: starts, ends and resizes of commands, and calls to ports. A shim that hangs holds up to a minute.
const JOBS: usize = 64;
/// Most that are accepted in one go.
const ACCEPTS: usize = 64;
/// How long no client is let in after an accept that failed, for lack of descriptors most likely.
const PAUSE: Duration = Duration::from_millis(200);
/// Bytes that one read moves.
const BUFFER: usize = 16 << 10;
/// After this much silence a client's host is asked whether it is still there, this often.
const KEEPALIVE: (Duration, u32) = (Duration::from_secs(15), 9);

const STOP: u64 = 0;
const WAKE: u64 = 1;
const LISTENER: u64 = 2;
/// A connection has two keys: for its socket an even one, for all behind it the next.
const FIRST: u64 = 4;

/// What listens.
pub struct Server {
    listener: TcpListener,
    acceptor: Option<SslAcceptor>,
    idle: Option<Duration>,
    notes: (Sender<Note>, Receiver<Note>),
    wake: Arc<OwnedFd>,
    pool: Pool,
}

/// What the loop holds.
struct Loop {
    server: Server,
    cri: Arc<Cri>,
    front: Arc<Front>,
    poll: Poll,
    connections: HashMap<u64, Connection>,
    next: u64,
    /// When clients are let in again; None: they are.
    closed_until: Option<Instant>,
    buffer: Vec<u8>,
}

impl Server {
    /// On a listener that does not block.
    pub fn new(listener: TcpListener, acceptor: Option<SslAcceptor>, idle: Option<Duration>) -> Result<Server> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).during(|| "create a wake eventfd")?;
        Ok(Server { listener, acceptor, idle, notes: unbounded(), wake: Arc::new(wake), pool: Pool::new("stream-job", JOBS)? })
    }
    /// Serves until told to stop.
    pub fn run(self, cri: Arc<Cri>, front: Arc<Front>, stop: &Stop) {
        if let Err(e) = self.serve(cri, front, stop) {
            log::error!("streams (exec, attach, port-forward) are down until a restart: {}", e.chain());
        }
    }
    fn serve(self, cri: Arc<Cri>, front: Arc<Front>, stop: &Stop) -> Result<()> {
        let poll = Poll::new()?;
        let stop_fd = stop.fd().try_clone_to_owned().during(|| "copy the stop eventfd")?;
        let mut stop_fd = super::poll::Watched::new(stop_fd);
        let mut wake = super::poll::Watched::new(self.wake.clone());
        let listener = self.listener.try_clone().during(|| "copy the listener of streams")?;
        let mut listener = super::poll::Watched::new(listener);
        stop_fd.want(&poll, STOP, Some(Want::IN))?;
        wake.want(&poll, WAKE, Some(Want::IN))?;
        let connections = HashMap::new();
        let mut own = Loop { server: self, cri, front, poll, connections, next: FIRST, closed_until: None, buffer: vec![0; BUFFER] };
        let mut again = HashSet::new();
        while !stop.stopped() {
            let open = own.closed_until.is_none() && own.connections.len() < CONNECTIONS_MAX;
            listener.want(&own.poll, LISTENER, open.then_some(Want::IN))?;
            let limit = if again.is_empty() { own.limit() } else { Some(Duration::ZERO) };
            let ready = own.poll.wait(limit);
            again = own.round(ready, again);
        }
        let pool = own.server.pool.clone();
        drop(own);
        pool.close();
        Ok(())
    }
}

impl Loop {
    /// How long the loop may sleep.
    fn limit(&self) -> Option<Duration> {
        let due = self.connections.values().filter_map(Connection::due).chain(self.closed_until).min()?;
        // Rounded up: a sleep that ends a moment too early would be followed by a spin.
        Some(due.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
    }
    /// One turn for each connection that is ready, has news, is due or asked for it; those that ask again.
    fn round(&mut self, ready: Vec<(u64, bool)>, mut turns: HashSet<u64>) -> HashSet<u64> {
        let mut hung = HashSet::new();
        for (key, hangs) in ready {
            match key {
                STOP => {}
                WAKE => turns.extend(self.take_notes()),
                LISTENER => turns.extend(self.accept()),
                key => {
                    turns.insert(key & !1);
                    if hangs && key % 2 == 0 {
                        hung.insert(key);
                    }
                }
            }
        }
        let now = Instant::now();
        if self.closed_until.is_some_and(|at| at <= now) {
            self.closed_until = None;
        }
        turns.extend(self.connections.iter().filter(|(_, c)| c.due().is_some_and(|at| at <= now)).map(|(id, _)| *id));
        turns.into_iter().filter(|id| self.turn(*id, hung.contains(id)) == Fate::Again).collect()
    }
    fn turn(&mut self, id: u64, hung: bool) -> Fate {
        let Some(connection) = self.connections.get_mut(&id) else { return Fate::Over };
        let mut fate = connection.turn(&self.front, &mut self.buffer, hung);
        if let Err(e) = connection.watch(&self.poll, id) {
            warn!("a stream is given up: {}", e.chain());
            fate = Fate::Over;
        }
        if fate == Fate::Over {
            self.connections.remove(&id);
        }
        fate
    }
    fn take_notes(&mut self) -> Vec<u64> {
        let _ = rustix::io::read(&*self.server.wake, &mut [0u8; 8]);
        let mut told = vec![];
        for Note { connection, news } in self.server.notes.1.try_iter() {
            if let Some(c) = self.connections.get_mut(&connection) {
                c.news(news);
                told.push(connection);
            }
        }
        told
    }
    fn accept(&mut self) -> Vec<u64> {
        let mut came = vec![];
        for _ in 0..ACCEPTS {
            if self.connections.len() >= CONNECTIONS_MAX {
                break;
            }
            match self.server.listener.accept() {
                Ok((stream, peer)) => match self.admit(stream) {
                    Ok(id) => came.push(id),
                    Err(e) => debug!("a stream's client at {peer} was not let in: {}", e.chain()),
                },
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(e) => {
                    warn!("accept a stream's client: {e}; trying again");
                    self.closed_until = Some(Instant::now() + PAUSE);
                    break;
                }
            }
        }
        came
    }
    fn admit(&mut self, stream: TcpStream) -> Result<u64> {
        let what = || "prepare a stream's socket";
        stream.set_nonblocking(true).during(what)?;
        stream.set_nodelay(true).during(what)?;
        let alive = sockopt::set_socket_keepalive(&stream, true)
            .and_then(|()| sockopt::set_tcp_keepidle(&stream, KEEPALIVE.0))
            .and_then(|()| sockopt::set_tcp_keepintvl(&stream, KEEPALIVE.0))
            .and_then(|()| sockopt::set_tcp_keepcnt(&stream, KEEPALIVE.1));
        alive.map_err(|e| Error::internal(what()).because(e))?;
        let socket = Socket::new(stream, self.server.acceptor.as_ref())?;
        let id = self.next;
        self.next += 2;
        let (notes, wake) = (self.server.notes.0.clone(), self.server.wake.clone());
        let link = Link { cri: self.cri.clone(), pool: self.server.pool.clone(), connection: id, notes, wake };
        self.connections.insert(id, Connection::new(link, socket, self.server.idle));
        Ok(id)
    }
}
