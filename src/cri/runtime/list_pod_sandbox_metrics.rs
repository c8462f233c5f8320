//! ListPodSandboxMetrics: the metrics of all ready pods and their running containers, read now.
use crate::call::Call;
use crate::cri::Cri;
use crate::cri::metrics::Collector;
use crate::cri::store::sandbox::State;
use crate::error::Result;
use crate::proto::cri::{ListPodSandboxMetricsRequest, ListPodSandboxMetricsResponse, PodSandboxMetrics};

/// ListPodSandboxMetrics.
pub fn list_pod_sandbox_metrics(cri: &Cri, call: &Call, _: ListPodSandboxMetricsRequest) -> Result<ListPodSandboxMetricsResponse> {
    let mut pod_metrics = vec![];
    for pod in items(cri) {
        call.check()?;
        pod_metrics.push(pod);
    }
    Ok(ListPodSandboxMetricsResponse { pod_metrics, ..ListPodSandboxMetricsResponse::default() })
}

/// The pods one by one, each read when it is asked for.
pub fn items(cri: &Cri) -> impl Iterator<Item = PodSandboxMetrics> {
    let containers = cri.containers_by_pod();
    let mut collector = Collector::new(cri);
    let ready = cri.sandboxes.by_id.filter(|pod| matches!(pod.state, State::Ready { .. }));
    ready.into_iter().map(move |pod| collector.pod(&pod, containers.get(&pod.id).map_or(&[], Vec::as_slice)))
}
