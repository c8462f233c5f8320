//! A pause image that the config names; all other stories run without one, and without a registry for their pods.
use crate::harness::client::image_spec;
use crate::harness::{Daemon, Image, RUNTIMES, Registry, Setup, wait_until};
use cradle::proto::cri::{PodSandboxState, PodSandboxStatusRequest};
use cradle::proto::cri_methods::runtime_service as rt;
use serde_json::{Value, json};
use std::time::Duration;

/// A daemon whose config names this sandbox image as containerd's configs of version 2 do.
fn daemon_with(reference: &str) -> Daemon {
    let d = Setup::new().prepare();
    let config = std::fs::read_to_string(d.path("config.toml")).unwrap();
    let section = "[plugins.\"io.containerd.grpc.v1.cri\"]\n";
    std::fs::write(d.path("config.toml"), config.replacen(section, &format!("{section}sandbox_image = \"{reference}\"\n"), 1)).unwrap();
    d
}

/// What verbose status says of a pod.
fn info(d: &Daemon, id: &str) -> Value {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: true, ..Default::default() };
    serde_json::from_str(&d.get(&rt::POD_SANDBOX_STATUS, &request).info["info"]).unwrap()
}

#[test]
fn a_configured_pause_image_is_pulled_pinned_and_run() {
    let registry = Registry::start();
    let image = Image::busybox()
        .set("Entrypoint", json!(["sleep"]))
        .set("Cmd", json!(["31536000"]))
        .set("Env", json!(["PATH=/bin", "KEEPS=the pod"]))
        .set("User", json!("65535:65535"));
    image.push(&registry.repository("pause"), "9");
    let reference = registry.reference("pause", "9");
    let mut d = daemon_with(&reference);
    d.start_again();
    let app = d.busybox();
    assert!(d.image_status(&reference).is_none(), "pulled before any pod needs it");
    for handler in RUNTIMES {
        let pod = d.pod("held", handler);
        let image = d.image_status(&reference).expect("the sandbox image");
        assert!(image.pinned);
        let told = info(&d, &pod.id);
        assert_eq!((&told["image"], &told["snapshotter"]), (&json!(reference), &json!("overlayfs")));
        let proc = |file: &str| String::from_utf8(std::fs::read(format!("/proc/{}/{file}", told["pid"])).unwrap()).unwrap();
        // The runtime's own program is replaced by the image's a moment after the start.
        wait_until("the image's program", Duration::from_secs(5), || proc("cmdline") == "sleep\x0031536000\0");
        assert!(proc("environ").contains("KEEPS=the pod"), "{}", proc("environ"));
        assert!(proc("status").contains("Uid:\t65535\t65535"), "{}", proc("status"));
        assert!(proc("root/etc/passwd").contains("root"));
        assert_eq!(pod.shell("main", &app, "sleep 1000").says("hostname"), "held");
        pod.remove();
    }
    // It is here now: pods need the registry no more, also after a restart.
    drop(registry);
    d.restart();
    let pod = d.pod("offline", "runc");
    assert_eq!(pod.status().state, PodSandboxState::SANDBOX_READY.into());
    crate::harness::daemon::signal(info(&d, &pod.id)["pid"].as_u64().unwrap() as u32, "KILL");
    wait_until("the pod to be not ready", Duration::from_secs(10), || pod.status().state == PodSandboxState::SANDBOX_NOTREADY.into());
    pod.remove();
}

#[test]
fn a_pause_image_that_cannot_be_had_is_named_and_the_pod_leaves_nothing() {
    let mut d = daemon_with("127.0.0.1:1/no/pause:1");
    d.start_again();
    let error = d.try_pod(d.pod_config("unheld"), "runc").err().unwrap().chain();
    assert!(error.contains("127.0.0.1:1/no/pause:1") && error.contains("pinned_images.sandbox"), "{error}");
    assert!(d.pod_ids().is_empty());
    // One without anything to run.
    let registry = Registry::shared();
    Image::busybox().set("Cmd", json!([])).push(&registry.repository("idle"), "1");
    let reference = registry.reference("idle", "1");
    let mut d = daemon_with(&reference);
    d.start_again();
    let error = d.try_pod(d.pod_config("idle"), "crun").err().unwrap().chain();
    assert!(error.contains(&image_spec(&reference).image) && error.contains("Entrypoint"), "{error}");
    assert!(d.pod_ids().is_empty());
}
