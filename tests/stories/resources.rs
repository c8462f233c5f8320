//! Limits that are changed while pods and containers are there: on the cgroups, on record, or not at all.
use crate::harness::client::container_config;
use crate::harness::{Daemon, RUNTIMES};
use cradle::error::Kind;
use cradle::proto::cri::*;
use cradle::proto::cri_methods::runtime_service as rt;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const MIB: i64 = 1 << 20;

fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// A file of a cgroup: its name on v1 and on v2, `memory.limit_in_bytes` and `memory.max`.
#[track_caller]
fn limit(cgroup: &str, v1: &str, v2: &str) -> String {
    let path = if is_v2() {
        format!("/sys/fs/cgroup{cgroup}/{v2}")
    } else {
        format!("/sys/fs/cgroup/{}{cgroup}/{v1}", v1.split('.').next().unwrap())
    };
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}")).trim().to_string()
}

fn memory(cgroup: &str) -> String {
    limit(cgroup, "memory.limit_in_bytes", "memory.max")
}

fn shares(cgroup: &str) -> String {
    limit(cgroup, "cpu.shares", "cpu.weight")
}

fn update_pod(d: &Daemon, id: &str, resources: LinuxContainerResources, overhead: LinuxContainerResources) -> cradle::error::Result<()> {
    let request = UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: id.into(),
        resources: Some(resources).into(),
        overhead: Some(overhead).into(),
        ..Default::default()
    };
    d.ask(&rt::UPDATE_POD_SANDBOX_RESOURCES, &request).map(drop)
}

fn update(d: &Daemon, id: &str, linux: LinuxContainerResources) -> cradle::error::Result<()> {
    let request = UpdateContainerResourcesRequest { container_id: id.into(), linux: Some(linux).into(), ..Default::default() };
    d.ask(&rt::UPDATE_CONTAINER_RESOURCES, &request).map(drop)
}

fn info(d: &Daemon, id: &str) -> Value {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: true, ..Default::default() };
    serde_json::from_str(&d.get(&rt::POD_SANDBOX_STATUS, &request).info["info"]).unwrap()
}

/// The pod's cgroup is the kubelet's to make, and here ours to remove.
fn remove_cgroup(cgroup: &str) {
    let mut roots: Vec<PathBuf> = std::fs::read_dir("/sys/fs/cgroup").unwrap().map(|e| e.unwrap().path()).collect();
    roots.push("/sys/fs/cgroup".into());
    for root in roots {
        let _ = std::fs::remove_dir(root.join(cgroup.trim_start_matches('/')));
    }
}

#[test]
fn a_pods_own_cgroup_gets_resources_and_overhead() {
    let mut d = Daemon::start();
    for handler in RUNTIMES {
        let mut config = d.pod_config("resized");
        let cgroup = format!("{}/pod-{handler}", d.cgroup_parent);
        config.linux.mut_or_insert_default().cgroup_parent = cgroup.clone();
        let id = d.run_pod(config, handler).id;
        let resources = LinuxContainerResources {
            cpu_shares: 512,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            memory_limit_in_bytes: 64 * MIB,
            ..Default::default()
        };
        let overhead = LinuxContainerResources { cpu_shares: 100, memory_limit_in_bytes: 8 * MIB, ..Default::default() };
        update_pod(&d, &id, resources, overhead).unwrap();
        assert_eq!(memory(&cgroup), (72 * MIB).to_string());
        assert_eq!(shares(&cgroup), if is_v2() { "24" } else { "612" });
        assert!(limit(&cgroup, "cpu.cfs_quota_us", "cpu.max").starts_with("50000"));
        // What is not said stays, over a restart too.
        d.restart();
        update_pod(&d, &id, LinuxContainerResources { cpu_shares: 1024, ..Default::default() }, Default::default()).unwrap();
        assert_eq!((memory(&cgroup), shares(&cgroup)), ((72 * MIB).to_string(), if is_v2() { "43" } else { "1124" }.into()));
        let told = info(&d, &id);
        assert_eq!((&told["resources"]["cpu_shares"], &told["resources"]["memory_limit_in_bytes"]), (&json!(1024), &json!(64 * MIB)));
        assert_eq!(told["overhead"]["memory_limit_in_bytes"], 8 * MIB);
        assert_eq!((&told["runtimeHandler"], &told["runtimeType"]), (&json!(handler), &json!("io.containerd.runc.v2")));
        assert_eq!(told["runtimeSpec"]["process"]["args"], json!(["/pause"]));
        assert_eq!((&told["config"]["hostname"], &told["netNamespaceClosed"]), (&json!("resized"), &json!(false)));
        assert!(told["cniResult"][0]["ips"][0]["address"].as_str().unwrap().starts_with(&d.net.prefix), "{told}");

        // One field that the kernel refuses takes the others with it.
        let bad = LinuxContainerResources { memory_limit_in_bytes: 128 * MIB, cpuset_cpus: "4000".into(), ..Default::default() };
        let error = update_pod(&d, &id, bad, Default::default()).unwrap_err().chain();
        assert!(error.contains("resources.cpuset_cpus") && error.contains("4000"), "{error}");
        assert_eq!((memory(&cgroup), &info(&d, &id)["resources"]), ((72 * MIB).to_string(), &told["resources"]));
        let score = LinuxContainerResources { oom_score_adj: 7, ..Default::default() };
        let error = update_pod(&d, &id, score, Default::default()).unwrap_err();
        assert!(error.kind() == Kind::InvalidArgument && error.chain().contains("resources.oom_score_adj"), "{}", error.chain());
        d.stop_pod(&id).unwrap();
        assert_eq!(update_pod(&d, &id, Default::default(), Default::default()).unwrap_err().kind(), Kind::FailedPrecondition);
        crate::harness::client::remove_pod(&d, &id).unwrap();
        assert_eq!(update_pod(&d, &id, Default::default(), Default::default()).unwrap_err().kind(), Kind::NotFound);
        remove_cgroup(&cgroup);
    }
}

#[test]
fn a_containers_limits_change_in_cgroup_and_spec_or_not_at_all() {
    let d = Daemon::start();
    let image = d.busybox();
    for handler in RUNTIMES {
        let pod = d.pod("limits", handler);
        let asked = LinuxContainerResources { cpu_shares: 512, memory_limit_in_bytes: 64 * MIB, ..Default::default() };
        let mut config = container_config("main", &image, &["sleep", "1000"]);
        config.linux.mut_or_insert_default().resources = Some(asked).into();
        let main = pod.create(config);
        let cgroup = format!("{}/{}", d.cgroup_parent, main.id);
        let known = || main.status().resources.unwrap_or_default().linux.unwrap_or_default();
        // Not started yet: the spec alone, and the cgroup with the start.
        update(&d, &main.id, LinuxContainerResources { memory_limit_in_bytes: 80 * MIB, ..Default::default() }).unwrap();
        assert_eq!((known().memory_limit_in_bytes, known().cpu_shares), (80 * MIB, 512));
        main.start().unwrap();
        assert_eq!(memory(&cgroup), (80 * MIB).to_string());
        // A user-mode Linux has none.
        let cpuset = !is_v2() || std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap().contains("cpuset");
        let wish = LinuxContainerResources {
            memory_limit_in_bytes: 96 * MIB,
            cpu_quota: 20_000,
            cpu_period: 50_000,
            oom_score_adj: 900,
            cpuset_cpus: if cpuset { "0".into() } else { String::new() },
            ..Default::default()
        };
        update(&d, &main.id, wish).unwrap();
        assert_eq!(memory(&cgroup), (96 * MIB).to_string());
        assert!(limit(&cgroup, "cpu.cfs_quota_us", "cpu.max").starts_with("20000"));
        assert!(!cpuset || limit(&cgroup, "cpuset.cpus", "cpuset.cpus") == "0");
        let request = ContainerStatusRequest { container_id: main.id.clone(), verbose: true, ..Default::default() };
        let told: Value = serde_json::from_str(&d.get(&rt::CONTAINER_STATUS, &request).info["info"]).unwrap();
        assert_eq!(std::fs::read_to_string(format!("/proc/{}/oom_score_adj", told["pid"])).unwrap().trim(), "900");
        assert_eq!(told["runtimeSpec"]["process"]["oomScoreAdj"], 900);
        assert_eq!((known().cpu_shares, known().cpu_quota, known().oom_score_adj), (512, 20_000, 900));

        let before = known();
        for (field, bad) in [
            ("", LinuxContainerResources { memory_limit_in_bytes: 48 * MIB, cpuset_cpus: "4000".into(), ..Default::default() }),
            ("cpuset_cpus", LinuxContainerResources { memory_limit_in_bytes: 48 * MIB, cpuset_cpus: "x".into(), ..Default::default() }),
            ("cpu_quota", LinuxContainerResources { cpu_quota: -7, ..Default::default() }),
        ] {
            let error = update(&d, &main.id, bad).unwrap_err();
            assert!(error.chain().contains(field), "{}", error.chain());
            assert_eq!((known(), memory(&cgroup)), (before.clone(), (96 * MIB).to_string()), "{handler} {field}");
        }
        let windows = UpdateContainerResourcesRequest {
            container_id: main.id.clone(),
            linux: Some(LinuxContainerResources::default()).into(),
            windows: Some(WindowsContainerResources::default()).into(),
            ..Default::default()
        };
        assert!(d.ask(&rt::UPDATE_CONTAINER_RESOURCES, &windows).unwrap_err().chain().contains("windows"));
        d.stop_container(&main.id, 0).unwrap();
        update(&d, &main.id, LinuxContainerResources { cpu_shares: 9, ..Default::default() }).unwrap();
        assert_eq!(known().cpu_shares, 9);
        pod.remove();
    }
}
