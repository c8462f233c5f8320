//! StreamPodSandboxes: ListPodSandbox in messages of bounded size, for nodes whose list is too long for one.
use super::list_pod_sandbox::items;
use crate::call::Call;
use crate::cri::Cri;
use crate::cri::batches::{Send, batches};
use crate::error::Result;
use crate::proto::cri::{StreamPodSandboxesRequest, StreamPodSandboxesResponse};

/// StreamPodSandboxes.
pub fn stream_pod_sandboxes(
    cri: &Cri,
    call: &Call,
    req: StreamPodSandboxesRequest,
    send: Send<'_, StreamPodSandboxesResponse>,
) -> Result<()> {
    let wrap = |pod_sandboxes| StreamPodSandboxesResponse { pod_sandboxes, ..StreamPodSandboxesResponse::default() };
    batches(call, items(cri, req.filter.get_or_default()), send, wrap)
}
