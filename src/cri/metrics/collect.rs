//! Collect: reads a container's cgroup, processes and filesystem, and a pod's network, into metrics.
use super::descriptors as d;
use super::{Descriptor, Samples};
use crate::cri::runtime::{group_of, interfaces_of};
use crate::cri::store::container::{Container, State};
use crate::cri::store::sandbox::Sandbox;
use crate::cri::{Cri, now};
use crate::error::{Context, Error, Result};
use crate::proto::cri::{ContainerMetrics, PodSandboxMetrics};
use crate::sys::cgroup::{Cgroup, Limits, Pressure, Stats, path_of};
use crate::sys::fs::{Volume, device_name, volume};
use crate::sys::procfs;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Reads for one call, and what all containers have in common once.
pub struct Collector<'a> {
    cri: &'a Cri,
    volumes: HashMap<PathBuf, Option<Volume>>,
    devices: HashMap<(u64, u64), String>,
    huge_page: Option<String>,
}

impl<'a> Collector<'a> {
    /// For one call.
    pub fn new(cri: &'a Cri) -> Collector<'a> {
        Collector { cri, volumes: HashMap::new(), devices: HashMap::new(), huge_page: procfs::huge_page_size() }
    }
    /// A pod and its running containers; one that cannot be read is left out, and the pod stays.
    pub fn pod(&mut self, pod: &Sandbox, containers: &[Arc<Container>]) -> PodSandboxMetrics {
        let metadata = pod.record.config.metadata.get_or_default();
        let own = self.cri.pod_cgroup_path(&pod.record).unwrap_or_else(|| self.cri.cgroup_path_in(&pod.record, &pod.id));
        let mut samples = Samples::new(["", &path_of(&own), "", &pod.id, &metadata.namespace, &metadata.name]);
        if let Some(group) = group_of(self.cri, pod, containers) {
            self.group(&mut samples, &group.stats);
            samples.put(&d::PROCESSES, group.processes);
            if let Some(own) = group.own {
                limits(&mut samples, &own.limits());
            }
        }
        network(&mut samples, interfaces_of(pod).unwrap_or_default());
        let running = containers.iter().filter(|c| c.pid().is_some());
        let container_metrics = running
            .filter_map(|c| self.container(pod, c).inspect_err(|e| log::debug!("metrics of {}: {}", c.id, e.chain())).ok())
            .collect();
        PodSandboxMetrics { pod_sandbox_id: pod.id.clone(), metrics: samples.found, container_metrics, ..PodSandboxMetrics::default() }
    }
    fn container(&mut self, pod: &Sandbox, container: &Container) -> Result<ContainerMetrics> {
        let State::Running { pid, started_at } = container.state else {
            return Err(Error::precondition(format!("container \"{}\" does not run", container.id)));
        };
        let path = self.cri.cgroup_path_in(&pod.record, &container.id);
        let group = Cgroup::at(&path).during(|| format!("find the cgroup of container {}", container.id))?;
        let stats = group.stats().during(|| format!("read the cgroup of container {}", container.id))?;
        let (own, owner) = (container.record.config.metadata.get_or_default(), pod.record.config.metadata.get_or_default());
        let image = &container.record.image_name;
        let mut samples = Samples::new([&own.name, &path_of(&path), image, &container.id, &owner.namespace, &owner.name]);
        samples.put(&d::LAST_SEEN, seconds(now()));
        samples.put(&d::START_TIME, seconds(started_at));
        self.group(&mut samples, &stats);
        limits(&mut samples, &group.limits());
        self.processes(&mut samples, &group.procs().unwrap_or_default(), &stats);
        if let Ok(Some(files)) = procfs::soft_open_files(pid) {
            samples.put_of(&d::ULIMITS, &["max_open_files"], files);
        }
        self.filesystem(&mut samples, container);
        Ok(ContainerMetrics { container_id: container.id.clone(), metrics: samples.found, ..ContainerMetrics::default() })
    }
    /// What a cgroup counts.
    fn group(&mut self, samples: &mut Samples, stats: &Stats) {
        cpu(samples, stats);
        memory(samples, stats);
        samples.put(&d::OOM_EVENTS, stats.oom_kills);
        if let Some(pids) = stats.pids {
            samples.put(&d::THREADS, pids.current);
            samples.put(&d::THREADS_MAX, pids.limit.unwrap_or(0));
        }
        for size in &stats.hugetlb {
            samples.put_of(&d::HUGETLB_USAGE, &[&size.size], size.usage);
            samples.put_of(&d::HUGETLB_MAX, &[&size.size], size.max.max(size.usage));
        }
        for device in &stats.io {
            let key = (device.major, device.minor);
            let name = self.devices.entry(key).or_insert_with(|| device_name(key.0, key.1));
            samples.put_of(&d::FS_READ_BYTES, &[name], device.read_bytes);
            samples.put_of(&d::FS_READS, &[name], device.reads);
            samples.put_of(&d::FS_WRITE_BYTES, &[name], device.write_bytes);
            samples.put_of(&d::FS_WRITES, &[name], device.writes);
            let (major, minor) = (key.0.to_string(), key.1.to_string());
            samples.put_of(&d::BLKIO_USAGE, &[name, &major, &minor, "Read"], device.read_bytes);
            samples.put_of(&d::BLKIO_USAGE, &[name, &major, &minor, "Write"], device.write_bytes);
        }
        pressure(samples, stats.cpu_pressure, (&d::PRESSURE_CPU_STALLED, &d::PRESSURE_CPU_WAITING));
        pressure(samples, stats.memory_pressure, (&d::PRESSURE_MEMORY_STALLED, &d::PRESSURE_MEMORY_WAITING));
        pressure(samples, stats.io_pressure, (&d::PRESSURE_IO_STALLED, &d::PRESSURE_IO_WAITING));
    }
    /// What no cgroup counts, summed over the processes; one that ends meanwhile has nothing open.
    fn processes(&self, samples: &mut Samples, pids: &[i32], stats: &Stats) {
        samples.put(&d::PROCESSES, pids.len() as u64);
        let open = pids.iter().filter_map(|pid| procfs::open_files(*pid).ok());
        let (files, sockets) = open.fold((0, 0), |(files, sockets), one| (files + one.all, sockets + one.sockets));
        samples.put(&d::FILE_DESCRIPTORS, files);
        samples.put(&d::SOCKETS, sockets);
        if let (Some(size), true) = (&self.huge_page, stats.hugetlb.is_empty()) {
            let bytes = pids.iter().filter_map(|pid| procfs::huge_bytes(*pid).ok()).sum();
            samples.put_of(&d::HUGETLB_USAGE, &[size], bytes);
            samples.put_of(&d::HUGETLB_MAX, &[size], bytes);
        }
    }
    fn filesystem(&mut self, samples: &mut Samples, container: &Container) {
        let Some((snapshotter, size)) = self.cri.writable_layer(container) else { return };
        let Ok(root) = self.cri.ports.snapshotter(&snapshotter).map(|s| s.root().to_path_buf()) else { return };
        let Some(volume) = self.volumes.entry(root).or_insert_with_key(|root| volume(root).ok()) else { return };
        samples.put_of(&d::FS_INODES_FREE, &[&volume.device], volume.inodes_free);
        samples.put_of(&d::FS_INODES_TOTAL, &[&volume.device], volume.inodes);
        samples.put_of(&d::FS_LIMIT, &[&volume.device], volume.bytes);
        samples.put_of(&d::FS_USAGE, &[&volume.device], size.usage.bytes);
    }
}

fn seconds(nanos: i64) -> u64 {
    u64::try_from(nanos).unwrap_or_default() / 1_000_000_000
}

fn cpu(samples: &mut Samples, stats: &Stats) {
    let cpu = &stats.cpu;
    let seconds = |nanos: u64| nanos / 1_000_000_000;
    samples.put(&d::CPU_USER, seconds(cpu.user_ns));
    samples.put(&d::CPU_SYSTEM, seconds(cpu.system_ns));
    samples.put_of(&d::CPU_USAGE, &["total"], seconds(cpu.usage_ns));
    samples.put(&d::CPU_PERIODS, cpu.periods);
    samples.put(&d::CPU_THROTTLED_PERIODS, cpu.throttled_periods);
    samples.put(&d::CPU_THROTTLED, seconds(cpu.throttled_ns));
}

fn memory(samples: &mut Samples, stats: &Stats) {
    let Some(memory) = stats.memory else { return };
    samples.put(&d::MEMORY_CACHE, memory.cache);
    samples.put(&d::MEMORY_RSS, memory.rss);
    samples.put(&d::MEMORY_KERNEL, memory.kernel);
    samples.put(&d::MEMORY_MAPPED, memory.mapped_file);
    samples.put(&d::MEMORY_SWAP, stats.swap.unwrap_or_default().usage);
    samples.put(&d::MEMORY_FAILCNT, memory.failures);
    samples.put(&d::MEMORY_USAGE, memory.usage);
    samples.put(&d::MEMORY_MAX, memory.max_usage.unwrap_or(memory.usage));
    samples.put(&d::MEMORY_WORKING_SET, memory.working_set);
    let all = [
        ("pgfault", "container", memory.own_faults.0),
        ("pgfault", "hierarchy", memory.page_faults),
        ("pgmajfault", "container", memory.own_faults.1),
        ("pgmajfault", "hierarchy", memory.major_page_faults),
    ];
    for (kind, scope, value) in all {
        samples.put_of(&d::MEMORY_FAILURES, &[kind, scope], value);
    }
}

/// As with cAdvisor, a kernel that does not count pressure has none.
fn pressure(samples: &mut Samples, pressure: Option<Pressure>, (stalled, waiting): (&Descriptor, &Descriptor)) {
    let pressure = pressure.unwrap_or_default();
    samples.put(stalled, pressure.full.total_us / 1_000_000);
    samples.put(waiting, pressure.some.total_us / 1_000_000);
}

fn limits(samples: &mut Samples, limits: &Limits) {
    let cpu = [(&d::SPEC_CPU_PERIOD, limits.cpu_period), (&d::SPEC_CPU_QUOTA, limits.cpu_quota), (&d::SPEC_CPU_SHARES, limits.cpu_shares)];
    for (descriptor, value) in cpu {
        if let Some(value) = value {
            samples.put(descriptor, value);
        }
    }
    samples.put(&d::SPEC_MEMORY_LIMIT, limits.memory.unwrap_or(0));
    samples.put(&d::SPEC_MEMORY_RESERVATION, limits.memory_reserved.unwrap_or(0));
    samples.put(&d::SPEC_MEMORY_SWAP, limits.memory_and_swap.unwrap_or(0));
}

fn network(samples: &mut Samples, interfaces: Vec<procfs::Interface>) {
    for interface in interfaces.iter().filter(|i| i.name != "lo") {
        let (rx, tx) = (&interface.rx, &interface.tx);
        let all = [
            (&d::NETWORK_RX_BYTES, rx.bytes),
            (&d::NETWORK_RX_PACKETS, rx.packets),
            (&d::NETWORK_RX_DROPPED, rx.dropped),
            (&d::NETWORK_RX_ERRORS, rx.errors),
            (&d::NETWORK_TX_BYTES, tx.bytes),
            (&d::NETWORK_TX_PACKETS, tx.packets),
            (&d::NETWORK_TX_DROPPED, tx.dropped),
            (&d::NETWORK_TX_ERRORS, tx.errors),
        ];
        for (descriptor, value) in all {
            samples.put_of(descriptor, &[&interface.name], value);
        }
    }
}
