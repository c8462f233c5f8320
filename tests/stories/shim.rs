//! Shims that die or stand still harm their own pod alone; and how small they are.
use crate::harness::daemon::signal;
use crate::harness::{Daemon, RUNTIMES, leftovers};
use cradle::proto::cri::ContainerState;
use std::time::{Duration, Instant};

/// Shims of a pod.
fn shim_of(d: &Daemon, pod: &str) -> u32 {
    let found = leftovers::processes(d).into_iter().find(|(_, what)| what.contains("shim") && what.contains(pod));
    found.unwrap_or_else(|| panic!("no shim of pod {pod} among {:?}", leftovers::processes(d))).0
}

#[test]
fn a_killed_shim_ends_its_containers_and_the_pod_can_go() {
    let d = Daemon::start();
    let image = d.busybox();
    for handler in RUNTIMES {
        let pod = d.pod("victim", handler);
        let main = pod.shell("main", &image, "sleep 1000");
        let other = d.pod("other", handler);
        let fine = other.shell("main", &image, "sleep 1000");
        signal(shim_of(&d, &pod.id), "KILL");
        let begun = Instant::now();
        let status = main.ended(Duration::from_secs(5));
        assert_eq!(status.state.enum_value(), Ok(ContainerState::CONTAINER_EXITED));
        println!("{handler}: exit of a killed shim's container seen after {:?}", begun.elapsed());
        assert!(fine.running());
        d.remove_container(&main.id).unwrap();
        pod.remove();
        other.remove();
    }
}

#[test]
fn ten_stopped_shims_block_neither_the_start_nor_other_pods() {
    let mut d = Daemon::start();
    let image = d.busybox();
    let stopped: Vec<u32> = (0..10)
        .map(|n| {
            let pod = d.pod(&format!("still-{n}"), "crun");
            pod.shell("main", &image, "sleep 1000");
            shim_of(&d, &pod.id)
        })
        .collect();
    for pid in &stopped {
        signal(*pid, "STOP");
    }
    let work = |d: &Daemon| {
        let begun = Instant::now();
        let pod = d.pod("moves", "crun");
        assert_eq!(pod.shell("main", &image, "sleep 1000").says("echo yes"), "yes");
        pod.remove();
        assert_eq!(d.pod_ids().len(), 10);
        assert_eq!(d.containers().len(), 10);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    };
    work(&d);
    d.kill9();
    let took = d.start_again();
    assert!(took < Duration::from_secs(10), "start beside stopped shims took {took:?}");
    work(&d);
    for pid in &stopped {
        signal(*pid, "CONT");
    }
}

/// `Private_Dirty` and `Rss` of a process, KiB.
fn memory(pid: u32) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let of = |key: &str| {
        let line = text.lines().find(|l| l.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (of("Private_Dirty:"), of("Rss:"))
}

#[test]
fn a_shim_with_a_container_is_small() {
    let d = Daemon::start();
    let image = d.busybox();
    let pod = d.pod("small", "runc");
    pod.shell("main", &image, "sleep 1000");
    let (dirty, rss) = memory(shim_of(&d, &pod.id));
    let (daemon_dirty, daemon_rss) = memory(d.pid());
    println!("shim: Private_Dirty {dirty} KiB, RSS {rss} KiB; daemon: Private_Dirty {daemon_dirty} KiB, RSS {daemon_rss} KiB");
    if cfg!(debug_assertions) {
        return;
    }
    assert!(dirty <= 1024, "Private_Dirty of the shim: {dirty} KiB");
    assert!(rss <= 3072, "RSS of the shim: {rss} KiB");
}

#[test]
fn the_shim_links_no_more_than_libc() {
    let shim = env!("CARGO_BIN_EXE_containerd-shim-cradle-v2");
    let list = crate::harness::run_ok("ldd", &[shim]);
    let wrong: Vec<&str> =
        list.lines().filter(|l| !["linux-vdso", "libc.so", "libgcc_s", "ld-linux"].iter().any(|ok| l.contains(ok))).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}
