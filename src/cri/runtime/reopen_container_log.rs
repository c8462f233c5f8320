//! ReopenContainerLog: after Ok every further line goes to a new file at the log path; none was lost or doubled.
use crate::call::Call;
use crate::core::runtime::is_own;
use crate::cri::store::container::State;
use crate::cri::{Cri, NAMESPACE};
use crate::error::{Error, Result};
use crate::proto::cri::{ReopenContainerLogRequest, ReopenContainerLogResponse};

/// ReopenContainerLog.
pub fn reopen_container_log(cri: &Cri, call: &Call, req: ReopenContainerLogRequest) -> Result<ReopenContainerLogResponse> {
    let container = cri.containers.by_id.get(&req.container_id)?;
    if !matches!(container.state, State::Running { .. }) {
        return Err(Error::precondition(format!("container \"{}\" is not running: its log cannot be reopened", container.id)));
    }
    let pod = cri.sandboxes.by_id.get(&container.record.sandbox_id)?;
    // Beside another shim the log writer follows a renamed file by itself.
    if container.record.log_path.is_some() && is_own(&cri.runtime_for(&pod.record.handler)?) {
        cri.ports.tasks.get(NAMESPACE, &container.id)?.reopen_log(call)?;
    }
    Ok(ReopenContainerLogResponse::default())
}
