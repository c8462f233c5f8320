//! Version: who we are. The kubelet accepts no other `version` than 0.1.0, which is its own API's.
use crate::call::Call;
use crate::cri::Cri;
use crate::error::Result;
use crate::proto::cri::{VersionRequest, VersionResponse};

/// The kubelet's API version, fixed since dockershim.
const KUBELET_API: &str = "0.1.0";

/// Version.
pub fn version(_: &Cri, _: &Call, _: VersionRequest) -> Result<VersionResponse> {
    Ok(VersionResponse {
        version: KUBELET_API.into(),
        runtime_name: "cradled".into(),
        runtime_version: env!("CARGO_PKG_VERSION").into(),
        runtime_api_version: "v1".into(),
        ..VersionResponse::default()
    })
}
