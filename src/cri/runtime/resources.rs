//! Resources: how an update's fields are laid over what there was; a zero or an empty value says "as it was".
use crate::proto::cri::LinuxContainerResources;

/// What status shows afterwards.
pub fn merged(current: &LinuxContainerResources, asked: &LinuxContainerResources) -> LinuxContainerResources {
    let mut merged = current.clone();
    let set = |to: &mut i64, from: i64| {
        if from != 0 {
            *to = from;
        }
    };
    set(&mut merged.cpu_period, asked.cpu_period);
    set(&mut merged.cpu_quota, asked.cpu_quota);
    set(&mut merged.cpu_shares, asked.cpu_shares);
    set(&mut merged.memory_limit_in_bytes, asked.memory_limit_in_bytes);
    set(&mut merged.memory_swap_limit_in_bytes, asked.memory_swap_limit_in_bytes);
    set(&mut merged.oom_score_adj, asked.oom_score_adj);
    if !asked.cpuset_cpus.is_empty() {
        merged.cpuset_cpus = asked.cpuset_cpus.clone();
    }
    if !asked.cpuset_mems.is_empty() {
        merged.cpuset_mems = asked.cpuset_mems.clone();
    }
    for limit in &asked.hugepage_limits {
        merged.hugepage_limits.retain(|l| l.page_size != limit.page_size);
        merged.hugepage_limits.push(limit.clone());
    }
    merged.unified.extend(asked.unified.clone());
    merged
}
