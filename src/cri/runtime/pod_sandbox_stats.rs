//! PodSandboxStats: what a pod uses now, its own process and its network included. Read from cgroups and /proc: no shim is asked,
//! nobody enters the pod's namespaces.
use super::container_stats::stats_of;
use super::usage::{self, value};
use crate::call::Call;
use crate::cri::rates::Counter;
use crate::cri::store::container::Container;
use crate::cri::store::sandbox::{Sandbox, State};
use crate::cri::{Cri, now};
use crate::error::{Error, Result};
use crate::proto::cri::{
    LinuxPodSandboxStats, NetworkUsage, PodSandboxAttributes, PodSandboxStats, PodSandboxStatsRequest, PodSandboxStatsResponse,
    ProcessUsage,
};
use crate::sys::cgroup::{Cgroup, Stats};
use crate::sys::procfs;
use protobuf::MessageField;
use std::sync::Arc;

/// PodSandboxStats.
pub fn pod_sandbox_stats(cri: &Cri, _: &Call, req: PodSandboxStatsRequest) -> Result<PodSandboxStatsResponse> {
    let pod = cri.sandboxes.by_id.get(&req.pod_sandbox_id)?;
    if !matches!(pod.state, State::Ready { .. }) {
        return Err(Error::precondition(format!("sandbox \"{}\" is not ready and has no statistics", pod.id)));
    }
    let stats = stats_of_pod(cri, &pod, &cri.containers_of(&pod.id));
    Ok(PodSandboxStatsResponse { stats: MessageField::some(stats), ..PodSandboxStatsResponse::default() })
}

/// One pod's figures; a container that cannot be read is left out.
pub fn stats_of_pod(cri: &Cri, pod: &Sandbox, containers: &[Arc<Container>]) -> PodSandboxStats {
    let config = &pod.record.config;
    let attributes = PodSandboxAttributes {
        id: pod.id.clone(),
        metadata: config.metadata.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        ..PodSandboxAttributes::default()
    };
    let mut linux = LinuxPodSandboxStats {
        network: network_of(pod).map_or_else(MessageField::none, MessageField::some),
        containers: containers
            .iter()
            .filter_map(|c| stats_of(cri, c).inspect_err(|e| log::debug!("statistics of {}: {}", c.id, e.chain())).ok())
            .collect(),
        ..LinuxPodSandboxStats::default()
    };
    if let Some(group) = group_of(cri, pod, containers) {
        let read = &group.stats;
        linux.cpu = MessageField::some(usage::cpu(cri, Counter { id: &pod.id, since: pod.record.created_at }, read));
        linux.memory = MessageField::some(usage::memory(&read.memory.unwrap_or_default(), read.memory_pressure));
        linux.io = usage::io(read);
        linux.process =
            MessageField::some(ProcessUsage { timestamp: now(), process_count: value(group.processes), ..ProcessUsage::default() });
    }
    PodSandboxStats { attributes: MessageField::some(attributes), linux: MessageField::some(linux), ..PodSandboxStats::default() }
}

/// What a pod's groups counted.
pub struct Group {
    /// All of them together.
    pub stats: Stats,
    /// Processes in them.
    pub processes: u64,
    /// The pod's own group, where it has one.
    pub own: Option<Cgroup>,
}

/// A pod's own group, which the kubelet made; a pod without one is the sum of its containers' groups and its own process's.
pub fn group_of(cri: &Cri, pod: &Sandbox, containers: &[Arc<Container>]) -> Option<Group> {
    if let Some(own) = cri.pod_cgroup_path(&pod.record) {
        let own = Cgroup::at(&own).ok()?;
        return Some(Group { stats: own.stats().ok()?, processes: count(&own), own: Some(own) });
    }
    let mut sum: Option<Group> = None;
    let running = containers.iter().filter(|c| c.pid().is_some()).map(|c| &c.id);
    for id in running.chain([&pod.id]) {
        let group = Cgroup::at(&cri.cgroup_path_in(&pod.record, id)).and_then(|g| Ok((g.stats()?, count(&g))));
        let Ok((stats, processes)) = group else { continue };
        match &mut sum {
            Some(sum) => {
                sum.stats.add(&stats);
                sum.processes += processes;
            }
            None => sum = Some(Group { stats, processes, own: None }),
        }
    }
    sum
}

fn count(group: &Cgroup) -> u64 {
    group.procs().map_or(0, |procs| procs.len() as u64)
}

/// Traffic of a pod's own network; the node's is not the pod's.
fn network_of(pod: &Sandbox) -> Option<NetworkUsage> {
    interfaces_of(pod).map(usage::network)
}

/// Interfaces of a pod's own network, as its process sees them.
pub fn interfaces_of(pod: &Sandbox) -> Option<Vec<procfs::Interface>> {
    match pod.state {
        State::Ready { pid } if !pod.host_network() => procfs::interfaces(pid).ok(),
        _ => None,
    }
}
