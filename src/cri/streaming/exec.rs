//! Exec: a command in a container with its streams on FIFOs; once nobody wants it any more it is cleaned up behind the loop.
use super::job::{Link, News};
use super::{Exec, Streams};
use crate::call::Call;
use crate::core::runtime::{self, Stdio, Task};
use crate::cri::runtime::exec_sync::exec_process;
use crate::cri::store::container::{Container, State};
use crate::cri::{Cri, NAMESPACE, new_id};
use crate::error::{Context, Error, Result};
use crate::sys::fifo::{self, End};
use crate::thread::Pool;
use log::{debug, warn};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const SIGHUP: u32 = 1;
/// How long a shim may take for each call.
const LIMIT: Duration = Duration::from_secs(60);

/// A process' streams, as far as they were asked for.
pub struct Io {
    /// Input.
    pub stdin: Option<OwnedFd>,
    /// Output.
    pub stdout: Option<OwnedFd>,
    /// Error output.
    pub stderr: Option<OwnedFd>,
    /// Whose they are.
    pub process: Process,
}

/// A process that a client is connected to; dropping it lets go of it.
pub struct Process {
    pub(super) pool: Pool,
    pub(super) task: Arc<Task>,
    pub(super) hold: Hold,
    pub(super) dir: Fifos,
}

/// What the end of the connection means for the process.
pub enum Hold {
    /// It was made for this client.
    Exec {
        /// Its ID.
        id: String,
        /// Whether it has a terminal, which hangs up.
        tty: bool,
    },
    /// It goes on without the client.
    Container {
        /// Its input ends with the first client that has it.
        close_stdin: bool,
    },
}

/// A call of ours, not of a client that waits.
pub fn call() -> Call {
    Call::background(NAMESPACE).within(LIMIT)
}

impl Process {
    fn exec(&self) -> Option<&str> {
        match &self.hold {
            Hold::Exec { id, .. } => Some(id),
            Hold::Container { .. } => None,
        }
    }
    /// Sets the terminal's size; the news come when it is done.
    pub fn resize(&self, link: &Link, (width, height): (u16, u16)) {
        let (task, exec) = (self.task.clone(), self.exec().map(str::to_owned));
        link.run(move |link| {
            if let Err(e) = task.resize(&call(), exec.as_deref(), width.into(), height.into()) {
                debug!("resize to {width}x{height}: {}", e.chain());
            }
            link.tell(News::Resized);
        });
    }
    /// Ends the container's input now, if it ends with this client.
    pub fn close_stdin(&mut self) {
        if let Hold::Container { close_stdin: close @ true } = &mut self.hold {
            *close = false;
            let task = self.task.clone();
            self.pool.run(move || {
                if let Err(e) = task.close_io(&call(), None) {
                    debug!("close stdin of container {}: {}", task.id(), e.chain());
                }
            });
        }
    }
    /// Tells the loop when the process ends.
    pub fn watch(&self, link: &Link) -> Result<()> {
        let link = link.clone();
        self.task.on_exit(self.exec(), move |exit| link.tell(News::Exited(exit)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.close_stdin();
        let Hold::Exec { id, tty } = &self.hold else { return };
        let (pool, task, id, dir, tty) = (self.pool.clone(), self.task.clone(), id.clone(), self.dir.keep(), *tty);
        self.pool.run(move || {
            let over = task.wait(Some(&id)).map_or(true, |exit| exit.try_recv().is_ok());
            if tty && !over {
                let _ = task.kill(&call(), Some(&id), SIGHUP, false);
            }
            let (again, name) = (task.clone(), id.clone());
            let delete = move || {
                if let Err(e) = again.delete_exec(&call(), &name) {
                    debug!("delete exec {name}: {}", e.chain());
                }
                remove(&dir);
            };
            let watched = task.on_exit(Some(&id), move |_| pool.run(delete));
            if let Err(e) = watched {
                debug!("exec {id}: {}", e.chain());
            }
        });
    }
}

/// A directory of FIFOs; it is removed with the value.
#[derive(Default)]
pub struct Fifos(Option<PathBuf>);

impl Fifos {
    /// A fresh one.
    pub fn make(dir: PathBuf) -> Result<Fifos> {
        std::fs::create_dir_all(&dir).during(|| format!("create {}", dir.display()))?;
        Ok(Fifos(Some(dir)))
    }
    /// It stays until it is removed by hand: where that is not to be, a daemon that comes back finds its command by it.
    fn keep(&mut self) -> PathBuf {
        self.0.take().unwrap_or_default()
    }
    /// A FIFO in it.
    pub fn fifo(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.as_deref().unwrap_or(Path::new("/")).join(name);
        fifo::make(&path).during(|| format!("create FIFO {}", path.display()))?;
        Ok(path)
    }
    /// Its path and our end, if it is wanted.
    pub fn reader(&self, name: &str, wanted: bool) -> Result<(String, Option<OwnedFd>)> {
        if !wanted {
            return Ok((String::new(), None));
        }
        let path = self.fifo(name)?;
        Ok((path.display().to_string(), Some(open(&path, End::Read)?)))
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        if let Some(dir) = &self.0 {
            remove(dir);
        }
    }
}

fn remove(dir: &Path) {
    if let Err(e) = std::fs::remove_dir_all(dir) {
        warn!("remove {}: {e}", dir.display());
    }
}

/// Opens our end.
pub fn open(path: &Path, end: End) -> Result<OwnedFd> {
    fifo::open(path, end).during(|| format!("open FIFO {}", path.display()))
}

/// A container that runs.
pub fn running(cri: &Cri, id: &str) -> Result<Arc<Container>> {
    let container = cri.containers.by_id.get(id)?;
    match container.state {
        State::Running { .. } => Ok(container),
        _ => Err(Error::precondition(format!("container \"{}\" is not running", container.id))),
    }
}

/// Runs the command. A reader is there before each writer, so no byte is lost and no end is missed.
pub fn start(link: &Link, exec: &Exec) -> Result<Io> {
    let cri = &link.cri;
    let container = running(cri, &exec.container)?;
    let task = cri.ports.tasks.get(NAMESPACE, &container.id)?;
    let Streams { stdin, tty, .. } = exec.streams;
    let id = new_id()?;
    let dir = Fifos::make(cri.dirs.command(&container.id, &id))?;
    // Also output that the client does not want is read: Go's shim cannot do without.
    let (out_path, out) = dir.reader("stdout", true)?;
    let (err_path, err) = dir.reader("stderr", !tty)?;
    let in_path = if stdin { Some(dir.fifo("stdin")?) } else { None };
    let stdio = Stdio {
        stdin: in_path.as_ref().map(|p| p.display().to_string()).unwrap_or_default(),
        stdout: out_path,
        stderr: err_path,
        terminal: tty,
    };
    let process = exec_process(cri, &container.id, &exec.cmd, tty)?;
    task.exec(&call(), runtime::Exec { id: id.clone(), process, stdio })?;
    if let Err(e) = task.start_exec(&call(), &id) {
        let _ = task.delete_exec(&call(), &id);
        return Err(e);
    }
    let process = Process { pool: link.pool.clone(), task: task.clone(), hold: Hold::Exec { id: id.clone(), tty }, dir };
    let input = in_path.and_then(|path| {
        // A command that does not want its input may have closed it by now.
        let writer = fifo::open(&path, End::Write).ok()?;
        // From now on its input ends with our end of it, also when we are killed.
        task.close_io(&call(), Some(&id)).ok()?;
        Some(writer)
    });
    process.watch(link)?;
    Ok(Io { stdin: input, stdout: out, stderr: err, process })
}
