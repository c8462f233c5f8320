//! ExecSync: runs a command in a container and gives back its output and exit code, which is no error. At the time-out the
//! command is killed and the answer is DEADLINE_EXCEEDED, which the kubelet takes for a failed probe.
use crate::call::Call;
use crate::core::runtime::{Exec, Exit, Stdio, Task};
use crate::cri::exec_output::{Collector, Output};
use crate::cri::store::container::State;
use crate::cri::{Cri, NAMESPACE, new_id, spec};
use crate::error::{Context, Error, Kind, Result};
use crate::proto::cri::{ExecSyncRequest, ExecSyncResponse};
use crossbeam_channel::{Receiver, after, never, select};
use std::sync::Arc;
use std::time::Duration;

const SIGKILL: u32 = 9;
/// How long a killed command may take to be gone.
const GONE: Duration = Duration::from_secs(10);

/// ExecSync.
pub fn exec_sync(cri: &Cri, call: &Call, req: ExecSyncRequest) -> Result<ExecSyncResponse> {
    if req.cmd.is_empty() {
        return Err(Error::invalid("cmd is empty: name the command to run"));
    }
    if req.timeout < 0 {
        return Err(Error::invalid(format!("timeout: {} is negative; 0 is no limit", req.timeout)));
    }
    let container = cri.containers.by_id.get(&req.container_id)?;
    if !matches!(container.state, State::Running { .. }) {
        return Err(Error::precondition(format!("container \"{}\" is not running: nothing can be run in it", container.id)));
    }
    let task = cri.ports.tasks.get(NAMESPACE, &container.id)?;
    let id = new_id()?;
    let collector = Collector::open(&cri.dirs.command(&container.id, &id), &cri.io)?;
    let process = exec_process(cri, &container.id, &req.cmd, false)?;
    let stdio = Stdio { stdout: collector.stdout(), stderr: collector.stderr(), ..Stdio::default() };
    task.exec(call, Exec { id: id.clone(), process, stdio })?;
    let limit = Duration::from_secs(u64::try_from(req.timeout).unwrap_or(0));
    let ended = run(call, &task, &id, limit);
    let _ = task.delete_exec(&call.detached(GONE), &id);
    let exit = ended?;
    let Output { stdout, stderr } = collector.finish(drain_limit(cri))?;
    Ok(ExecSyncResponse { stdout, stderr, exit_code: exit.code as i32, ..ExecSyncResponse::default() })
}

fn run(call: &Call, task: &Arc<Task>, id: &str, limit: Duration) -> Result<Exit> {
    task.start_exec(call, id)?;
    let exit = task.wait(Some(id))?;
    match wait(call, &exit, limit) {
        Ok(exit) => Ok(exit),
        Err(e) => {
            let killing = call.detached(GONE);
            let _ = task.kill(&killing, Some(id), SIGKILL, false);
            let _ = exit.recv_timeout(GONE);
            Err(e)
        }
    }
}

fn wait(call: &Call, exit: &Receiver<Exit>, limit: Duration) -> Result<Exit> {
    let timeout = if limit.is_zero() { never() } else { after(limit) };
    select! {
        recv(exit) -> exit => exit.map_err(|_| Error::new(Kind::Unavailable, "the shim died while the command ran")),
        recv(timeout) -> _ => Err(Error::new(Kind::DeadlineExceeded, format!("command did not end within {} s and was killed", limit.as_secs()))),
        recv(call.done()) -> _ => Err(call.check().err().unwrap_or_else(|| Error::new(Kind::Cancelled, "the client has cancelled the call"))),
    }
}

/// The command as an OCI process: user, environment and capabilities are the container's.
pub fn exec_process(cri: &Cri, container: &str, cmd: &[String], tty: bool) -> Result<Vec<u8>> {
    let stored = cri.ports.containers.get(NAMESPACE, container)?;
    let base = stored.spec.get("process").cloned().unwrap_or_default();
    let base = serde_json::from_value(base).during(|| format!("read the process of container {container}'s spec"))?;
    let process = spec::exec_process(&base, cmd, tty)?;
    serde_json::to_vec(&process).during(|| "encode the process of a command")
}

/// How long a background child that holds the pipes open may delay the answer.
pub fn drain_limit(cri: &Cri) -> Duration {
    cri.runtime.drain_exec_sync_io_timeout.limit().unwrap_or(Duration::from_secs(1))
}
