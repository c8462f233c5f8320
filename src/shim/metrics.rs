//! Stats of a cgroup in the two messages that containerd's clients know.
use crate::error::{Context, Result};
use crate::proto::{cgroups1 as v1, cgroups2 as v2};
use crate::sys::cgroup::{Cgroup, Pressure, Stall, Stats, flat_keyed};
use protobuf::Message;
use protobuf::well_known_types::any::Any;

/// What a limit that is not set looks like in the messages.
const NO_LIMIT: u64 = u64::MAX;

/// Reads the group; the message is of its layout.
pub fn read(group: &Cgroup) -> Result<Any> {
    let stats = group.stats().during(|| "read the container's cgroup")?;
    let memory = group.read("memory", "memory.stat").unwrap_or_default();
    let mut any = Any::new();
    let encoded = if group.is_v2() {
        any.type_url = "io.containerd.cgroups.v2.Metrics".into();
        let events = group.read("memory", "memory.events").unwrap_or_default();
        metrics_v2(&stats, &memory, &events).write_to_bytes()
    } else {
        any.type_url = "io.containerd.cgroups.v1.Metrics".into();
        let per_cpu = group.read("cpuacct", "cpuacct.usage_percpu").unwrap_or_default();
        metrics_v1(&stats, &memory, &per_cpu).write_to_bytes()
    };
    any.value = encoded.during(|| "write the container's metrics")?;
    Ok(any)
}

fn metrics_v1(stats: &Stats, memory: &str, per_cpu: &str) -> v1::Metrics {
    let mut all = v1::Metrics::new();
    let cpu = all.cpu.mut_or_insert_default();
    let usage = cpu.usage.mut_or_insert_default();
    usage.total = stats.cpu.usage_ns;
    usage.user = stats.cpu.user_ns;
    usage.kernel = stats.cpu.system_ns;
    usage.per_cpu = per_cpu.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    let throttling = cpu.throttling.mut_or_insert_default();
    throttling.periods = stats.cpu.periods;
    throttling.throttled_periods = stats.cpu.throttled_periods;
    throttling.throttled_time = stats.cpu.throttled_ns;
    if let Some(m) = &stats.memory {
        let to = all.memory.mut_or_insert_default();
        flat_keyed(memory).for_each(|(key, value)| set_v1(to, key, value));
        let entry = to.usage.mut_or_insert_default();
        (entry.usage, entry.limit) = (m.usage, m.limit.unwrap_or(NO_LIMIT));
        (entry.max, entry.failcnt) = (m.max_usage.unwrap_or_default(), m.failures);
        to.kernel.mut_or_insert_default().usage = m.kernel;
        if let Some(swap) = &stats.swap {
            // v1's entry counts memory and swap together.
            let entry = to.swap.mut_or_insert_default();
            entry.usage = m.usage + swap.usage;
            entry.limit = swap.limit.map_or(NO_LIMIT, |l| l.saturating_add(m.limit.unwrap_or_default()));
        }
        all.memory_oom_control.mut_or_insert_default().oom_kill = stats.oom_kills;
    }
    if let Some(p) = &stats.pids {
        let pids = all.pids.mut_or_insert_default();
        (pids.current, pids.limit) = (p.current, p.limit.unwrap_or_default());
    }
    let blkio = all.blkio.mut_or_insert_default();
    for d in &stats.io {
        let entry = |op: &str, value| {
            let mut e = v1::BlkIOEntry::new();
            (e.op, e.major, e.minor, e.value) = (op.into(), d.major, d.minor, value);
            e
        };
        blkio.io_service_bytes_recursive.extend([entry("Read", d.read_bytes), entry("Write", d.write_bytes)]);
        blkio.io_serviced_recursive.extend([entry("Read", d.reads), entry("Write", d.writes)]);
    }
    for h in &stats.hugetlb {
        let mut e = v1::HugetlbStat::new();
        (e.usage, e.max, e.failcnt, e.pagesize) = (h.usage, h.max, h.failures, h.size.clone());
        all.hugetlb.push(e);
    }
    all
}

fn set_v1(to: &mut v1::MemoryStat, key: &str, value: u64) {
    let field = match key {
        "cache" => &mut to.cache,
        "rss" => &mut to.rss,
        "rss_huge" => &mut to.rss_huge,
        "mapped_file" => &mut to.mapped_file,
        "dirty" => &mut to.dirty,
        "writeback" => &mut to.writeback,
        "pgpgin" => &mut to.pg_pg_in,
        "pgpgout" => &mut to.pg_pg_out,
        "pgfault" => &mut to.pg_fault,
        "pgmajfault" => &mut to.pg_maj_fault,
        "inactive_anon" => &mut to.inactive_anon,
        "active_anon" => &mut to.active_anon,
        "inactive_file" => &mut to.inactive_file,
        "active_file" => &mut to.active_file,
        "unevictable" => &mut to.unevictable,
        "hierarchical_memory_limit" => &mut to.hierarchical_memory_limit,
        "hierarchical_memsw_limit" => &mut to.hierarchical_swap_limit,
        "total_cache" => &mut to.total_cache,
        "total_rss" => &mut to.total_rss,
        "total_rss_huge" => &mut to.total_rss_huge,
        "total_mapped_file" => &mut to.total_mapped_file,
        "total_dirty" => &mut to.total_dirty,
        "total_writeback" => &mut to.total_writeback,
        "total_pgpgin" => &mut to.total_pg_pg_in,
        "total_pgpgout" => &mut to.total_pg_pg_out,
        "total_pgfault" => &mut to.total_pg_fault,
        "total_pgmajfault" => &mut to.total_pg_maj_fault,
        "total_inactive_anon" => &mut to.total_inactive_anon,
        "total_active_anon" => &mut to.total_active_anon,
        "total_inactive_file" => &mut to.total_inactive_file,
        "total_active_file" => &mut to.total_active_file,
        "total_unevictable" => &mut to.total_unevictable,
        _ => return,
    };
    *field = value;
}

fn metrics_v2(stats: &Stats, memory: &str, events: &str) -> v2::Metrics {
    let mut all = v2::Metrics::new();
    let cpu = all.cpu.mut_or_insert_default();
    cpu.usage_usec = stats.cpu.usage_ns / 1000;
    cpu.user_usec = stats.cpu.user_ns / 1000;
    cpu.system_usec = stats.cpu.system_ns / 1000;
    cpu.nr_periods = stats.cpu.periods;
    cpu.nr_throttled = stats.cpu.throttled_periods;
    cpu.throttled_usec = stats.cpu.throttled_ns / 1000;
    cpu.psi = stats.cpu_pressure.as_ref().map(psi).into();
    if let Some(m) = &stats.memory {
        let to = all.memory.mut_or_insert_default();
        flat_keyed(memory).for_each(|(key, value)| set_v2(to, key, value));
        (to.usage, to.usage_limit) = (m.usage, m.limit.unwrap_or(NO_LIMIT));
        to.max_usage = m.max_usage.unwrap_or_default();
        to.psi = stats.memory_pressure.as_ref().map(psi).into();
        if let Some(swap) = &stats.swap {
            (to.swap_usage, to.swap_limit) = (swap.usage, swap.limit.unwrap_or(NO_LIMIT));
        }
        let to = all.memory_events.mut_or_insert_default();
        for (key, value) in flat_keyed(events) {
            match key {
                "low" => to.low = value,
                "high" => to.high = value,
                "max" => to.max = value,
                "oom" => to.oom = value,
                "oom_kill" => to.oom_kill = value,
                "oom_group_kill" => to.oom_group_kill = value,
                _ => {}
            }
        }
    }
    if let Some(p) = &stats.pids {
        let pids = all.pids.mut_or_insert_default();
        (pids.current, pids.limit) = (p.current, p.limit.unwrap_or_default());
    }
    let io = all.io.mut_or_insert_default();
    io.psi = stats.io_pressure.as_ref().map(psi).into();
    for d in &stats.io {
        let mut e = v2::IOEntry::new();
        (e.major, e.minor, e.rbytes, e.wbytes, e.rios, e.wios) = (d.major, d.minor, d.read_bytes, d.write_bytes, d.reads, d.writes);
        io.usage.push(e);
    }
    for h in &stats.hugetlb {
        let mut e = v2::HugeTlbStat::new();
        (e.current, e.max, e.failcnt, e.pagesize) = (h.usage, h.max, h.failures, h.size.clone());
        all.hugetlb.push(e);
    }
    all
}

fn set_v2(to: &mut v2::MemoryStat, key: &str, value: u64) {
    let field = match key {
        "anon" => &mut to.anon,
        "file" => &mut to.file,
        "kernel_stack" => &mut to.kernel_stack,
        "slab" => &mut to.slab,
        "sock" => &mut to.sock,
        "shmem" => &mut to.shmem,
        "file_mapped" => &mut to.file_mapped,
        "file_dirty" => &mut to.file_dirty,
        "file_writeback" => &mut to.file_writeback,
        "anon_thp" => &mut to.anon_thp,
        "inactive_anon" => &mut to.inactive_anon,
        "active_anon" => &mut to.active_anon,
        "inactive_file" => &mut to.inactive_file,
        "active_file" => &mut to.active_file,
        "unevictable" => &mut to.unevictable,
        "slab_reclaimable" => &mut to.slab_reclaimable,
        "slab_unreclaimable" => &mut to.slab_unreclaimable,
        "pgfault" => &mut to.pgfault,
        "pgmajfault" => &mut to.pgmajfault,
        "workingset_refault_anon" | "workingset_refault_file" => return to.workingset_refault += value,
        "workingset_activate_anon" | "workingset_activate_file" => return to.workingset_activate += value,
        "workingset_nodereclaim" => &mut to.workingset_nodereclaim,
        "pgrefill" => &mut to.pgrefill,
        "pgscan" => &mut to.pgscan,
        "pgsteal" => &mut to.pgsteal,
        "pgactivate" => &mut to.pgactivate,
        "pgdeactivate" => &mut to.pgdeactivate,
        "pglazyfree" => &mut to.pglazyfree,
        "pglazyfreed" => &mut to.pglazyfreed,
        "thp_fault_alloc" => &mut to.thp_fault_alloc,
        "thp_collapse_alloc" => &mut to.thp_collapse_alloc,
        _ => return,
    };
    *field = value;
}

fn psi(pressure: &Pressure) -> v2::PSIStats {
    let data = |stall: &Stall| {
        let mut d = v2::PSIData::new();
        (d.avg10, d.avg60, d.avg300, d.total) = (stall.avg10, stall.avg60, stall.avg300, stall.total_us);
        d
    };
    let mut all = v2::PSIStats::new();
    all.some = Some(data(&pressure.some)).into();
    all.full = Some(data(&pressure.full)).into();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_cgroup_in_the_message_of_its_layout() {
        let group = Cgroup::of_pid(std::process::id() as i32).unwrap();
        let any = read(&group).unwrap();
        if group.is_v2() {
            assert!(v2::Metrics::parse_from_bytes(&any.value).unwrap().cpu.usage_usec > 0);
        } else {
            assert!(v1::Metrics::parse_from_bytes(&any.value).unwrap().cpu.usage.total > 0);
        }
    }
}
