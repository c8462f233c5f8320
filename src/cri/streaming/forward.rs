//! Forward: a client's streams connected to ports of a pod, each pair of a data and an error stream to one connection.
use super::Forward;
use super::connection::{Progress, Session};
use super::job::{Link, News};
use super::pipes::{Inlet, Outlet, Pumped};
use super::poll::Poll;
use super::remote::CREATION;
use super::wire::{Event, Headers, Wire};
use crate::cri::store::sandbox::State;
use crate::error::{Context, Error, Result};
use crate::sys::netns;
use log::debug;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Once one side has nothing more to say, the other is listened to until it is silent for so long.
const GRACE: Duration = Duration::from_secs(1);
/// Most pairs of one client.
const PAIRS_MAX: usize = 256;

/// The session.
pub struct Forwarding {
    link: Link,
    sandbox: String,
    pairs: BTreeMap<u32, Pair>,
    next: u32,
    kind: Kind,
}

/// Who names the ports.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The client, as long as it stays.
    Streams,
    /// The request did; the client goes with the last of them.
    Channels,
}

struct Pair {
    /// What the client calls it.
    request: String,
    port: u16,
    data: Option<u32>,
    error: Option<u32>,
    inlet: Inlet,
    stage: Stage,
}

enum Stage {
    /// One of the two streams has not come.
    Half {
        until: Instant,
    },
    Dialling,
    Open {
        outlet: Outlet,
        /// When one side was done, or bytes moved after that.
        ending: Option<Instant>,
    },
    Closed,
}

impl Forwarding {
    /// For a client that opens streams for each connection.
    pub fn spdy(link: Link, request: &Forward) -> Forwarding {
        Forwarding { link, sandbox: request.sandbox.clone(), pairs: BTreeMap::new(), next: 0, kind: Kind::Streams }
    }
    /// For a client with a pair of channels for each port of the request; each channel begins with its port.
    pub fn channels(link: Link, request: &Forward, wire: &mut dyn Wire) -> Forwarding {
        let mut forwarding = Forwarding::spdy(link, request);
        forwarding.kind = Kind::Channels;
        for (data, port) in (0..).step_by(2).zip(&request.ports) {
            let error = data + 1;
            for stream in [data, error] {
                wire.send(stream, &port.to_le_bytes());
            }
            let id = forwarding.pair(data.to_string(), *port);
            if let Some(pair) = forwarding.pairs.get_mut(&id) {
                (pair.data, pair.error) = (Some(data), Some(error));
            }
            forwarding.dial(id);
        }
        forwarding
    }
    fn pair(&mut self, request: String, port: u16) -> u32 {
        let id = self.next;
        self.next += 1;
        let stage = Stage::Half { until: Instant::now() + CREATION };
        self.pairs.insert(id, Pair { request, port, data: None, error: None, inlet: Inlet::new(), stage });
        id
    }
    fn opened(&mut self, stream: u32, headers: &Headers, wire: &mut dyn Wire) {
        match self.place(stream, headers) {
            Ok(id) => {
                wire.accept(stream);
                if self.pairs.get(&id).is_some_and(|p| p.data.is_some() && p.error.is_some()) {
                    self.dial(id);
                }
            }
            Err(e) => {
                debug!("port forwarding to pod {}: {e}", self.sandbox);
                wire.refuse(stream);
            }
        }
    }
    /// Finds a stream's pair, or begins one.
    fn place(&mut self, stream: u32, headers: &Headers) -> Result<u32, String> {
        let text = headers.get("port").unwrap_or_default();
        let port = text.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(|| format!("port \"{text}\": must be 1 to 65535"))?;
        let kind = headers.get("streamType").unwrap_or_default();
        if kind != "data" && kind != "error" {
            return Err(format!("streamType \"{kind}\": must be data or error"));
        }
        // Old clients give no request ID, but open a data stream right after its error stream.
        let own = if kind == "error" { stream } else { stream.wrapping_sub(2) };
        let request = headers.get("requestID").map_or_else(|| own.to_string(), str::to_owned);
        let half = |p: &Pair| p.request == request && matches!(p.stage, Stage::Half { .. });
        let id = match self.pairs.iter().find(|(_, p)| half(p)) {
            Some((id, _)) => *id,
            None if self.pairs.len() >= PAIRS_MAX => return Err(format!("more than {PAIRS_MAX} connections at a time")),
            None => self.pair(request, port),
        };
        let Some(pair) = self.pairs.get_mut(&id) else { return Err("no such pair".into()) };
        let role = if kind == "error" { &mut pair.error } else { &mut pair.data };
        if role.is_some() {
            return Err(format!("request \"{}\" has its {kind} stream already", pair.request));
        }
        *role = Some(stream);
        if kind == "data" {
            pair.port = port;
        }
        Ok(id)
    }
    fn dial(&mut self, id: u32) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        pair.stage = Stage::Dialling;
        let (sandbox, port) = (self.sandbox.clone(), pair.port);
        self.link.run(move |link| link.tell(News::Dialled { pair: id, socket: dial(link, &sandbox, port) }));
    }
    fn dialled(&mut self, id: u32, socket: Result<OwnedFd>, wire: &mut dyn Wire) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        let copied = socket.and_then(|s| Ok((s.try_clone().during(|| "copy a pod's socket")?, s)));
        match (copied, pair.data) {
            (Ok((input, output)), Some(data)) => {
                pair.inlet.connect(input);
                pair.stage = Stage::Open { outlet: Outlet::new(output, Some(data)), ending: None };
            }
            (Ok(_), None) => pair.stage = Stage::Closed,
            (Err(e), _) => pair.fail(&e, &self.sandbox, wire),
        }
    }
    fn of_stream(&mut self, stream: u32) -> Option<&mut Pair> {
        self.pairs.values_mut().find(|p| p.data == Some(stream) || p.error == Some(stream))
    }
}

/// Connects to a port of a pod, in its network.
fn dial(link: &Link, sandbox: &str, port: u16) -> Result<OwnedFd> {
    let pod = link.cri.sandboxes.by_id.get(sandbox)?;
    if !matches!(pod.state, State::Ready { .. }) {
        return Err(Error::precondition(format!("sandbox \"{}\" is not ready", pod.id)));
    }
    netns::dial(pod.record.pins.net.as_deref(), port)
}

impl Pair {
    fn fail(&mut self, error: &Error, sandbox: &str, wire: &mut dyn Wire) {
        let text = format!("error forwarding port {} to pod {sandbox}: {}", self.port, error.chain());
        debug!("{text}");
        if let Some(stream) = self.error {
            wire.send(stream, text.as_bytes());
            wire.end(stream);
        }
        if let Some(stream) = self.data {
            wire.reset(stream);
        }
        self.closed();
    }
    fn closed(&mut self) {
        self.inlet.close();
        self.stage = Stage::Closed;
    }
    /// Both sides are done, or one is and the other is silent.
    fn finish(&mut self, wire: &mut dyn Wire) {
        for stream in [self.data, self.error].into_iter().flatten() {
            wire.end(stream);
        }
        self.closed();
    }
    fn turn(&mut self, wire: &mut dyn Wire, buffer: &mut [u8]) {
        let now = Instant::now();
        let Stage::Open { outlet, ending } = &mut self.stage else { return };
        let flushed = self.inlet.flush();
        let mut moved = flushed.bytes > 0;
        if let (Some(data), true) = (self.data, moved) {
            wire.consumed(data, flushed.bytes);
        }
        if flushed.finished && !self.inlet.useless() {
            // The pod's end sees our end; what it still has to say comes.
            let _ = self.inlet.end_socket();
            *ending = ending.or(Some(now));
        }
        match outlet.pump(wire, buffer) {
            Pumped::Nothing => moved |= outlet.held(),
            Pumped::Some => moved = true,
            Pumped::End => {
                self.data.into_iter().for_each(|data| wire.end(data));
                *ending = ending.or(Some(now));
            }
        }
        if moved && ending.is_some() {
            *ending = Some(now);
        }
        let over = outlet.ended() && self.inlet.useless();
        if over || ending.is_some_and(|since| since + GRACE <= now) {
            self.finish(wire);
        }
    }
    fn due(&self) -> Option<Instant> {
        match self.stage {
            Stage::Half { until } => Some(until),
            Stage::Open { ending, .. } => ending.map(|since| since + GRACE),
            Stage::Dialling | Stage::Closed => None,
        }
    }
}

impl Session for Forwarding {
    fn event(&mut self, event: Event, wire: &mut dyn Wire) {
        match event {
            Event::Opened { stream, headers } => self.opened(stream, &headers, wire),
            Event::Data { stream, bytes } => match self.of_stream(stream) {
                Some(pair) if pair.data == Some(stream) && !pair.inlet.useless() => pair.inlet.put(&bytes),
                _ => wire.consumed(stream, bytes.len()),
            },
            Event::Ended { stream } => {
                if let Some(pair) = self.of_stream(stream).filter(|p| p.data == Some(stream)) {
                    pair.inlet.end();
                }
            }
            Event::Reset { stream } => {
                if let Some(pair) = self.of_stream(stream).filter(|p| p.data == Some(stream)) {
                    pair.finish(wire);
                }
            }
            Event::Left => {}
        }
    }
    fn news(&mut self, news: News, wire: &mut dyn Wire) {
        if let News::Dialled { pair, socket } = news {
            self.dialled(pair, socket, wire);
        }
    }
    fn turn(&mut self, wire: &mut dyn Wire, buffer: &mut [u8]) -> Progress {
        let now = Instant::now();
        for pair in self.pairs.values_mut() {
            if matches!(pair.stage, Stage::Half { until } if until <= now) {
                let late = Error::precondition(format!("the second stream did not come within {} s", CREATION.as_secs()));
                pair.fail(&late, &self.sandbox, wire);
            }
            pair.turn(wire, buffer);
        }
        self.pairs.retain(|_, p| !matches!(p.stage, Stage::Closed));
        if self.kind == Kind::Channels && self.pairs.is_empty() { Progress::Finished } else { Progress::Open }
    }
    fn full(&self) -> bool {
        self.pairs.values().any(|p| p.inlet.full())
    }
    fn due(&self) -> Option<Instant> {
        self.pairs.values().filter_map(Pair::due).min()
    }
    fn watch(&mut self, poll: &Poll, key: u64) -> Result<()> {
        for pair in self.pairs.values_mut() {
            pair.inlet.watch(poll, key)?;
            if let Stage::Open { outlet, .. } = &mut pair.stage {
                outlet.watch(poll, key)?;
            }
        }
        Ok(())
    }
}
