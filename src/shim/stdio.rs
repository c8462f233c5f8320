//! Standard streams of a process as its client names them: nothing, a FIFO, a file, a CRI log or a program that logs.
use super::flow::Flow;
use super::log::{Format, Log, Stream};
use super::reaper::Reaper;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::fifo::{self, End};
use crate::sys::{inherit, signal};
use percent_encoding::percent_decode_str;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as ChildStdio};
use std::sync::Arc;

/// Where lines are cut unless the URI says otherwise, as the kubelet's readers expect.
const MAX_LINE: usize = 16 << 10;
/// How long a logging program may take to be ready.
const READY: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// What the client gave.
#[derive(Clone, Default, Debug)]
pub struct Stdio {
    /// Input: nothing or a FIFO.
    pub stdin: String,
    /// Output.
    pub stdout: String,
    /// Error output; not used with a terminal.
    pub stderr: String,
    /// Whether the process gets a terminal.
    pub terminal: bool,
}

/// Whose streams they are.
pub struct Owner<'a> {
    /// Container.
    pub id: &'a str,
    /// containerd namespace.
    pub namespace: &'a str,
    /// User and group that the process's pipes belong to.
    pub ids: (u32, u32),
    /// How long a reader of its output is waited for.
    pub readers: Readers,
}

/// Whether those who read a process's output may leave and come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Readers {
    /// They may: full FIFOs wait for them.
    Return,
    /// An exec's client is there at its start, if it comes at all: once it has left, a write fails as into any pipe without
    /// reader, or the process would wait for nobody.
    Leave,
}

/// Where output goes.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Target {
    Null,
    Fifo(PathBuf),
    File(PathBuf),
    CriLog { path: PathBuf, max_line: usize },
    Binary { path: PathBuf, args: Vec<String> },
}

/// What is made of it: ends for the process, and the flow behind them.
#[derive(Default)]
pub struct Opened {
    /// None is /dev/null.
    pub stdin: Option<OwnedFd>,
    /// None is /dev/null.
    pub stdout: Option<OwnedFd>,
    /// None is /dev/null.
    pub stderr: Option<OwnedFd>,
    /// Moves the bytes; without terminal it is complete.
    pub flow: Flow,
    /// Ends of a terminal's flow, for [`Opened::terminal`].
    sink: Option<OwnedFd>,
    source: Option<(OwnedFd, PathBuf)>,
}

impl Target {
    fn parse(uri: &str) -> Result<Target> {
        if uri.is_empty() {
            return Ok(Target::Null);
        }
        if uri.starts_with('/') {
            // Only with file:// is a missing one made: a FIFO that is not there is a mistake.
            return Ok(if Path::new(uri).is_file() { Target::File(uri.into()) } else { Target::Fifo(uri.into()) });
        }
        let bad = |why: &str| Error::invalid(format!("stdio URI \"{uri}\": {why}"));
        let (scheme, rest) = uri.split_once("://").ok_or_else(|| bad("must be an absolute path or scheme:///path"))?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = PathBuf::from(decode(path));
        if !path.is_absolute() {
            return Err(bad("the path must be absolute"));
        }
        let query = query.split('&').filter(|q| !q.is_empty()).map(|q| q.split_once('=').unwrap_or((q, "")));
        match scheme {
            "fifo" => Ok(Target::Fifo(path)),
            "file" => Ok(Target::File(path)),
            "cri-log" => {
                let mut max_line = MAX_LINE;
                for (key, value) in query {
                    if key == "max_line" {
                        // Zero and below is no limit, as in containerd's configuration.
                        max_line = value.parse::<i64>().map_err(|_| bad("max_line must be a number"))?.max(0) as usize;
                    }
                }
                Ok(Target::CriLog { path, max_line })
            }
            "binary" | "binary-v2" => {
                let args = query.flat_map(|(k, v)| [decode(k), decode(v)]).filter(|a| !a.is_empty()).collect();
                Ok(Target::Binary { path, args })
            }
            _ => Err(bad("the scheme must be fifo, file, cri-log or binary")),
        }
    }
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

impl Stdio {
    /// Opens everything before the process is made, so that a wrong path fails the request and nothing is left behind.
    pub fn open(&self, owner: &Owner<'_>, reaper: &Reaper) -> Result<Opened> {
        let mut opened = Opened { flow: Flow::new(), ..Opened::default() };
        opened.source = self.open_input(owner, &mut opened)?;
        let (out, err) = (Target::parse(&self.stdout)?, if self.terminal { Target::Null } else { Target::parse(&self.stderr)? });
        match &out {
            Target::CriLog { path, max_line } => opened.flow.log = Some(Log::open(path, Format::Cri(*max_line))?),
            Target::File(path) if err == Target::Null || err == out => opened.flow.log = Some(Log::open(path, Format::Raw)?),
            Target::Binary { path, args } => return self.open_binary(owner, reaper, (path, args), opened),
            _ => {}
        }
        if self.terminal {
            if let Target::Fifo(path) = &out {
                opened.sink = Some(open_sink(path, owner.readers)?);
            }
            return Ok(opened);
        }
        let logged = opened.flow.log.is_some();
        opened.stdout = opened.output(Stream::Stdout, &out, logged, owner)?;
        opened.stderr = opened.output(Stream::Stderr, &err, logged, owner)?;
        Ok(opened)
    }
    fn open_input(&self, owner: &Owner<'_>, opened: &mut Opened) -> Result<Option<(OwnedFd, PathBuf)>> {
        if self.stdin.is_empty() {
            return Ok(None);
        }
        let path = PathBuf::from(self.stdin.strip_prefix("fifo://").unwrap_or(&self.stdin));
        let fd = fifo::open(&path, End::Kept).during(|| format!("open stdin FIFO {}", path.display()))?;
        if self.terminal {
            return Ok(Some((fd, path)));
        }
        let (reader, writer) = owner.pipe()?;
        fifo::set_nonblocking(&writer).during(|| "make a pipe non-blocking")?;
        opened.flow.input(Arc::new(writer), Some((fd, path)));
        opened.stdin = Some(reader);
        Ok(None)
    }
    /// A program reads both outputs from descriptors 3 and 4 and closes 5 once it is ready.
    fn open_binary(&self, owner: &Owner<'_>, reaper: &Reaper, program: (&Path, &[String]), mut opened: Opened) -> Result<Opened> {
        let (out_reader, out_writer) = owner.pipe()?;
        let (err_reader, err_writer) = owner.pipe()?;
        let (ready, told) = fifo::pipe().during(|| "make a pipe")?;
        let mut command = Command::new(program.0);
        command.args(program.1).env("CONTAINER_ID", owner.id).env("CONTAINER_NAMESPACE", owner.namespace);
        command.stdin(ChildStdio::null()).stdout(ChildStdio::null()).stderr(ChildStdio::null());
        inherit::from_three(signal::unblocked(&mut command), vec![out_reader, err_reader, told]);
        let (mut child, _) = reaper.run(&mut command).during(|| format!("start logging program {}", program.0.display()))?;
        // The command holds our copies of the program's ends.
        drop(command);
        let mut fds = [PollFd::new(&ready, PollFlags::IN)];
        if !matches!(poll(&mut fds, Some(&READY)), Ok(n) if n > 0) {
            let _ = child.kill();
            let what = format!("logging program {}: does not say that it is ready, by closing descriptor 5", program.0.display());
            return Err(Error::new(Kind::DeadlineExceeded, what));
        }
        if self.terminal {
            fifo::set_nonblocking(&out_writer).during(|| "make a pipe non-blocking")?;
            opened.sink = Some(out_writer);
        } else {
            (opened.stdout, opened.stderr) = (Some(out_writer), Some(err_writer));
        }
        Ok(opened)
    }
}

impl Opened {
    /// Completes the flow of a process with a terminal.
    pub fn terminal(&mut self, master: Arc<OwnedFd>) {
        self.flow.output(Stream::Stdout, master.clone(), self.sink.take());
        self.flow.input(master, self.source.take());
    }
    fn output(&mut self, stream: Stream, target: &Target, logged: bool, owner: &Owner<'_>) -> Result<Option<OwnedFd>> {
        let sink = match target {
            Target::Fifo(path) => Some(open_sink(path, owner.readers)?),
            Target::File(path) if !logged => {
                // Two different files: the process writes them itself.
                let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
                return Ok(Some(file.during(|| format!("open {}", path.display()))?.into()));
            }
            Target::Null if !logged => return Ok(None),
            _ => None,
        };
        let (reader, writer) = owner.pipe()?;
        fifo::set_nonblocking(&reader).during(|| "make a pipe non-blocking")?;
        let sole = sink.is_some() && owner.readers == Readers::Leave;
        self.flow.output(stream, Arc::new(reader), sink);
        if sole {
            self.flow.for_its_reader();
        }
        Ok(Some(writer))
    }
}

impl Owner<'_> {
    fn pipe(&self) -> Result<(OwnedFd, OwnedFd)> {
        let (reader, writer) = fifo::pipe().during(|| "make a pipe")?;
        if self.ids != (0, 0) {
            for fd in [&reader, &writer] {
                let (uid, gid) = (rustix::fs::Uid::from_raw(self.ids.0), rustix::fs::Gid::from_raw(self.ids.1));
                rustix::fs::fchown(fd, Some(uid), Some(gid)).during(|| "give a pipe to the container's user")?;
            }
        }
        Ok((reader, writer))
    }
}

fn open_sink(path: &Path, readers: Readers) -> Result<OwnedFd> {
    if readers == Readers::Leave
        && let Ok(fd) = fifo::open(path, End::Write)
    {
        return Ok(fd);
    }
    fifo::open(path, End::Kept).during(|| format!("open FIFO {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris() {
        let log = |max_line| Target::CriLog { path: "/var/log/pods/a b/0.log".into(), max_line };
        assert_eq!(Target::parse("").unwrap(), Target::Null);
        assert_eq!(Target::parse("cri-log:///var/log/pods/a%20b/0.log").unwrap(), log(16384));
        assert_eq!(Target::parse("cri-log:///var/log/pods/a%20b/0.log?max_line=100").unwrap(), log(100));
        assert_eq!(Target::parse("cri-log:///var/log/pods/a%20b/0.log?max_line=-1").unwrap(), log(0));
        assert_eq!(Target::parse("file:///tmp/x").unwrap(), Target::File("/tmp/x".into()));
        let binary = Target::Binary { path: "/bin/l".into(), args: vec!["-a".into(), "b".into(), "c".into()] };
        assert_eq!(Target::parse("binary:///bin/l?-a=b&c").unwrap(), binary);
        for bad in ["x", "cri-log://rel/x", "cri-log:///x?max_line=y", "http://x/y"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }
}
