//! What a process may be and do, as its request, its handler and the config say: seen from inside the container, with both runtimes.
use crate::harness::client::{container_config, some};
use crate::harness::{Container, Daemon, Pod, RUNTIMES, Setup, wait_until};
use cradle::error::Kind;
use cradle::proto::cri::security_profile::ProfileType;
use cradle::proto::cri::*;
use cradle::proto::cri_methods::runtime_service as rt;
use std::collections::HashMap;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// A daemon with these keys of CRI's own section, and these tables.
fn daemon(keys: &str, tables: &str) -> Daemon {
    let mut d = Setup::new().config(tables).prepare();
    let path = d.path("config.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace("$DIR", &d.dir.display().to_string());
    let keys = keys.replace("$DIR", &d.dir.display().to_string());
    let anchor = "stream_server_port = \"0\"\n";
    assert!(text.contains(anchor));
    std::fs::write(&path, text.replacen(anchor, &format!("{anchor}{keys}\n"), 1)).unwrap();
    d.start_again();
    d
}

fn context(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    config.linux.mut_or_insert_default().security_context.mut_or_insert_default()
}

fn number(value: i64) -> protobuf::MessageField<Int64Value> {
    some(Int64Value { value, ..Default::default() })
}

fn profile(kind: ProfileType, path: &str) -> protobuf::MessageField<SecurityProfile> {
    some(SecurityProfile { profile_type: kind.into(), localhost_ref: path.into(), ..Default::default() })
}

fn sleeper(name: &str, image: &str) -> ContainerConfig {
    container_config(name, image, &["sleep", "100"])
}

fn groups(container: &Container<'_>) -> Vec<String> {
    let mut found: Vec<String> = container.says("id -G").split(' ').map(str::to_owned).collect();
    found.sort();
    found
}

#[test]
fn users_groups_and_capabilities_are_those_asked_for() {
    let d = Daemon::start();
    let image = d.busybox();
    for handler in RUNTIMES {
        let pod = d.pod("who", handler);
        for (policy, want) in
            [(SupplementalGroupsPolicy::Merge, vec!["1000", "2000", "3000"]), (SupplementalGroupsPolicy::Strict, vec!["1000", "3000"])]
        {
            let mut config = sleeper(&format!("{policy:?}").to_lowercase(), &image);
            let context = context(&mut config);
            context.run_as_username = "web".into();
            context.supplemental_groups = vec![3000];
            context.supplemental_groups_policy = policy.into();
            let main = pod.start(config);
            assert_eq!(groups(&main), want, "{handler} {policy:?}");
            assert_eq!(main.says("id -u; echo $HOME"), "1000\n/home");
            let status = main.status();
            let user = status.user.get_or_default().linux.get_or_default();
            let mut shown: Vec<String> = user.supplemental_groups.iter().map(ToString::to_string).collect();
            shown.sort();
            assert_eq!((user.uid, user.gid, shown), (1000, 1000, want.iter().map(|w| w.to_string()).collect()));
        }

        let mut config = sleeper("caps", &image);
        let context = context(&mut config);
        context.no_new_privs = true;
        context.masked_paths = vec!["/proc/version".into()];
        context.readonly_paths = vec!["/etc".into()];
        let caps = context.capabilities.mut_or_insert_default();
        (caps.drop_capabilities, caps.add_capabilities) = (vec!["ALL".into()], vec!["NET_RAW".into(), "CAP_CHOWN".into()]);
        let main = pod.start(config);
        // CHOWN is 0, NET_RAW is 13.
        assert_eq!(
            main.says("grep -E 'Cap(Eff|Bnd|Inh)|NoNewPrivs' /proc/self/status | tr -d '\\t'"),
            "CapInh:0000000000000000\nCapEff:0000000000002001\nCapBnd:0000000000002001\nNoNewPrivs:1"
        );
        assert_eq!(main.says("cat /proc/version | wc -c"), "0");
        assert_ne!(main.exec("touch /etc/x").code, 0);

        let mut config = sleeper("none", &image);
        self::context(&mut config).run_as_username = "nobody-here".into();
        let error = pod.try_create(config).err().unwrap();
        assert!(error.chain().contains("nobody-here"), "{}", error.chain());
        pod.remove();
    }
}

#[test]
fn seccomp_profiles_are_in_force() {
    let d = daemon("unset_seccomp_profile = \"runtime/default\"", "");
    let image = d.busybox();
    let file = d.path("no-mkdir.json");
    let rule = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}"#;
    std::fs::write(&file, rule).unwrap();
    for handler in RUNTIMES {
        let pod = d.pod("seccomp", handler);
        let mode = |name: &str, wish: protobuf::MessageField<SecurityProfile>| {
            let mut config = sleeper(name, &image);
            context(&mut config).seccomp = wish;
            let main = pod.start(config);
            (main.says("grep Seccomp: /proc/self/status").ends_with('2'), main.exec("mkdir /tmp/x").code == 0)
        };
        assert_eq!(mode("unset", protobuf::MessageField::none()), (true, true), "{handler}");
        assert_eq!(mode("default", profile(ProfileType::RuntimeDefault, "")), (true, true));
        assert_eq!(mode("open", profile(ProfileType::Unconfined, "")), (false, true));
        assert_eq!(mode("file", profile(ProfileType::Localhost, &file.display().to_string())), (true, false));
        let mut config = sleeper("gone", &image);
        context(&mut config).seccomp = profile(ProfileType::Localhost, "/nowhere.json");
        assert!(pod.try_create(config).err().unwrap().chain().contains("/nowhere.json"));
        pod.remove();
    }
}

const ACME: &str = "cdiVersion: 0.6.0
kind: acme.example/toy
containerEdits:
  env: [ACME=here]
devices:
  - name: one
    containerEdits:
      deviceNodes: [{path: /dev/acme, hostPath: /dev/zero, permissions: r}]
      mounts: [{hostPath: $DIR/cdi, containerPath: /opt/acme, options: [ro, bind]}]
";

#[test]
fn devices_come_by_path_and_by_name() {
    let d = daemon("cdi_spec_dirs = [\"$DIR/cdi\"]\ndevice_ownership_from_security_context = true", "");
    let image = d.busybox();
    std::fs::create_dir(d.path("cdi")).unwrap();
    std::fs::write(d.path("cdi/acme.yaml"), ACME.replace("$DIR", &d.dir.display().to_string())).unwrap();
    for handler in RUNTIMES {
        let pod = d.pod("devices", handler);
        let mut config = sleeper("main", &image);
        context(&mut config).run_as_user = number(1000);
        config.devices.push(Device {
            host_path: "/dev/null".into(),
            container_path: "/dev/void".into(),
            permissions: "rw".into(),
            ..Default::default()
        });
        config.CDI_devices.push(CDIDevice { name: "acme.example/toy=one".into(), ..Default::default() });
        let main = pod.start(config);
        assert_eq!(
            main.says("echo x > /dev/void; stat -c %u /dev/void; head -c 3 /dev/acme | wc -c; echo $ACME; ls /opt/acme"),
            "1000\n3\nhere\nacme.yaml"
        );

        let mut config = sleeper("by-annotation", &image);
        config.annotations.insert("cdi.k8s.io/plugin".into(), "acme.example/toy=one".into());
        assert_eq!(pod.start(config).says("echo $ACME"), "here");
        let mut config = sleeper("unknown", &image);
        config.CDI_devices.push(CDIDevice { name: "acme.example/toy=two".into(), ..Default::default() });
        let error = pod.try_create(config).err().unwrap();
        assert!(error.chain().contains("unresolvable CDI device acme.example/toy=two"), "{}", error.chain());
        pod.remove();
    }
}

/// A spec to start from: limits of its own, and what every container needs.
const BASE: &str = r#"{"ociVersion":"1.0.2","process":{"user":{"uid":0,"gid":0},"args":[],"cwd":"/","env":["FROM=base"],
"rlimits":[{"type":"RLIMIT_NOFILE","hard":1234,"soft":1000}],"capabilities":{"bounding":["CAP_KILL"],"effective":["CAP_KILL"],"permitted":["CAP_KILL"]}},
"mounts":[{"destination":"/proc","type":"proc","source":"proc"},{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","mode=755"]},
{"destination":"/sys","type":"sysfs","source":"sysfs","options":["nosuid","noexec","nodev","ro"]}],
"linux":{"resources":{"devices":[{"allow":false,"access":"rwm"}]}}}"#;

#[test]
fn handlers_have_specs_annotations_and_rules_of_their_own() {
    let tables: String = RUNTIMES
        .iter()
        .map(|name| {
            let at = format!("plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{name}-own");
            format!(
                "[{at}]\nruntime_type = \"io.containerd.runc.v2\"\nbase_runtime_spec = \"$DIR/base.json\"\npod_annotations = [\"ours.example/*\"]\n\
                 container_annotations = [\"c.example/?\"]\n[{at}.options]\nBinaryName = \"{name}\"\n"
            )
        })
        .collect();
    let mut d = Setup::new().config(&tables).prepare();
    std::fs::write(d.path("base.json"), BASE).unwrap();
    let path = d.path("config.toml");
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace("$DIR", &d.dir.display().to_string())).unwrap();
    d.start_again();
    let image = d.busybox();
    for handler in RUNTIMES {
        let mut config = d.pod_config("own");
        config.annotations = [("ours.example/a", "1"), ("others.example/b", "2")].map(|(k, v)| (k.to_string(), v.to_string())).into();
        let pod = d.run_pod(config, &format!("{handler}-own"));
        let mut config = sleeper("main", &image);
        config.annotations = [("c.example/x", "3"), ("c.example/xy", "4")].map(|(k, v)| (k.to_string(), v.to_string())).into();
        let main = pod.start(config);
        assert_eq!(
            main.says("ulimit -n; ulimit -Hn; echo $FROM; grep CapEff /proc/self/status | tr -d '\\t'"),
            "1000\n1234\nbase\nCapEff:0000000000000020"
        );
        let spec = runtime_spec(&d, &main);
        let annotations = spec["annotations"].as_object().unwrap();
        for (key, there) in [("ours.example/a", true), ("others.example/b", false), ("c.example/x", true), ("c.example/xy", false)] {
            assert_eq!(annotations.contains_key(key), there, "{handler} {key}");
        }
        assert_eq!(annotations["io.kubernetes.cri.container-name"], "main");
        pod.remove();
    }
    let mut broken = Setup::new().config(&tables.replace("$DIR/base.json", "/nowhere/base.json")).prepare();
    broken.spawn();
    wait_until("the reason in the log", SOON, || broken.log().contains("base_runtime_spec /nowhere/base.json"));
}

fn runtime_spec(d: &Daemon, container: &Container<'_>) -> serde_json::Value {
    let request = ContainerStatusRequest { container_id: container.id.clone(), verbose: true, ..Default::default() };
    let info = d.get(&rt::CONTAINER_STATUS, &request).info;
    serde_json::from_str::<serde_json::Value>(&info["info"]).unwrap()["runtimeSpec"].clone()
}

#[test]
fn limits_are_set_shown_and_changed() {
    let d = Daemon::start();
    let image = d.busybox();
    for handler in RUNTIMES {
        let pod = d.pod("limits", handler);
        let mut config = sleeper("main", &image);
        let asked = LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 256,
            memory_limit_in_bytes: 64 << 20,
            oom_score_adj: 500,
            ..Default::default()
        };
        config.linux.mut_or_insert_default().resources = some(asked);
        context(&mut config).namespace_options.mut_or_insert_default().pid = NamespaceMode::CONTAINER.into();
        let main = pod.start(config);
        assert_eq!(main.says("cat /proc/1/oom_score_adj"), "500");
        let shown = main.status().resources.get_or_default().linux.get_or_default().clone();
        assert_eq!((shown.cpu_quota, shown.cpu_shares, shown.memory_limit_in_bytes, shown.oom_score_adj), (50_000, 256, 64 << 20, 500));
        let update = UpdateContainerResourcesRequest {
            container_id: main.id.clone(),
            linux: some(LinuxContainerResources { cpu_shares: 512, oom_score_adj: 600, ..Default::default() }),
            ..Default::default()
        };
        d.get(&rt::UPDATE_CONTAINER_RESOURCES, &update);
        assert_eq!(main.says("cat /proc/1/oom_score_adj"), "600");
        let shown = main.status().resources.get_or_default().linux.get_or_default().clone();
        assert_eq!((shown.cpu_quota, shown.cpu_shares, shown.memory_limit_in_bytes, shown.oom_score_adj), (50_000, 512, 64 << 20, 600));
        let windows = UpdateContainerResourcesRequest { windows: some(Default::default()), ..update };
        assert_eq!(d.ask(&rt::UPDATE_CONTAINER_RESOURCES, &windows).unwrap_err().kind(), Kind::InvalidArgument);
        pod.remove();
    }
}

#[test]
fn kernel_parameters_mounts_and_classes_take_effect_or_are_refused() {
    let d = Daemon::start();
    let image = d.busybox();
    std::fs::create_dir(d.path("tools")).unwrap();
    std::fs::write(d.path("tools/run"), "#!/bin/sh\necho ran\n").unwrap();
    std::fs::set_permissions(d.path("tools/run"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for handler in RUNTIMES {
        let mut config = d.pod_config("kernel");
        let sysctls: HashMap<String, String> = [("net.ipv4.ip_forward".to_string(), "1".to_string())].into();
        config.linux.mut_or_insert_default().sysctls = sysctls;
        let pod = d.run_pod(config, handler);
        let mut config = sleeper("main", &image);
        let mount = |at: &str, options: &[&str]| Mount {
            host_path: d.path("tools").display().to_string(),
            container_path: at.into(),
            mount_options: options.iter().map(|o| o.to_string()).collect(),
            ..Default::default()
        };
        config.mounts = vec![mount("/tools", &[]), mount("/data", &["noexec", "nosuid"])];
        let main = pod.start(config);
        assert_eq!(main.says("cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/ip_unprivileged_port_start; /tools/run"), "1\n0\nran");
        assert_ne!(main.exec("/data/run").code, 0, "noexec has no effect");
        assert_eq!(main.status().mounts[1].mount_options, ["noexec", "nosuid"]);
        refused(&pod, &image, "mount_options", |c| c.mounts = vec![mount("/x", &["suid"])]);
        for class in ["rdt", "blockio"] {
            let key = format!("io.kubernetes.cri.{class}-class");
            refused(&pod, &image, "not enabled", |c| drop(c.annotations.insert(key.clone(), "gold".into())));
        }
        refused(&pod, &image, "namespace_options.network", |c| {
            context(c).namespace_options.mut_or_insert_default().network = NamespaceMode::NODE.into()
        });
        pod.remove();
    }
    let mut config = d.pod_config("shared");
    config.linux.mut_or_insert_default().sysctls = [("kernel.core_pattern".to_string(), "x".to_string())].into();
    assert!(d.try_pod(config, "runc").err().unwrap().chain().contains("kernel.core_pattern"));
}

#[track_caller]
fn refused(pod: &Pod<'_>, image: &str, says: &str, change: impl Fn(&mut ContainerConfig)) {
    let mut config = sleeper("refused", image);
    change(&mut config);
    let error = pod.try_create(config).err().expect("it was not refused");
    assert!(error.chain().contains(says), "{}", error.chain());
}
