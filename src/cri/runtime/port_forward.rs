//! PortForward: answers with an URL, good once and for a minute, at which the client reaches ports of a pod.
use crate::call::Call;
use crate::cri::Cri;
use crate::cri::store::sandbox::State;
use crate::cri::streaming::{self, Request};
use crate::error::{Error, Result};
use crate::proto::cri::{PortForwardRequest, PortForwardResponse};

/// PortForward.
pub fn port_forward(cri: &Cri, _: &Call, req: PortForwardRequest) -> Result<PortForwardResponse> {
    let pod = cri.sandboxes.by_id.get(&req.pod_sandbox_id)?;
    let ports = req.port.iter().map(|p| {
        let port = u16::try_from(*p).ok().filter(|p| *p > 0);
        port.ok_or_else(|| Error::invalid(format!("port {p}: must be 1 to 65535")))
    });
    let ports = ports.collect::<Result<Vec<u16>>>()?;
    if !matches!(pod.state, State::Ready { .. }) {
        return Err(Error::precondition(format!("sandbox \"{}\" is not ready", pod.id)));
    }
    let request = Request::Forward(streaming::Forward { sandbox: pod.id.clone(), ports });
    Ok(PortForwardResponse { url: cri.streaming.grant(request)?, ..PortForwardResponse::default() })
}
