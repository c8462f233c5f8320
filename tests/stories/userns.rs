//! Pods with a user namespace of their own: root in them is nobody on the node, and their files and volumes still are theirs.
use crate::harness::client::{container_config, some};
use crate::harness::{Compression, Daemon, Image, Layer, Meta, RUNTIMES, Setup};
use cradle::proto::cri::*;
use cradle::proto::cri_methods::runtime_service as rt;
use std::os::unix::fs::{MetadataExt, chown};

const HOST: u32 = 200_000;

fn mapping() -> Vec<IDMapping> {
    vec![IDMapping { container_id: 0, host_id: HOST, length: 65_536, ..Default::default() }]
}

fn options(mode: NamespaceMode, maps: &[IDMapping]) -> NamespaceOption {
    let user = UserNamespace { mode: mode.into(), uids: maps.to_vec(), gids: maps.to_vec(), ..Default::default() };
    NamespaceOption { userns_options: some(user), ..Default::default() }
}

fn pod_config(d: &Daemon, name: &str, options: NamespaceOption) -> PodSandboxConfig {
    let mut config = d.pod_config(name);
    let linux = config.linux.mut_or_insert_default();
    linux.security_context = some(LinuxSandboxSecurityContext { namespace_options: some(options), ..Default::default() });
    config
}

/// A container in such a pod.
fn config(pod: &PodSandboxConfig, name: &str, image: &str) -> ContainerConfig {
    let mut config = container_config(name, image, &["sleep", "1000"]);
    let options = pod.linux.security_context.namespace_options.clone();
    let capabilities = some(Capability { add_capabilities: vec!["NET_ADMIN".into()], ..Default::default() });
    let security_context = LinuxContainerSecurityContext { namespace_options: options, capabilities, ..Default::default() };
    config.linux.mut_or_insert_default().security_context = some(security_context);
    config
}

/// Two layers, so that the root is an overlay of both; a file of another user among them, and a volume.
fn image(d: &Daemon) -> String {
    let top = Layer::new().file("etc/owned", Meta::mode(0o600).owner(1000, 1000), b"mine").dir("data", Meta::mode(0o755).owner(1000, 1000));
    d.image("userns", &Image::busybox().layer(top, Compression::Gzip).set("Volumes", serde_json::json!({ "/data": {} })))
}

#[test]
fn root_in_the_pod_is_nobody_outside() {
    let d = Daemon::start();
    let image = image(&d);
    let volume = d.path("volume");
    std::fs::create_dir(&volume).unwrap();
    chown(&volume, Some(0), Some(0)).unwrap();
    for handler in RUNTIMES {
        let config_of_pod = pod_config(&d, "mapped", options(NamespaceMode::POD, &mapping()));
        let pod = d.run_pod(config_of_pod.clone(), handler);
        assert!(pod.ip().starts_with(&d.net.prefix), "{}", pod.ip());
        let mut config = config(&config_of_pod, "main", &image);
        config.mounts.push(Mount {
            host_path: volume.display().to_string(),
            container_path: "/volume".into(),
            uidMappings: mapping(),
            gidMappings: mapping(),
            ..Default::default()
        });
        let main = pod.start(config);
        let map = main.says("cat /proc/self/uid_map");
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "200000", "65536"], "{handler}");
        assert_eq!(main.says("hostname"), "mapped");
        let owners = "stat -c %u:%g / /etc/passwd /etc/owned /etc/hosts /dev/shm /volume /data";
        assert_eq!(
            main.says(owners).split('\n').collect::<Vec<_>>(),
            ["0:0", "0:0", "1000:1000", "0:0", "0:0", "0:0", "1000:1000"],
            "{handler}"
        );
        main.says("echo x > /etc/new && rm /etc/passwd && echo 127.0.0.9 x >> /etc/hosts && echo x > /dev/shm/x && echo x > /data/x");
        main.says(&format!("echo {handler} > /volume/{handler}"));
        let file = std::fs::metadata(volume.join(handler)).unwrap();
        assert_eq!((file.uid(), file.gid()), (0, 0), "{handler}: a mapped volume has the pod's owners inside alone");
        assert!(main.says("ip addr show eth0").contains(&pod.ip()));
        // Its network is its own to change, the node's is not.
        main.says("ip link set lo mtu 1400");
        let pid = inspect(&d, &main.id)["pid"].as_u64().unwrap();
        assert_eq!(std::fs::metadata(format!("/proc/{pid}")).unwrap().uid(), HOST);
        pod.remove();
    }
}

fn inspect(d: &Daemon, id: &str) -> serde_json::Value {
    let request = ContainerStatusRequest { container_id: id.into(), verbose: true, ..Default::default() };
    serde_json::from_str(&d.get(&rt::CONTAINER_STATUS, &request).info["info"]).unwrap()
}

#[test]
fn on_the_nodes_network_too_and_after_a_restart() {
    let mut d = Daemon::start();
    let image = image(&d);
    for handler in RUNTIMES {
        let on_node = NamespaceOption { network: NamespaceMode::NODE.into(), ..options(NamespaceMode::POD, &mapping()) };
        let config_of_pod = pod_config(&d, "host", on_node);
        let pod = d.run_pod(config_of_pod.clone(), handler);
        let main = pod.start(config(&config_of_pod, "main", &image));
        assert!(main.says("ls /sys/class/net").contains(&d.net.name) || main.says("ls /sys/class/net").contains("lo"));
        assert_ne!(main.exec("echo 1 > /sys/kernel/profiling").code, 0);
        assert_ne!(main.exec("ip link set lo mtu 1400").code, 0, "{handler}: the node's network is not the pod's to change");
        let (id, log) = (pod.id.clone(), main.log_file.clone());
        d.kill9();
        d.start_again();
        let again = crate::harness::Pod { daemon: &d, id, config: config_of_pod.clone() };
        let late = again.start(config(&config_of_pod, "late", &image));
        assert_eq!(late.says("cat /proc/self/gid_map").split_whitespace().nth(1), Some("200000"), "{log:?}");
        again.remove();
    }
}

#[test]
fn with_processes_and_queues_of_the_node() {
    let d = Daemon::start();
    let image = image(&d);
    // Not with runc 1.1, whose first stage dies of a user namespace that it joins without a PID namespace; no kubelet asks for it.
    let handler = "crun";
    let of_node =
        NamespaceOption { pid: NamespaceMode::NODE.into(), ipc: NamespaceMode::NODE.into(), ..options(NamespaceMode::POD, &mapping()) };
    let config_of_pod = pod_config(&d, "node", of_node);
    let pod = d.run_pod(config_of_pod.clone(), handler);
    let main = pod.start(config(&config_of_pod, "main", &image));
    assert_eq!(main.says("cat /proc/1/comm"), std::fs::read_to_string("/proc/1/comm").unwrap().trim(), "{handler}");
    assert_eq!(main.exec("ls /dev/mqueue").code == 0, std::path::Path::new("/dev/mqueue").exists(), "{handler}");
    pod.remove();
}

#[test]
fn where_owners_cannot_be_shown_mapped_the_files_are_given_away() {
    let slow = "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.slow]\nruntime_type = \"io.containerd.runc.v2\"\n\
                snapshotter = \"native\"\n\
                [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.slow.options]\nBinaryName = \"crun\"";
    let d = Setup::new().config(slow).start();
    let image = image(&d);
    for handler in ["slow", "crun"] {
        let config_of_pod = pod_config(&d, "copies", options(NamespaceMode::POD, &mapping()));
        let pod = d.run_pod(config_of_pod.clone(), handler);
        let mut config = config(&config_of_pod, "main", &image);
        config.mounts.push(Mount {
            image: crate::harness::client::image_spec(&image),
            container_path: "/shown".into(),
            readonly: true,
            uidMappings: mapping(),
            gidMappings: mapping(),
            ..Default::default()
        });
        let main = pod.start(config);
        let owners = main.says("stat -c %u:%g / /etc/passwd /etc/owned /data /shown/etc/passwd /shown/etc/owned");
        assert_eq!(owners.split('\n').collect::<Vec<_>>(), ["0:0", "0:0", "1000:1000", "1000:1000", "0:0", "1000:1000"], "{handler}");
        main.says("echo x > /etc/owned && rm /etc/passwd");
        assert_ne!(main.exec("touch /shown/x").code, 0, "{handler}");
        pod.remove();
    }
}

#[test]
fn what_cannot_be_mapped_is_refused() {
    let d = Daemon::start();
    let image = d.busybox();
    let line = |container_id, host_id, length| IDMapping { container_id, host_id, length, ..Default::default() };
    let bad: [(NamespaceMode, Vec<IDMapping>, &str); 6] = [
        (NamespaceMode::POD, vec![], "exactly one"),
        (NamespaceMode::POD, vec![line(0, 1000, 10), line(10, 2000, 10)], "exactly one"),
        (NamespaceMode::POD, vec![line(0, 1000, 0)], "length 0"),
        (NamespaceMode::POD, vec![line(1, 1000, 10)], "root is not mapped"),
        (NamespaceMode::NODE, vec![line(0, 1000, 10)], "takes no mappings"),
        (NamespaceMode::CONTAINER, vec![], "not supported"),
    ];
    for (mode, maps, why) in bad {
        let error = d.try_pod(pod_config(&d, "bad", options(mode, &maps)), "crun").err().unwrap().chain();
        assert!(error.contains("userns_options") && error.contains(why), "{error}");
    }
    let config_of_pod = pod_config(&d, "mapped", options(NamespaceMode::POD, &mapping()));
    let pod = d.run_pod(config_of_pod.clone(), "crun");
    let error = pod.try_create(container_config("plain", &image, &["true"])).err().unwrap().chain();
    assert!(error.contains("userns_options"), "{error}");
    let mut unmappable = config(&config_of_pod, "proc", &image);
    unmappable.mounts.push(Mount {
        host_path: "/proc/sys".into(),
        container_path: "/x".into(),
        uidMappings: mapping(),
        gidMappings: mapping(),
        ..Default::default()
    });
    let error = pod.try_create(unmappable).err().unwrap().chain();
    assert!(error.contains("/proc/sys: mounts.uidMappings"), "{error}");
}

#[test]
fn a_node_says_what_its_pods_can_have_and_read_only_goes_deep() {
    let d = Daemon::start();
    let status = d.get(&rt::STATUS, &StatusRequest::default());
    let names: Vec<&str> = status.runtime_handlers.iter().map(|h| h.name.as_str()).collect();
    assert_eq!(names, ["", "crun", "runc"]);
    assert!(status.runtime_handlers.iter().all(|h| h.features.user_namespaces && h.features.recursive_read_only_mounts));
    assert!(status.features.user_namespaces_host_network && status.features.supplemental_groups_policy);
    let image = d.busybox();
    let tree = d.path("tree");
    std::fs::create_dir_all(tree.join("below")).unwrap();
    crate::harness::run_ok("mount", &["-t", "tmpfs", "below", &tree.join("below").display().to_string()]);
    for handler in RUNTIMES {
        let pod = d.pod("deep", handler);
        let mut config = container_config("main", &image, &["sleep", "1000"]);
        let volume = |at: &str, recursive_read_only| Mount {
            host_path: tree.display().to_string(),
            container_path: at.into(),
            readonly: true,
            recursive_read_only,
            ..Default::default()
        };
        config.mounts = vec![volume("/deep", true), volume("/flat", false)];
        let main = pod.start(config);
        assert_ne!(main.exec("touch /deep/x").code, 0, "{handler}");
        assert_ne!(main.exec("touch /deep/below/x").code, 0, "{handler}: the mount below is read only too");
        assert_ne!(main.exec("touch /flat/x").code, 0, "{handler}");
        main.says("touch /flat/below/x");
        pod.remove();
    }
    crate::harness::run_ok("umount", &[&tree.join("below").display().to_string()]);
}
