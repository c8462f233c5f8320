//! ContainerStats: what a container uses now, read from its cgroup by the daemon itself: no shim is asked.
use super::usage::{self, value};
use crate::call::Call;
use crate::cri::Cri;
use crate::cri::rates::Counter;
use crate::cri::store::container::{Container, State};
use crate::error::{Error, Result};
use crate::proto::cri::{
    ContainerAttributes, ContainerStats, ContainerStatsRequest, ContainerStatsResponse, FilesystemIdentifier, FilesystemUsage,
};
use crate::sys::cgroup::{Cgroup, Stats};
use protobuf::MessageField;

/// ContainerStats.
pub fn container_stats(cri: &Cri, _: &Call, req: ContainerStatsRequest) -> Result<ContainerStatsResponse> {
    let container = cri.containers.by_id.get(&req.container_id)?;
    if let State::Unknown { why } = &container.state {
        return Err(Error::precondition(format!("container \"{}\" has no statistics: {why}", container.id)));
    }
    Ok(ContainerStatsResponse { stats: MessageField::some(stats_of(cri, &container)?), ..ContainerStatsResponse::default() })
}

/// One container's figures; one that does not run has those of its filesystem alone.
pub fn stats_of(cri: &Cri, container: &Container) -> Result<ContainerStats> {
    let mut stats = ContainerStats { attributes: MessageField::some(attributes(container)), ..ContainerStats::default() };
    stats.writable_layer = writable_layer(cri, container);
    if let Some(read) = read(cri, container)? {
        fill(cri, container, &mut stats, &read);
    }
    Ok(stats)
}

/// A running container's counters; none for one that does not run, or ends while it is looked at.
pub fn read(cri: &Cri, container: &Container) -> Result<Option<Stats>> {
    match container.state {
        State::Running { .. } => Ok(Cgroup::at(&cri.cgroup_path(&container.id)?).and_then(|c| c.stats()).ok()),
        _ => Ok(None),
    }
}

fn attributes(container: &Container) -> ContainerAttributes {
    let config = &container.record.config;
    ContainerAttributes {
        id: container.id.clone(),
        metadata: config.metadata.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        ..ContainerAttributes::default()
    }
}

fn fill(cri: &Cri, container: &Container, stats: &mut ContainerStats, read: &Stats) {
    let since = match container.state {
        State::Running { started_at, .. } => started_at,
        _ => container.record.created_at,
    };
    stats.cpu = MessageField::some(usage::cpu(cri, Counter { id: &container.id, since }, read));
    stats.memory = MessageField::some(usage::memory(&read.memory.unwrap_or_default(), read.memory_pressure));
    stats.swap = MessageField::some(usage::swap(read));
    stats.io = usage::io(read);
}

fn writable_layer(cri: &Cri, container: &Container) -> MessageField<FilesystemUsage> {
    let Some((snapshotter, size)) = cri.writable_layer(container) else { return MessageField::none() };
    let mountpoint = cri.ports.snapshotter(&snapshotter).map(|s| s.root().display().to_string()).unwrap_or_default();
    MessageField::some(FilesystemUsage {
        timestamp: size.at,
        fs_id: MessageField::some(FilesystemIdentifier { mountpoint, ..FilesystemIdentifier::default() }),
        used_bytes: value(size.usage.bytes),
        inodes_used: value(size.usage.inodes),
        ..FilesystemUsage::default()
    })
}
