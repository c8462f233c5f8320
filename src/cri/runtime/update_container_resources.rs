//! UpdateContainerResources: new limits for a container: on its cgroup and its processes if it runs, and in its spec in any case.
//! After an error nothing has changed: what a runtime refuses half-way is brought back.
use crate::call::Call;
use crate::core::runtime::Task;
use crate::cri::store::container::{Container, State};
use crate::cri::{Cri, NAMESPACE, spec};
use crate::error::{Context, Error, Result};
use crate::proto::cri::{UpdateContainerResourcesRequest, UpdateContainerResourcesResponse};
use crate::sys::procfs;
use log::warn;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// For bringing the old limits back.
const UNDO_LIMIT: Duration = Duration::from_secs(20);

/// UpdateContainerResources.
pub fn update_container_resources(
    cri: &Cri,
    call: &Call,
    req: UpdateContainerResourcesRequest,
) -> Result<UpdateContainerResourcesResponse> {
    let container = cri.containers.by_id.get(&req.container_id)?;
    let Some(asked) = req.linux.as_ref() else { return Err(Error::invalid("linux is missing: name the resources to set")) };
    if req.windows.is_some() {
        return Err(Error::invalid("windows: this node runs Linux; set the limits in linux"));
    }
    if cri.runtime.disable_cgroup {
        return Err(Error::precondition("linux: containers have no cgroup here (disable_cgroup), so there is nothing to limit"));
    }
    let _turn = container.turns.take(call, &format!("container {}", container.id))?;
    let container = cri.containers.by_id.get(&container.id)?;
    if let State::Unknown { why } = &container.state {
        return Err(Error::precondition(format!("container \"{}\" cannot be updated: {why}", container.id)));
    }
    let mut stored = cri.ports.containers.get(NAMESPACE, &container.id)?;
    let before = Limits::of(&stored.spec, &container)?;
    let resources = spec::update_resources(&before.resources, asked, &cri.host, &cri.runtime)?;
    let score = match i32::try_from(asked.oom_score_adj) {
        Ok(0) | Err(_) => before.score,
        Ok(wanted) => spec::allowed_score(wanted, &cri.host, &cri.runtime),
    };
    let after = Limits { resources, score };
    after.put(&mut stored.spec)?;
    let mut record = container.record.clone();
    record.limits = spec::in_force(Some(&after.resources), score);
    let task = match container.state {
        State::Running { .. } => Some(cri.ports.tasks.get(NAMESPACE, &container.id)?),
        _ => None,
    };
    let done = task.as_ref().map_or(Ok(()), |task| after.apply(call, task, &before, req.annotations));
    let saved = done.and_then(|()| cri.save_container_with_spec(&container.id, &record, stored.spec));
    if let Err(e) = saved {
        return Err(match &task {
            Some(task) => before.bring_back(task, &after, e),
            None => e,
        });
    }
    cri.containers.by_id.swap(&container.id, |c| Container { record, ..c.clone() })?;
    Ok(UpdateContainerResourcesResponse::default())
}

/// What an update can change.
struct Limits {
    resources: spec::Resources,
    score: i32,
}

impl Limits {
    fn of(spec: &Value, container: &Container) -> Result<Limits> {
        let resources =
            serde_json::from_value(spec["linux"]["resources"].clone()).during(|| "read the resources of the container's spec")?;
        Ok(Limits { resources, score: i32::try_from(container.record.limits.oom_score_adj).unwrap_or_default() })
    }
    fn put(&self, spec: &mut Value) -> Result<()> {
        spec["linux"]["resources"] = serde_json::to_value(&self.resources).during(|| "encode resources")?;
        spec["process"]["oomScoreAdj"] = self.score.into();
        Ok(())
    }
    fn apply(&self, call: &Call, task: &Arc<Task>, before: &Limits, annotations: HashMap<String, String>) -> Result<()> {
        task.update(call, serde_json::to_vec(&self.resources).during(|| "encode resources")?, annotations)?;
        if self.score == before.score {
            return Ok(());
        }
        // It is a process's own and no cgroup's, so each process gets it.
        let set = |pid| procfs::set_oom_score(pid, self.score).during(|| format!("linux.oom_score_adj: set {} on {pid}", self.score));
        task.pids(call)?.into_iter().try_for_each(set)
    }
    /// After `error`, which stays the answer.
    fn bring_back(&self, task: &Arc<Task>, tried: &Limits, error: Error) -> Error {
        let call = Call::background(NAMESPACE).within(UNDO_LIMIT);
        let back = Limits { resources: without_limit(&self.resources, &tried.resources), score: self.score };
        match back.apply(&call, task, tried, HashMap::new()) {
            Ok(()) => error,
            Err(also) => {
                warn!("container {}: its old limits are not back: {}", task.id(), also.chain());
                error.and_also(also)
            }
        }
    }
}

/// `before`, with "no limit" said for what `tried` has set and `before` had not: a runtime takes silence for "as it is".
fn without_limit(before: &spec::Resources, tried: &spec::Resources) -> spec::Resources {
    let mut back = before.clone();
    if let Some(tried) = &tried.memory {
        let memory = back.memory.get_or_insert_with(Default::default);
        memory.limit = memory.limit.or(tried.limit.map(|_| -1));
        memory.swap = memory.swap.or(tried.swap.map(|_| -1));
    }
    if let Some(tried) = &tried.cpu {
        let cpu = back.cpu.get_or_insert_with(Default::default);
        cpu.quota = cpu.quota.or(tried.quota.map(|_| -1));
        cpu.shares = cpu.shares.or(tried.shares.map(|_| 1024));
        cpu.period = cpu.period.or(tried.period.map(|_| 100_000));
    }
    back
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn limits_that_were_not_there_are_taken_away_again() {
        let of = |value: Value| serde_json::from_value::<spec::Resources>(value).unwrap();
        let before = of(json!({"memory": {"limit": 5}, "cpu": {"shares": 2}}));
        let tried = of(json!({"memory": {"limit": 7, "swap": 7}, "cpu": {"shares": 9, "quota": 1000, "cpus": "99"}}));
        let back = serde_json::to_value(without_limit(&before, &tried)).unwrap();
        assert_eq!((&back["memory"]["limit"], &back["memory"]["swap"]), (&json!(5), &json!(-1)));
        assert_eq!((&back["cpu"]["shares"], &back["cpu"]["quota"]), (&json!(2), &json!(-1)));
    }
}
