//! Runtime: containers as tasks of shims, over containerd's shim protocol (Task API 2 and 3), with any shim that speaks it.
//!
//! A [`Task`] outlives the daemon: [`Tasks::recover`] finds it again. Its exit is told once, to waiters and on the event bus,
//! also when its shim dies. No call waits without a limit, so a frozen shim costs only its own callers.
mod api;
mod binary;
mod bootstrap;
mod bundle;
mod bury;
mod care;
mod dismiss;
pub mod forward;
mod leftovers;
mod logs;
pub mod probe;
mod process;
mod published;
mod recover;
mod shim;
mod task;
mod tasks;
#[cfg(test)]
mod tests;

pub use api::Health;
pub use binary::Launch;
pub use bundle::DIRECTORY;
pub use task::{Checkpoint, Task};
pub use tasks::Tasks;

use crate::proto::task_types::Status as WireStatus;
use crate::sys::mount::Mount;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Which shim runs a container, and how.
#[derive(Clone, Default, Debug)]
pub struct Runtime {
    /// `io.containerd.runc.v2`; that name is served by our own shim.
    pub name: String,
    /// Absolute path of another shim.
    pub path: Option<PathBuf>,
    /// Options for the shim, for runc's and ours `containerd.runc.v1.Options`.
    pub options: Option<Any>,
}

/// Whether a runtime is served by our own shim, which knows `cri-log://`.
pub fn is_own(runtime: &Runtime) -> bool {
    let foreign = |p: &PathBuf| p.file_name().is_none_or(|n| n != binary::OWN);
    !runtime.path.as_ref().is_some_and(foreign)
}

/// Where a process's streams go: URIs as in Create; empty is `/dev/null`.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Stdio {
    /// Input FIFO.
    pub stdin: String,
    /// Output.
    pub stdout: String,
    /// Error output; unused with a terminal.
    pub stderr: String,
    /// Whether the process gets a pty.
    pub terminal: bool,
}

/// A container to be created.
#[derive(Clone, Default, Debug)]
pub struct Create {
    /// Its ID.
    pub id: String,
    /// The sandbox whose shim it shares; its own ID or `None` for a shim of its own.
    pub sandbox_id: Option<String>,
    /// The OCI spec as JSON.
    pub spec: Vec<u8>,
    /// Mounted on the bundle's rootfs by the shim.
    pub rootfs: Vec<Mount>,
    /// Streams of its first process.
    pub stdio: Stdio,
    /// Which shim.
    pub runtime: Runtime,
    /// Whether the root file system is the built-in pause program alone, as `/pause`.
    pub pause: bool,
}

/// A process to be added to a container.
#[derive(Clone, Default, Debug)]
pub struct Exec {
    /// Its ID within the container.
    pub id: String,
    /// The OCI process as JSON.
    pub process: Vec<u8>,
    /// Its streams.
    pub stdio: Stdio,
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exit {
    /// Exit code, or 128 and the signal.
    pub code: u32,
    /// When.
    pub at: SystemTime,
}

impl Exit {
    /// From a shim's answer; one without a time is taken to be of now.
    pub(crate) fn of(code: u32, at: Option<&Timestamp>) -> Exit {
        Exit { code, at: published::time(at).unwrap_or_else(SystemTime::now) }
    }
    /// Killed, now.
    pub(crate) fn killed() -> Exit {
        Exit { code: 137, at: SystemTime::now() }
    }
}

/// What a process does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// The shim does not know.
    Unknown,
    /// Created, not started.
    Created,
    /// Runs.
    Running,
    /// Ended.
    Stopped,
    /// Frozen.
    Paused,
}

/// A process as its shim sees it.
#[derive(Clone, Debug)]
pub struct State {
    /// What it does.
    pub status: Status,
    /// Its PID on the host.
    pub pid: u32,
    /// How it ended, once it is stopped.
    pub exit: Option<Exit>,
    /// Its streams.
    pub stdio: Stdio,
}

impl State {
    pub(crate) fn of(answer: &crate::proto::task_v2::StateResponse) -> State {
        let status = match answer.status.enum_value_or(WireStatus::UNKNOWN) {
            WireStatus::CREATED => Status::Created,
            WireStatus::RUNNING => Status::Running,
            WireStatus::STOPPED => Status::Stopped,
            WireStatus::PAUSED | WireStatus::PAUSING => Status::Paused,
            WireStatus::UNKNOWN => Status::Unknown,
        };
        let exit = (status == Status::Stopped).then(|| Exit::of(answer.exit_status, answer.exited_at.as_ref()));
        let stdio =
            Stdio { stdin: answer.stdin.clone(), stdout: answer.stdout.clone(), stderr: answer.stderr.clone(), terminal: answer.terminal };
        State { status, pid: answer.pid, exit, stdio }
    }
}

/// How long a shim may take.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// `…shim.load`: to answer after a restart of the daemon, before it is taken for silent.
    pub load: Duration,
    /// `…shim.cleanup`: the `delete` command.
    pub cleanup: Duration,
    /// `…shim.shutdown`: to go after its last container.
    pub shutdown: Duration,
    /// To end by itself once it was told to; then it is killed. More than our own shim needs for its last events.
    pub linger: Duration,
    /// `…task.state`: State and Pids.
    pub state: Duration,
    /// `…metrics.shimstats`: Stats.
    pub stats: Duration,
    /// The `start` command.
    pub start: Duration,
    /// Create, Start, Exec and the other calls in which an OCI runtime runs.
    pub act: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        let s = Duration::from_secs;
        Timeouts { load: s(5), cleanup: s(5), shutdown: s(3), linger: s(15), state: s(2), stats: s(2), start: s(30), act: s(60) }
    }
}

impl Timeouts {
    /// The defaults, changed by what the config's `timeouts` table has under containerd's keys.
    pub fn from_config(table: &BTreeMap<String, Duration>) -> Timeouts {
        let mut timeouts = Timeouts::default();
        let keys: [(&str, &mut Duration); 5] = [
            ("shim.load", &mut timeouts.load),
            ("shim.cleanup", &mut timeouts.cleanup),
            ("shim.shutdown", &mut timeouts.shutdown),
            ("task.state", &mut timeouts.state),
            ("metrics.shimstats", &mut timeouts.stats),
        ];
        for (key, field) in keys {
            if let Some(value) = table.get(&format!("io.containerd.timeout.{key}")) {
                *field = *value;
            }
        }
        timeouts
    }
}

/// What the room needs to know.
#[derive(Clone, Default, Debug)]
pub struct Config {
    /// The daemon's state directory; bundles go below.
    pub state: PathBuf,
    /// The daemon's root directory; work directories go below.
    pub root: PathBuf,
    /// What shims are told, and where they are found.
    pub launch: Launch,
    /// Limits.
    pub timeouts: Timeouts,
    /// OCI runtime for runc options that name none, as found by [`probe`].
    pub default_binary: Option<PathBuf>,
}

#[cfg(test)]
mod type_tests {
    use super::*;

    #[test]
    fn timeouts_have_containerds_keys() {
        let table = BTreeMap::from([("io.containerd.timeout.task.state".to_owned(), Duration::from_secs(9))]);
        let timeouts = Timeouts::from_config(&table);
        assert_eq!((timeouts.state, timeouts.load), (Duration::from_secs(9), Duration::from_secs(5)));
    }
}
