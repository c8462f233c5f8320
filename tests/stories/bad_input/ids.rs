//! IDs that name nothing, or not what is needed.
use super::{Case, bad, refuse};
use crate::harness::client::some;
use cradle::error::Kind::{FailedPrecondition, InvalidArgument, NotFound};
use cradle::proto::cri::*;
use cradle::proto::cri_methods::runtime_service as rt;

/// A full ID of nobody.
const NOBODY: &str = "00000000000000000000000000000000000000000000000000000000000000ff";

/// A call by its ID: the empty one, and an overlong one; and unknown ones, unless the call takes them as done.
macro_rules! by_id {
    ($cases:ident, $method:expr, $request:ident, $field:ident, $unknown:expr) => {
        let of = |id: &str| $request { $field: id.into(), ..Default::default() };
        $cases.push(bad(($method, "no ID"), InvalidArgument, "ID is empty", move |_| of("")));
        $cases.push(bad(($method, "ID of 100 kB"), InvalidArgument, "ID", move |_| of(&"f".repeat(100_000))));
        if $unknown == Unknown::Refused {
            $cases.push(bad(($method, "ID as a path"), NotFound, "../../etc", move |_| of("../../etc")));
            $cases.push(bad(($method, "unknown ID"), NotFound, NOBODY, move |_| of(NOBODY)));
        }
    };
}

#[derive(PartialEq)]
enum Unknown {
    Refused,
    Fine,
}

#[test]
fn ids_that_name_nothing() {
    let mut cases: Vec<Case> = vec![];
    by_id!(cases, &rt::STOP_POD_SANDBOX, StopPodSandboxRequest, pod_sandbox_id, Unknown::Fine);
    by_id!(cases, &rt::REMOVE_POD_SANDBOX, RemovePodSandboxRequest, pod_sandbox_id, Unknown::Fine);
    by_id!(cases, &rt::POD_SANDBOX_STATUS, PodSandboxStatusRequest, pod_sandbox_id, Unknown::Refused);
    by_id!(cases, &rt::UPDATE_POD_SANDBOX_RESOURCES, UpdatePodSandboxResourcesRequest, pod_sandbox_id, Unknown::Refused);
    by_id!(cases, &rt::CHECKPOINT_CONTAINER, CheckpointContainerRequest, container_id, Unknown::Refused);
    by_id!(cases, &rt::START_CONTAINER, StartContainerRequest, container_id, Unknown::Refused);
    by_id!(cases, &rt::STOP_CONTAINER, StopContainerRequest, container_id, Unknown::Fine);
    by_id!(cases, &rt::REMOVE_CONTAINER, RemoveContainerRequest, container_id, Unknown::Fine);
    by_id!(cases, &rt::CONTAINER_STATUS, ContainerStatusRequest, container_id, Unknown::Refused);
    by_id!(cases, &rt::CONTAINER_STATS, ContainerStatsRequest, container_id, Unknown::Refused);
    by_id!(cases, &rt::REOPEN_CONTAINER_LOG, ReopenContainerLogRequest, container_id, Unknown::Refused);
    cases.extend(not_now());
    refuse(&cases);
}

/// Known IDs of what is not in the state that the call needs.
fn not_now() -> Vec<Case> {
    let (start, exec, reopen) = (&rt::START_CONTAINER, &rt::EXEC_SYNC, &rt::REOPEN_CONTAINER_LOG);
    let run = |id: &str| ExecSyncRequest { container_id: id.into(), cmd: vec!["true".into()], ..Default::default() };
    let update = |id: &str, linux| UpdateContainerResourcesRequest { container_id: id.into(), linux, ..Default::default() };
    let limits = |change: fn(&mut LinuxContainerResources)| {
        let mut limits = LinuxContainerResources::default();
        change(&mut limits);
        some(limits)
    };
    let resources = &rt::UPDATE_CONTAINER_RESOURCES;
    let of_pod = |id: &str, resources, overhead| UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: id.into(),
        resources,
        overhead,
        ..Default::default()
    };
    let archive = |id: &str, location: &str, timeout| CheckpointContainerRequest {
        container_id: id.into(),
        location: location.into(),
        timeout,
        ..Default::default()
    };
    let (pod, check) = (&rt::UPDATE_POD_SANDBOX_RESOURCES, &rt::CHECKPOINT_CONTAINER);
    vec![
        bad((pod, "negative shares"), InvalidArgument, "cpu_shares", move |w| {
            of_pod(&w.pod.id, limits(|l| l.cpu_shares = -1), None.into())
        }),
        bad((pod, "negative overhead"), InvalidArgument, "memory_limit_in_bytes", move |w| {
            of_pod(&w.pod.id, None.into(), limits(|l| l.memory_limit_in_bytes = -7))
        }),
        bad((pod, "a container's ID"), NotFound, "sandbox", move |w| of_pod(&w.running.id, limits(|_| {}), None.into())),
        bad((check, "relative location"), InvalidArgument, "location", move |w| archive(&w.running.id, "x.tar", 0)),
        bad((check, "location that leads up"), InvalidArgument, "location", move |w| archive(&w.running.id, "/run/../x.tar", 0)),
        bad((check, "no such directory"), FailedPrecondition, "location", move |w| archive(&w.running.id, "/no/such/x.tar", 0)),
        bad((check, "negative timeout"), InvalidArgument, "timeout", move |w| archive(&w.running.id, "/run/x.tar", -1)),
        bad((check, "an ended container"), FailedPrecondition, "does not run", move |w| archive(&w.ended.id, "/run/x.tar", 0)),
        bad((start, "a running container"), FailedPrecondition, "started already", |w| StartContainerRequest {
            container_id: w.running.id.clone(),
            ..Default::default()
        }),
        bad((start, "an ended container"), FailedPrecondition, "started already", |w| StartContainerRequest {
            container_id: w.ended.id.clone(),
            ..Default::default()
        }),
        bad((start, "a pod"), NotFound, "container", |w| StartContainerRequest { container_id: w.pod.id.clone(), ..Default::default() }),
        bad((reopen, "a created container"), FailedPrecondition, "not running", |w| ReopenContainerLogRequest {
            container_id: w.created.id.clone(),
            ..Default::default()
        }),
        bad((exec, "an ended container"), FailedPrecondition, "not running", move |w| run(&w.ended.id)),
        bad((exec, "a created container"), FailedPrecondition, "not running", move |w| run(&w.created.id)),
        bad((exec, "unknown ID"), NotFound, NOBODY, move |_| run(NOBODY)),
        bad((exec, "no ID"), InvalidArgument, "ID is empty", move |_| run("")),
        bad((exec, "no command"), InvalidArgument, "cmd", |w| ExecSyncRequest { container_id: w.running.id.clone(), ..Default::default() }),
        bad((exec, "an empty program"), InvalidArgument, "cmd", |w| ExecSyncRequest {
            container_id: w.running.id.clone(),
            cmd: vec![String::new()],
            ..Default::default()
        }),
        bad((exec, "a zero byte"), InvalidArgument, "cmd", |w| ExecSyncRequest {
            container_id: w.running.id.clone(),
            cmd: vec!["echo".into(), "a\0b".into()],
            ..Default::default()
        }),
        bad((exec, "negative timeout"), InvalidArgument, "timeout", |w| ExecSyncRequest {
            container_id: w.running.id.clone(),
            cmd: vec!["true".into()],
            timeout: -1,
            ..Default::default()
        }),
        bad((&rt::STOP_CONTAINER, "negative timeout"), InvalidArgument, "timeout", |w| StopContainerRequest {
            container_id: w.running.id.clone(),
            timeout: -1,
            ..Default::default()
        }),
        bad((resources, "unknown ID"), NotFound, NOBODY, move |_| update(NOBODY, limits(|_| {}))),
        bad((resources, "no limits"), InvalidArgument, "linux", move |w| update(&w.running.id, None.into())),
        bad((resources, "negative shares"), InvalidArgument, "cpu_shares", move |w| update(&w.running.id, limits(|l| l.cpu_shares = -1))),
        bad((resources, "negative period"), InvalidArgument, "cpu_period", move |w| update(&w.created.id, limits(|l| l.cpu_period = -1))),
        bad((resources, "memory below -1"), InvalidArgument, "memory_limit_in_bytes", move |w| {
            update(&w.running.id, limits(|l| l.memory_limit_in_bytes = -2))
        }),
        bad((resources, "CPUs that are none"), InvalidArgument, "cpuset_cpus", move |w| {
            update(&w.running.id, limits(|l| l.cpuset_cpus = "all".into()))
        }),
        bad((resources, "a file outside the cgroup"), InvalidArgument, "unified", move |w| {
            update(&w.running.id, limits(|l| drop(l.unified.insert("../memory.max".into(), "1".into()))))
        }),
    ]
}
