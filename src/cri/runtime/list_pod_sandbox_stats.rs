//! ListPodSandboxStats: the figures of all ready pods that match; one that cannot be read is left out, never an error.
use super::list_pod_sandbox::selects;
use super::pod_sandbox_stats::stats_of_pod;
use crate::call::Call;
use crate::cri::Cri;
use crate::cri::store::sandbox::State;
use crate::error::Result;
use crate::proto::cri::{ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, PodSandboxStats, PodSandboxStatsFilter};

/// ListPodSandboxStats.
pub fn list_pod_sandbox_stats(cri: &Cri, _: &Call, req: ListPodSandboxStatsRequest) -> Result<ListPodSandboxStatsResponse> {
    let stats = items(cri, req.filter.get_or_default()).collect();
    Ok(ListPodSandboxStatsResponse { stats, ..ListPodSandboxStatsResponse::default() })
}

/// The figures one by one, each read when it is asked for.
pub fn items<'a>(cri: &'a Cri, filter: &PodSandboxStatsFilter) -> impl Iterator<Item = PodSandboxStats> + use<'a> {
    let pods = cri.sandboxes.by_id.filter(|pod| {
        matches!(pod.state, State::Ready { .. })
            && pod.id.starts_with(&filter.id)
            && selects(&filter.label_selector, &pod.record.config.labels)
    });
    let containers = cri.containers_by_pod();
    pods.into_iter().map(move |pod| stats_of_pod(cri, &pod, containers.get(&pod.id).map_or(&[], Vec::as_slice)))
}
