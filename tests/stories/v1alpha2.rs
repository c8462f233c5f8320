//! The API before v1, on the same socket: each of its calls does what v1's does.
use crate::harness::Daemon;
use crate::harness::client::{container_config, image_spec, some};
use cradle::proto::cri::*;
use cradle::proto::cri_methods::{image_service as images, runtime_service as rt};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// Every call of runtime.v1alpha2, as Kubernetes 1.25 had it.
const CALLS: [&str; 29] = [
    "Version",
    "RunPodSandbox",
    "StopPodSandbox",
    "RemovePodSandbox",
    "PodSandboxStatus",
    "ListPodSandbox",
    "CreateContainer",
    "StartContainer",
    "StopContainer",
    "RemoveContainer",
    "ListContainers",
    "ContainerStatus",
    "UpdateContainerResources",
    "ReopenContainerLog",
    "ExecSync",
    "Exec",
    "Attach",
    "PortForward",
    "ContainerStats",
    "ListContainerStats",
    "PodSandboxStats",
    "ListPodSandboxStats",
    "UpdateRuntimeConfig",
    "Status",
    "ListImages",
    "ImageStatus",
    "PullImage",
    "RemoveImage",
    "ImageFsInfo",
];

struct Old<'a> {
    daemon: &'a Daemon,
    asked: RefCell<BTreeSet<String>>,
}

impl Old<'_> {
    /// The call under its old name.
    #[track_caller]
    fn get<Q, P: Unpin>(&self, method: &grpcio::Method<Q, P>, request: &Q) -> P {
        self.asked.borrow_mut().insert(method.name.rsplit('/').next().unwrap().into());
        let name: &'static str = Box::leak(method.name.replace("/runtime.v1.", "/runtime.v1alpha2.").into_boxed_str());
        let (req, resp) = (&method.req_mar, &method.resp_mar);
        let (req_mar, resp_mar) = (grpcio::Marshaller { ser: req.ser, de: req.de }, grpcio::Marshaller { ser: resp.ser, de: resp.de });
        self.daemon.get(&grpcio::Method { ty: method.ty, name, req_mar, resp_mar }, request)
    }
    /// The same answer under both names.
    #[track_caller]
    fn same<Q, P: Unpin + PartialEq + std::fmt::Debug>(&self, method: &grpcio::Method<Q, P>, request: &Q) -> P {
        let old = self.get(method, request);
        assert_eq!(old, self.daemon.get(method, request), "{}", method.name);
        old
    }
}

#[test]
fn every_call_of_v1alpha2_does_what_v1_does() {
    let d = Daemon::start();
    let reference = d.busybox();
    let old = Old { daemon: &d, asked: RefCell::default() };
    assert_eq!(old.same(&rt::VERSION, &VersionRequest::default()).version, "0.1.0");
    old.same(&rt::STATUS, &StatusRequest::default());
    old.get(&rt::UPDATE_RUNTIME_CONFIG, &UpdateRuntimeConfigRequest::default());
    let pulled = old.get(&images::PULL_IMAGE, &PullImageRequest { image: image_spec(&reference), ..Default::default() });
    old.same(&images::LIST_IMAGES, &ListImagesRequest::default());
    let status = old.same(&images::IMAGE_STATUS, &ImageStatusRequest { image: image_spec(&reference), ..Default::default() });
    assert_eq!(status.image.unwrap_or_default().id, pulled.image_ref);
    assert_eq!(old.get(&images::IMAGE_FS_INFO, &ImageFsInfoRequest::default()).image_filesystems.len(), 1);

    let config = d.pod_config("old");
    std::fs::create_dir_all(&config.log_directory).unwrap();
    let run = RunPodSandboxRequest { config: some(config.clone()), runtime_handler: "crun".into(), ..Default::default() };
    let pod = old.get(&rt::RUN_POD_SANDBOX, &run).pod_sandbox_id;
    let mut main = container_config("main", &reference, &["sleep", "1000"]);
    (main.stdin, main.tty) = (true, false);
    let create =
        CreateContainerRequest { pod_sandbox_id: pod.clone(), config: some(main), sandbox_config: some(config), ..Default::default() };
    let container_id = old.get(&rt::CREATE_CONTAINER, &create).container_id;
    let of = |container_id: &str| container_id.to_string();
    old.get(&rt::START_CONTAINER, &StartContainerRequest { container_id: of(&container_id), ..Default::default() });
    let status = old.same(&rt::CONTAINER_STATUS, &ContainerStatusRequest { container_id: of(&container_id), ..Default::default() });
    assert_eq!(status.status.unwrap_or_default().state, ContainerState::CONTAINER_RUNNING.into());
    let ready = old.get(&rt::POD_SANDBOX_STATUS, &PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), ..Default::default() });
    assert_eq!(ready.status.unwrap_or_default(), d.pod_status(&pod).unwrap());
    old.same(&rt::LIST_POD_SANDBOX, &ListPodSandboxRequest::default());
    old.same(&rt::LIST_CONTAINERS, &ListContainersRequest::default());
    let exec =
        ExecSyncRequest { container_id: of(&container_id), cmd: vec!["echo".into(), "hello".into()], timeout: 10, ..Default::default() };
    assert_eq!(old.same(&rt::EXEC_SYNC, &exec).stdout, b"hello\n");
    let limits = LinuxContainerResources { cpu_shares: 512, ..Default::default() };
    let update = UpdateContainerResourcesRequest { container_id: of(&container_id), linux: some(limits), ..Default::default() };
    old.get(&rt::UPDATE_CONTAINER_RESOURCES, &update);
    old.get(&rt::REOPEN_CONTAINER_LOG, &ReopenContainerLogRequest { container_id: of(&container_id), ..Default::default() });
    let stats = old.get(&rt::CONTAINER_STATS, &ContainerStatsRequest { container_id: of(&container_id), ..Default::default() });
    assert_eq!(stats.stats.unwrap_or_default().attributes.get_or_default().id, container_id);
    assert_eq!(old.get(&rt::LIST_CONTAINER_STATS, &ListContainerStatsRequest::default()).stats.len(), 1);
    let stats = old.get(&rt::POD_SANDBOX_STATS, &PodSandboxStatsRequest { pod_sandbox_id: pod.clone(), ..Default::default() });
    assert_eq!(stats.stats.unwrap_or_default().attributes.get_or_default().id, pod);
    assert_eq!(old.get(&rt::LIST_POD_SANDBOX_STATS, &ListPodSandboxStatsRequest::default()).stats.len(), 1);
    let exec = ExecRequest { container_id: of(&container_id), cmd: vec!["true".into()], stdout: true, ..Default::default() };
    let urls = [
        old.get(&rt::EXEC, &exec).url,
        old.get(&rt::ATTACH, &AttachRequest { container_id: of(&container_id), stdout: true, ..Default::default() }).url,
        old.get(&rt::PORT_FORWARD, &PortForwardRequest { pod_sandbox_id: pod.clone(), port: vec![80], ..Default::default() }).url,
    ];
    assert!(urls.iter().all(|url| url.starts_with("http")), "{urls:?}");

    old.get(&rt::STOP_CONTAINER, &StopContainerRequest { container_id: of(&container_id), ..Default::default() });
    old.get(&rt::REMOVE_CONTAINER, &RemoveContainerRequest { container_id: of(&container_id), ..Default::default() });
    old.get(&rt::STOP_POD_SANDBOX, &StopPodSandboxRequest { pod_sandbox_id: pod.clone(), ..Default::default() });
    old.get(&rt::REMOVE_POD_SANDBOX, &RemovePodSandboxRequest { pod_sandbox_id: pod, ..Default::default() });
    old.get(&images::REMOVE_IMAGE, &RemoveImageRequest { image: image_spec(&reference), ..Default::default() });
    assert!(d.pod_ids().is_empty() && d.image_status(&reference).is_none());
    assert_eq!(*old.asked.borrow(), CALLS.iter().map(ToString::to_string).collect(), "a call was left out");
    // What v1alpha2 never had it has not now.
    let name = "/runtime.v1alpha2.RuntimeService/RuntimeConfig";
    let (req, resp) = (&rt::RUNTIME_CONFIG.req_mar, &rt::RUNTIME_CONFIG.resp_mar);
    let method = grpcio::Method {
        ty: grpcio::MethodType::Unary,
        name,
        req_mar: grpcio::Marshaller { ser: req.ser, de: req.de },
        resp_mar: grpcio::Marshaller { ser: resp.ser, de: resp.de },
    };
    assert_eq!(d.ask(&method, &RuntimeConfigRequest::default()).unwrap_err().kind(), cradle::error::Kind::Unimplemented);
}
