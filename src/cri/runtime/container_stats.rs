//! ContainerStats: what a container uses now, read from its cgroup by the daemon itself: no shim is asked.
use crate::call::Call;
use crate::cri::store::container::{Container, State};
use crate::cri::{Cri, now};
use crate::error::{Error, Result};
use crate::proto::cri::{
    ContainerAttributes, ContainerStats, ContainerStatsRequest, ContainerStatsResponse, CpuUsage, FilesystemIdentifier, FilesystemUsage,
    MemoryUsage, SwapUsage, UInt64Value,
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
    let config = &container.record.config;
    let attributes = ContainerAttributes {
        id: container.id.clone(),
        metadata: config.metadata.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        ..ContainerAttributes::default()
    };
    let mut stats = ContainerStats { attributes: MessageField::some(attributes), ..ContainerStats::default() };
    stats.writable_layer = writable_layer(cri, &container.id);
    if let State::Running { .. } = container.state {
        let path = cri.cgroup_path(&container.id)?;
        // A container that ends while it is looked at has no cgroup any more.
        if let Ok(read) = Cgroup::at(&path).and_then(|c| c.stats()) {
            fill(cri, &container.id, &mut stats, &read);
        }
    }
    Ok(stats)
}

fn value(value: u64) -> MessageField<UInt64Value> {
    MessageField::some(UInt64Value { value, ..UInt64Value::default() })
}

fn fill(cri: &Cri, id: &str, stats: &mut ContainerStats, read: &Stats) {
    let timestamp = now();
    stats.cpu = MessageField::some(CpuUsage {
        timestamp,
        usage_core_nano_seconds: value(read.cpu.usage_ns),
        usage_nano_cores: cri.rates.nano_cores(id, timestamp, read.cpu.usage_ns).map_or_else(MessageField::none, value),
        ..CpuUsage::default()
    });
    let memory = read.memory.unwrap_or_default();
    stats.memory = MessageField::some(MemoryUsage {
        timestamp,
        working_set_bytes: value(memory.working_set),
        available_bytes: memory.limit.map_or_else(MessageField::none, |limit| value(limit.saturating_sub(memory.working_set))),
        usage_bytes: value(memory.usage),
        rss_bytes: value(memory.rss),
        page_faults: value(memory.page_faults),
        major_page_faults: value(memory.major_page_faults),
        ..MemoryUsage::default()
    });
    stats.swap =
        MessageField::some(SwapUsage { timestamp, swap_usage_bytes: value(read.swap.unwrap_or_default().usage), ..SwapUsage::default() });
}

fn writable_layer(cri: &Cri, id: &str) -> MessageField<FilesystemUsage> {
    let Some((snapshotter, size)) = cri.sizes.of_container(id) else { return MessageField::none() };
    let mountpoint = cri.ports.snapshotter(&snapshotter).map(|s| s.root().display().to_string()).unwrap_or_default();
    MessageField::some(FilesystemUsage {
        timestamp: size.at,
        fs_id: MessageField::some(FilesystemIdentifier { mountpoint, ..FilesystemIdentifier::default() }),
        used_bytes: value(size.usage.bytes),
        inodes_used: value(size.usage.inodes),
        ..FilesystemUsage::default()
    })
}
