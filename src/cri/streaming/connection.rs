//! Connection: one client from its first byte to its last: TLS, the request's head, the session, a close that loses nothing.
use super::forward::Forwarding;
use super::http::{Head, Refusal, Service, Speech};
use super::job::{Link, News};
use super::poll::{Poll, Want, Watched};
use super::remote::{CHANNELS, Remote, Target};
use super::spdy::Spdy;
use super::tls::{Moved, Socket};
use super::websocket::{Channels, Tunnel};
use super::wire::{Event, Wire};
use super::{Front, Request};
use crate::error::Result;
use log::debug;
use std::time::{Duration, Instant};

/// How long a client may take for TLS and its request.
const HEAD: Duration = Duration::from_secs(30);
/// How long a client may take for each piece of what is left at the end.
const LAST_WORDS: Duration = Duration::from_secs(60);
/// How long a client is listened to after our last word: closing at once would tear it away from one that still sends.
const LINGER: Duration = Duration::from_secs(2);

/// What is behind the streams.
pub trait Session: Send {
    /// The client did something.
    fn event(&mut self, event: Event, wire: &mut dyn Wire);
    /// The pool did something.
    fn news(&mut self, news: News, wire: &mut dyn Wire);
    /// Moves what can be moved.
    fn turn(&mut self, wire: &mut dyn Wire, buffer: &mut [u8]) -> Progress;
    /// Whether no more should be read from the client.
    fn full(&self) -> bool;
    /// When it wants a turn even if nothing comes.
    fn due(&self) -> Option<Instant>;
    /// Sets what is waited for.
    fn watch(&mut self, poll: &Poll, key: u64) -> Result<()>;
}

/// Whether a session goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It does.
    Open,
    /// The client may go.
    Finished,
}

/// Whether a connection goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It waits.
    Open,
    /// It wants another turn right away.
    Again,
    /// It is over.
    Over,
}

enum Stage {
    Head { bytes: Vec<u8>, until: Instant },
    Live { wire: Box<dyn Wire>, session: Box<dyn Session> },
    Closing { rest: Vec<u8>, until: Instant },
    Lingering { until: Instant },
}

/// What TLS waits for, beside what we want.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    Write,
}

/// One client.
pub struct Connection {
    link: Link,
    socket: Watched<Socket>,
    stage: Stage,
    need: Need,
    idle: Option<Duration>,
    /// When bytes moved last.
    moved: Instant,
}

impl Connection {
    /// A client that has just come.
    pub fn new(link: Link, socket: Socket, idle: Option<Duration>) -> Connection {
        let now = Instant::now();
        let stage = Stage::Head { bytes: vec![], until: now + HEAD };
        Connection { link, socket: Watched::new(socket), stage, need: Need::Nothing, idle, moved: now }
    }
    /// When it wants a turn even if nothing comes.
    pub fn due(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Head { until, .. } | Stage::Closing { until, .. } | Stage::Lingering { until } => Some(*until),
            Stage::Live { session, .. } => {
                let idle = self.idle.map(|idle| self.moved + idle);
                session.due().into_iter().chain(idle).min()
            }
        }
    }
    /// The pool did something.
    pub fn news(&mut self, news: News) {
        if let Stage::Live { wire, session } = &mut self.stage {
            session.news(news, wire.as_mut());
        }
    }
    /// Moves what can be moved. `hung` says that the client has closed its side.
    pub fn turn(&mut self, front: &Front, buffer: &mut [u8], hung: bool) -> Fate {
        self.need = Need::Nothing;
        match self.socket.fd.greet() {
            None => {}
            Some(Moved::Gone) => return Fate::Over,
            Some(wants) => return self.greeting(&wants),
        }
        match &mut self.stage {
            Stage::Head { .. } => self.head(front, buffer),
            Stage::Live { .. } => self.live(buffer, hung),
            Stage::Closing { .. } => self.closing(),
            Stage::Lingering { .. } => self.lingering(buffer),
        }
    }
    fn greeting(&mut self, wants: &Moved) -> Fate {
        if matches!(wants, Moved::WantWrite) {
            self.need = Need::Write;
        }
        if self.due().is_some_and(|at| at <= Instant::now()) { Fate::Over } else { Fate::Open }
    }
    fn head(&mut self, front: &Front, buffer: &mut [u8]) -> Fate {
        let Stage::Head { bytes, until } = &mut self.stage else { return Fate::Over };
        match self.socket.fd.read(buffer) {
            Moved::Bytes(n) => bytes.extend(&buffer[..n]),
            Moved::Gone => return Fate::Over,
            Moved::WantRead | Moved::WantWrite if *until <= Instant::now() => return Fate::Over,
            Moved::WantRead | Moved::WantWrite => return Fate::Open,
        }
        self.moved = Instant::now();
        let parsed = match Head::parse(bytes) {
            Ok(None) => return Fate::Again,
            Ok(Some((head, len))) => Ok((head, bytes.split_off(len))),
            Err(refusal) => Err(refusal),
        };
        match parsed.and_then(|(head, rest)| Ok((self.begin(&head, front)?, rest))) {
            Ok(((mut wire, mut session, answer), rest)) => {
                // The answer goes first: nothing of the wire's may overtake it.
                wire.output().splice(0..0, answer);
                let fate = receive(wire.as_mut(), session.as_mut(), &rest);
                self.stage = Stage::Live { wire, session };
                if fate == Fate::Over { self.close() } else { Fate::Again }
            }
            Err(refusal) => {
                debug!("a stream's client was refused: {refusal:?}");
                self.stage = Stage::Closing { rest: refusal.bytes(), until: Instant::now() + LAST_WORDS };
                Fate::Again
            }
        }
    }
    /// The token's request in the protocol that is agreed on; with it, the answer.
    #[expect(clippy::type_complexity, reason = "its parts go different ways at once")]
    fn begin(&self, head: &Head, front: &Front) -> Result<(Box<dyn Wire>, Box<dyn Session>, Vec<u8>), Refusal> {
        // The token is used up whatever comes now, and a wrong protocol is no way to try tokens.
        let request = front.tokens.take(&head.token).filter(|r| r.service() == head.service);
        let request = request.ok_or_else(|| Refusal::new("404 Not Found", "404 page not found"))?;
        let (speech, answer) = head.upgrade()?;
        let forward = head.service == Service::Forward;
        let ports = match &request {
            Request::Forward(f) => 2 * f.ports.len() as u32,
            _ => CHANNELS,
        };
        let mut wire: Box<dyn Wire> = match speech {
            Speech::Spdy(_) => Box::new(Spdy::new()),
            Speech::Channels(version, codec) => Box::new(Channels::new(version, codec, ports)),
            Speech::Tunnel => Box::new(Tunnel::new()),
        };
        if forward && ports == 0 && matches!(speech, Speech::Channels(..)) {
            return Err(Refusal::new("400 Bad Request", "port: the request names no port, and this protocol cannot name one later"));
        }
        let link = self.link.clone();
        let target = match request {
            Request::Exec(exec) => Target::Exec(exec),
            Request::Attach(attach) => Target::Attach(attach),
            Request::Forward(request) => {
                let session = match speech {
                    Speech::Channels(..) => Forwarding::channels(link, &request, wire.as_mut()),
                    Speech::Spdy(_) | Speech::Tunnel => Forwarding::spdy(link, &request),
                };
                return Ok((wire, Box::new(session), answer));
            }
        };
        let session = match speech {
            Speech::Channels(version, _) => Remote::channels(link, target, version, wire.as_mut()),
            Speech::Spdy(version) => Remote::spdy(link, target, version),
            Speech::Tunnel => return Err(Refusal::new("403 Forbidden", "tunnels are for port forwarding")),
        };
        Ok((wire, Box::new(session), answer))
    }
    fn live(&mut self, buffer: &mut [u8], hung: bool) -> Fate {
        let Stage::Live { wire, session } = &mut self.stage else { return Fate::Over };
        let mut moved = false;
        if !session.full() {
            match self.socket.fd.read(buffer) {
                Moved::Bytes(n) => {
                    moved = true;
                    if receive(wire.as_mut(), session.as_mut(), &buffer[..n]) == Fate::Over {
                        return self.close();
                    }
                }
                Moved::Gone => return Fate::Over,
                Moved::WantWrite => self.need = Need::Write,
                Moved::WantRead => {}
            }
        } else if hung {
            // Nobody is left to send to, and what waits for the process would wait for ever.
            return Fate::Over;
        }
        let progress = session.turn(wire.as_mut(), buffer);
        match write_out(&mut self.socket.fd, wire.output()) {
            Written::Gone => return Fate::Over,
            Written::Some => moved = true,
            Written::Nothing => {}
        }
        if progress == Progress::Finished {
            return self.close();
        }
        let now = Instant::now();
        if moved {
            self.moved = now;
        } else if self.idle.is_some_and(|idle| self.moved + idle <= now) {
            debug!("a stream was idle for too long");
            return self.close();
        }
        let Stage::Live { session, .. } = &self.stage else { return Fate::Over };
        if self.socket.fd.holds_bytes() && !session.full() { Fate::Again } else { Fate::Open }
    }
    /// The session is over, and with it everything behind it; its last bytes are not.
    fn close(&mut self) -> Fate {
        if let Stage::Live { wire, .. } = &mut self.stage {
            wire.leave();
            let rest = std::mem::take(wire.output());
            self.stage = Stage::Closing { rest, until: Instant::now() + LAST_WORDS };
        }
        Fate::Again
    }
    fn closing(&mut self) -> Fate {
        let Stage::Closing { rest, until } = &mut self.stage else { return Fate::Over };
        let now = Instant::now();
        match write_out(&mut self.socket.fd, rest) {
            Written::Gone => return Fate::Over,
            Written::Some => *until = now + LAST_WORDS,
            Written::Nothing if *until <= now => return Fate::Over,
            Written::Nothing => {}
        }
        if !rest.is_empty() {
            return Fate::Open;
        }
        self.socket.fd.shutdown();
        self.stage = Stage::Lingering { until: now + LINGER };
        Fate::Again
    }
    fn lingering(&mut self, buffer: &mut [u8]) -> Fate {
        let Stage::Lingering { until } = self.stage else { return Fate::Over };
        match self.socket.fd.read(buffer) {
            _ if until <= Instant::now() => Fate::Over,
            Moved::Bytes(_) => Fate::Again,
            Moved::Gone => Fate::Over,
            Moved::WantRead | Moved::WantWrite => Fate::Open,
        }
    }
    /// Sets what is waited for: `key` for the socket, the next one for all else.
    pub fn watch(&mut self, poll: &Poll, key: u64) -> Result<()> {
        let mut want = match &mut self.stage {
            Stage::Head { .. } | Stage::Lingering { .. } => Want::IN,
            Stage::Closing { .. } => Want::OUT,
            Stage::Live { wire, session } => {
                session.watch(poll, key + 1)?;
                let out = if wire.output().is_empty() { Want::empty() } else { Want::OUT };
                // A client that is not read from is noticed all the same when it goes.
                out | if session.full() { Want::RDHUP } else { Want::IN }
            }
        };
        if self.need == Need::Write {
            want |= Want::OUT;
        }
        self.socket.want(poll, key, Some(want))
    }
}

/// Takes bytes apart and hands on what they mean.
fn receive(wire: &mut dyn Wire, session: &mut dyn Session, bytes: &[u8]) -> Fate {
    let mut events = vec![];
    let done = wire.receive(bytes, &mut events);
    for event in events {
        if event == Event::Left {
            return Fate::Over;
        }
        session.event(event, wire);
    }
    match done {
        Ok(()) => Fate::Open,
        Err(violation) => {
            debug!("a stream's client broke its protocol: {violation}");
            Fate::Over
        }
    }
}

enum Written {
    Nothing,
    Some,
    Gone,
}

/// Writes what the socket takes.
fn write_out(socket: &mut Socket, bytes: &mut Vec<u8>) -> Written {
    let mut sent = 0;
    while sent < bytes.len() {
        match socket.write(&bytes[sent..]) {
            Moved::Bytes(n) => sent += n,
            Moved::Gone => return Written::Gone,
            Moved::WantRead | Moved::WantWrite => break,
        }
    }
    bytes.drain(..sent);
    if bytes.is_empty() && bytes.capacity() > 4096 {
        *bytes = vec![];
    }
    if sent > 0 { Written::Some } else { Written::Nothing }
}
