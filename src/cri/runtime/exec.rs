//! Exec: answers with an URL, good once and for a minute, at which the client's streams are connected to a new command.
use crate::call::Call;
use crate::cri::Cri;
use crate::cri::streaming::{self, Request, Streams, running};
use crate::error::{Error, Result};
use crate::proto::cri::{ExecRequest, ExecResponse};

/// Exec.
pub fn exec(cri: &Cri, _: &Call, req: ExecRequest) -> Result<ExecResponse> {
    let streams = Streams { stdin: req.stdin, stdout: req.stdout, stderr: req.stderr, tty: req.tty };
    streams.check()?;
    if req.cmd.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("cmd is empty: name the command to run"));
    }
    if req.cmd.iter().any(|c| c.contains('\0')) {
        return Err(Error::invalid("cmd: has a NUL byte in it"));
    }
    let container = running(cri, &req.container_id)?;
    let request = Request::Exec(streaming::Exec { container: container.id.clone(), cmd: req.cmd, streams });
    Ok(ExecResponse { url: cri.streaming.grant(request)?, ..ExecResponse::default() })
}
