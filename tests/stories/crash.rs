//! Nothing is lost when the daemon dies.
use crate::harness::{Daemon, RUNTIMES, wait_until};
use cradle::proto::cri::{ContainerState, PodSandboxState};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);
const COUNT: &str = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.01; done";

#[test]
fn pods_outlive_a_killed_daemon_and_no_line_is_lost() {
    let mut d = Daemon::start();
    let image = d.busybox();
    let mut running = vec![];
    for handler in RUNTIMES {
        let pod = d.pod("keeps", handler);
        let counts = pod.shell("counts", &image, COUNT);
        let ends = pod.shell("ends", &image, "sleep 1.5; exit 9");
        counts.logged("line 5", SOON);
        running.push((pod.id.clone(), pod.ip(), counts.id.clone(), counts.log_file.clone(), ends.id.clone()));
    }
    d.kill9();
    std::thread::sleep(Duration::from_secs(2));
    d.start_again();
    for (pod, ip, counts, log, ends) in running {
        let status = d.pod_status(&pod).unwrap();
        assert_eq!((status.state.enum_value(), &status.network.ip), (Ok(PodSandboxState::SANDBOX_READY), &ip));
        let ended = d.container_status(&ends).unwrap();
        assert_eq!((ended.state.enum_value(), ended.exit_code), (Ok(ContainerState::CONTAINER_EXITED), 9));
        let counts = d.container(&counts, log);
        assert!(counts.running());
        assert_eq!(counts.says("echo hello"), "hello");
        let seen = counts.log().len();
        wait_until("more lines", SOON, || counts.log().len() > seen);
        let lines = counts.log();
        for (at, line) in lines.iter().enumerate() {
            assert_eq!(line.text, format!("line {at}"));
        }
        assert!(lines.len() > 150, "{} lines: the log stood still while the daemon was away", lines.len());
    }
}

#[test]
fn a_restart_in_order_keeps_everything_too() {
    let mut d = Daemon::start();
    let image = d.busybox();
    let pod = d.pod("stays", "crun");
    let created = pod.create(crate::harness::client::container_config("created", &image, &["sleep", "1000"]));
    let main = pod.shell("main", &image, COUNT);
    let (pod_id, created_id, id, log) = (pod.id.clone(), created.id.clone(), main.id.clone(), main.log_file.clone());
    d.restart();
    assert_eq!(d.pod_ids(), [pod_id]);
    assert_eq!(d.container_status(&created_id).unwrap().state.enum_value(), Ok(ContainerState::CONTAINER_CREATED));
    d.container(&created_id, log.clone()).start().unwrap();
    assert!(d.container(&id, log).running());
    assert!(d.image_status(&image).is_some());
}

#[test]
fn kills_at_any_moment_leave_nothing_half_made() {
    let mut d = Daemon::start();
    let image = d.busybox();
    for round in 0..6u64 {
        let names: Vec<_> = (0..2).map(|n| d.pod_config(&format!("r{round}-{n}"))).collect();
        std::thread::scope(|s| {
            for config in names {
                let d = &d;
                let image = &image;
                s.spawn(move || {
                    if let Ok(pod) = d.try_pod(config, "runc") {
                        let _ = pod.try_create(crate::harness::client::container_config("c", image, &["sleep", "1000"])).map(|c| c.start());
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(40 * round + 10));
            crate::harness::daemon::signal(d.pid(), "KILL");
        });
        d.wait_end(SOON);
        d.start_again();
    }
    // All that is listed can be removed; the daemon's end then checks that nothing is left.
    for id in d.pod_ids() {
        d.stop_pod(&id).unwrap();
        crate::harness::client::remove_pod(&d, &id).unwrap();
    }
}

#[test]
fn a_daemon_killed_while_it_pulls_begins_anew() {
    use crate::harness::{Compression, Gate, Image, Layer, Meta, Registry};
    let mut d = Daemon::start();
    let registry = Registry::shared();
    let noise: Vec<u8> = (0..8_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let image = Image::busybox().layer(Layer::new().file("noise", Meta::mode(0o644), &noise), Compression::Plain);
    image.push(&registry.repository("big"), "1");
    // The gate holds the answers: the pull cannot be through before the kill.
    let gate = Gate::before(&registry.host, 4_000_000);
    let reference = format!("{}/big:1", gate.host);
    std::thread::scope(|s| {
        s.spawn(|| d.pull(&reference));
        gate.wait_held();
        crate::harness::daemon::signal(d.pid(), "KILL");
    });
    d.wait_end(SOON);
    gate.open();
    d.start_again();
    assert!(d.image_status(&reference).is_none());
    // Nobody pulls any more: what the dead pull had brought whole goes without a wait for its lease to expire.
    let blobs = d.path("root/io.containerd.content.v1.content/blobs/sha256");
    wait_until("the dead pull's blobs to be gone", SOON, || std::fs::read_dir(&blobs).unwrap().count() == 0);
    d.pull(&reference).unwrap();
    let pod = d.pod("big", "runc");
    assert_eq!(pod.shell("main", &reference, "sleep 1000").says("wc -c < /noise"), "8000000");
}
