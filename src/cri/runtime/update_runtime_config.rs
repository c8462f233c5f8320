//! UpdateRuntimeConfig: the kubelet's pod CIDR. Where a CNI conf template is configured and no conf is there yet, the conf is
//! written; else whoever runs the network writes it, and there is nothing to do.
use crate::call::Call;
use crate::cri::Cri;
use crate::error::Result;
use crate::proto::cri::{UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse};
use log::info;

/// UpdateRuntimeConfig.
pub fn update_runtime_config(cri: &Cri, _: &Call, req: UpdateRuntimeConfigRequest) -> Result<UpdateRuntimeConfigResponse> {
    let list = &req.runtime_config.get_or_default().network_config.get_or_default().pod_cidr;
    if !list.is_empty() {
        match cri.networks.make_conf(&cri.runtime.cni, list)? {
            Some(path) => info!("pod CIDR {list}: {} written", path.display()),
            None => info!("pod CIDR {list}: no CNI conf is to be made of it"),
        }
    }
    Ok(UpdateRuntimeConfigResponse::default())
}
