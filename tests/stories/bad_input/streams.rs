//! Exec, Attach and PortForward whose URL would lead to nothing; statistics of what has none.
use super::{Case, World, bad, refuse};
use cradle::error::Kind::{self, FailedPrecondition, InvalidArgument, NotFound};
use cradle::proto::cri::*;
use cradle::proto::cri_methods::runtime_service as rt;

const NOBODY: &str = "00000000000000000000000000000000000000000000000000000000000000ff";

fn exec(what: &'static str, kind: Kind, says: &'static str, change: fn(&World<'_>, &mut ExecRequest)) -> Case {
    bad((&rt::EXEC, what), kind, says, move |w: &World<'_>| {
        let mut request =
            ExecRequest { container_id: w.running.id.clone(), cmd: vec!["true".into()], stdout: true, stderr: true, ..Default::default() };
        change(w, &mut request);
        request
    })
}

fn attach(what: &'static str, kind: Kind, says: &'static str, change: fn(&World<'_>, &mut AttachRequest)) -> Case {
    bad((&rt::ATTACH, what), kind, says, move |w: &World<'_>| {
        let mut request = AttachRequest { container_id: w.running.id.clone(), stdout: true, ..Default::default() };
        change(w, &mut request);
        request
    })
}

fn forward(what: &'static str, kind: Kind, says: &'static str, change: fn(&World<'_>, &mut PortForwardRequest)) -> Case {
    bad((&rt::PORT_FORWARD, what), kind, says, move |w: &World<'_>| {
        let mut request = PortForwardRequest { pod_sandbox_id: w.pod.id.clone(), port: vec![80], ..Default::default() };
        change(w, &mut request);
        request
    })
}

#[test]
fn streams_that_lead_to_nothing() {
    refuse(&[
        exec("no ID", InvalidArgument, "ID is empty", |_, r| r.container_id.clear()),
        exec("unknown ID", NotFound, NOBODY, |_, r| r.container_id = NOBODY.into()),
        exec("a pod's ID", NotFound, "container", |w, r| r.container_id = w.pod.id.clone()),
        exec("an ended container", FailedPrecondition, "not running", |w, r| r.container_id = w.ended.id.clone()),
        exec("no command", InvalidArgument, "cmd", |_, r| r.cmd.clear()),
        exec("an empty program", InvalidArgument, "cmd", |_, r| r.cmd = vec![String::new()]),
        exec("a zero byte", InvalidArgument, "cmd", |_, r| r.cmd.push("a\0b".into())),
        exec("no stream", InvalidArgument, "stdout", |_, r| (r.stdout, r.stderr) = (false, false)),
        exec("a terminal with error output", InvalidArgument, "tty", |_, r| r.tty = true),
        attach("no ID", InvalidArgument, "ID is empty", |_, r| r.container_id.clear()),
        attach("unknown ID", NotFound, NOBODY, |_, r| r.container_id = NOBODY.into()),
        attach("a created container", FailedPrecondition, "not running", |w, r| r.container_id = w.created.id.clone()),
        attach("no stream", InvalidArgument, "stdout", |_, r| r.stdout = false),
        attach("a terminal that is none", InvalidArgument, "tty", |_, r| r.tty = true),
        forward("no ID", InvalidArgument, "ID is empty", |_, r| r.pod_sandbox_id.clear()),
        forward("unknown ID", NotFound, NOBODY, |_, r| r.pod_sandbox_id = NOBODY.into()),
        forward("a container's ID", NotFound, "sandbox", |w, r| r.pod_sandbox_id = w.running.id.clone()),
        forward("port 0", InvalidArgument, "port", |_, r| r.port = vec![0]),
        forward("negative port", InvalidArgument, "port", |_, r| r.port = vec![80, -1]),
        forward("port 65536", InvalidArgument, "port", |_, r| r.port = vec![65536]),
        bad((&rt::POD_SANDBOX_STATS, "no ID"), InvalidArgument, "ID is empty", |_| PodSandboxStatsRequest::default()),
        bad((&rt::POD_SANDBOX_STATS, "unknown ID"), NotFound, NOBODY, |_| PodSandboxStatsRequest {
            pod_sandbox_id: NOBODY.into(),
            ..Default::default()
        }),
    ]);
}
