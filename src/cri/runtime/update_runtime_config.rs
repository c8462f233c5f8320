//! UpdateRuntimeConfig: the kubelet's pod CIDR; nothing to do while conf lists come from the network plugin.
use crate::call::Call;
use crate::cri::Cri;
use crate::error::Result;
use crate::proto::cri::{UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse};
use log::info;

/// UpdateRuntimeConfig.
pub fn update_runtime_config(_: &Cri, _: &Call, req: UpdateRuntimeConfigRequest) -> Result<UpdateRuntimeConfigResponse> {
    let cidr = &req.runtime_config.get_or_default().network_config.get_or_default().pod_cidr;
    if !cidr.is_empty() {
        info!("pod CIDR {cidr} from the kubelet: no CNI conf template is configured, so nothing is rendered");
    }
    Ok(UpdateRuntimeConfigResponse::default())
}
