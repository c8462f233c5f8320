//! Networks: the pod networks of the node, one syncer a conf dir; a runtime handler may have a conf dir of its own.
use super::store::sandbox::Record;
use crate::call::Call;
use crate::cni::{Attach, Bandwidth, Dns, List, Outcome, Plugins, Pod, PortMapping, Syncer, template};
use crate::config::{Cni, CriRuntime};
use crate::error::{Context, Error, Kind, Result};
use crate::proto::cri::Protocol;
use crate::thread::Threads;
use log::warn;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Plugins take a second or two.
const SETTLE: Duration = Duration::from_secs(10);

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
    /// Writes the default conf list by the config's template, if there is one and pods cannot get a network without.
    pub fn make_conf(&self, cni: &Cni, pod_cidr: &str) -> Result<Option<PathBuf>> {
        let cidrs = template::cidrs(pod_cidr)?;
        if cni.conf_template.is_empty() || self.ready().is_ok() {
            return Ok(None);
        }
        template::write_conf(Path::new(&cni.conf_template), &cni.conf_dir, &cidrs).map(Some)
    }
    /// How the last look at each conf dir went; the default one's has no handler.
    pub fn load_status(&self) -> Vec<(Option<&str>, std::result::Result<(), String>)> {
        let of = |syncer: &Syncer| syncer.current().map(drop);
        let handlers = self.by_handler.iter().map(|(name, syncer)| (Some(name.as_str()), of(syncer)));
        std::iter::once((None, of(&self.default))).chain(handlers).collect()
    }
    /// The default networks, as containerd's `cniconfig` has them.
    pub fn describe(&self, cni: &Cni) -> Value {
        let lists = self.default.current().map(|network| network.lists().to_vec()).unwrap_or_default();
        let one = |(number, list): (usize, &List)| {
            let plugins: Vec<Value> =
                list.plugins.iter().map(|p| json!({"Network": p, "Source": Value::from(p.clone()).to_string()})).collect();
            json!({
                "Config": {"Name": list.name, "CNIVersion": list.version, "Plugins": plugins, "Source": list.source},
                "IFName": format!("eth{number}"),
            })
        };
        json!({
            "PluginDirs": cni.bin_dirs,
            "PluginConfDir": cni.conf_dir,
            "PluginMaxConfNum": cni.max_conf_num,
            "Prefix": "eth",
            "Networks": lists.iter().enumerate().map(one).collect::<Vec<_>>(),
        })
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
    /// Waits for plugins that a killed daemon has left running.
    pub fn settle(&self) {
        if let Err(e) = self.plugins.settle(SETTLE) {
            warn!("{}", e.chain());
        }
    }
    /// Sandboxes beside the valid ones that are attached to something: what a killed daemon left.
    pub fn stale(&self, valid: &BTreeSet<String>) -> Result<BTreeSet<String>> {
        self.plugins.stale(valid)
    }
    /// Tells the networks' plugins what is attached, so that they free the rest. Not while a pod is attached.
    pub fn collect(&self, call: &Call) -> Result<()> {
        let mut done: BTreeSet<&Path> = BTreeSet::new();
        for syncer in [&self.default].into_iter().chain(self.by_handler.values()) {
            if let (true, Ok(network)) = (done.insert(syncer.conf_dir()), syncer.current()) {
                network.gc(call).during(|| format!("CNI GC of the networks in {}", syncer.conf_dir().display()))?;
            }
        }
        Ok(())
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
