//! Containers: what is to run. Whether it runs is the runtime's to know.
use crate::core::metadata::{Labels, Object, Objects, Record, time};
use crate::error::{Error, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protobuf::well_known_types::any::Any;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// A container's record.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Container {
    /// Its ID.
    pub id: String,
    /// Labels.
    pub labels: Labels,
    /// Name of the image that it was made from.
    pub image: String,
    /// What runs it.
    pub runtime: Runtime,
    /// The OCI runtime spec.
    pub spec: serde_json::Value,
    /// The snapshotter of its root, if it has one.
    pub snapshotter: String,
    /// Its root's snapshot, which the record keeps from the collector.
    pub snapshot_key: String,
    /// The sandbox that it belongs to.
    pub sandbox_id: String,
    /// When it was created; set by the store.
    #[serde(with = "time")]
    pub created_at: SystemTime,
    /// When the record changed last; set by the store.
    #[serde(with = "time")]
    pub updated_at: SystemTime,
    /// What clients keep with it.
    pub extensions: BTreeMap<String, AnyJson>,
}

impl Default for Container {
    fn default() -> Container {
        Container {
            id: String::new(),
            labels: Labels::new(),
            image: String::new(),
            runtime: Runtime::default(),
            spec: serde_json::Value::Null,
            snapshotter: String::new(),
            snapshot_key: String::new(),
            sandbox_id: String::new(),
            created_at: time::unset(),
            updated_at: time::unset(),
            extensions: BTreeMap::new(),
        }
    }
}

/// The runtime that a container or a sandbox was made for.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Runtime {
    /// As `io.containerd.runc.v2`.
    pub name: String,
    /// The shim's options.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<AnyJson>,
}

/// A protobuf `Any` in a JSON record.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AnyJson {
    /// The message's name.
    pub type_url: String,
    /// The message, in base64.
    pub value: String,
}

impl AnyJson {
    /// Wraps bytes.
    pub fn new(type_url: impl Into<String>, value: &[u8]) -> AnyJson {
        AnyJson { type_url: type_url.into(), value: STANDARD.encode(value) }
    }
    /// The bytes; `DataLoss` if they are no base64.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        STANDARD
            .decode(&self.value)
            .map_err(|e| Error::new(crate::error::Kind::DataLoss, format!("a stored {} cannot be read", self.type_url)).because(e))
    }
    /// The message as it goes over the wire.
    pub fn to_any(&self) -> Result<Any> {
        Ok(Any { type_url: self.type_url.clone(), value: self.bytes()?, ..Any::default() })
    }
}

impl From<&Any> for AnyJson {
    fn from(any: &Any) -> AnyJson {
        AnyJson::new(any.type_url.clone(), &any.value)
    }
}

impl Record for Container {
    const TABLE: &'static str = "containers";
}

impl Object for Container {
    const NAME: &'static str = "container";
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

/// The containers.
pub type Containers = Objects<Container>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::metadata::{Db, scratch};
    use crate::error::Kind;
    use std::sync::Arc;

    fn container(id: &str) -> Container {
        let options = AnyJson::new("runc.Options", &[1, 2, 255]);
        Container {
            id: id.into(),
            runtime: Runtime { name: "io.containerd.runc.v2".into(), options: Some(options) },
            spec: serde_json::json!({"ociVersion": "1.0.2", "process": {"args": ["sh"]}}),
            ..Container::default()
        }
    }

    #[test]
    fn a_container_is_stored_changed_and_deleted() {
        let dir = scratch::dir("containers");
        let containers = Containers::new(Arc::new(Db::open(dir.path()).unwrap()));
        let made = containers.create("n", container("a")).unwrap();
        assert!(made.created_at > time::unset());
        assert_eq!(containers.get("n", "a").unwrap(), made);
        assert_eq!(made.runtime.options.as_ref().unwrap().to_any().unwrap().value, [1, 2, 255]);
        assert_eq!(containers.create("n", container("a")).unwrap_err().kind(), Kind::AlreadyExists);
        assert!(containers.get("other", "a").unwrap_err().is_not_found());
        let changed = containers.update("n", Container { image: "busybox".into(), ..container("a") }).unwrap();
        assert_eq!(changed.created_at, made.created_at);
        assert!(containers.update("n", container("b")).unwrap_err().is_not_found());
        assert_eq!(containers.list("n").unwrap(), [changed]);
        containers.delete("n", "a").unwrap();
        assert!(containers.delete("n", "a").unwrap_err().is_not_found());
    }

    #[test]
    fn an_id_is_needed_and_stays() {
        let dir = scratch::dir("containers-id");
        let containers = Containers::new(Arc::new(Db::open(dir.path()).unwrap()));
        assert_eq!(containers.create("n", container("")).unwrap_err().kind(), Kind::InvalidArgument);
        containers.create("n", container("a")).unwrap();
        let renamed = containers.modify("n", "a", |c| {
            c.id = "b".into();
            Ok(())
        });
        assert_eq!(renamed.unwrap_err().kind(), Kind::InvalidArgument);
    }
}
