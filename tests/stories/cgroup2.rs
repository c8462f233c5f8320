//! On pure cgroup v2: limits, unified keys, private namespaces, kills for want of memory and usage. `make test` tells these in
//! a user-mode Linux (tests/uml.sh), whatever the machine has itself.
use crate::harness::client::container_config;
use crate::harness::{Container, Daemon, Pod, RUNTIMES, wait_until};
use cradle::proto::cri::*;
use cradle::proto::cri_methods::runtime_service as rt;
use std::path::PathBuf;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
const MIB: i64 = 1 << 20;

/// Whether this kernel has what the stories are about.
fn v2() -> bool {
    let there = PathBuf::from("/sys/fs/cgroup/cgroup.controllers").exists();
    if !there {
        println!("cgroup v1 here: tests/uml.sh tells this story");
    }
    there
}

/// A file of a container's cgroup, as the node sees it.
#[track_caller]
fn file(container: &Container<'_>, name: &str) -> String {
    let path = format!("/sys/fs/cgroup{}/{}/{name}", container.daemon.cgroup_parent, container.id);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}")).trim().to_string()
}

#[track_caller]
fn files(container: &Container<'_>, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        assert_eq!(file(container, name), *value, "{name}");
    }
}

fn with(resources: LinuxContainerResources, image: &str, command: &[&str]) -> ContainerConfig {
    let mut config = container_config("main", image, command);
    config.linux.mut_or_insert_default().resources = Some(resources).into();
    config
}

fn update(container: &Container<'_>, resources: LinuxContainerResources) -> cradle::error::Result<UpdateContainerResourcesResponse> {
    let request =
        UpdateContainerResourcesRequest { container_id: container.id.clone(), linux: Some(resources).into(), ..Default::default() };
    container.daemon.ask(&rt::UPDATE_CONTAINER_RESOURCES, &request)
}

#[test]
fn limits_are_set_changed_and_kept() {
    if !v2() {
        return;
    }
    let d = Daemon::start();
    let image = d.busybox();
    for handler in RUNTIMES {
        let pod = d.pod("limits", handler);
        let asked = LinuxContainerResources {
            cpu_shares: 512,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            memory_limit_in_bytes: 64 * MIB,
            unified: [("memory.high".to_string(), (48 * MIB).to_string()), ("pids.max".into(), "77".into())].into(),
            ..Default::default()
        };
        let main = pod.start(with(asked, &image, &["sleep", "1000"]));
        let (high, max) = ((48 * MIB).to_string(), (64 * MIB).to_string());
        let weight = ("cpu.weight", "20");
        files(&main, &[("cpu.max", "50000 100000"), weight, ("memory.max", &max), ("memory.high", &high), ("pids.max", "77")]);
        // Its namespace is its own: what it sees as the root is its group, which it cannot change.
        assert_eq!(main.says("cat /proc/self/cgroup; cat /sys/fs/cgroup/memory.max"), format!("0::/\n{max}"), "{handler}");
        assert_ne!(main.exec("echo max > /sys/fs/cgroup/memory.max").code, 0);

        update(
            &main,
            LinuxContainerResources { memory_limit_in_bytes: 80 * MIB, cpu_quota: 25_000, cpu_period: 50_000, ..Default::default() },
        )
        .unwrap_or_else(|e| panic!("{handler}: {}", e.chain()));
        let max = (80 * MIB).to_string();
        files(&main, &[("memory.max", &max), ("cpu.max", "25000 50000"), weight, ("memory.high", &high), ("pids.max", "77")]);
        update(&main, LinuxContainerResources { unified: [("pids.max".to_string(), "88".to_string())].into(), ..Default::default() })
            .unwrap_or_else(|e| panic!("{handler}: {}", e.chain()));
        files(&main, &[("pids.max", "88"), ("memory.max", &max), weight]);
        let shown = main.status().resources.linux.get_or_default().clone();
        assert_eq!((shown.memory_limit_in_bytes, shown.cpu_quota, shown.cpu_shares), (80 * MIB, 25_000, 512), "{handler}");
        assert_eq!(shown.unified.get("pids.max").map(String::as_str), Some("88"), "{handler}");

        let nosuch = LinuxContainerResources { unified: [("memory.nosuch".to_string(), "1".to_string())].into(), ..Default::default() };
        let mut config = with(nosuch.clone(), &image, &["true"]);
        config.metadata.mut_or_insert_default().name = "nosuch".into();
        let error = pod.try_create(config).and_then(|c| c.start()).unwrap_err().chain();
        assert!(error.contains("memory.nosuch"), "{handler}: {error}");
        let error = update(&main, nosuch).unwrap_err().chain();
        assert!(error.contains("memory.nosuch"), "{handler}: {error}");
        pod.remove();
    }
}

#[test]
fn the_kernel_s_kills_are_told_from_others() {
    if !v2() {
        return;
    }
    let d = Daemon::start();
    let image = d.busybox();
    for handler in RUNTIMES {
        let pod = d.pod("oom", handler);
        let small = || LinuxContainerResources { memory_limit_in_bytes: 24 * MIB, ..Default::default() };
        let greedy = pod.start(with(small(), &image, &["tail", "/dev/zero"]));
        let status = greedy.ended(SOON);
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{handler}");
        // A victim that is not the first process: the container goes on, and its own end is no OOM kill.
        let mut config = with(small(), &image, &["sh", "-c", "tail /dev/zero; echo survived; exit 3"]);
        config.metadata.mut_or_insert_default().name = "child".into();
        config.log_path = "child.log".into();
        let status = pod.start(config).ended(SOON);
        assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"), "{handler}");
        pod.remove();
    }
}

#[test]
fn a_privileged_container_sees_the_node_s_groups() {
    if !v2() {
        return;
    }
    let d = Daemon::start();
    let image = d.busybox();
    for handler in RUNTIMES {
        let mut config = d.pod_config("mighty");
        config.linux.mut_or_insert_default().security_context.mut_or_insert_default().privileged = true;
        let pod: Pod<'_> = d.run_pod(config, handler);
        let mut config = container_config("main", &image, &["sleep", "1000"]);
        config.linux.mut_or_insert_default().security_context.mut_or_insert_default().privileged = true;
        let main = pod.start(config);
        let own = format!("{}/{}", d.cgroup_parent, main.id);
        assert_eq!(main.says("cat /proc/self/cgroup"), format!("0::{own}"), "{handler}");
        assert_eq!(main.says(&format!("cat /sys/fs/cgroup{own}/pids.max")), "max", "{handler}");
        pod.remove();
    }
}

#[test]
fn usage_is_counted() {
    if !v2() {
        return;
    }
    let d = Daemon::start();
    let image = d.busybox();
    for handler in RUNTIMES {
        let pod = d.pod("usage", handler);
        let limit = LinuxContainerResources { memory_limit_in_bytes: 64 * MIB, ..Default::default() };
        let busy = "head -c 8000000 /dev/zero > /dev/shm/x; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo through; sleep 1000";
        let main = pod.start(with(limit, &image, &["sh", "-c", busy]));
        main.logged("through", SOON);
        let mut stats = ContainerStats::default();
        wait_until("usage", SOON, || {
            let request = ContainerStatsRequest { container_id: main.id.clone(), ..Default::default() };
            stats = d.get(&rt::CONTAINER_STATS, &request).stats.unwrap_or_default();
            stats.cpu.usage_core_nano_seconds.value > 0
        });
        let memory = stats.memory.get_or_default();
        let used = memory.working_set_bytes.value;
        assert!((8_000_000..64 << 20).contains(&used), "{handler}: {memory:?}");
        assert!(memory.usage_bytes.value >= used && memory.available_bytes.value <= (64 << 20) - used, "{handler}: {memory:?}");
        assert!(memory.rss_bytes.value > 0 && memory.page_faults.value > 0, "{handler}: {memory:?}");
        let counted: u64 = flat(&file(&main, "cpu.stat"), "usage_usec") * 1000;
        assert!(stats.cpu.usage_core_nano_seconds.value <= counted, "{handler}: {:?} of {counted}", stats.cpu);
        pod.remove();
    }
}

fn flat(text: &str, key: &str) -> u64 {
    text.lines().find_map(|l| l.strip_prefix(key)?.trim().parse().ok()).unwrap_or_default()
}
