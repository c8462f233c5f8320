//! StreamPodSandboxMetrics: ListPodSandboxMetrics in messages of bounded size; each pod is read when its turn comes.
use super::list_pod_sandbox_metrics::items;
use crate::call::Call;
use crate::cri::Cri;
use crate::cri::batches::{Send, batches};
use crate::error::Result;
use crate::proto::cri::{StreamPodSandboxMetricsRequest, StreamPodSandboxMetricsResponse};

/// StreamPodSandboxMetrics.
pub fn stream_pod_sandbox_metrics(
    cri: &Cri,
    call: &Call,
    _: StreamPodSandboxMetricsRequest,
    send: Send<'_, StreamPodSandboxMetricsResponse>,
) -> Result<()> {
    let wrap = |pod_sandbox_metrics| StreamPodSandboxMetricsResponse { pod_sandbox_metrics, ..StreamPodSandboxMetricsResponse::default() };
    batches(call, items(cri), send, wrap)
}
