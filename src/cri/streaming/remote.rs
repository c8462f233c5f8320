//! Remote: a client's session with a command or a container: its streams, sizes of its terminal, its end.
//!
//! ```text
//! Gathering (SPDY clients open their streams) -> Starting (in the pool) -> Running -> Finished
//! ```
use super::connection::{Progress, Session};
use super::exec::{self, Io, Process};
use super::http::Version;
use super::job::{Link, News};
use super::pipes::{Inlet, Outlet, Pumped};
use super::poll::Poll;
use super::status::Outcome;
use super::wire::{Event, Headers, Wire};
use super::{Attach, Exec, Streams, attach};
use crate::core::runtime::Exit;
use crate::cri::runtime::exec_sync::drain_limit;
use crate::error::{Context, Error, Kind, Result};
use log::debug;
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a client may take to open its streams.
pub const CREATION: Duration = Duration::from_secs(30);
/// Longest text of a size.
const SIZE_MAX: usize = 4 << 10;
/// Channels that WebSocket clients know.
pub const CHANNELS: u32 = 5;

/// What the client came for.
pub enum Target {
    /// A command.
    Exec(Exec),
    /// A container.
    Attach(Attach),
}

impl Target {
    fn streams(&self) -> Streams {
        match self {
            Target::Exec(exec) => exec.streams,
            Target::Attach(attach) => attach.streams,
        }
    }
}

/// Numbers of the streams that are there.
#[derive(Default)]
struct Roles {
    stdin: Option<u32>,
    stdout: Option<u32>,
    stderr: Option<u32>,
    error: Option<u32>,
    resize: Option<u32>,
}

enum Stage {
    Gathering { until: Instant },
    Starting { exit: Option<Exit> },
    Running { process: Process, end: Option<End> },
    Finished,
}

/// The process has ended; its output has until it is quiet.
struct End {
    code: u32,
    moved: Instant,
}

/// The session.
pub struct Remote {
    link: Link,
    target: Arc<Target>,
    version: Version,
    roles: Roles,
    inlet: Inlet,
    outlets: Vec<Outlet>,
    sizes: Sizes,
    stage: Stage,
}

impl Remote {
    /// A session whose client opens its streams.
    pub fn spdy(link: Link, target: Target, version: Version) -> Remote {
        let stage = Stage::Gathering { until: Instant::now() + CREATION };
        let (target, roles, sizes) = (Arc::new(target), Roles::default(), Sizes::default());
        Remote { link, target, version, roles, inlet: Inlet::new(), outlets: vec![], sizes, stage }
    }
    /// A session whose streams are there: it begins at once.
    pub fn channels(link: Link, target: Target, version: Version, wire: &mut dyn Wire) -> Remote {
        let mut remote = Remote::spdy(link, target, version);
        let s = remote.target.streams();
        let role = |wanted: bool, number| wanted.then_some(number);
        remote.roles =
            Roles { stdin: role(s.stdin, 0), stdout: role(s.stdout, 1), stderr: role(s.stderr, 2), error: Some(3), resize: role(s.tty, 4) };
        // Tells the client that the connection stands.
        let first = remote.roles.stdout.or(remote.roles.stderr).or(remote.roles.error);
        first.into_iter().for_each(|stream| wire.send(stream, &[]));
        remote.start();
        remote
    }
    fn opened(&mut self, stream: u32, headers: &Headers, wire: &mut dyn Wire) {
        let streams = self.target.streams();
        let kind = headers.get("streamType").unwrap_or_default();
        let (role, wanted) = match kind {
            "stdin" => (&mut self.roles.stdin, streams.stdin),
            "stdout" => (&mut self.roles.stdout, streams.stdout),
            "stderr" => (&mut self.roles.stderr, streams.stderr),
            "error" => (&mut self.roles.error, true),
            "resize" => (&mut self.roles.resize, streams.tty && self.version >= Version::V3),
            _ => (&mut None, false),
        };
        if !wanted || role.is_some() || !matches!(self.stage, Stage::Gathering { .. }) {
            debug!("stream {stream} of type \"{kind}\" was not asked for, or is there already");
            return wire.refuse(stream);
        }
        *role = Some(stream);
        wire.accept(stream);
        let roles = &self.roles;
        let resize = streams.tty && self.version >= Version::V3;
        let all = [
            (true, roles.error),
            (streams.stdin, roles.stdin),
            (streams.stdout, roles.stdout),
            (streams.stderr, roles.stderr),
            (resize, roles.resize),
        ];
        if all.iter().all(|(wanted, role)| !wanted || role.is_some()) {
            wire.settled();
            self.start();
        }
    }
    fn start(&mut self) {
        self.stage = Stage::Starting { exit: None };
        let target = self.target.clone();
        self.link.run(move |link| {
            let io = match &*target {
                Target::Exec(exec) => exec::start(link, exec).during(|| format!("exec in container {}", exec.container)),
                Target::Attach(attach) => attach::start(link, attach).during(|| format!("attach to container {}", attach.container)),
            };
            link.tell(News::Ready(Box::new(io)));
        });
    }
    fn ready(&mut self, io: Io, wire: &mut dyn Wire) {
        let Io { stdin, stdout, stderr, process } = io;
        match stdin {
            Some(fd) => self.inlet.connect(fd),
            None => self.inlet.close(),
        }
        for (fd, stream) in [(stdout, self.roles.stdout), (stderr, self.roles.stderr)] {
            self.outlets.extend(fd.map(|fd| Outlet::new(fd, stream)));
        }
        let early = match self.stage {
            Stage::Starting { exit } => exit,
            _ => None,
        };
        self.stage = Stage::Running { process, end: None };
        if let Some(exit) = early {
            self.exited(exit, wire);
        }
        self.resize();
    }
    fn exited(&mut self, exit: Exit, _: &mut dyn Wire) {
        match &mut self.stage {
            Stage::Starting { exit: early } => *early = Some(exit),
            Stage::Running { end, .. } => *end = Some(End { code: exit.code, moved: Instant::now() }),
            Stage::Gathering { .. } | Stage::Finished => {}
        }
    }
    fn resize(&mut self) {
        if let Stage::Running { process, .. } = &self.stage
            && let Some(size) = self.sizes.next()
        {
            process.resize(&self.link, size);
        }
    }
    /// The client's input has found its way to the last byte, or the process takes no more.
    fn input_ended(&mut self, wire: &mut dyn Wire) {
        self.inlet.close();
        let Target::Attach(_) = &*self.target else { return };
        let Stage::Running { process, .. } = &mut self.stage else { return };
        match process.hold {
            exec::Hold::Container { close_stdin: true } => process.close_stdin(),
            // Input that stays open for the next client: this one is done, as with containerd.
            _ => self.finish(&Outcome::Success, wire),
        }
    }
    /// Looks whether all is said.
    fn settle(&mut self, wire: &mut dyn Wire) {
        let said = self.outlets.iter().all(Outlet::ended);
        let Stage::Running { end, .. } = &self.stage else { return };
        let outcome = match (&*self.target, end) {
            (Target::Attach(_), None) if said && !self.outlets.is_empty() => Outcome::Success,
            (_, None) => return,
            (_, Some(end)) => {
                let limit = drain_limit(&self.link.cri);
                if !said && end.moved.elapsed() < limit {
                    return;
                }
                match &*self.target {
                    Target::Exec(exec) if end.code != 0 => Outcome::Code { cmd: exec.cmd.clone(), code: end.code },
                    _ => Outcome::Success,
                }
            }
        };
        self.finish(&outcome, wire);
    }
    fn finish(&mut self, outcome: &Outcome, wire: &mut dyn Wire) {
        let Roles { stdin, stdout, stderr, error, resize } = std::mem::take(&mut self.roles);
        if let Some(error) = error {
            let bytes = outcome.bytes(self.version);
            if !bytes.is_empty() {
                wire.send(error, &bytes);
            }
        }
        for stream in [stdout, stderr, error, stdin, resize].into_iter().flatten() {
            wire.end(stream);
        }
        self.inlet.close();
        self.outlets.clear();
        self.stage = Stage::Finished;
    }
    fn failed(&mut self, error: Error, wire: &mut dyn Wire) {
        debug!("{}", error.chain());
        self.finish(&Outcome::Failed(error), wire);
    }
}

impl Session for Remote {
    fn event(&mut self, event: Event, wire: &mut dyn Wire) {
        match event {
            Event::Opened { stream, headers } => self.opened(stream, &headers, wire),
            Event::Data { stream, bytes } if Some(stream) == self.roles.stdin && !self.inlet.useless() => self.inlet.put(&bytes),
            Event::Data { stream, bytes } => {
                if Some(stream) == self.roles.resize {
                    self.sizes.put(&bytes);
                    self.resize();
                }
                wire.consumed(stream, bytes.len());
            }
            Event::Ended { stream } | Event::Reset { stream } if Some(stream) == self.roles.stdin => self.inlet.end(),
            Event::Reset { stream } => {
                // Output that nobody wants any more: the process need not wait for it.
                self.outlets.iter_mut().filter(|o| o.stream() == Some(stream)).for_each(Outlet::close);
            }
            Event::Ended { .. } | Event::Left => {}
        }
    }
    fn news(&mut self, news: News, wire: &mut dyn Wire) {
        match news {
            News::Ready(io) => match *io {
                Ok(io) => self.ready(io, wire),
                Err(e) => self.failed(e, wire),
            },
            News::Exited(exit) => self.exited(exit, wire),
            News::Resized => {
                self.sizes.done();
                self.resize();
            }
            News::Dialled { .. } => {}
        }
    }
    fn turn(&mut self, wire: &mut dyn Wire, buffer: &mut [u8]) -> Progress {
        if let Stage::Gathering { until } = self.stage
            && until <= Instant::now()
        {
            let what = format!("the client did not open the streams that it asked for within {} s", CREATION.as_secs());
            self.failed(Error::new(Kind::DeadlineExceeded, what), wire);
        }
        let flushed = self.inlet.flush();
        if let (Some(stdin), true) = (self.roles.stdin, flushed.bytes > 0) {
            wire.consumed(stdin, flushed.bytes);
        }
        if flushed.finished {
            self.input_ended(wire);
        }
        let mut moved = false;
        for outlet in &mut self.outlets {
            moved |= outlet.pump(wire, buffer) != Pumped::Nothing || outlet.held();
        }
        if let Stage::Running { end: Some(end), .. } = &mut self.stage
            && moved
        {
            end.moved = Instant::now();
        }
        self.settle(wire);
        if matches!(self.stage, Stage::Finished) { Progress::Finished } else { Progress::Open }
    }
    fn full(&self) -> bool {
        self.inlet.full()
    }
    fn due(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Gathering { until } => Some(*until),
            Stage::Running { end: Some(end), .. } => Some(end.moved + drain_limit(&self.link.cri)),
            _ => None,
        }
    }
    fn watch(&mut self, poll: &Poll, key: u64) -> Result<()> {
        self.inlet.watch(poll, key)?;
        self.outlets.iter_mut().try_for_each(|o| o.watch(poll, key))
    }
}

/// Sizes of a terminal: of several that come while one is being set only the last counts.
#[derive(Default)]
struct Sizes {
    text: Vec<u8>,
    latest: Option<(u16, u16)>,
    setting: Setting,
}

#[derive(Default, PartialEq, Eq)]
enum Setting {
    #[default]
    Idle,
    Busy,
}

/// As Go writes it.
#[derive(Deserialize)]
struct Size {
    #[serde(rename = "Width")]
    width: u16,
    #[serde(rename = "Height")]
    height: u16,
}

impl Sizes {
    /// JSON objects, one after the other, cut anywhere. Nonsense is dropped.
    fn put(&mut self, bytes: &[u8]) {
        self.text.extend(bytes);
        let mut sizes = serde_json::Deserializer::from_slice(&self.text).into_iter::<Size>();
        let mut read = 0;
        loop {
            match sizes.next() {
                Some(Ok(size)) => {
                    read = sizes.byte_offset();
                    if size.width > 0 && size.height > 0 {
                        self.latest = Some((size.width, size.height));
                    }
                }
                Some(Err(e)) if e.is_eof() && self.text.len() <= SIZE_MAX => break,
                Some(Err(_)) | None => {
                    read = self.text.len();
                    break;
                }
            }
        }
        self.text.drain(..read);
    }
    /// The size to be set next, if none is being set.
    fn next(&mut self) -> Option<(u16, u16)> {
        if self.setting == Setting::Busy {
            return None;
        }
        let size = self.latest.take()?;
        self.setting = Setting::Busy;
        Some(size)
    }
    fn done(&mut self) {
        self.setting = Setting::Idle;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_in_pieces_and_only_the_last_counts() {
        let mut sizes = Sizes::default();
        let text = b"{\"Width\":80,\"Height\":24}\n{\"Width\":100,\"Height\":50}\n";
        for byte in text {
            sizes.put(&[*byte]);
        }
        assert_eq!(sizes.next(), Some((100, 50)));
        sizes.put(b"{\"Width\":1,\"Height\":2}{\"Width\":0,\"Height\":2}");
        assert_eq!(sizes.next(), None, "one at a time");
        sizes.done();
        assert_eq!(sizes.next(), Some((1, 2)));
        sizes.put(b"nonsense");
        sizes.put(&vec![b'{'; 2 * SIZE_MAX]);
        assert!(sizes.text.is_empty());
        sizes.put(b"{\"Width\":3,\"Height\":4}");
        sizes.done();
        assert_eq!(sizes.next(), Some((3, 4)));
    }
}
