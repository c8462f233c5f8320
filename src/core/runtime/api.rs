//! Api: the Task service of one shim, version 2 or 3 alike, each call within a limit.
use crate::call::Call;
use crate::error::{Kind, Result};
use crate::proto::{task_v2_names, task_v3_names};
use crate::rpc::ttrpc::{Client, Method};
use crate::thread::lock;
use protobuf::Message;
use std::sync::Mutex;
use std::time::Duration;

/// Limit for what only looks, while the shim is known not to answer: a node with frozen shims must still list its pods.
const SILENT_LIMIT: Duration = Duration::from_millis(50);
/// Limit for what changes something, then: short enough for the kubelet to go on with other pods.
const SILENT_ACT_LIMIT: Duration = Duration::from_secs(10);

/// The messages of both versions are the same on the wire; only the service's name differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    V2,
    V3,
}

impl Version {
    fn service(self) -> &'static str {
        match self {
            Version::V2 => task_v2_names::task::SERVICE,
            Version::V3 => task_v3_names::task::SERVICE,
        }
    }
    fn other(self) -> Version {
        match self {
            Version::V2 => Version::V3,
            Version::V3 => Version::V2,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Spoken {
    /// Said by the bootstrap answer, not yet tried.
    Said(Version),
    /// A call was understood.
    Tried(Version),
}

/// Whether the shim answered last time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// It did.
    Answering,
    /// A call ran into its limit: it is stopped or hangs.
    Silent,
}

/// One shim's Task service.
pub struct Api {
    client: Client,
    spoken: Mutex<Spoken>,
    health: Mutex<Health>,
}

impl Api {
    /// Over this connection; `version` is what the bootstrap answer said.
    pub fn new(client: Client, version: u32) -> Api {
        let version = if version >= 3 { Version::V3 } else { Version::V2 };
        Api { client, spoken: Mutex::new(Spoken::Said(version)), health: Mutex::new(Health::Answering) }
    }
    /// The connection, for services beside Task.
    pub fn client(&self) -> &Client {
        &self.client
    }
    /// Whether it answered last time.
    pub fn health(&self) -> Health {
        *lock(&self.health)
    }
    /// It let a question pass that was asked without [`Api::act`].
    pub fn mark_silent(&self) {
        *lock(&self.health) = Health::Silent;
    }
    /// It answered what was asked without [`Api::act`].
    pub fn mark_answering(&self) {
        *lock(&self.health) = Health::Answering;
    }
    /// A call that changes something.
    pub fn act<Q: Message, P: Message>(&self, method: &str, call: &Call, limit: Duration, request: &Q) -> Result<P> {
        let limit = if self.health() == Health::Silent { limit.min(SILENT_ACT_LIMIT) } else { limit };
        let spoken = *lock(&self.spoken);
        let (Spoken::Said(version) | Spoken::Tried(version)) = spoken;
        let mut used = version;
        let mut answer = self.ask(version, method, call, limit, request);
        if matches!(spoken, Spoken::Said(_)) && answer.as_ref().is_err_and(|e| e.kind() == Kind::Unimplemented) {
            used = version.other();
            answer = self.ask(used, method, call, limit, request);
        }
        let understood = !answer
            .as_ref()
            .is_err_and(|e| matches!(e.kind(), Kind::Unimplemented | Kind::Unavailable | Kind::DeadlineExceeded | Kind::Cancelled));
        if understood {
            *lock(&self.spoken) = Spoken::Tried(used);
        }
        answer
    }
    /// A call that only looks: gives up at once on a shim that is known not to answer.
    pub fn look<Q: Message, P: Message>(&self, method: &str, call: &Call, limit: Duration, request: &Q) -> Result<P> {
        let limit = if self.health() == Health::Silent { limit.min(SILENT_LIMIT) } else { limit };
        self.act(method, call, limit, request)
    }
    fn ask<Q: Message, P: Message>(&self, version: Version, method: &str, call: &Call, limit: Duration, request: &Q) -> Result<P> {
        let answer = self.client.call(Method { service: version.service(), method }, call, limit, request);
        // Only our own limit tells something about the shim; a short deadline of the caller does not.
        let overdue = answer.as_ref().is_err_and(|e| e.kind() == Kind::DeadlineExceeded) && !call.cancelled();
        if overdue {
            *lock(&self.health) = Health::Silent;
        } else if answer.is_ok() {
            *lock(&self.health) = Health::Answering;
        }
        answer
    }
    /// A call whose answer may take as long as a container lives; `on_reply` must not block.
    pub fn start<Q: Message, P: Message>(
        &self,
        method: &str,
        namespace: &str,
        request: &Q,
        on_reply: impl FnOnce(Result<P>) + Send + 'static,
    ) -> Result<()> {
        let (Spoken::Said(version) | Spoken::Tried(version)) = *lock(&self.spoken);
        self.client.start(Method { service: version.service(), method }, namespace, request, on_reply)
    }
}
