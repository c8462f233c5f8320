//! The daemon dies at each place that matters; the next one finds what it left, and nothing of it stays.
use crate::harness::client::{container_config, remove_pod};
use crate::harness::{Daemon, Image, Registry, Setup, leftovers, wait_for};
use cradle::proto::cri::PodSandboxState;
use serde_json::json;
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// Starts a daemon that will die at `place`.
fn doomed(d: &mut Daemon, place: &str) {
    d.stop();
    d.env = vec![("CRADLE_FAILPOINT".into(), place.into())];
    d.start_again();
}

/// Waits for its death, and starts one that will not die.
fn reborn(d: &mut Daemon, place: &str) {
    let status = d.wait_end(SOON);
    assert_eq!(status.signal(), Some(6), "{place}: the daemon ended with {status}");
    assert!(d.log().contains(&format!("failpoint {place}")), "{place} was not reached");
    d.env.clear();
    d.start_again();
}

/// Keys of the containers' and pods' snapshots, as directories of the snapshotter.
fn snapshots(d: &Daemon) -> BTreeSet<String> {
    let dir = d.path("root/io.containerd.snapshotter.v1.overlayfs/snapshots");
    std::fs::read_dir(dir).map(|all| all.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()).unwrap_or_default()
}

/// Waits until all is as it was.
#[track_caller]
fn nothing_left(d: &Daemon, place: &str, before: &BTreeSet<String>) {
    let mut left = vec![];
    for _ in 0..100 {
        let own = format!("process {} ", d.pid());
        left = leftovers::of(d).into_iter().filter(|l| !l.starts_with(&own)).collect();
        left.extend(snapshots(d).difference(before).map(|s| format!("snapshot {s}")));
        if left.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{place}: left behind:\n  {}", left.join("\n  "));
}

#[test]
fn nothing_of_a_pod_is_left_wherever_its_daemon_dies() {
    let registry = Registry::shared();
    Image::busybox().set("Entrypoint", json!(["sleep", "1000"])).push(&registry.repository("pause"), "1");
    let mut d = Setup::new().prepare();
    let section = "[plugins.\"io.containerd.grpc.v1.cri\"]\n";
    let line = format!("{section}sandbox_image = \"{}\"\n", registry.reference("pause", "1"));
    let config = std::fs::read_to_string(d.path("config.toml")).unwrap();
    std::fs::write(d.path("config.toml"), config.replacen(section, &line, 1)).unwrap();
    d.start_again();
    d.pod("first", "runc").remove();
    let before = snapshots(&d);
    for (number, place) in
        ["after-intend", "after-netns", "after-snapshot", "after-task-create", "after-cni", "before-commit"].iter().enumerate()
    {
        doomed(&mut d, place);
        let config = d.pod_config("cut-off");
        assert!(d.try_pod(config.clone(), ["runc", "crun"][number % 2]).is_err());
        reborn(&mut d, place);
        assert!(d.pod_ids().is_empty(), "{place}");
        nothing_left(&d, place, &before);
        // Its name is free.
        d.run_pod(config, "runc").remove();
    }
}

#[test]
fn nothing_of_a_container_is_left_wherever_its_daemon_dies() {
    let mut d = Daemon::start();
    let image = d.busybox();
    d.pod("first", "runc").remove();
    let before = snapshots(&d);
    for (number, place) in
        ["create-after-intend", "create-after-snapshot", "create-before-commit", "start-after-create", "start-before-commit"]
            .iter()
            .enumerate()
    {
        doomed(&mut d, place);
        let pod = d.pod("stays", ["crun", "runc"][number % 2]);
        let (id, config) = (pod.id.clone(), pod.config.clone());
        let made = pod.try_create(container_config("cut-off", &image, &["sleep", "1000"]));
        if let Ok(container) = &made {
            assert!(container.start().is_err(), "{place}");
        }
        let made = made.is_ok();
        reborn(&mut d, place);
        assert_eq!(d.pod_status(&id).unwrap().state, PodSandboxState::SANDBOX_READY.into(), "{place}");
        assert_eq!(d.containers().len(), usize::from(made), "{place}");
        if !made {
            // Its name is free, and the pod takes it again.
            let pod = crate::harness::Pod { daemon: &d, id: id.clone(), config };
            assert_eq!(pod.shell("cut-off", &image, "sleep 1000").says("echo ok"), "ok");
        }
        d.stop_pod(&id).unwrap();
        remove_pod(&d, &id).unwrap();
        nothing_left(&d, place, &before);
    }
}

#[test]
fn a_removal_and_a_pull_that_were_cut_off_are_done_again() {
    let mut d = Daemon::start();
    let before = snapshots(&d);
    for place in ["remove-after-task", "remove-after-network"] {
        doomed(&mut d, place);
        let pod = d.pod("going", "runc").id;
        assert!(d.stop_pod(&pod).and_then(|()| remove_pod(&d, &pod)).is_err());
        reborn(&mut d, place);
        remove_pod(&d, &pod).unwrap();
        nothing_left(&d, place, &before);
    }
    let registry = Registry::shared();
    Image::busybox().push(&registry.repository("cut-off"), "1");
    let reference = registry.reference("cut-off", "1");
    doomed(&mut d, "pull-before-commit");
    assert!(d.pull(&reference).is_err());
    reborn(&mut d, "pull-before-commit");
    let id = d.pull(&reference).unwrap();
    let image = wait_for("the image", SOON, || d.image_status(&reference));
    assert_eq!((image.id, image.repo_digests.len()), (id, 1));
    d.remove_image(&reference).unwrap();
    assert!(d.images().is_empty());
    nothing_left(&d, "pull-before-commit", &before);
}
