//! StreamContainerStats: ListContainerStats in messages of bounded size, for nodes whose list is too long for one.
use super::list_container_stats::items;
use crate::call::Call;
use crate::cri::Cri;
use crate::cri::batches::{Send, batches};
use crate::error::Result;
use crate::proto::cri::{StreamContainerStatsRequest, StreamContainerStatsResponse};

/// StreamContainerStats.
pub fn stream_container_stats(
    cri: &Cri,
    call: &Call,
    req: StreamContainerStatsRequest,
    send: Send<'_, StreamContainerStatsResponse>,
) -> Result<()> {
    let wrap = |container_stats| StreamContainerStatsResponse { container_stats, ..StreamContainerStatsResponse::default() };
    batches(call, items(cri, req.filter.get_or_default()), send, wrap)
}
