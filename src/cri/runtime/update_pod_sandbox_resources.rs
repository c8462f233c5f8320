//! UpdatePodSandboxResources: after Ok the pod's own cgroup has the sum of resources and overhead as its limits, and the record has
//! both, for verbose status and for the next update. After an error nothing has changed.
use super::resources::merged;
use crate::call::Call;
use crate::cri::store::sandbox::State;
use crate::cri::{Cri, pod_limits};
use crate::error::{Error, Result};
use crate::proto::cri::{UpdatePodSandboxResourcesRequest, UpdatePodSandboxResourcesResponse};
use protobuf::MessageField;

/// UpdatePodSandboxResources.
pub fn update_pod_sandbox_resources(
    cri: &Cri,
    call: &Call,
    req: UpdatePodSandboxResourcesRequest,
) -> Result<UpdatePodSandboxResourcesResponse> {
    let sandbox = cri.sandboxes.by_id.get(&req.pod_sandbox_id)?;
    pod_limits::check(req.resources.get_or_default(), req.overhead.get_or_default())?;
    let _turn = sandbox.turns.take(call, &format!("sandbox {}", sandbox.id))?;
    let sandbox = cri.sandboxes.by_id.get(&sandbox.id)?;
    if !matches!(sandbox.state, State::Ready { .. }) {
        return Err(Error::precondition(format!("sandbox \"{}\" is not ready: it has no limits to be changed", sandbox.id)));
    }
    let mut record = sandbox.record.clone();
    let linux = record.config.linux.mut_or_insert_default();
    let resources = merged(linux.resources.get_or_default(), req.resources.get_or_default());
    let overhead = merged(linux.overhead.get_or_default(), req.overhead.get_or_default());
    linux.resources = MessageField::some(resources.clone());
    linux.overhead = MessageField::some(overhead.clone());
    // A pod without a cgroup parent is in one with others, whose limits are not its own.
    let set = cri.pod_cgroup_path(&record).map(|path| pod_limits::set(&path, &resources, &overhead)).transpose()?;
    cri.save_sandbox(&sandbox.id, &record)?;
    cri.sandboxes.by_id.swap(&sandbox.id, |s| s.with_record(record))?;
    if let Some(undo) = set {
        undo.keep();
    }
    Ok(UpdatePodSandboxResourcesResponse::default())
}
