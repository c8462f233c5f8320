//! Rules of whole specs.
use super::*;
use crate::config::Config;
use crate::cri::spec::{SandboxInput, Spec, check_container, sandbox};
use protobuf::MessageField;
use serde_json::Value;
use std::fs;

/// A pod's directory and a root filesystem.
pub(in crate::cri::spec) struct Scene {
    pub(in crate::cri::spec) dir: PathBuf,
    config: Config,
    pub(in crate::cri::spec) host: Host,
    pub(in crate::cri::spec) pod: cri::PodSandboxConfig,
    pub(in crate::cri::spec) request: cri::ContainerConfig,
    image: ImageConfiguration,
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Scene {
    pub(in crate::cri::spec) fn new(name: &str) -> Scene {
        let dir = std::env::temp_dir().join(format!("cradle-spec-{name}-{}", std::process::id()));
        for sub in ["rootfs/etc", "pod/shm", "volumes"] {
            fs::create_dir_all(dir.join(sub)).unwrap();
        }
        for file in ["hostname", "hosts", "resolv.conf"] {
            fs::write(dir.join("pod").join(file), "x\n").unwrap();
        }
        fs::write(dir.join("rootfs/etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n").unwrap();
        let metadata = cri::PodSandboxMetadata { name: "p".into(), namespace: "ns".into(), uid: "u".into(), ..Default::default() };
        let pod = cri::PodSandboxConfig { metadata: MessageField::some(metadata), hostname: "web-0".into(), ..Default::default() };
        let request = cri::ContainerConfig {
            metadata: MessageField::some(cri::ContainerMetadata { name: "c".into(), ..Default::default() }),
            image: MessageField::some(cri::ImageSpec { image: "i".into(), ..Default::default() }),
            command: vec!["/bin/true".into()],
            ..Default::default()
        };
        let image =
            serde_json::from_str(r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"config":{}}"#).unwrap();
        Scene { dir, config: Config::default(), host: Host::plain(), pod, request, image }
    }

    pub(in crate::cri::spec) fn image(&mut self, config: Value) {
        let whole = serde_json::json!({"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"config":config});
        self.image = serde_json::from_value(whole).unwrap();
    }

    pub(in crate::cri::spec) fn context(&mut self) -> &mut cri::LinuxContainerSecurityContext {
        self.request.linux.mut_or_insert_default().security_context.mut_or_insert_default()
    }

    pub(in crate::cri::spec) fn pod_context(&mut self) -> &mut cri::LinuxSandboxSecurityContext {
        self.pod.linux.mut_or_insert_default().security_context.mut_or_insert_default()
    }

    fn build(&self) -> Result<Built> {
        self.build_with(&Pins::default(), 42)
    }

    pub(in crate::cri::spec) fn build_with(&self, pins: &Pins, sandbox_pid: u32) -> Result<Built> {
        check_container(&self.request, &self.pod)?;
        let runtime = &self.config.cri_runtime;
        container(&ContainerInput {
            id: "ab",
            sandbox_id: "cd",
            sandbox: &self.pod,
            pins,
            sandbox_pid,
            target_pid: None,
            config: &self.request,
            image: &self.image,
            image_name: "docker.io/library/i:latest",
            rootfs: &self.dir.join("rootfs"),
            pod_dir: &self.dir.join("pod"),
            volumes_dir: &self.dir.join("volumes"),
            image_volumes: &BTreeMap::new(),
            host: &self.host,
            options: &self.options(runtime),
        })
    }

    fn options<'a>(&'a self, runtime: &'a crate::config::CriRuntime) -> Options<'a> {
        let handler = runtime.containerd.runtimes.values().next().unwrap();
        Options { runtime, handler, systemd_cgroup: false, features: Default::default() }
    }

    pub(in crate::cri::spec) fn sandbox(&self, pins: &Pins) -> Spec {
        crate::cri::spec::check_sandbox(&self.pod).unwrap();
        sandbox(&SandboxInput {
            id: "cd",
            config: &self.pod,
            pins,
            shm: Some(&self.dir.join("pod/shm")),
            resolv_conf: None,
            host: &self.host,
            options: &self.options(&self.config.cri_runtime),
        })
        .unwrap()
        .0
    }

    fn json(&self) -> Value {
        serde_json::to_value(self.build().unwrap().spec).unwrap()
    }
}

fn kinds(spec: &Value) -> Vec<&str> {
    spec["linux"]["namespaces"].as_array().unwrap().iter().map(|n| n["type"].as_str().unwrap()).collect()
}

#[test]
fn plain_container_is_containerds() {
    let scene = Scene::new("plain");
    let spec = scene.json();
    assert_eq!(spec["ociVersion"], "1.0.2");
    assert_eq!(spec["linux"]["cgroupsPath"], "/k8s.io/ab");
    assert_eq!(kinds(&spec), ["pid", "ipc", "uts", "mount", "network", "cgroup"]);
    assert_eq!(spec["linux"]["resources"]["devices"], serde_json::json!([{"allow": false, "access": "rwm"}]));
    assert_eq!(spec["annotations"]["io.kubernetes.cri.image-name"], "docker.io/library/i:latest");
    assert_eq!(spec["annotations"]["io.kubernetes.cri.container-type"], "container");
    assert!(spec["linux"].get("seccomp").is_none());
    // Without a security context the defaults stay.
    assert!(spec["linux"]["maskedPaths"].as_array().unwrap().iter().any(|p| p == "/proc/kcore"));
    assert!(spec["process"].get("noNewPrivileges").is_none());
    assert_eq!(spec["process"]["user"]["additionalGids"], serde_json::json!([0]));
    let at: Vec<&str> = spec["mounts"].as_array().unwrap().iter().map(|m| m["destination"].as_str().unwrap()).collect();
    assert_eq!(
        at,
        [
            "/proc",
            "/dev",
            "/dev/pts",
            "/dev/mqueue",
            "/sys",
            "/sys/fs/cgroup",
            "/etc/hostname",
            "/etc/hosts",
            "/etc/resolv.conf",
            "/dev/shm"
        ]
    );
}

#[test]
fn privileged_needs_a_privileged_pod_and_lifts_every_fence() {
    let mut scene = Scene::new("privileged");
    scene.context().privileged = true;
    scene.context().masked_paths = vec!["/proc/kcore".into()];
    scene.context().seccomp = MessageField::some(Default::default());
    assert!(scene.build().unwrap_err().chain().contains("no privileged container allowed in sandbox"));
    scene.pod_context().privileged = true;
    let spec = scene.json();
    assert!(spec["linux"].get("maskedPaths").is_none() && spec["linux"].get("seccomp").is_none());
    assert_eq!(spec["linux"]["resources"]["devices"], serde_json::json!([{"allow": true, "access": "rwm"}]));
    assert!(spec["linux"]["devices"].as_array().unwrap().len() > 3);
    assert_eq!(spec["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 41);
    assert!(!kinds(&spec).contains(&"cgroup"));
    assert!(!spec["mounts"].to_string().contains("\"ro\""));
}

#[test]
fn image_volumes_stay_below_the_root_and_lose_to_mounts() {
    let mut scene = Scene::new("volumes");
    scene.image(serde_json::json!({"Volumes": {"/../../etc": {}, "data": {}, "/x/": {}, "/data": {}}}));
    scene.request.mounts.push(cri::Mount { container_path: "/x".into(), host_path: "/tmp".into(), ..Default::default() });
    let built = scene.build().unwrap();
    let at: Vec<&Path> = built.volumes.iter().map(|v| v.container_path.as_path()).collect();
    assert_eq!(at, [Path::new("/etc"), Path::new("/data")]);
    assert!(built.spec.mounts.iter().any(|m| m.destination == "/etc" && m.source.ends_with("/volumes/0")));
    scene.image(serde_json::json!({"Volumes": {"/..": {}}}));
    assert!(scene.build().unwrap_err().chain().contains("volume"));
    scene.config = Config::default();
}

#[test]
fn users_come_from_the_request_then_the_image() {
    let mut scene = Scene::new("users");
    scene.image(serde_json::json!({"User": "web"}));
    assert_eq!(scene.build().unwrap().user, (1000, 1000, vec![1000]));
    scene.context().run_as_user = MessageField::some(cri::Int64Value { value: 7, ..Default::default() });
    scene.context().supplemental_groups = vec![9];
    assert_eq!(scene.build().unwrap().user, (7, 0, vec![0, 9]));
    scene.context().run_as_username = "web".into();
    assert_eq!(scene.build().unwrap().user, (1000, 1000, vec![9, 1000]));
    scene.image(serde_json::json!({"User": "4294967296"}));
    scene.request.linux = MessageField::none();
    assert!(scene.build().unwrap_err().chain().contains("4294967296"));
}

#[test]
fn requested_devices_and_hugepages_take_effect() {
    let mut scene = Scene::new("devices");
    scene.request.devices.push(cri::Device {
        host_path: "/dev/null".into(),
        container_path: "/dev/n".into(),
        permissions: "r".into(),
        ..Default::default()
    });
    let limit = cri::HugepageLimit { page_size: "2MB".into(), limit: 4 << 20, ..Default::default() };
    scene.request.linux.mut_or_insert_default().resources.mut_or_insert_default().hugepage_limits.push(limit);
    let spec = scene.json();
    assert_eq!(
        spec["linux"]["resources"]["devices"][1],
        serde_json::json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"})
    );
    scene.host.hugetlb = false;
    if !scene.config.cri_runtime.disable_hugetlb_controller {
        assert_eq!(spec["linux"]["resources"]["hugepageLimits"][0]["pageSize"], "2MB");
        let result = scene.build();
        assert!(scene.config.cri_runtime.tolerate_missing_hugetlb_controller == result.is_ok());
    }
}

#[test]
fn a_score_below_the_floor_is_raised_with_a_warning() {
    let mut scene = Scene::new("oom");
    scene.host.cap_sys_resource = false;
    scene.host.oom_score_adj = 100;
    scene.request.linux.mut_or_insert_default().resources.mut_or_insert_default().oom_score_adj = -997;
    let built = scene.build().unwrap();
    assert_eq!(built.spec.process.unwrap().oom_score_adj, Some(100));
    assert!(built.warnings[0].contains("CAP_SYS_RESOURCE"));
}

#[test]
fn annotations_pass_by_the_list_alone_and_never_replace_ours() {
    let mut scene = Scene::new("annotations");
    scene.request.annotations.insert("io.kubernetes.cri.sandbox-id".into(), "evil".into());
    scene.request.annotations.insert("a/b".into(), "1".into());
    let built = scene.build().unwrap();
    assert!(!built.spec.annotations.contains_key("a/b"));
    let runtimes = &mut scene.config.cri_runtime.containerd.runtimes;
    runtimes.values_mut().for_each(|r| r.container_annotations = vec!["*/*".into()]);
    let built = scene.build().unwrap();
    assert_eq!((built.spec.annotations["a/b"].as_str(), built.spec.annotations["io.kubernetes.cri.sandbox-id"].as_str()), ("1", "cd"));
}

#[test]
fn cdi_and_classes_that_cannot_be_had_are_refused() {
    let mut scene = Scene::new("classes");
    scene.request.annotations.insert("io.kubernetes.cri.rdt-class".into(), "gold".into());
    let ignored = scene.config.cri_runtime.containerd.ignore_rdt_not_enabled_errors;
    assert_eq!(scene.build().is_ok(), ignored);
    (scene.host.rdt, scene.host.resctrl) = (true, scene.dir.clone());
    assert!(scene.build().unwrap_err().chain().contains("no such group"));
    fs::create_dir(scene.dir.join("gold")).unwrap();
    fs::write(scene.dir.join("gold/schemata"), "").unwrap();
    assert_eq!(scene.json()["linux"]["intelRdt"]["closID"], "gold");
    scene.request.CDI_devices.push(cri::CDIDevice { name: "v/c=d".into(), ..Default::default() });
    assert!(scene.build().unwrap_err().chain().contains("unresolvable CDI device v/c=d"));
    scene.config.cri_runtime.enable_cdi = false;
    assert!(scene.build().unwrap_err().chain().contains("enable_cdi"));
}

#[test]
fn sandbox_runs_the_built_in_pause_read_only_in_its_pins() {
    let mut scene = Scene::new("sandbox");
    let pins = Pins { net: Some("/run/netns/x".into()), ipc: Some("/i".into()), uts: Some("/u".into()), user: None };
    let spec = scene.sandbox(&pins);
    let process = spec.process.clone().unwrap();
    assert_eq!((process.args, process.oom_score_adj, process.no_new_privileges), (vec!["/pause".to_owned()], Some(-998), true));
    assert_eq!((spec.hostname.as_str(), spec.root.clone().unwrap().readonly), ("", true));
    assert_eq!(scene.sandbox(&Pins::default()).hostname, "web-0");
    assert!(spec.linux.seccomp.is_some() && process.capabilities.unwrap().bounding.is_empty());
    assert_eq!(spec.linux.sysctl["net.ipv4.ip_unprivileged_port_start"], "0");
    assert_eq!(spec.linux.resources.clone().unwrap().cpu.unwrap().shares, Some(2));
    assert!(spec.linux.masked_paths.contains(&"/sys/devices/virtual/powercap".to_owned()));
    assert_eq!(spec.annotations["io.kubernetes.cri.container-type"], "sandbox");
    let options = scene.pod_context().namespace_options.mut_or_insert_default();
    options.network = NamespaceMode::NODE.into();
    let spec = scene.sandbox(&Pins::default());
    assert!(spec.hostname.is_empty() && spec.linux.sysctl.is_empty());
    assert!(!spec.linux.namespaces.iter().any(|n| n.kind == "network" || n.kind == "uts"));
}

#[test]
fn user_namespace_maps_and_joins() {
    let mut scene = Scene::new("userns");
    let line = cri::IDMapping { host_id: 65536, container_id: 0, length: 65536, ..Default::default() };
    let user = cri::UserNamespace { mode: NamespaceMode::POD.into(), uids: vec![line.clone()], gids: vec![line], ..Default::default() };
    scene.pod_context().namespace_options.mut_or_insert_default().userns_options = MessageField::some(user.clone());
    scene.context().namespace_options.mut_or_insert_default().userns_options = MessageField::some(user);
    let sandbox = scene.sandbox(&Pins::default());
    assert_eq!(sandbox.linux.uid_mappings[0].host_id, 65536);
    assert!(!sandbox.linux.sysctl.contains_key("net.ipv4.ping_group_range"));
    let spec = scene.build().unwrap().spec;
    assert!(spec.linux.namespaces.iter().any(|n| n.kind == "user" && n.path == "/proc/42/ns/user"));
    assert!(spec.mounts.iter().all(|m| m.uid_mappings.is_empty()), "the pod's files have its owners on disk");
}

mod run;
