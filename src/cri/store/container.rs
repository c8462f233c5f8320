//! Containers: what CRI knows of them, their states, and what of it survives a restart.
//!
//! Created → Running → Exited; a failed start goes Created → Exited. Unknown is a container whose shim does not answer.
use super::turn::Turns;
use super::{Index, creations::Creations, message};
use crate::proto::cri::{ContainerConfig, LinuxContainerResources};
use crate::thread::lock;
use crossbeam_channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Key of the record among a core container's extensions.
pub const EXTENSION: &str = "io.cradle.cri.container.v1";

/// All containers.
pub struct Containers {
    /// By ID.
    pub by_id: Index<Container>,
    /// Reserved names.
    pub names: Arc<Creations>,
}

/// The durable part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// `name_pod_namespace_uid_attempt`.
    pub name: String,
    /// The pod it belongs to.
    pub sandbox_id: String,
    /// As the client sent it.
    #[serde(with = "message")]
    pub config: ContainerConfig,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// `sha256:…` of the image's config.
    pub image_id: String,
    /// `repository@sha256:…`, or the ID for an image without one.
    pub image_ref: String,
    /// The image as a person names it.
    pub image_name: String,
    /// Where the log goes; none: output is dropped.
    pub log_path: Option<PathBuf>,
    /// Signal that stops it.
    pub stop_signal: u32,
    /// User of its first process: uid, gid, supplementary groups.
    #[serde(default)]
    pub user: (u32, u32, Vec<u32>),
    /// Limits in force; what the request left open is as the spec has it.
    #[serde(with = "message", default)]
    pub limits: LinuxContainerResources,
    /// How far its life is on record.
    pub life: Life,
}

/// What is on record of a container's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Life {
    /// Never started.
    Created,
    /// Started; whether it still runs is the shim's to say.
    Started {
        /// Nanoseconds since 1970.
        at: i64,
    },
    /// Over.
    Exited(Exited),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// When it was started, if it was.
    pub started_at: Option<i64>,
    /// When it ended.
    pub finished_at: i64,
    /// Exit code; 128 + signal for a killed one.
    pub code: i32,
    /// Why, in one word.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

/// Reasons that the kubelet shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// Exit code 0.
    Completed,
    /// Another exit code.
    Error,
    /// Killed for its memory.
    OOMKilled,
    /// It could not be started.
    StartError,
    /// Its shim died, the code is lost.
    Unknown,
}

impl Reason {
    /// As the kubelet spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Completed => "Completed",
            Reason::Error => "Error",
            Reason::OOMKilled => "OOMKilled",
            Reason::StartError => "StartError",
            Reason::Unknown => "Unknown",
        }
    }
}

/// A container's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Ready to be started.
    Created,
    /// Its process runs.
    Running {
        /// On the node.
        pid: u32,
        /// Nanoseconds since 1970.
        started_at: i64,
    },
    /// Over.
    Exited(Exited),
    /// Its shim does not answer.
    Unknown {
        /// Why it is not known.
        why: String,
    },
}

/// Tells all who wait that a container is over.
#[derive(Debug)]
pub struct Ended {
    hold: Mutex<Option<Sender<std::convert::Infallible>>>,
    over: Receiver<std::convert::Infallible>,
}

impl Default for Ended {
    fn default() -> Ended {
        let (hold, over) = bounded(0);
        Ended { hold: Mutex::new(Some(hold)), over }
    }
}

impl Ended {
    /// Disconnects once the container is over: for `select!`.
    pub fn channel(&self) -> &Receiver<std::convert::Infallible> {
        &self.over
    }
    /// It is over, and on record.
    pub fn tell(&self) {
        lock(&self.hold).take();
    }
}

/// One container.
#[derive(Clone, Debug)]
pub struct Container {
    /// 64 hex digits.
    pub id: String,
    /// The durable part.
    pub record: Record,
    /// Its state.
    pub state: State,
    /// Whether the kernel killed a process of it for memory.
    pub oom: Oom,
    /// Serialises calls that change it.
    pub turns: Arc<Turns>,
    /// Told when it is over.
    pub ended: Arc<Ended>,
    /// Whether its stop signal was sent.
    pub stopping: Arc<StopSignal>,
}

/// Who sends the stop signal: the first call alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopping {
    /// This call.
    First,
    /// An earlier one has.
    Again,
}

/// Remembers that the stop signal was sent.
#[derive(Debug, Default)]
pub struct StopSignal(AtomicBool);

impl StopSignal {
    /// Whether the caller is to send it.
    pub fn first(&self) -> Stopping {
        if self.0.swap(true, Ordering::SeqCst) { Stopping::Again } else { Stopping::First }
    }
}

/// Whether an OOM kill was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oom {
    /// None.
    NotSeen,
    /// One at least.
    Seen,
}

impl Container {
    /// The process ID, while it runs.
    pub fn pid(&self) -> Option<u32> {
        match self.state {
            State::Running { pid, .. } => Some(pid),
            _ => None,
        }
    }
    /// A copy in another state.
    pub fn with_state(&self, state: State) -> Container {
        Container { state, ..self.clone() }
    }
}

/// `name_pod_namespace_uid_attempt`: unique on the node.
pub fn name_of(config: &ContainerConfig, pod: &crate::proto::cri::PodSandboxConfig) -> String {
    let (c, p) = (config.metadata.get_or_default(), pod.metadata.get_or_default());
    format!("{}_{}_{}_{}_{}", c.name, p.name, p.namespace, p.uid, c.attempt)
}
