//! Records: the durable half of CRI's pods and containers, as core's records, so that `ctr` and cAdvisor see them too.
use super::store::{container, sandbox};
use super::{Cri, NAMESPACE};
use crate::core::container::{AnyJson, Container, Runtime as StoredRuntime};
use crate::core::runtime::Runtime;
use crate::core::sandbox::{Sandbox, Stage};
use crate::error::{Context, Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;

fn pack(kind: &str, record: &impl Serialize) -> Result<BTreeMap<String, AnyJson>> {
    let value = serde_json::to_vec(record).during(|| format!("encode a record {kind}"))?;
    Ok(BTreeMap::from([(kind.to_string(), AnyJson::new(kind, &value))]))
}

/// The record of ours among an object's extensions.
pub fn unpack<R: DeserializeOwned>(kind: &str, id: &str, extensions: &BTreeMap<String, AnyJson>) -> Result<R> {
    let any = extensions.get(kind).ok_or_else(|| Error::not_found(kind, id))?;
    serde_json::from_slice(&any.bytes()?).during(|| format!("decode record {kind} of {id}"))
}

fn stored(runtime: &Runtime) -> StoredRuntime {
    let options = runtime.options.as_ref().map(AnyJson::from);
    StoredRuntime { name: runtime.name.clone(), options }
}

impl Cri {
    /// Writes down a pod that will be built.
    pub fn intend_sandbox(&self, id: &str, record: &sandbox::Record, runtime: &Runtime) -> Result<()> {
        let mut labels: BTreeMap<String, String> = record.config.labels.clone().into_iter().collect();
        labels.insert("io.cri-containerd.kind".into(), "sandbox".into());
        let pod = Sandbox {
            id: id.into(),
            labels,
            runtime: stored(runtime),
            extensions: pack(sandbox::EXTENSION, record)?,
            state: Stage::Intended,
            ..Sandbox::default()
        };
        self.ports.sandboxes.create(NAMESPACE, pod).map(drop)
    }
    /// Writes down that a pod stands, and the spec of its process.
    pub fn sandbox_ready(&self, id: &str, record: &sandbox::Record, spec: Value) -> Result<()> {
        self.write_sandbox(id, record, Some((Stage::Ready, spec)))
    }
    /// Writes down a change of a pod.
    pub fn save_sandbox(&self, id: &str, record: &sandbox::Record) -> Result<()> {
        self.write_sandbox(id, record, None)
    }
    fn write_sandbox(&self, id: &str, record: &sandbox::Record, stands: Option<(Stage, Value)>) -> Result<()> {
        let extensions = pack(sandbox::EXTENSION, record)?;
        let change = |pod: &mut Sandbox| {
            pod.extensions.extend(extensions);
            if let Some((stage, spec)) = stands {
                (pod.state, pod.spec) = (stage, spec);
            }
            Ok(())
        };
        self.ports.sandboxes.modify(NAMESPACE, id, change).map(drop)
    }
    /// Writes down a container that will be made; its spec stays null until it is.
    pub fn intend_container(
        &self,
        id: &str,
        record: &container::Record,
        pod: &sandbox::Sandbox,
        (snapshotter, key): (&str, &str),
    ) -> Result<()> {
        let mut labels: BTreeMap<String, String> = record.config.labels.clone().into_iter().collect();
        labels.insert("io.cri-containerd.kind".into(), "container".into());
        let made = Container {
            id: id.into(),
            labels,
            image: record.image_name.clone(),
            runtime: stored(&self.runtime_for(&pod.record.handler)?),
            snapshotter: snapshotter.into(),
            snapshot_key: key.into(),
            sandbox_id: pod.id.clone(),
            extensions: pack(container::EXTENSION, record)?,
            ..Container::default()
        };
        self.ports.containers.create(NAMESPACE, made).map(drop)
    }
    /// Writes down a change of a container.
    pub fn save_container(&self, id: &str, record: &container::Record) -> Result<()> {
        self.write_container(id, record, None)
    }
    /// Writes down a change of a container and of its spec.
    pub fn save_container_with_spec(&self, id: &str, record: &container::Record, spec: Value) -> Result<()> {
        self.write_container(id, record, Some(spec))
    }
    fn write_container(&self, id: &str, record: &container::Record, spec: Option<Value>) -> Result<()> {
        let extensions = pack(container::EXTENSION, record)?;
        let change = |stored: &mut Container| {
            stored.extensions.extend(extensions);
            if let Some(spec) = spec {
                stored.spec = spec;
            }
            Ok(())
        };
        self.ports.containers.modify(NAMESPACE, id, change).map(drop)
    }
}
