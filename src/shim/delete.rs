//! Delete: after a shim's death, kills and removes its container, and says so in the form of Task.Delete's answer.
use super::args::Args;
use super::clock::timestamp;
use super::create::{PID_FILE, read_pid, unmount_rootfs};
use super::runtime::Runtime;
use super::start;
use crate::error::{Context, Result};
use crate::proto::task_v2::DeleteResponse;
use crate::sys::cgroup::Cgroup;
use protobuf::Message;
use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

/// Cleans up; what cannot be done is said on standard error and does not keep the rest from being done.
pub fn delete(args: &Args) -> Result<()> {
    let bundle = bundle(args)?;
    let pid = read_pid(&bundle.join(PID_FILE)).unwrap_or(0);
    let group = Cgroup::of_pid(pid).ok().filter(|g| g.procs().is_ok_and(|p| !p.contains(&(std::process::id() as i32))));
    match Runtime::load(&bundle, &args.namespace) {
        Ok(runtime) => {
            if let Err(e) = runtime.delete_alone(&bundle, &args.id) {
                eprintln!("container {}: the OCI runtime did not remove it: {}", args.id, e.chain());
                kill(group, args);
            }
        }
        Err(e) => {
            eprintln!("container {}: {}", args.id, e.chain());
            kill(group, args);
        }
    }
    if let Err(e) = unmount_rootfs(&bundle.join("rootfs")) {
        eprintln!("container {}: {}", args.id, e.chain());
    }
    let mut answer = DeleteResponse::new();
    answer.pid = pid as u32;
    answer.exit_status = 128 + libc::SIGKILL as u32;
    answer.exited_at = Some(timestamp(SystemTime::now())).into();
    let bytes = answer.write_to_bytes().during(|| "write the answer")?;
    let mut out = std::io::stdout();
    out.write_all(&bytes).and_then(|()| out.flush()).during(|| "print the answer")
}

/// The container's own bundle: the working directory may be that of another one in its group.
fn bundle(args: &Args) -> Result<PathBuf> {
    let here = start::bundle(args)?;
    if here.ends_with(&args.id) || args.bundle.is_some() {
        return Ok(here);
    }
    let sibling = here.parent().map(|p| p.join(&args.id)).filter(|p| p.is_dir());
    Ok(sibling.unwrap_or(here))
}

/// What the OCI runtime could not do: a number out of a file may be a stranger's by now, so only a group that bears the ID is killed.
fn kill(group: Option<Cgroup>, args: &Args) {
    let own = |g: &Cgroup| g.dir("memory").is_some_and(|d| d.to_string_lossy().contains(&args.id));
    if let Some(group) = group.filter(own)
        && let Err(e) = group.kill_all()
    {
        eprintln!("container {}: its processes are not killed: {e}", args.id);
    }
}
