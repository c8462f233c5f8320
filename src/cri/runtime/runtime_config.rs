//! RuntimeConfig: the cgroup driver that the kubelet shall use.
use crate::call::Call;
use crate::cri::Cri;
use crate::error::Result;
use crate::proto::cri::{CgroupDriver, LinuxRuntimeConfiguration, RuntimeConfigRequest, RuntimeConfigResponse};
use protobuf::MessageField;

/// RuntimeConfig.
pub fn runtime_config(cri: &Cri, _: &Call, _: RuntimeConfigRequest) -> Result<RuntimeConfigResponse> {
    let driver = if cri.systemd_cgroup("") { CgroupDriver::SYSTEMD } else { CgroupDriver::CGROUPFS };
    let linux = LinuxRuntimeConfiguration { cgroup_driver: driver.into(), ..LinuxRuntimeConfiguration::default() };
    Ok(RuntimeConfigResponse { linux: MessageField::some(linux), ..RuntimeConfigResponse::default() })
}
