//! Statistics and metrics tell what the kernel counts, of pods and containers, with both runtimes and without asking any shim.
use crate::harness::client::{container_config, some};
use crate::harness::daemon::{Setup, signal};
use crate::harness::{Daemon, RUNTIMES, leftovers, wait_for, wait_until};
use cradle::error::Kind;
use cradle::proto::cri::*;
use cradle::proto::cri_methods::runtime_service as rt;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);

/// Sizes are measured each second instead of each tenth.
const OFTEN: &str = "[plugins.\"io.containerd.cri.v1.images\"]\nstats_collect_period = 1\n";

fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// A number in a file of a cgroup: v1's controller and file, and v2's file.
fn kernel(group: &str, (controller, v1): (&str, &str), v2: &str) -> u64 {
    let file = if is_v2() { format!("/sys/fs/cgroup{group}/{v2}") } else { format!("/sys/fs/cgroup/{controller}{group}/{v1}") };
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file}: {e}"));
    let number = text.lines().find_map(|l| l.strip_prefix("usage_usec ").unwrap_or(l).parse().ok());
    number.unwrap_or_else(|| panic!("{file}: {text}"))
}

fn cpu_nanos(group: &str) -> u64 {
    kernel(group, ("cpuacct", "cpuacct.usage"), "cpu.stat") * if is_v2() { 1000 } else { 1 }
}

fn limited(name: &str, image: &str, script: &str) -> ContainerConfig {
    let resources = LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 1024,
        memory_limit_in_bytes: 64 << 20,
        memory_swap_limit_in_bytes: 64 << 20,
        ..Default::default()
    };
    let mut config = container_config(name, image, &["sh", "-c", script]);
    config.linux.mut_or_insert_default().resources = some(resources);
    config
}

fn stats(d: &Daemon, id: &str) -> ContainerStats {
    d.get(&rt::CONTAINER_STATS, &ContainerStatsRequest { container_id: id.into(), ..Default::default() }).stats.unwrap()
}

fn pod_stats(d: &Daemon, id: &str) -> PodSandboxStats {
    d.get(&rt::POD_SANDBOX_STATS, &PodSandboxStatsRequest { pod_sandbox_id: id.into(), ..Default::default() }).stats.unwrap()
}

#[test]
fn statistics_are_the_kernels() {
    let d = Setup::new().config(OFTEN).start();
    let image = d.busybox();
    for handler in RUNTIMES {
        let pod = d.pod("counted", handler);
        let busy = pod.start(limited("busy", &image, "while :; do :; done"));
        let idle = pod.start(limited("idle", &image, "dd if=/dev/zero of=/two bs=1M count=2 2>/dev/null; sleep 1000"));
        let group = format!("{}/{}", d.cgroup_parent, busy.id);
        std::thread::sleep(Duration::from_millis(1500));

        let before = cpu_nanos(&group);
        let first = stats(&d, &busy.id);
        let after = cpu_nanos(&group);
        let used = first.cpu.usage_core_nano_seconds.value;
        assert!(before <= used && used <= after, "{handler}: {before} <= {used} <= {after}");
        let rate = first.cpu.usage_nano_cores.value;
        assert!(rate > 50_000_000 && rate < 700_000_000, "{handler}: half a core at most, {rate}");
        let usage = kernel(&group, ("memory", "memory.usage_in_bytes"), "memory.current");
        let told = &first.memory;
        assert!(told.usage_bytes.value.abs_diff(usage) < 2 << 20, "{handler}: {told:?} {usage}");
        assert!(told.working_set_bytes.value <= told.usage_bytes.value && told.rss_bytes.value > 0 && told.page_faults.value > 0);
        assert_eq!(told.available_bytes.value, (64 << 20) - told.working_set_bytes.value);
        assert!(told.major_page_faults.is_some() && first.swap.swap_usage_bytes.is_some());
        // On a hybrid host runc puts its containers into cgroup2 too, where pressure is counted.
        let root = if is_v2() { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/unified" };
        let counted = std::fs::read_to_string(format!("{root}{group}/memory.pressure")).is_ok();
        assert_eq!(told.psi.is_some(), counted, "{handler}");

        let layer = wait_for("two megabytes in the writable layer", SOON, || {
            stats(&d, &idle.id).writable_layer.into_option().filter(|l| l.used_bytes.value >= 2 << 20)
        });
        assert!(layer.inodes_used.value >= 1 && layer.timestamp > 0 && Path::new(&layer.fs_id.mountpoint).is_dir());

        let traffic = || idle.says("cat /proc/net/dev | sed -n 's/^ *eth0://p'").split_whitespace().next().unwrap().parse::<u64>().unwrap();
        let before = traffic();
        let all = pod_stats(&d, &pod.id);
        let linux = &all.linux;
        let received = linux.network.default_interface.rx_bytes.value;
        assert!(before <= received && received <= traffic(), "{handler}");
        assert_eq!((linux.network.default_interface.name.as_str(), linux.network.interfaces.len()), ("eth0", 0));
        assert_eq!(linux.process.process_count.value, 3, "{handler}: two and the pod's own");
        let mut own: Vec<&str> = linux.containers.iter().map(|c| c.attributes.id.as_str()).collect();
        own.sort_unstable();
        let mut expected = [busy.id.as_str(), idle.id.as_str()];
        expected.sort_unstable();
        assert_eq!(own, expected);
        let sum: u64 = linux.containers.iter().map(|c| c.memory.usage_bytes.value).sum();
        assert!(linux.memory.usage_bytes.value + (1 << 20) > sum && linux.cpu.usage_core_nano_seconds.value >= used);

        d.stop_container(&idle.id, 0).unwrap();
        let ended = stats(&d, &idle.id);
        assert!(ended.cpu.is_none() && ended.memory.is_none() && ended.writable_layer.is_some(), "one that is over has its files alone");
        pod.remove();
        let gone = PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone(), ..Default::default() };
        assert_eq!(d.ask(&rt::POD_SANDBOX_STATS, &gone).unwrap_err().kind(), Kind::NotFound);
    }
}

/// The first value of each metric, with its labels.
type Found = BTreeMap<String, (u64, Vec<String>)>;

fn first_of(metrics: &[Metric]) -> Found {
    let mut found = Found::new();
    for m in metrics {
        found.entry(m.name.clone()).or_insert_with(|| (m.value.value, m.label_values.clone()));
    }
    found
}

#[test]
fn every_metric_that_is_described_is_told() {
    let d = Daemon::start();
    let image = d.busybox();
    let described = d.get(&rt::LIST_METRIC_DESCRIPTORS, &ListMetricDescriptorsRequest::default()).descriptors;
    let keys: BTreeMap<&str, &[String]> = described.iter().map(|m| (m.name.as_str(), m.label_keys.as_slice())).collect();
    assert_eq!(keys.len(), 56);
    for handler in RUNTIMES {
        let pod = d.pod("measured", handler);
        let main = pod.start(limited("main", &image, "dd if=/dev/zero of=/file bs=1M count=1 2>/dev/null; echo done; sleep 1000"));
        let over = pod.shell("over", &image, "exit 0");
        over.ended(SOON);
        main.logged("done", SOON);
        let metrics = d.get(&rt::LIST_POD_SANDBOX_METRICS, &ListPodSandboxMetricsRequest::default()).pod_metrics;
        assert_eq!(metrics.iter().map(|m| m.pod_sandbox_id.as_str()).collect::<Vec<_>>(), [pod.id.as_str()]);
        let one = &metrics[0];
        assert_eq!(one.container_metrics.len(), 1, "{handler}: one that is over is left out, the pod is not");
        let (own, inside) = (first_of(&one.metrics), first_of(&one.container_metrics[0].metrics));
        for m in one.metrics.iter().chain(&one.container_metrics[0].metrics) {
            assert_eq!(m.label_values.len(), keys[m.name.as_str()].len(), "{}", m.name);
        }
        // What a virtual disk may not count, and huge pages where the kernel has none.
        let huge = Path::new("/sys/kernel/mm/hugepages").exists();
        let optional = |name: &str| {
            ["_blkio_", "_fs_reads_", "_fs_writes_"].iter().any(|part| name.contains(part)) || name.contains("_hugetlb_") && !huge
        };
        let told: BTreeSet<&str> = own.keys().chain(inside.keys()).map(String::as_str).collect();
        let missing: Vec<&&str> = keys.keys().filter(|name| !told.contains(**name) && !optional(name)).collect();
        assert!(missing.is_empty(), "{handler}: {missing:?}");

        let group = format!("{}/{}", d.cgroup_parent, main.id);
        let (_, labels) = &inside["container_memory_rss"];
        let expected = ["main", &group, &image, &main.id, "stories", "measured"].map(String::from);
        assert_eq!(labels[..], expected, "{handler}");
        let value = |name: &str| inside[name].0;
        assert_eq!(value("container_spec_cpu_quota"), 50_000);
        assert_eq!(value("container_spec_memory_limit_bytes"), 64 << 20);
        assert_eq!(value("container_processes"), 1, "{handler}");
        assert_eq!(value("container_threads"), 1);
        assert!(value("container_file_descriptors") >= 3 && value("container_ulimits_soft") > 0);
        assert!(value("container_fs_usage_bytes") >= 1 << 20 && value("container_fs_limit_bytes") > 0);
        assert!(value("container_last_seen") >= value("container_start_time_seconds") && value("container_start_time_seconds") > 0);
        let rx: u64 = main.says("cat /sys/class/net/eth0/statistics/rx_packets").parse().unwrap();
        assert!(own["container_network_receive_packets_total"].0 <= rx && own["container_network_receive_packets_total"].1[6] == "eth0");

        let streamed = d.client().stream(&rt::STREAM_POD_SANDBOX_METRICS, &StreamPodSandboxMetricsRequest::default(), SOON).unwrap();
        let streamed: Vec<String> = streamed.flat_map(|m| m.unwrap().pod_sandbox_metrics).map(|m| m.pod_sandbox_id).collect();
        assert_eq!(streamed, [pod.id.as_str()]);
        pod.remove();
    }
}

#[test]
fn stopped_shims_delay_no_statistics() {
    let d = Daemon::start();
    let image = d.busybox();
    let (still, moves) = (d.pod("still", "crun"), d.pod("moves", "runc"));
    for pod in [&still, &moves] {
        pod.shell("main", &image, "sleep 1000");
    }
    let shims = leftovers::processes(&d).into_iter().filter(|(_, what)| what.contains("shim") && what.contains(&still.id));
    let shims: Vec<u32> = shims.map(|(pid, _)| pid).collect();
    assert!(!shims.is_empty());
    shims.iter().for_each(|pid| signal(*pid, "STOP"));
    let begun = Instant::now();
    assert_eq!(d.get(&rt::LIST_CONTAINER_STATS, &ListContainerStatsRequest::default()).stats.iter().filter(|s| s.cpu.is_some()).count(), 2);
    assert_eq!(d.get(&rt::LIST_POD_SANDBOX_STATS, &ListPodSandboxStatsRequest::default()).stats.len(), 2);
    assert_eq!(d.get(&rt::LIST_POD_SANDBOX_METRICS, &ListPodSandboxMetricsRequest::default()).pod_metrics.len(), 2);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    shims.iter().for_each(|pid| signal(*pid, "CONT"));
    wait_until("the shim to go on", SOON, || d.stop_pod(&still.id).is_ok());
}

#[test]
fn lists_that_are_too_long_for_a_message_are_streamed() {
    let d = Setup::new().no_network().start();
    let image = d.busybox();
    let mut config = d.pod_config("long");
    let namespaces = NamespaceOption { network: NamespaceMode::NODE.into(), ..Default::default() };
    let security = LinuxSandboxSecurityContext { namespace_options: some(namespaces), ..Default::default() };
    config.linux.mut_or_insert_default().security_context = some(security);
    let pod = d.run_pod(config, "crun");
    let mut made = BTreeSet::new();
    for n in 0..18 {
        let mut config = container_config(&format!("c{n}"), &image, &["true"]);
        config.annotations.insert("long".into(), "x".repeat(1 << 20));
        config.labels.insert("even".into(), (n % 2 == 0).to_string());
        made.insert(pod.create(config).id);
    }
    let error = d.ask(&rt::LIST_CONTAINERS, &ListContainersRequest::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::ResourceExhausted, "{}", error.chain());

    let stream = |request: &StreamContainersRequest| -> Vec<Vec<String>> {
        let messages = d.client().stream(&rt::STREAM_CONTAINERS, request, Duration::from_secs(30)).unwrap();
        messages.map(|m| m.unwrap().containers.into_iter().map(|c| c.id).collect()).collect()
    };
    let messages = stream(&StreamContainersRequest::default());
    assert_eq!(messages.iter().map(Vec::len).collect::<Vec<_>>(), [1; 18]);
    assert_eq!(messages.into_iter().flatten().collect::<BTreeSet<_>>(), made);
    let even = ContainerFilter { label_selector: [("even".to_string(), "true".to_string())].into(), ..Default::default() };
    assert_eq!(stream(&StreamContainersRequest { filter: some(even), ..Default::default() }).len(), 9);
    let none = ContainerFilter { id: "0123456789".into(), ..Default::default() };
    assert!(stream(&StreamContainersRequest { filter: some(none), ..Default::default() }).is_empty());

    let pods = d.client().stream(&rt::STREAM_POD_SANDBOXES, &StreamPodSandboxesRequest::default(), SOON).unwrap();
    assert_eq!(pods.flat_map(|m| m.unwrap().pod_sandboxes).map(|p| p.id).collect::<Vec<_>>(), [pod.id.as_str()]);
    let figures = d.client().stream(&rt::STREAM_POD_SANDBOX_STATS, &StreamPodSandboxStatsRequest::default(), SOON).unwrap();
    let figures: Vec<PodSandboxStats> = figures.flat_map(|m| m.map_or(vec![], |m| m.pod_sandbox_stats)).collect();
    // A pod whose figures alone are too long for a message cannot be told; the others can.
    assert!(figures.len() <= 1);
    let images = cradle::proto::cri_methods::image_service::STREAM_IMAGES;
    let images = d.client().stream(&images, &StreamImagesRequest::default(), SOON).unwrap();
    assert_eq!(images.flat_map(|m| m.unwrap().images).count(), d.images().len());
}
