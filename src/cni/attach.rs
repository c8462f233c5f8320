//! What a pod asks of its networks, and how CNI wants to be told: CNI_ARGS and the capabilities' runtimeConfig.
use super::conf::valid_id;
use crate::error::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A pod's wish to be attached.
#[derive(Clone, Debug, Default)]
pub struct Attach {
    /// The sandbox, which is CNI's container.
    pub sandbox_id: String,
    /// Its pinned network namespace.
    pub netns: PathBuf,
    /// Who it is for.
    pub pod: Pod,
    /// Ports of the node that lead to it.
    pub port_mappings: Vec<PortMapping>,
    /// Limits of its traffic.
    pub bandwidth: Option<Bandwidth>,
    /// Its resolver.
    pub dns: Option<Dns>,
    /// Its cgroup parent.
    pub cgroup_path: Option<String>,
    /// The pod's annotations.
    pub annotations: BTreeMap<String, String>,
    /// Other names it shall be known by.
    pub aliases: Vec<String>,
}

/// The Kubernetes names of a pod.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// One port of the node.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// On the node; what is not above 0 is left out.
    pub host_port: i32,
    /// In the pod.
    pub container_port: i32,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The node's address; empty = all.
    #[serde(rename = "hostIP")]
    pub host_ip: String,
}

/// Limits in bits per second and bits.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bandwidth {
    /// To the pod.
    pub ingress_rate: u64,
    /// To the pod, at once.
    pub ingress_burst: u64,
    /// From the pod.
    pub egress_rate: u64,
    /// From the pod, at once.
    pub egress_burst: u64,
}

/// A resolver's conf.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Dns {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

impl Attach {
    /// Refuses what could say more than one thing to a plugin.
    pub(super) fn check(&self) -> Result<()> {
        if !valid_id(&self.sandbox_id) {
            return Err(Error::invalid(format!("sandbox id \"{}\" is no CNI container id", self.sandbox_id)));
        }
        for (field, value) in [("namespace", &self.pod.namespace), ("name", &self.pod.name), ("uid", &self.pod.uid)] {
            if value.contains([';', '=', '\0']) {
                return Err(Error::invalid(format!("pod {field} \"{value}\" has a character that CNI_ARGS cannot carry")));
            }
        }
        Ok(())
    }

    /// CNI_ARGS as the kubelet's plugins know it.
    pub(super) fn args(&self) -> String {
        let (pod, id) = (&self.pod, &self.sandbox_id);
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID={}",
            pod.namespace, pod.name, pod.uid
        )
    }

    /// All capabilities' arguments; each plugin gets those that it says it has.
    pub(super) fn capabilities(&self) -> Map<String, Value> {
        let mut all = Map::new();
        let ports: Vec<_> = self.port_mappings.iter().filter(|p| p.host_port > 0).collect();
        if !ports.is_empty() {
            all.insert("portMappings".into(), json!(ports));
        }
        if let Some(bandwidth) = &self.bandwidth {
            all.insert("bandwidth".into(), json!(bandwidth));
        }
        if let Some(dns) = &self.dns {
            all.insert("dns".into(), json!(dns));
        }
        if let Some(path) = self.cgroup_path.as_ref().filter(|p| !p.is_empty()) {
            all.insert("cgroupPath".into(), json!(path));
        }
        if !self.aliases.is_empty() {
            all.insert("aliases".into(), json!(self.aliases));
        }
        all.insert("io.kubernetes.cri.pod-annotations".into(), json!(self.annotations));
        all
    }
}

impl Bandwidth {
    /// The limits that the annotations `kubernetes.io/{ingress,egress}-bandwidth` ask for.
    pub fn from_annotations(annotations: &BTreeMap<String, String>) -> Result<Option<Bandwidth>> {
        let rate = |way: &str| {
            let key = format!("kubernetes.io/{way}-bandwidth");
            annotations.get(&key).map(|text| quantity(text).ok_or_else(|| wrong(&key, text))).transpose()
        };
        let (ingress, egress) = (rate("ingress")?, rate("egress")?);
        if ingress.is_none() && egress.is_none() {
            return Ok(None);
        }
        // The burst is the most that the plugin takes: the rate alone is the limit.
        let burst = |rate: Option<u64>| rate.map_or(0, |_| u32::MAX as u64);
        Ok(Some(Bandwidth {
            ingress_rate: ingress.unwrap_or(0),
            ingress_burst: burst(ingress),
            egress_rate: egress.unwrap_or(0),
            egress_burst: burst(egress),
        }))
    }
}

fn wrong(key: &str, text: &str) -> Error {
    Error::invalid(format!("annotation {key}: \"{text}\" is no bandwidth from 1k to 1P"))
}

/// A Kubernetes quantity, in the range that the kubelet thinks reasonable for a bandwidth.
fn quantity(text: &str) -> Option<u64> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: f64 = match unit {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        _ => return None,
    };
    let value = (number.parse::<f64>().ok()? * factor).ceil();
    (1e3..=1e15).contains(&value).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidth_annotations_are_quantities_in_a_sane_range() {
        let ask = |text: &str| Bandwidth::from_annotations(&BTreeMap::from([("kubernetes.io/ingress-bandwidth".into(), text.into())]));
        let ten = Bandwidth { ingress_rate: 10_000_000, ingress_burst: u32::MAX as u64, ..Bandwidth::default() };
        assert_eq!(ask("10M").unwrap(), Some(ten));
        assert_eq!(ask("1.5Ki").unwrap().unwrap().ingress_rate, 1536);
        for bad in ["", "1", "2Pi", "ten", "-5M", "10MB"] {
            assert!(ask(bad).is_err(), "{bad}");
        }
        assert_eq!(Bandwidth::from_annotations(&BTreeMap::new()).unwrap(), None);
    }

    #[test]
    fn a_pod_cannot_smuggle_arguments() {
        let pod = Pod { namespace: "ns".into(), name: "a;K8S_POD_UID=1".into(), uid: "u".into() };
        let attach = Attach { sandbox_id: "s1".into(), pod, ..Attach::default() };
        assert!(attach.check().is_err());
        assert!(Attach { sandbox_id: "../s".into(), ..Attach::default() }.check().is_err());
    }

    #[test]
    fn arguments_and_capabilities_are_spelled_as_plugins_read_them() {
        let pod = Pod { namespace: "ns".into(), name: "web".into(), uid: "u".into() };
        let port = |host_port| PortMapping { host_port, container_port: 80, protocol: "tcp".into(), host_ip: String::new() };
        let attach = Attach { sandbox_id: "s1".into(), pod, port_mappings: vec![port(0), port(8080)], ..Attach::default() };
        assert_eq!(attach.args(), "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=s1;K8S_POD_UID=u");
        let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]);
        assert_eq!(attach.capabilities()["portMappings"], ports);
    }
}
