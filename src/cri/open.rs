//! Open: CRI from the config and core's services. The loops begin once the stores are filled.
use super::about::{About, Loops};
use super::dirs::{Dirs, make};
use super::loops::{event_monitor, network_care, snapshots_syncer};
use super::networks::Networks;
use super::store::{Index, container::Containers, image::Images, pins::Pins, sandbox::Sandboxes};
use super::{Cri, Ports, recover, spec, streaming};
use crate::cni::{IpPreference, Order, Plugins, Settings};
use crate::config::Config;
use crate::core::events::Bus;
use crate::error::Result;
use crate::thread::{Pool, Threads};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What differs between nodes besides the config.
pub struct Node {
    /// CRI's directories.
    pub dirs: Dirs,
    /// The OCI runtime that the probe found.
    pub oci_runtime: String,
    /// Longest run of a network plugin.
    pub cni_limit: Duration,
    /// The plugin's threads, for the loops.
    pub threads: Arc<Threads>,
    /// All plugins' loops, for Status.
    pub loops: Loops,
}

/// Opens, recovers, and starts the loops.
pub fn open(config: &Config, node: Node, ports: Ports, events: &Bus) -> Result<Arc<Cri>> {
    let about = About::new(config, &node);
    let threads = node.threads;
    for dir in ["sandboxes", "containers", "fifo", "peek"] {
        make(&node.dirs.state.join(dir))?;
    }
    make(&node.dirs.root.join("containers"))?;
    // What a daemon that was killed in the middle of a creation had mounted for a moment.
    for dir in ["peek", "containers"] {
        super::runtime::teardown::unmount_under(&node.dirs.state.join(dir))?;
    }
    let runtime = config.cri_runtime.clone();
    spec::check_config(&runtime)?;
    let blockio = Some(PathBuf::from(&config.tasks.blockio_config_file)).filter(|p| !p.as_os_str().is_empty());
    let plugins = Plugins::open(Settings {
        bin_dirs: runtime.cni.bin_dirs.clone(),
        cache_dir: cni_cache(&node.dirs),
        limit: node.cni_limit,
        ip_preference: IpPreference::parse(&runtime.cni.ip_pref)?,
        order: if runtime.cni.setup_serially { Order::InTurn } else { Order::AtOnce },
    })?;
    let networks = Arc::new(Networks::open(&runtime, plugins, &threads)?);
    let rates = super::rates::Rates::new(runtime.stats_collect_period.0, runtime.stats_retention_period.0);
    let (front, streams) = streaming::bind(&config.cri_server)?;
    let front = Arc::new(front);
    // Before the first task is asked: what ends in between waits in the queue.
    let subscription = event_monitor::subscribe(events);
    let cri = Arc::new(Cri {
        runtime,
        images_config: config.cri_images.clone(),
        dirs: node.dirs,
        sandboxes: Sandboxes { by_id: Index::new("sandbox"), names: Arc::default() },
        containers: Containers { by_id: Index::new("container"), names: Arc::default() },
        images: Images::new(
            ports.images.clone(),
            ports.content.clone(),
            Pins::new(config.cri_images.pinned_images.values().map(String::as_str)),
        ),
        networks,
        sizes: Arc::default(),
        changes: super::changes::Changes::default(),
        rates,
        host: spec::Host { blockio_config: blockio, ..spec::Host::probe()? },
        features: Default::default(),
        streaming: front.clone(),
        about,
        ports,
        io: Pool::new("cri-io", 1024)?,
        threads,
    });
    let stale = recover::recover(&cri)?;
    if !stale.is_empty() {
        let networks = cri.networks.clone();
        cri.threads.spawn("cni-care", move |stop| network_care::run(&networks, stale, stop))?;
    }
    let own = cri.clone();
    cri.threads.spawn("cri-events", move |stop| event_monitor::run(&own, &subscription, stop))?;
    let own = cri.clone();
    cri.threads.spawn("stream-loop", move |stop| streams.run(own, front, stop))?;
    let (sizes, snapshotters) = (cri.sizes.clone(), cri.ports.snapshotters.clone());
    let period = Duration::from_secs(cri.images_config.stats_collect_period.max(1));
    cri.threads.spawn("snap-sync", move |stop| snapshots_syncer::run(&sizes, &snapshotters, period, stop))?;
    Ok(cri)
}

/// Survives a reboot, as the addresses that the plugins gave out do.
fn cni_cache(dirs: &Dirs) -> PathBuf {
    dirs.root.join("cni")
}
