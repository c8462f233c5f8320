//! The kubelet asks again: retries join, repeated stops and removes are free, what is gone is NOT_FOUND.
use crate::harness::client::{container_config, remove_pod, some};
use crate::harness::{Daemon, Setup, cni, wait_until};
use cradle::error::{Kind, Result};
use cradle::proto::cri::{RunPodSandboxRequest, RunPodSandboxResponse};
use cradle::proto::cri_methods::runtime_service as rt;
use serde_json::json;
use std::time::{Duration, Instant};

#[test]
fn a_retry_of_a_slow_run_gets_the_first_ones_pod() {
    let d = Setup::new().no_network().start();
    // Waits 3 s, then gives a result without any interface.
    let slow = r#"case "$CNI_COMMAND" in ADD) sleep 3; echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.8.7/24"}]}';; esac"#;
    cni::script(&d.path("cni-bin"), "slow", slow);
    cni::put(&d.path("net.d"), "10-slow.conflist", &json!({ "cniVersion": "1.0.0", "name": "slow", "plugins": [{ "type": "slow" }] }));
    wait_until("the network to be ready", Duration::from_secs(5), || super::network::ready(&d).is_ok());
    let config = d.pod_config("slow");
    std::fs::create_dir_all(&config.log_directory).unwrap();
    let request = RunPodSandboxRequest { config: some(config), ..Default::default() };
    let impatient = |request: &RunPodSandboxRequest| -> Kind {
        let answer: Result<RunPodSandboxResponse> = d.client().call(&rt::RUN_POD_SANDBOX, request, Duration::from_millis(500));
        answer.unwrap_err().kind()
    };
    assert_eq!(impatient(&request), Kind::DeadlineExceeded);
    let begun = Instant::now();
    let id = d.get(&rt::RUN_POD_SANDBOX, &request).pod_sandbox_id;
    assert!(begun.elapsed() < Duration::from_millis(3500));
    assert_eq!(d.pod_ids(), std::slice::from_ref(&id));
    assert_eq!(d.pod_status(&id).unwrap().network.ip, "10.9.8.7");
    // Who has got the result cannot have it again.
    let error = d.ask(&rt::RUN_POD_SANDBOX, &request).unwrap_err().chain();
    assert!(error.contains(&id), "{error}");

    // A retry that comes when the first attempt is through.
    let config = d.pod_config("slow-too");
    std::fs::create_dir_all(&config.log_directory).unwrap();
    let request = RunPodSandboxRequest { config: some(config), ..Default::default() };
    assert_eq!(impatient(&request), Kind::DeadlineExceeded);
    wait_until("the pod that nobody waits for", Duration::from_secs(10), || d.pod_ids().len() == 2);
    let other = d.get(&rt::RUN_POD_SANDBOX, &request).pod_sandbox_id;
    assert!(d.pod_ids().contains(&other) && other != id);
}

#[test]
fn a_retry_of_create_container_joins_too() {
    let d = Daemon::start();
    let image = d.busybox();
    let pod = d.pod("twice", "runc");
    let config = container_config("main", &image, &["sleep", "1000"]);
    let answers: Vec<Result<String>> = std::thread::scope(|s| {
        let calls: Vec<_> = (0..4).map(|_| s.spawn(|| pod.try_create(config.clone()).map(|c| c.id))).collect();
        calls.into_iter().map(|c| c.join().unwrap()).collect()
    });
    let id = answers.iter().find_map(|a| a.as_ref().ok()).expect("one that made it");
    for answer in &answers {
        match answer {
            Ok(same) => assert_eq!(same, id),
            // It came when the first one had its answer already.
            Err(e) => assert!(e.chain().contains(id), "{}", e.chain()),
        }
    }
    assert_eq!(d.containers().len(), 1);
}

#[test]
fn stops_and_removes_are_free_to_repeat() {
    let d = Daemon::start();
    let image = d.busybox();
    let pod = d.pod("again", "crun");
    let main = pod.shell("main", &image, "sleep 1000");
    for _ in 0..2 {
        d.stop_container(&main.id, 0).unwrap();
    }
    for _ in 0..2 {
        d.stop_pod(&pod.id).unwrap();
    }
    for _ in 0..2 {
        d.remove_container(&main.id).unwrap();
    }
    for _ in 0..2 {
        remove_pod(&d, &pod.id).unwrap();
    }
    d.stop_pod(&pod.id).unwrap();
    d.stop_container(&main.id, 0).unwrap();
    for _ in 0..2 {
        d.remove_image(&image).unwrap();
    }
    d.remove_image("127.0.0.1:1/never/was:1").unwrap();
    assert!(d.image_status(&image).is_none());
    assert_eq!(d.pod_status(&pod.id).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(d.container_status(&main.id).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(main.start().unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn removing_a_pod_takes_its_running_containers_along() {
    let d = Daemon::start();
    let image = d.busybox();
    let pod = d.pod("whole", "runc");
    for name in ["a", "b"] {
        pod.shell(name, &image, "sleep 1000");
    }
    remove_pod(&d, &pod.id).unwrap();
    assert!(d.containers().is_empty() && d.pod_ids().is_empty());
}

#[test]
fn ten_pods_at_once() {
    let d = Daemon::start();
    let image = d.busybox();
    std::thread::scope(|s| {
        for n in 0..10 {
            let (d, image) = (&d, &image);
            s.spawn(move || {
                let pod = d.pod(&format!("p{n}"), ["runc", "crun"][n % 2]);
                assert_eq!(pod.shell("main", image, "sleep 1000").says("echo ok"), "ok");
                pod.remove();
            });
        }
    });
    assert!(d.pod_ids().is_empty());
}
