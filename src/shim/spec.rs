//! The few fields of an OCI spec that a shim reads; everything else is the OCI runtime's.
use crate::error::{Context, Result};
use serde::Deserialize;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// Annotations that name a group, in the order in which they count.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// What is read of `config.json`.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Spec {
    annotations: HashMap<String, String>,
    linux: Linux,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Linux {
    namespaces: Vec<Namespace>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    path: String,
}

/// Who ends when the first process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PidNamespace {
    /// Its own: the kernel kills the rest.
    Private,
    /// Shared: the rest must be killed.
    Shared,
}

impl Spec {
    /// Reads `config.json` of a bundle.
    pub fn read(bundle: &Path) -> Result<Spec> {
        let path = bundle.join("config.json");
        let text = fs::read(&path).during(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).during(|| format!("parse {}", path.display()))
    }
    /// The group whose shim serves this container; without one, it is its own.
    pub fn group(&self) -> Option<&str> {
        GROUPS.iter().find_map(|name| self.annotations.get(*name)).map(String::as_str)
    }
    /// What its PID namespace is.
    pub fn pid_namespace(&self) -> PidNamespace {
        let own = self.linux.namespaces.iter().any(|n| n.kind == "pid" && n.path.is_empty());
        if own { PidNamespace::Private } else { PidNamespace::Shared }
    }
}

/// The process of an exec as the OCI runtime shall see it: `terminal` is what the request says, everything else as it came.
pub fn process(json: &[u8], terminal: bool) -> Result<Vec<u8>> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Process {
        terminal: bool,
    }
    let said: Process = serde_json::from_slice(json).during(|| "parse the process of an exec")?;
    if said.terminal == terminal {
        return Ok(json.to_vec());
    }
    let mut all: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(json).during(|| "parse the process of an exec")?;
    all.insert("terminal".into(), terminal.into());
    serde_json::to_vec(&all).during(|| "write the process of an exec")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_and_namespace() {
        let spec: Spec = serde_json::from_str(
            r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod","x":"y"},"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#,
        )
        .unwrap();
        assert_eq!((spec.group(), spec.pid_namespace()), (Some("pod"), PidNamespace::Shared));
        let spec: Spec = serde_json::from_str(r#"{"linux":{"namespaces":[{"type":"pid"}]}}"#).unwrap();
        assert_eq!((spec.group(), spec.pid_namespace()), (None, PidNamespace::Private));
    }

    #[test]
    fn the_request_decides_about_the_terminal() {
        assert_eq!(process(br#"{"args":["a"]}"#, false).unwrap(), br#"{"args":["a"]}"#);
        assert_eq!(process(br#"{"args":["a"],"terminal":false}"#, true).unwrap(), br#"{"args":["a"],"terminal":true}"#);
        assert!(process(b"{", false).is_err());
    }
}
