//! Attach: answers with an URL, good once and for a minute, at which the client's streams are connected to a running container.
use crate::call::Call;
use crate::core::runtime::is_own;
use crate::cri::Cri;
use crate::cri::streaming::{self, Request, Streams, running};
use crate::error::{Error, Kind, Result};
use crate::proto::cri::{AttachRequest, AttachResponse};

/// Attach.
pub fn attach(cri: &Cri, _: &Call, req: AttachRequest) -> Result<AttachResponse> {
    let streams = Streams { stdin: req.stdin, stdout: req.stdout, stderr: req.stderr, tty: req.tty };
    streams.check()?;
    let container = running(cri, &req.container_id)?;
    if req.tty && !container.record.config.tty {
        return Err(Error::invalid(format!("tty: container \"{}\" was created without a terminal", container.id)));
    }
    let pod = cri.sandboxes.by_id.get(&container.record.sandbox_id)?;
    if !is_own(&cri.runtime_for(&pod.record.handler)?) {
        let what = format!(
            "container \"{}\": attach needs cradled's own shim, and runtime handler \"{}\" has a runtime_path to another",
            container.id, pod.record.handler
        );
        return Err(Error::new(Kind::Unimplemented, what));
    }
    let request = Request::Attach(streaming::Attach { container: container.id.clone(), streams });
    Ok(AttachResponse { url: cri.streaming.grant(request)?, ..AttachResponse::default() })
}
