//! Bad requests: refused with a reason, and nothing is left of them.
use crate::harness::client::{container_config, some};
use crate::harness::{Daemon, RUNTIMES};
use cradle::error::Kind;
use cradle::proto::cri::{Mount, PodSandboxConfig, RunPodSandboxRequest};
use cradle::proto::cri_methods::runtime_service as rt;

#[test]
fn pods_that_cannot_be() {
    let d = Daemon::start();
    type Change = fn(&mut PodSandboxConfig);
    let cases: [(&str, &str, Change); 4] = [
        ("no metadata", "runc", |c| c.metadata = None.into()),
        ("no name", "runc", |c| c.metadata.mut_or_insert_default().name.clear()),
        ("unknown handler", "nosuch", |_| {}),
        ("bad sysctl", "runc", |c| {
            c.linux.mut_or_insert_default().sysctls.insert("kernel.nosuch".into(), "1".into());
        }),
    ];
    for (what, handler, change) in cases {
        let mut config = d.pod_config("bad");
        change(&mut config);
        let request = RunPodSandboxRequest { config: some(config), runtime_handler: handler.into(), ..Default::default() };
        let error = d.ask(&rt::RUN_POD_SANDBOX, &request).err().unwrap_or_else(|| panic!("{what}: was run"));
        println!("{what}: {}", error.chain());
        assert!(handler != "nosuch" || error.chain().contains("nosuch"));
        assert!(d.pod_ids().is_empty(), "{what}");
    }
    assert!(d.ask(&rt::RUN_POD_SANDBOX, &RunPodSandboxRequest::default()).is_err());
}

#[test]
fn containers_that_cannot_be() {
    let d = Daemon::start();
    let image = d.busybox();
    for handler in RUNTIMES {
        let pod = d.pod("bad", handler);
        let unknown = container_config("unknown", "127.0.0.1:1/never/pulled:1", &["true"]);
        let error = pod.try_create(unknown).err().unwrap();
        assert_eq!(error.kind(), Kind::NotFound, "{}", error.chain());
        assert!(error.chain().contains("never/pulled"), "{}", error.chain());

        let mut missing = container_config("missing", &image, &["true"]);
        missing.mounts.push(Mount { host_path: "/no/such/source".into(), container_path: "/x".into(), ..Default::default() });
        if let Ok(container) = pod.try_create(missing) {
            // containerd makes the missing directory; what must not be is a half-made container.
            d.remove_container(&container.id).unwrap();
        }
        let mut user = container_config("user", &image, &["true"]);
        user.linux.mut_or_insert_default().security_context.mut_or_insert_default().run_as_username = "nobody-here".into();
        let error = pod.try_create(user).err().unwrap();
        assert!(error.chain().contains("nobody-here"), "{}", error.chain());

        let mut gone = pod.clone();
        gone.id = "0123456789abcdef".into();
        let error = gone.try_create(container_config("c", &image, &["true"])).err().unwrap();
        assert_eq!(error.kind(), Kind::NotFound, "{}", error.chain());
        assert!(d.containers().is_empty());
        pod.remove();
    }
    let _ = std::fs::remove_dir("/no/such/source").and_then(|()| std::fs::remove_dir("/no/such")).and_then(|()| std::fs::remove_dir("/no"));
}

#[test]
fn a_second_start_is_refused() {
    let d = Daemon::start();
    let image = d.busybox();
    let pod = d.pod("twice", "runc");
    let main = pod.shell("main", &image, "sleep 1000");
    assert!(main.start().is_err());
    assert!(main.running());
    d.stop_container(&main.id, 0).unwrap();
    assert!(main.start().is_err());
}
