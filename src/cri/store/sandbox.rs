//! Sandboxes: what CRI knows of pods, and what of it survives a restart.
use super::turn::Turns;
use super::{Index, creations::Creations, message};
use crate::proto::cri::{IDMapping, NamespaceMode, PodSandboxConfig};
use crate::sys::userns::{IdMap, IdRange};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Key of the record among a core sandbox's extensions.
pub const EXTENSION: &str = "io.cradle.cri.sandbox.v1";

/// All pods.
pub struct Sandboxes {
    /// By ID.
    pub by_id: Index<Sandbox>,
    /// Reserved names.
    pub names: Arc<Creations>,
}

/// The durable part: written before anything is built, so that a restart knows what to undo.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// `name_namespace_uid_attempt`.
    pub name: String,
    /// As the client sent it.
    #[serde(with = "message")]
    pub config: PodSandboxConfig,
    /// Runtime handler; empty for the default.
    pub handler: String,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Where its namespaces are pinned; empty for the node's.
    pub pins: Pins,
    /// What CNI gave it.
    pub network: Network,
    /// Snapshot of the sandbox image, where one is configured.
    #[serde(default)]
    pub snapshot: Option<Snapshot>,
    /// Snapshots of images that are mounted as volumes, by the image's ID.
    #[serde(default)]
    pub image_volumes: BTreeMap<String, Snapshot>,
    /// When it stopped being ready.
    #[serde(default)]
    pub stopped_at: Option<i64>,
}

/// Snapshot under a root filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// `overlayfs`.
    pub snapshotter: String,
    /// Scoped key.
    pub key: String,
    /// The sandbox image, as a person names it.
    #[serde(default)]
    pub image: String,
}

/// Files on which the pod's namespaces are mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pins {
    /// Network namespace.
    pub net: Option<PathBuf>,
    /// IPC namespace.
    pub ipc: Option<PathBuf>,
    /// UTS namespace.
    pub uts: Option<PathBuf>,
    /// User namespace, to which the others belong.
    #[serde(default)]
    pub user: Option<PathBuf>,
}

/// A pod's network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The node's.
    Host,
    /// CNI ADD may have begun: DEL is due.
    Pending,
    /// Set up; the first address is the primary one.
    Up {
        /// In order of preference.
        ips: Vec<IpAddr>,
        /// The plugins' results, for verbose status.
        result: serde_json::Value,
    },
    /// DEL is done.
    Down,
}

/// Whether containers can be started in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Its process runs.
    Ready {
        /// Of the pause process.
        pid: u32,
    },
    /// Stopped, or its process died.
    NotReady,
    /// Its shim does not answer.
    Unknown {
        /// Why it is not known.
        why: String,
    },
}

/// One pod.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// 64 hex digits.
    pub id: String,
    /// The durable part.
    pub record: Record,
    /// Its state.
    pub state: State,
    /// Serialises calls that change it.
    pub turns: Arc<Turns>,
}

impl Sandbox {
    /// Whether the pod uses the node's network.
    pub fn host_network(&self) -> bool {
        namespaces(&self.record.config).0 == NamespaceMode::NODE
    }
    /// The pod's addresses, while it has them.
    pub fn ips(&self) -> &[IpAddr] {
        match (&self.record.network, &self.state) {
            (Network::Up { ips, .. }, State::Ready { .. } | State::Unknown { .. }) => ips,
            _ => &[],
        }
    }
    /// A copy in another state.
    pub fn with_state(&self, state: State) -> Sandbox {
        Sandbox { state, ..self.clone() }
    }
    /// A copy with another record.
    pub fn with_record(&self, record: Record) -> Sandbox {
        Sandbox { record, ..self.clone() }
    }
}

/// Network, PID and IPC mode that a pod asks for.
pub fn namespaces(config: &PodSandboxConfig) -> (NamespaceMode, NamespaceMode, NamespaceMode) {
    let options = config.linux.get_or_default().security_context.get_or_default().namespace_options.get_or_default();
    (options.network.enum_value_or_default(), options.pid.enum_value_or_default(), options.ipc.enum_value_or_default())
}

/// The maps of the pod's user namespace; none for the node's. The config has passed its check.
pub fn id_map(config: &PodSandboxConfig) -> Option<IdMap> {
    let options = config.linux.get_or_default().security_context.get_or_default().namespace_options.get_or_default();
    let user = options.userns_options.as_ref().filter(|user| user.mode.enum_value() == Ok(NamespaceMode::POD))?;
    Some(IdMap { uids: ranges(&user.uids), gids: ranges(&user.gids) })
}

/// CRI's maps in the kernel's words.
pub fn ranges(mappings: &[IDMapping]) -> Vec<IdRange> {
    mappings.iter().map(|m| IdRange { inside: m.container_id, outside: m.host_id, count: m.length }).collect()
}

/// `name_namespace_uid_attempt`: unique on the node.
pub fn name_of(config: &PodSandboxConfig) -> String {
    let m = config.metadata.get_or_default();
    format!("{}_{}_{}_{}", m.name, m.namespace, m.uid, m.attempt)
}
