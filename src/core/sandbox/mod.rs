//! Sandboxes: the pods. A sandbox is written as *intended* before anything of it exists, so that a restart knows what to undo.
use crate::core::container::{AnyJson, Runtime};
use crate::core::metadata::{Labels, Object, Objects, Record, time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// How far a sandbox is.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Being built; what a restart finds so is undone.
    #[default]
    Intended,
    /// Built. Whether it runs is the runtime's to know.
    Ready,
    /// Being torn down; a restart goes on with that.
    Removing,
}

/// A sandbox's record.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Sandbox {
    /// Its ID.
    pub id: String,
    /// Labels; `containerd.io/gc.ref.*` among them keep things from the collector. A snapshot with the sandbox's ID as its key
    /// is kept without.
    pub labels: Labels,
    /// What runs it.
    pub runtime: Runtime,
    /// The OCI runtime spec, or what the sandbox's controller takes.
    pub spec: serde_json::Value,
    /// When it was created; set by the store.
    #[serde(with = "time")]
    pub created_at: SystemTime,
    /// When the record changed last; set by the store.
    #[serde(with = "time")]
    pub updated_at: SystemTime,
    /// What clients keep with it.
    pub extensions: BTreeMap<String, AnyJson>,
    /// How far it is.
    pub state: Stage,
}

impl Default for Sandbox {
    fn default() -> Sandbox {
        Sandbox {
            id: String::new(),
            labels: Labels::new(),
            runtime: Runtime::default(),
            spec: serde_json::Value::Null,
            created_at: time::unset(),
            updated_at: time::unset(),
            extensions: BTreeMap::new(),
            state: Stage::Intended,
        }
    }
}

impl Record for Sandbox {
    const TABLE: &'static str = "sandboxes";
}

impl Object for Sandbox {
    const NAME: &'static str = "sandbox";
    fn id(&self) -> &str {
        &self.id
    }
    fn labels(&self) -> &Labels {
        &self.labels
    }
    fn created_at(&self) -> SystemTime {
        self.created_at
    }
    fn stamp(&mut self, created: SystemTime, updated: SystemTime) {
        (self.created_at, self.updated_at) = (created, updated);
    }
}

/// The sandboxes.
pub type Sandboxes = Objects<Sandbox>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::metadata::{Db, scratch};
    use std::sync::Arc;

    #[test]
    fn an_intended_sandbox_survives_and_becomes_ready() {
        let dir = scratch::dir("sandboxes");
        {
            let sandboxes = Sandboxes::new(Arc::new(Db::open(dir.path()).unwrap()));
            sandboxes.create("n", Sandbox { id: "s".into(), ..Sandbox::default() }).unwrap();
        }
        let sandboxes = Sandboxes::new(Arc::new(Db::open(dir.path()).unwrap()));
        assert_eq!(sandboxes.get("n", "s").unwrap().state, Stage::Intended);
        let ready = sandboxes.modify("n", "s", |s| {
            s.state = Stage::Ready;
            Ok(())
        });
        assert_eq!(ready.unwrap().state, Stage::Ready);
    }
}
