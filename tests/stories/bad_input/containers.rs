//! Containers that cannot be.
use super::{Case, World, bad, refuse};
use crate::harness::client::some;
use cradle::error::Kind::{self, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound};
use cradle::proto::cri::*;
use cradle::proto::cri_methods::runtime_service as rt;
use protobuf::EnumOrUnknown;

type Change = fn(&World<'_>, &mut ContainerConfig);

fn request(w: &World<'_>, change: Change) -> CreateContainerRequest {
    let mut config = w.good_container();
    change(w, &mut config);
    CreateContainerRequest {
        pod_sandbox_id: w.pod.id.clone(),
        config: some(config),
        sandbox_config: some(w.pod.config.clone()),
        ..Default::default()
    }
}

/// CreateContainer with a change of a container that could be created.
fn create(what: &'static str, kind: Kind, says: &'static str, change: Change) -> Case {
    bad((&rt::CREATE_CONTAINER, what), kind, says, move |w: &World<'_>| request(w, change))
}

fn invalid(what: &'static str, says: &'static str, change: Change) -> Case {
    create(what, InvalidArgument, says, change)
}

fn limits(config: &mut ContainerConfig) -> &mut LinuxContainerResources {
    config.linux.mut_or_insert_default().resources.mut_or_insert_default()
}

fn security(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    config.linux.mut_or_insert_default().security_context.mut_or_insert_default()
}

fn namespaces(config: &mut ContainerConfig) -> &mut NamespaceOption {
    security(config).namespace_options.mut_or_insert_default()
}

fn number(value: i64) -> protobuf::MessageField<Int64Value> {
    some(Int64Value { value, ..Default::default() })
}

fn mount(host: &str, container: &str) -> Mount {
    Mount { host_path: host.into(), container_path: container.into(), ..Default::default() }
}

#[test]
fn containers_that_cannot_be() {
    let call = &rt::CREATE_CONTAINER;
    let mut cases = vec![
        bad((call, "no config"), InvalidArgument, "config", |w| CreateContainerRequest {
            pod_sandbox_id: w.pod.id.clone(),
            ..Default::default()
        }),
        bad((call, "no pod"), InvalidArgument, "ID is empty", |w| CreateContainerRequest {
            pod_sandbox_id: String::new(),
            ..request(w, |_, _| {})
        }),
        bad((call, "unknown pod"), NotFound, "0123456789abcdef", |w| CreateContainerRequest {
            pod_sandbox_id: "0123456789abcdef".into(),
            ..request(w, |_, _| {})
        }),
        bad((call, "a container for a pod"), NotFound, "sandbox", |w| CreateContainerRequest {
            pod_sandbox_id: w.running.id.clone(),
            ..request(w, |_, _| {})
        }),
        bad((call, "another pod's config"), InvalidArgument, "sandbox_config", |w| CreateContainerRequest {
            sandbox_config: some(w.other.config.clone()),
            ..request(w, |_, _| {})
        }),
    ];
    cases.extend(identity());
    cases.extend(files());
    cases.extend(linux());
    cases.extend(resources());
    refuse(&cases);
}

fn identity() -> Vec<Case> {
    vec![
        invalid("no metadata", "metadata", |_, c| c.metadata = None.into()),
        invalid("no name", "metadata.name", |_, c| c.metadata.mut_or_insert_default().name.clear()),
        invalid("name with a slash", "metadata.name", |_, c| c.metadata.mut_or_insert_default().name = "a/b".into()),
        invalid("name of 100 kB", "metadata.name", |_, c| c.metadata.mut_or_insert_default().name = "n".repeat(100_000)),
        create("name of a running one", AlreadyExists, "reserved", |w, c| c.metadata = w.running.config.metadata.clone()),
        invalid("no image", "image", |_, c| c.image = None.into()),
        create("unknown image", NotFound, "never/pulled", |_, c| {
            c.image.mut_or_insert_default().image = "127.0.0.1:1/never/pulled:1".into();
        }),
        invalid("image that is no name", "UPPER CASE", |_, c| c.image.mut_or_insert_default().image = "UPPER CASE".into()),
        invalid("log path that leads up", "log_path", |_, c| c.log_path = "../../etc/cron.d/x".into()),
        invalid("absolute log path", "log_path", |_, c| c.log_path = "/etc/x.log".into()),
        invalid("variable without a name", "envs", |_, c| c.envs.push(KeyValue { value: "x".into(), ..Default::default() })),
        invalid("zero byte in a value", "envs", |_, c| {
            c.envs.push(KeyValue { key: "X".into(), value: "a\0b".into(), ..Default::default() });
        }),
        invalid("zero byte in an argument", "args", |_, c| c.args.push("a\0b".into())),
        invalid("relative working directory", "working_dir", |_, c| c.working_dir = "here".into()),
        invalid("unknown stop signal", "stop_signal", |_, c| c.stop_signal = EnumOrUnknown::from_i32(999)),
    ]
}

fn files() -> Vec<Case> {
    vec![
        invalid("mount on the root", "mounts[0].container_path", |_, c| c.mounts.push(mount("/tmp", "/x/.."))),
        invalid("mount on nothing", "mounts[0].container_path", |_, c| c.mounts.push(mount("/tmp", ""))),
        invalid("relative source", "mounts[0].host_path", |_, c| c.mounts.push(mount("tmp", "/x"))),
        invalid("no source", "mounts[0].host_path", |_, c| c.mounts.push(mount("", "/x"))),
        invalid("unknown propagation", "mounts[0].propagation", |_, c| {
            c.mounts.push(Mount { propagation: EnumOrUnknown::from_i32(7), ..mount("/tmp", "/x") });
        }),
        invalid("recursive but writable", "mounts[0].recursive_read_only", |_, c| {
            c.mounts.push(Mount { recursive_read_only: true, ..mount("/tmp", "/x") });
        }),
        invalid("sub path without an image", "mounts[0].image_sub_path", |_, c| {
            c.mounts.push(Mount { image_sub_path: "a".into(), ..mount("/tmp", "/x") });
        }),
        invalid("relative device", "devices[0].host_path", |_, c| c.devices.push(Device::default())),
        invalid("device permissions", "devices[0].permissions", |_, c| {
            let path = String::from("/dev/null");
            c.devices.push(Device { host_path: path.clone(), container_path: path, permissions: "rx".into(), ..Default::default() });
        }),
    ]
}

fn linux() -> Vec<Case> {
    vec![
        invalid("privileged in a plain pod", "privileged", |_, c| security(c).privileged = true),
        invalid("unknown pid mode", "namespace_options.pid", |_, c| namespaces(c).pid = EnumOrUnknown::from_i32(50)),
        invalid("target in another pod", "namespace_options.target_id", |w, c| {
            namespaces(c).pid = NamespaceMode::TARGET.into();
            namespaces(c).target_id = w.beside.id.clone();
        }),
        create("unknown target", NotFound, "0123456789abcdef", |_, c| {
            namespaces(c).pid = NamespaceMode::TARGET.into();
            namespaces(c).target_id = "0123456789abcdef".into();
        }),
        create("ended target", FailedPrecondition, "namespace_options.target_id", |w, c| {
            namespaces(c).pid = NamespaceMode::TARGET.into();
            namespaces(c).target_id = w.ended.id.clone();
        }),
        invalid("negative user", "run_as_user", |_, c| security(c).run_as_user = number(-3)),
        invalid("group without a user", "run_as_group", |_, c| security(c).run_as_group = number(3)),
        invalid("user name with a colon", "run_as_username", |_, c| security(c).run_as_username = "root:root".into()),
        create("unknown user name", InvalidArgument, "nobody-here", |_, c| security(c).run_as_username = "nobody-here".into()),
        invalid("negative group", "supplemental_groups", |_, c| security(c).supplemental_groups.push(-1)),
        invalid("unknown groups policy", "supplemental_groups_policy", |_, c| {
            security(c).supplemental_groups_policy = EnumOrUnknown::from_i32(6);
        }),
        invalid("unknown capability", "add_capabilities", |_, c| {
            security(c).capabilities.mut_or_insert_default().add_capabilities.push("FLY".into());
        }),
        invalid("unknown seccomp type", "seccomp.profile_type", |_, c| {
            security(c).seccomp.mut_or_insert_default().profile_type = EnumOrUnknown::from_i32(33);
        }),
        create("seccomp profile that is not there", FailedPrecondition, "/no/such/profile", |_, c| {
            let profile = security(c).seccomp.mut_or_insert_default();
            profile.profile_type = security_profile::ProfileType::Localhost.into();
            profile.localhost_ref = "/no/such/profile".into();
        }),
        invalid("unknown AppArmor type", "apparmor.profile_type", |_, c| {
            security(c).apparmor.mut_or_insert_default().profile_type = EnumOrUnknown::from_i32(4);
        }),
        invalid("relative masked path", "masked_paths", |_, c| security(c).masked_paths.push("proc".into())),
    ]
}

fn resources() -> Vec<Case> {
    vec![
        invalid("negative shares", "resources.cpu_shares", |_, c| limits(c).cpu_shares = -1),
        invalid("quota below -1", "resources.cpu_quota", |_, c| limits(c).cpu_quota = -2),
        invalid("negative period", "resources.cpu_period", |_, c| limits(c).cpu_period = -1),
        invalid("memory below -1", "resources.memory_limit_in_bytes", |_, c| limits(c).memory_limit_in_bytes = i64::MIN),
        invalid("swap below -1", "resources.memory_swap_limit_in_bytes", |_, c| limits(c).memory_swap_limit_in_bytes = -9),
        invalid("OOM score of 1001", "resources.oom_score_adj", |_, c| limits(c).oom_score_adj = 1001),
        invalid("CPUs that are none", "resources.cpuset_cpus", |_, c| limits(c).cpuset_cpus = "0; rm".into()),
        invalid("a file outside the cgroup", "resources.unified", |_, c| drop(limits(c).unified.insert("../x".into(), "1".into()))),
        invalid("a page size that is none", "resources.hugepage_limits", |_, c| {
            limits(c).hugepage_limits.push(HugepageLimit { page_size: "../2MB".into(), limit: 1, ..Default::default() });
        }),
    ]
}
