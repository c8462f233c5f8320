//! ListMetricDescriptors: what [`super::list_pod_sandbox_metrics()`] tells of, always the same.
use crate::call::Call;
use crate::cri::{Cri, metrics};
use crate::error::Result;
use crate::proto::cri::{ListMetricDescriptorsRequest, ListMetricDescriptorsResponse};

/// ListMetricDescriptors.
pub fn list_metric_descriptors(_: &Cri, _: &Call, _: ListMetricDescriptorsRequest) -> Result<ListMetricDescriptorsResponse> {
    let descriptors = metrics::ALL.iter().map(|d| d.message()).collect();
    Ok(ListMetricDescriptorsResponse { descriptors, ..ListMetricDescriptorsResponse::default() })
}
