//! Networks: the pod networks of the node, one syncer a conf dir; a runtime handler may have a conf dir of its own.
use super::store::sandbox::Record;
use crate::call::Call;
use crate::cni::{Attach, Bandwidth, Dns, Outcome, Plugins, Pod, PortMapping, Syncer};
use crate::config::CriRuntime;
use crate::error::{Error, Kind, Result};
use crate::proto::cri::Protocol;
use crate::thread::Threads;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// All pod networks.
pub struct Networks {
    plugins: Arc<Plugins>,
    default: Arc<Syncer>,
    by_handler: BTreeMap<String, Arc<Syncer>>,
}

impl Networks {
    /// Watches the conf dirs of the config.
    pub fn open(config: &CriRuntime, plugins: Arc<Plugins>, threads: &Threads) -> Result<Networks> {
        let cni = &config.cni;
        let default = Syncer::spawn(threads, plugins.clone(), &cni.conf_dir, cni.max_conf_num, 0)?;
        let mut by_handler = BTreeMap::new();
        for (name, runtime) in config.containerd.runtimes.iter().filter(|(_, r)| !r.cni_conf_dir.is_empty()) {
            let max = if runtime.cni_max_conf_num == 0 { cni.max_conf_num } else { runtime.cni_max_conf_num };
            let syncer = Syncer::spawn(threads, plugins.clone(), Path::new(&runtime.cni_conf_dir), max, by_handler.len() + 1)?;
            by_handler.insert(name.clone(), syncer);
        }
        Ok(Networks { plugins, default, by_handler })
    }
    /// Whether pods of the default handler can get a network; else why not.
    pub fn ready(&self) -> std::result::Result<(), String> {
        self.default.current().map(drop)
    }
    /// Attaches a pod.
    pub fn attach(&self, call: &Call, id: &str, record: &Record) -> Result<Outcome> {
        let syncer = self.by_handler.get(&record.handler).unwrap_or(&self.default);
        let network =
            syncer.current().map_err(|why| Error::new(Kind::Unavailable, format!("pod {}: network is not ready: {why}", record.name)))?;
        network.add(call, &attach_of(id, record)?)
    }
    /// Takes a pod off its networks, by what was recorded when it was attached.
    pub fn detach(&self, call: &Call, id: &str) -> Result<()> {
        self.plugins.del(call, id).map(drop)
    }
    /// Takes off what no pod of `valid` has: attachments that a killed daemon left.
    pub fn collect(&self, call: &Call, valid: &std::collections::BTreeSet<String>) -> Result<usize> {
        self.plugins.gc(call, valid)
    }
}

fn attach_of(id: &str, record: &Record) -> Result<Attach> {
    let config = &record.config;
    let metadata = config.metadata.get_or_default();
    let annotations: BTreeMap<String, String> = config.annotations.clone().into_iter().collect();
    let dns =
        config.dns_config.as_ref().map(|d| Dns { servers: d.servers.clone(), searches: d.searches.clone(), options: d.options.clone() });
    let cgroup = &config.linux.get_or_default().cgroup_parent;
    Ok(Attach {
        sandbox_id: id.into(),
        netns: record.pins.net.clone().unwrap_or_default(),
        pod: Pod { namespace: metadata.namespace.clone(), name: metadata.name.clone(), uid: metadata.uid.clone() },
        port_mappings: config.port_mappings.iter().filter(|p| p.host_port > 0).map(port_of).collect(),
        bandwidth: Bandwidth::from_annotations(&annotations)?,
        dns,
        cgroup_path: (!cgroup.is_empty()).then(|| cgroup.clone()),
        annotations,
        aliases: vec![],
    })
}

fn port_of(p: &crate::proto::cri::PortMapping) -> PortMapping {
    let protocol = match p.protocol.enum_value_or_default() {
        Protocol::TCP => "tcp",
        Protocol::UDP => "udp",
        Protocol::SCTP => "sctp",
    };
    PortMapping { host_port: p.host_port, container_port: p.container_port, protocol: protocol.into(), host_ip: p.host_ip.clone() }
}
