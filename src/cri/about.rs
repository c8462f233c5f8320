//! About: what verbose Status tells besides the conditions: the config as it is in effect, the CNI confs, and how the loops are.
//! Its keys are containerd's, where containerd has them; `loops` and `containerEvents` are ours.
use super::{Cri, Node, json};
use crate::config::{self, Config};
use crate::thread::{LoopState, Threads};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::Weak;
use std::time::SystemTime;

/// Loops by plugin; a plugin's end does not wait for us.
pub type Loops = Vec<(String, Weak<Threads>)>;

/// Tables whose keys are names that users give.
const NAMES: [&str; 7] = ["runtimes", "mirrors", "configs", "auths", "headers", "pinned_images", "runtime_platforms"];
/// Tables that hold what is nobody else's affair.
const SECRET: [&str; 3] = ["auths", "auth", "headers"];

/// What is told.
pub struct About {
    config: Value,
    loops: Loops,
}

impl About {
    /// From what CRI was opened with.
    pub fn new(config: &Config, node: &Node) -> About {
        let dump: toml::Table = config.dump().parse().unwrap_or_default();
        let plugin = |uri: &str| dump.get("plugins").and_then(|p| p.get(uri)).and_then(toml::Value::as_table).cloned().unwrap_or_default();
        let mut told = camel(&plugin(config::RUNTIME));
        let more = json!({
            "images": camel(&plugin(config::IMAGES)),
            "server": camel(&plugin(config::CRI)),
            "sandboxImage": config.cri_images.sandbox_image().unwrap_or_default(),
            "ociRuntime": node.oci_runtime,
            "containerdRootDir": config.root,
            "containerdStateDir": config.state,
            "containerdEndpoint": config.grpc.address,
            "rootDir": node.dirs.root,
            "stateDir": node.dirs.state,
        });
        if let Value::Object(more) = more {
            told.extend(more);
        }
        About { config: told.into(), loops: node.loops.clone() }
    }
    /// The loops that cannot do their part any more.
    pub fn panicked(&self) -> Vec<String> {
        self.loops.iter().filter_map(|(_, threads)| threads.upgrade()).flat_map(|threads| threads.panicked()).collect()
    }
    fn loops(&self) -> Value {
        let one = |plugin: &str, health: crate::thread::Health| {
            json!({
                "plugin": plugin,
                "name": health.name,
                "state": health.state.as_str(),
                "lastRun": health.last_run.map(stamp),
                "lastError": health.last_error.map(|(at, text)| json!({ "at": stamp(at), "text": text })),
            })
        };
        let all = self.loops.iter().filter_map(|(plugin, threads)| Some((plugin, threads.upgrade()?)));
        // One that came to its end had something to do at the start, and has done it.
        all.flat_map(|(plugin, threads)| {
            let health = threads.health().into_iter().filter(|h| h.state != LoopState::Ended);
            health.map(|h| one(plugin, h)).collect::<Vec<_>>()
        })
        .collect()
    }
}

/// All keys of verbose Status.
pub fn info(cri: &Cri) -> HashMap<String, String> {
    let mut info = HashMap::from([
        ("config".to_string(), json(&cri.about.config)),
        ("cniconfig".to_string(), json(&cri.networks.describe(&cri.runtime.cni))),
        ("loops".to_string(), json(&cri.about.loops())),
        ("containerEvents".to_string(), json(&json!({ "dropped": cri.changes.dropped() }))),
    ]);
    for (handler, status) in cri.networks.load_status() {
        let text = status.err().unwrap_or_else(|| "OK".into());
        match handler {
            Some(name) => drop(info.insert(format!("lastCNILoadStatus.{name}"), text)),
            None => {
                info.insert("lastCNILoadStatus.default".into(), text.clone());
                info.insert("lastCNILoadStatus".into(), text);
            }
        }
    }
    info
}

fn stamp(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// TOML's snake_case keys as containerd's JSON has them; names and runtimes' own options stay, secrets do not.
fn camel(table: &toml::Table) -> Map<String, Value> {
    let below = |key: &str, value: &toml::Value| match value {
        _ if SECRET.contains(&key) => "(not shown)".into(),
        toml::Value::Table(names) if NAMES.contains(&key) => {
            let named = names.iter().map(|(name, v)| (name.clone(), v.as_table().map_or_else(|| plain(v), |t| camel(t).into())));
            Value::Object(named.collect())
        }
        toml::Value::Table(inner) if key != "options" => camel(inner).into(),
        other => plain(other),
    };
    table.iter().map(|(key, value)| (camel_key(key), below(key, value))).collect()
}

fn plain(value: &toml::Value) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

fn camel_key(key: &str) -> String {
    let mut parts = key.split('_');
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |mut all, part| {
        let mut chars = part.chars();
        all.extend(chars.next().map(|c| c.to_ascii_uppercase()));
        all.extend(chars);
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_containerd_s_names_are_the_users_and_secrets_nobody_s() {
        let table = r#"
            default_runtime_name = "a_b"
            [runtimes.a_b]
            runtime_type = "t"
            [runtimes.a_b.options]
            BinaryName = "x"
            some_thing = 1
            [registry.configs."h:1"]
            auth = { password = "hidden" }
            tls = { ca_file = "/c" }
            [registry.auths.u]
            password = "hidden"
        "#;
        let told = Value::from(camel(&table.parse().unwrap()));
        assert_eq!(told["defaultRuntimeName"], "a_b");
        assert_eq!(told["runtimes"]["a_b"], json!({"runtimeType": "t", "options": {"BinaryName": "x", "some_thing": 1}}));
        assert_eq!(told["registry"]["configs"]["h:1"]["tls"], json!({"caFile": "/c"}));
        assert!(!told.to_string().contains("hidden"), "{told}");
    }
}
