//! Pods whose process dies, calls that meet on one pod, and handlers that differ.
use crate::harness::client::{container_config, image_spec, remove_pod};
use crate::harness::{Daemon, RUNTIMES, Setup, daemon::signal, wait_until};
use cradle::error::Kind;
use cradle::proto::cri::*;
use cradle::proto::cri_methods::{image_service as images, runtime_service as rt};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);

fn info(d: &Daemon, id: &str) -> Value {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: true, ..Default::default() };
    serde_json::from_str(&d.get(&rt::POD_SANDBOX_STATUS, &request).info["info"]).unwrap()
}

#[test]
fn a_pod_whose_process_dies_is_not_ready_and_keeps_its_name() {
    let d = Daemon::start();
    let image = d.busybox();
    for handler in RUNTIMES {
        let pod = d.pod("mortal", handler);
        let main = pod.shell("main", &image, "sleep 1000");
        signal(info(&d, &pod.id)["pid"].as_u64().unwrap() as u32, "KILL");
        wait_until("the pod to be not ready", SOON, || pod.status().state == PodSandboxState::SANDBOX_NOTREADY.into());
        assert_eq!((pod.ip(), &info(&d, &pod.id)["pid"]), (String::new(), &json!(0)));
        let error = d.try_pod(pod.config.clone(), handler).err().unwrap();
        assert!(error.kind() == Kind::AlreadyExists && error.chain().contains(&pod.id), "{}", error.chain());
        let error = pod.try_create(container_config("late", &image, &["true"])).err().unwrap();
        assert_eq!(error.kind(), Kind::FailedPrecondition, "{}", error.chain());
        // The pod's process was the first one of the PID namespace that its containers share.
        assert_eq!(main.ended(SOON).exit_code, 137);
        pod.remove();
        d.run_pod(pod.config.clone(), handler).remove();
    }
    let error = d.try_pod(d.pod_config("nowhere"), "no-such-handler").err().unwrap();
    assert!(error.chain().contains("no-such-handler") && error.chain().contains("crun, runc"), "{}", error.chain());
}

#[test]
fn the_shortest_timeout_wins_and_the_signal_comes_once() {
    let d = Daemon::start();
    let image = d.busybox();
    let pod = d.pod("deaf", "crun");
    let deaf = pod.shell("deaf", &image, "trap 'echo got TERM' TERM; echo up; while :; do sleep 0.05; done");
    deaf.logged("up", SOON);
    let begun = Instant::now();
    std::thread::scope(|s| {
        for timeout in [60, 40, 1] {
            let (d, id) = (&d, &deaf.id);
            s.spawn(move || d.stop_container(id, timeout).unwrap());
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(8), "{took:?}");
    assert_eq!(deaf.log().iter().filter(|l| l.text == "got TERM").count(), 1, "{:?}", deaf.log());
    assert_eq!(deaf.status().exit_code, 137);
}

#[test]
fn calls_that_meet_take_turns_and_none_waits_for_ever() {
    let d = Daemon::start();
    let image = d.busybox();
    let done = AtomicUsize::new(0);
    std::thread::scope(|s| {
        for number in 0..3 {
            let (d, image, done) = (&d, &image, &done);
            s.spawn(move || {
                let pod = d.pod(&format!("contended-{number}"), RUNTIMES[number % 2]);
                let made: Vec<_> = ["a", "b"].iter().map(|n| pod.create(container_config(n, image, &["sleep", "1000"]))).collect();
                std::thread::scope(|s| {
                    for container in &made {
                        // Whoever is first: each call gets through, or says why not.
                        s.spawn(|| {
                            let _ = container.start();
                        });
                        s.spawn(|| {
                            let _ = container.start();
                        });
                        s.spawn(|| d.stop_container(&container.id, 0).unwrap());
                        s.spawn(|| {
                            let _ = container.try_exec(&["true"], 5);
                        });
                        s.spawn(|| {
                            let _ = d.remove_container(&container.id);
                        });
                    }
                    s.spawn(|| {
                        let _ = d.stop_pod(&pod.id);
                    });
                    s.spawn(|| {
                        let _ = pod.try_create(container_config("late", image, &["sleep", "1000"])).map(|c| c.start());
                    });
                    s.spawn(|| {
                        let _ = remove_pod(d, &pod.id);
                    });
                });
                d.stop_pod(&pod.id).unwrap();
                remove_pod(d, &pod.id).unwrap();
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        let begun = Instant::now();
        while done.load(Ordering::SeqCst) < 3 {
            // Other pods' calls answer at once meanwhile.
            let asked = Instant::now();
            d.get(&rt::STATUS, &StatusRequest::default());
            assert!(asked.elapsed() < Duration::from_secs(5), "Status took {:?}", asked.elapsed());
            assert!(begun.elapsed() < Duration::from_secs(90), "calls wait for each other");
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    assert!(d.pod_ids().is_empty() && d.containers().is_empty());
}

#[test]
fn handlers_have_programs_options_and_snapshotters_of_their_own() {
    let d = Setup::new().prepare();
    let config = std::fs::read_to_string(d.path("config.toml")).unwrap();
    let extra = format!(
        "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.special]\nruntime_type = \"io.containerd.runc.v2\"\n\
         snapshotter = \"native\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.special.options]\nBinaryName = \"runc\"\nRoot = \"{0}/special\"\n",
        d.dir.display()
    );
    std::fs::write(d.path("config.toml"), config + &extra).unwrap();
    let mut d = d;
    d.start_again();
    let image = d.busybox();
    let handlers = d.get(&rt::STATUS, &StatusRequest::default()).runtime_handlers;
    assert_eq!(handlers.iter().map(|h| h.name.as_str()).collect::<Vec<_>>(), ["", "crun", "runc", "special"]);
    let mut spec = image_spec(&image);
    spec.mut_or_insert_default().runtime_handler = "special".into();
    d.get(&images::PULL_IMAGE, &PullImageRequest { image: spec, ..Default::default() });
    let pods = ["runc", "crun", "special"].map(|handler| d.pod("one-of-three", handler));
    for (pod, (handler, snapshotter)) in pods.iter().zip([("runc", "overlayfs"), ("crun", "overlayfs"), ("special", "native")]) {
        let main = pod.shell("main", &image, "sleep 1000");
        assert_eq!(main.says("echo ok"), "ok");
        let request = ContainerStatusRequest { container_id: main.id.clone(), verbose: true, ..Default::default() };
        let told: Value = serde_json::from_str(&d.get(&rt::CONTAINER_STATUS, &request).info["info"]).unwrap();
        assert_eq!((&told["snapshotter"], &told["sandboxID"]), (&json!(snapshotter), &json!(pod.id)));
        assert_eq!(
            (&told["config"]["command"], &told["runtimeType"]),
            (&json!(["sh", "-c", "sleep 1000"]), &json!("io.containerd.runc.v2"))
        );
        assert!(told["pid"].as_u64() > Some(1) && told["runtimeSpec"]["process"]["args"].is_array());
        assert_eq!(pod.status().runtime_handler, handler);
        assert_eq!(d.path("special/k8s.io").join(&main.id).exists(), handler == "special", "{handler}");
    }
    pods.iter().for_each(|pod| pod.remove());
}
