//! UpdateContainerResources: new limits for a container, running or not yet. If the cgroup refuses, nothing has changed.
use crate::call::Call;
use crate::cri::store::container::{Container, State};
use crate::cri::{Cri, NAMESPACE, spec};
use crate::error::{Context, Error, Result};
use crate::proto::cri::{UpdateContainerResourcesRequest, UpdateContainerResourcesResponse};
use protobuf::MessageField;

/// UpdateContainerResources.
pub fn update_container_resources(
    cri: &Cri,
    call: &Call,
    req: UpdateContainerResourcesRequest,
) -> Result<UpdateContainerResourcesResponse> {
    let container = cri.containers.by_id.get(&req.container_id)?;
    let _turn = container.turns.take(call, &format!("container {}", container.id))?;
    let container = cri.containers.by_id.get(&container.id)?;
    let Some(asked) = req.linux.as_ref() else { return Err(Error::invalid("linux is missing: name the resources to set")) };
    if let State::Unknown { why } = &container.state {
        return Err(Error::precondition(format!("container \"{}\" cannot be updated: {why}", container.id)));
    }
    let mut stored = cri.ports.containers.get(NAMESPACE, &container.id)?;
    let current =
        serde_json::from_value(stored.spec["linux"]["resources"].clone()).during(|| "read the resources of the container's spec")?;
    let updated = spec::update_resources(&current, asked, &cri.host)?;
    stored.spec["linux"]["resources"] = serde_json::to_value(&updated).during(|| "encode resources")?;
    if matches!(container.state, State::Running { .. }) {
        let encoded = serde_json::to_vec(&updated).during(|| "encode resources")?;
        cri.ports.tasks.get(NAMESPACE, &container.id)?.update(call, encoded)?;
    }
    let mut record = container.record.clone();
    let merged = merge(&container, asked);
    record.config.linux.mut_or_insert_default().resources = MessageField::some(merged);
    cri.save_container_with_spec(&container.id, &record, stored.spec)?;
    cri.containers.by_id.swap(&container.id, |c| Container { record, ..c.clone() })?;
    Ok(UpdateContainerResourcesResponse::default())
}

/// What status shows afterwards: a zero in the request means "as it was".
fn merge(container: &Container, asked: &crate::proto::cri::LinuxContainerResources) -> crate::proto::cri::LinuxContainerResources {
    let mut merged = container.record.config.linux.get_or_default().resources.get_or_default().clone();
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
    if !asked.hugepage_limits.is_empty() {
        merged.hugepage_limits = asked.hugepage_limits.clone();
    }
    merged.unified.extend(asked.unified.clone());
    merged
}
