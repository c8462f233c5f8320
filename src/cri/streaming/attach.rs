//! Attach: a running container's output from now on, and its input. Our shim copies them; others cannot.
use super::exec::{Fifos, Hold, Io, Process, call, open, running};
use super::job::Link;
use super::{Attach, Streams};
use crate::core::runtime::Stdio;
use crate::cri::{NAMESPACE, new_id};
use crate::error::Result;
use crate::sys::fifo::End;

/// Connects to the container. Input for one that was made without is dropped, as the kubelet's clients expect.
pub fn start(link: &Link, attach: &Attach) -> Result<Io> {
    let cri = &link.cri;
    let container = running(cri, &attach.container)?;
    let config = &container.record.config;
    let task = cri.ports.tasks.get(NAMESPACE, &container.id)?;
    let Streams { stdin, stdout, stderr, .. } = attach.streams;
    let stdin = stdin && config.stdin;
    let dir = Fifos::make(cri.dirs.fifo(&new_id()?))?;
    let (out_path, out) = dir.reader("stdout", stdout)?;
    // A terminal's error output comes with its output.
    let (err_path, err) = dir.reader("stderr", stderr && !config.tty)?;
    let in_path = if stdin { Some(dir.fifo("stdin")?) } else { None };
    // The shim takes a FIFO without a writer for one that has ended.
    let kept = in_path.as_deref().map(|p| open(p, End::Kept)).transpose()?;
    let stdio = Stdio {
        stdin: in_path.as_ref().map(|p| p.display().to_string()).unwrap_or_default(),
        stdout: out_path,
        stderr: err_path,
        terminal: config.tty,
    };
    task.attach(&call(), None, &stdio)?;
    let input = in_path.as_deref().map(|p| open(p, End::Write)).transpose()?;
    drop(kept);
    let hold = Hold::Container { close_stdin: stdin && config.stdin_once };
    // Both sides have opened the FIFOs: their names have done their duty.
    drop(dir);
    let process = Process { pool: link.pool.clone(), task, hold, dir: Fifos::default() };
    if out.is_none() && err.is_none() {
        // Else the outputs' ends tell it, and cost nothing that stays with the container.
        process.watch(link)?;
    }
    Ok(Io { stdin: input, stdout: out, stderr: err, process })
}
