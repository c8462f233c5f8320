//! StreamPodSandboxStats: ListPodSandboxStats in messages of bounded size, for nodes whose list is too long for one.
use super::list_pod_sandbox_stats::items;
use crate::call::Call;
use crate::cri::Cri;
use crate::cri::batches::{Send, batches};
use crate::error::Result;
use crate::proto::cri::{StreamPodSandboxStatsRequest, StreamPodSandboxStatsResponse};

/// StreamPodSandboxStats.
pub fn stream_pod_sandbox_stats(
    cri: &Cri,
    call: &Call,
    req: StreamPodSandboxStatsRequest,
    send: Send<'_, StreamPodSandboxStatsResponse>,
) -> Result<()> {
    let wrap = |pod_sandbox_stats| StreamPodSandboxStatsResponse { pod_sandbox_stats, ..StreamPodSandboxStatsResponse::default() };
    batches(call, items(cri, req.filter.get_or_default()), send, wrap)
}
