//! UpdateContainerResources: new limits for a container, running or not yet. If the cgroup refuses, nothing has changed.
use crate::call::Call;
use crate::cri::store::container::{Container, State};
use crate::cri::{Cri, NAMESPACE, spec};
use crate::error::{Context, Error, Result};
use crate::proto::cri::{LinuxContainerResources, UpdateContainerResourcesRequest, UpdateContainerResourcesResponse};
use log::debug;

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
    if req.windows.is_some() {
        return Err(Error::invalid("windows: this node runs Linux; set the limits in linux"));
    }
    if cri.runtime.disable_cgroup {
        return Err(Error::precondition("linux: containers have no cgroup here (disable_cgroup), so there is nothing to limit"));
    }
    let mut stored = cri.ports.containers.get(NAMESPACE, &container.id)?;
    let current =
        serde_json::from_value(stored.spec["linux"]["resources"].clone()).during(|| "read the resources of the container's spec")?;
    let updated = spec::update_resources(&current, asked, &cri.host, &cri.runtime)?;
    stored.spec["linux"]["resources"] = serde_json::to_value(&updated).during(|| "encode resources")?;
    let score = new_score(cri, &container, asked);
    stored.spec["process"]["oomScoreAdj"] = score.into();
    if matches!(container.state, State::Running { .. }) {
        let task = cri.ports.tasks.get(NAMESPACE, &container.id)?;
        task.update(call, serde_json::to_vec(&updated).during(|| "encode resources")?)?;
        if i64::from(score) != container.record.limits.oom_score_adj {
            set_scores(&task.pids(call)?, score);
        }
    }
    let mut record = container.record.clone();
    record.limits = spec::in_force(Some(&updated), score);
    cri.save_container_with_spec(&container.id, &record, stored.spec)?;
    cri.containers.by_id.swap(&container.id, |c| Container { record, ..c.clone() })?;
    Ok(UpdateContainerResourcesResponse::default())
}

/// The OOM score from now on; 0 in the request is "as it was".
fn new_score(cri: &Cri, container: &Container, asked: &LinuxContainerResources) -> i32 {
    let now = i32::try_from(container.record.limits.oom_score_adj).unwrap_or_default();
    match i32::try_from(asked.oom_score_adj) {
        Ok(0) | Err(_) => now,
        Ok(wanted) => spec::allowed_score(wanted, &cri.host, &cri.runtime),
    }
}

/// It is a process's own and no cgroup's, so each process gets it; one that ended meanwhile needs none.
fn set_scores(pids: &[u32], score: i32) {
    for pid in pids {
        if let Err(e) = std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string()) {
            debug!("OOM score of process {pid} stays: {e}");
        }
    }
}
