//! A pod's life from RunPodSandbox to RemovePodSandbox, with both runtimes.
use crate::harness::client::container_config;
use crate::harness::{Daemon, RUNTIMES};
use cradle::error::Kind;
use cradle::proto::cri::{ContainerState, PodSandboxState};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_pod_lives_logs_answers_and_goes() {
    let d = Daemon::start();
    let image = d.busybox();
    for handler in RUNTIMES {
        let pod = d.pod("web", handler);
        assert_eq!(pod.status().state, PodSandboxState::SANDBOX_READY.into());
        assert!(pod.ip().starts_with(&d.net.prefix), "{}", pod.ip());

        let web = pod.shell("main", &image, "echo out; echo err >&2; trap 'exit 7' TERM; while :; do sleep 0.1; done");
        web.logged("err", SOON);
        let mut log: Vec<(String, String)> = web.log().into_iter().map(|l| (l.stream, l.text)).collect();
        log.sort();
        assert_eq!(log, [("stderr".into(), "err".into()), ("stdout".into(), "out".into())]);
        assert_eq!(web.says("hostname"), "web");
        assert_eq!(web.exec("exit 3").code, 3);
        assert!(web.says("ip addr show eth0").contains(&pod.ip()));

        d.stop_container(&web.id, 10).unwrap();
        let status = web.status();
        assert_eq!((status.state.enum_value(), status.exit_code), (Ok(ContainerState::CONTAINER_EXITED), 7));
        d.remove_container(&web.id).unwrap();
        assert_eq!(d.container_status(&web.id).unwrap_err().kind(), Kind::NotFound);
        pod.remove();
        assert_eq!(d.pod_status(&pod.id).unwrap_err().kind(), Kind::NotFound);
    }
    assert!(d.pod_ids().is_empty());
}

#[test]
fn exit_codes_and_reasons_are_kept() {
    let d = Daemon::start();
    let image = d.busybox();
    for handler in RUNTIMES {
        let pod = d.pod("exits", handler);
        for (script, code, reason) in [("exit 0", 0, "Completed"), ("exit 42", 42, "Error"), ("kill -9 $$", 137, "Error")] {
            let container = pod.shell(&format!("c{code}"), &image, script);
            let status = container.ended(SOON);
            assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{handler}: {script}");
            assert!(status.finished_at >= status.started_at && status.started_at >= status.created_at);
        }
        let missing = pod.create(container_config("missing", &image, &["/no/such/program"]));
        let error = missing.start().unwrap_err();
        assert!(error.chain().contains("/no/such/program"), "{}", error.chain());
        pod.remove();
    }
}

#[test]
fn stop_waits_for_the_timeout_and_then_kills() {
    let d = Daemon::start();
    let image = d.busybox();
    let pod = d.pod("deaf", "runc");
    let deaf = pod.shell("deaf", &image, "trap '' TERM; echo up; while :; do sleep 0.1; done");
    deaf.logged("up", SOON);
    let begun = std::time::Instant::now();
    d.stop_container(&deaf.id, 1).unwrap();
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(5), "{took:?}");
    assert_eq!(deaf.status().exit_code, 137);
}

#[test]
fn a_short_id_is_enough_and_lists_filter() {
    use cradle::proto::cri::{ContainerFilter, ListContainersRequest, ListPodSandboxRequest, PodSandboxFilter};
    use cradle::proto::cri_methods::runtime_service as rt;
    let d = Daemon::start();
    let image = d.busybox();
    let mut config = d.pod_config("labelled");
    config.labels.insert("app".into(), "web".into());
    let pod = d.run_pod(config, "crun");
    let other = d.pod("other", "crun");
    let main = pod.shell("main", &image, "sleep 100");
    assert_eq!(d.pod_status(&pod.id[..13]).unwrap().id, pod.id);
    assert_eq!(d.container_status(&main.id[..13]).unwrap().id, main.id);

    let labels = [("app".to_string(), "web".to_string())].into();
    let filter = PodSandboxFilter { label_selector: labels, ..Default::default() };
    let found = d.get(&rt::LIST_POD_SANDBOX, &ListPodSandboxRequest { filter: Some(filter).into(), ..Default::default() });
    assert_eq!(found.items.iter().map(|p| &p.id).collect::<Vec<_>>(), [&pod.id]);
    for (sandbox, count) in [(&pod.id, 1), (&other.id, 0)] {
        let filter = ContainerFilter { pod_sandbox_id: sandbox.clone(), ..Default::default() };
        let found = d.get(&rt::LIST_CONTAINERS, &ListContainersRequest { filter: Some(filter).into(), ..Default::default() });
        assert_eq!(found.containers.len(), count);
    }
}

#[test]
fn what_is_asked_for_is_what_the_container_sees() {
    use cradle::proto::cri::{KeyValue, LinuxContainerResources, Mount};
    let d = Daemon::start();
    let image = d.busybox();
    std::fs::write(d.path("shared.txt"), "from the node").unwrap();
    for handler in RUNTIMES {
        let pod = d.pod("spec", handler);
        let mut config = container_config("main", &image, &["sleep", "100"]);
        config.working_dir = "/var".into();
        config.envs.push(KeyValue { key: "COLOUR".into(), value: "blue".into(), ..Default::default() });
        let host_path = d.path("shared.txt").display().to_string();
        config.mounts.push(Mount { host_path, container_path: "/etc/shared".into(), readonly: true, ..Default::default() });
        let linux = config.linux.mut_or_insert_default();
        let resources = LinuxContainerResources { memory_limit_in_bytes: 64 << 20, cpu_shares: 512, ..Default::default() };
        linux.resources = Some(resources).into();
        let security = linux.security_context.mut_or_insert_default();
        security.readonly_rootfs = true;
        security.run_as_user = Some(cradle::proto::cri::Int64Value { value: 1000, ..Default::default() }).into();
        let main = pod.start(config);
        assert_eq!(main.says("pwd; echo $COLOUR; id -u; id -g; cat /etc/shared"), "/var\nblue\n1000\n1000\nfrom the node");
        assert_ne!(main.exec("touch /x").code, 0);
        assert_ne!(main.exec("echo x > /etc/shared").code, 0);
        assert!(main.says("grep NoNewPrivs /proc/self/status").ends_with('0'));
        let place = match std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            true => format!("/sys/fs/cgroup{}/{}/memory.max", d.cgroup_parent, main.id),
            false => format!("/sys/fs/cgroup/memory{}/{}/memory.limit_in_bytes", d.cgroup_parent, main.id),
        };
        let limits = std::fs::read_to_string(place).unwrap();
        assert_eq!(limits.trim(), (64 << 20).to_string());
        pod.remove();
    }
}
