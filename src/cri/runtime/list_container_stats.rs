//! ListContainerStats: the figures of all containers that match; one that cannot be read is left out, never an error.
use super::container_stats::stats_of;
use super::list_pod_sandbox::selects;
use crate::call::Call;
use crate::cri::Cri;
use crate::error::Result;
use crate::proto::cri::{ContainerStats, ContainerStatsFilter, ListContainerStatsRequest, ListContainerStatsResponse};

/// ListContainerStats.
pub fn list_container_stats(cri: &Cri, _: &Call, req: ListContainerStatsRequest) -> Result<ListContainerStatsResponse> {
    let stats = items(cri, req.filter.get_or_default()).collect();
    Ok(ListContainerStatsResponse { stats, ..ListContainerStatsResponse::default() })
}

/// The figures one by one, each read when it is asked for.
pub fn items<'a>(cri: &'a Cri, filter: &ContainerStatsFilter) -> impl Iterator<Item = ContainerStats> + use<'a> {
    let matching = cri.containers.by_id.filter(|c| {
        c.id.starts_with(&filter.id)
            && c.record.sandbox_id.starts_with(&filter.pod_sandbox_id)
            && selects(&filter.label_selector, &c.record.config.labels)
    });
    matching.into_iter().filter_map(|c| stats_of(cri, &c).inspect_err(|e| log::debug!("statistics of {}: {}", c.id, e.chain())).ok())
}
