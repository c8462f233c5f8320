//! Pods that cannot be.
use super::{Case, World, bad, refuse};
use crate::harness::client::some;
use cradle::error::Kind;
use cradle::proto::cri::*;
use cradle::proto::cri_methods::runtime_service as rt;
use protobuf::EnumOrUnknown;

const INVALID: Kind = Kind::InvalidArgument;

/// RunPodSandbox with a change of a pod that could be run.
fn pod(what: &'static str, says: &'static str, change: fn(&mut PodSandboxConfig)) -> Case {
    bad((&rt::RUN_POD_SANDBOX, what), INVALID, says, move |w: &World<'_>| {
        let mut config = w.good_pod();
        change(&mut config);
        RunPodSandboxRequest { config: some(config), runtime_handler: "crun".into(), ..Default::default() }
    })
}

fn metadata(config: &mut PodSandboxConfig) -> &mut PodSandboxMetadata {
    config.metadata.mut_or_insert_default()
}

fn security(config: &mut PodSandboxConfig) -> &mut LinuxSandboxSecurityContext {
    config.linux.mut_or_insert_default().security_context.mut_or_insert_default()
}

fn namespaces(config: &mut PodSandboxConfig) -> &mut NamespaceOption {
    security(config).namespace_options.mut_or_insert_default()
}

fn sysctl(config: &mut PodSandboxConfig, name: &str, value: &str) {
    config.linux.mut_or_insert_default().sysctls.insert(name.into(), value.into());
}

fn port(config: &mut PodSandboxConfig, port: PortMapping) {
    config.port_mappings.push(port);
}

fn number(value: i64) -> protobuf::MessageField<Int64Value> {
    some(Int64Value { value, ..Default::default() })
}

#[test]
fn pods_that_cannot_be() {
    let run = &rt::RUN_POD_SANDBOX;
    let mut cases = vec![
        bad((run, "no config"), INVALID, "config", |_| RunPodSandboxRequest::default()),
        bad((run, "unknown handler"), INVALID, "nosuch", |w| RunPodSandboxRequest {
            config: some(w.good_pod()),
            runtime_handler: "nosuch".into(),
            ..Default::default()
        }),
        bad((run, "handler as a path"), INVALID, "runtime handler", |w| RunPodSandboxRequest {
            config: some(w.good_pod()),
            runtime_handler: "../../bin/sh".into(),
            ..Default::default()
        }),
    ];
    cases.extend(identity());
    cases.extend(network());
    cases.extend(linux());
    refuse(&cases);
}

fn identity() -> Vec<Case> {
    vec![
        pod("no metadata", "metadata", |c| c.metadata = None.into()),
        pod("no name", "metadata.name", |c| metadata(c).name.clear()),
        pod("name with a slash", "metadata.name", |c| metadata(c).name = "../../x".into()),
        pod("name with a line break", "metadata.name", |c| metadata(c).name = "a\nb".into()),
        pod("name of 100 kB", "metadata.name", |c| metadata(c).name = "n".repeat(100_000)),
        pod("namespace with a slash", "metadata.namespace", |c| metadata(c).namespace = "a/b".into()),
        pod("uid with a slash", "metadata.uid", |c| metadata(c).uid = "../uid".into()),
        pod("uid of 100 kB", "metadata.uid", |c| metadata(c).uid = "u".repeat(100_000)),
        pod("hostname of 65", "hostname", |c| c.hostname = "h".repeat(65)),
        pod("hostname with a line break", "hostname", |c| c.hostname = "a\nb".into()),
        pod("relative log directory", "log_directory", |c| c.log_directory = "logs".into()),
        pod("log directory that leads up", "log_directory", |c| c.log_directory = "/var/log/../../etc".into()),
    ]
}

fn network() -> Vec<Case> {
    vec![
        pod("negative port", "port_mappings[0].container_port", |c| port(c, PortMapping { container_port: -1, ..Default::default() })),
        pod("port 65536", "port_mappings[0].host_port", |c| port(c, PortMapping { host_port: 65536, ..Default::default() })),
        pod("unknown protocol", "port_mappings[0].protocol", |c| {
            port(c, PortMapping { protocol: EnumOrUnknown::from_i32(9), container_port: 80, ..Default::default() })
        }),
        pod("host IP that is none", "port_mappings[0].host_ip", |c| {
            port(c, PortMapping { host_ip: "1.2.3".into(), container_port: 80, ..Default::default() })
        }),
        pod("line break in a DNS server", "dns_config.servers", |c| {
            c.dns_config.mut_or_insert_default().servers.push("1.1.1.1\nnameserver 6.6.6.6".into());
        }),
        pod("line break in a DNS option", "dns_config.options", |c| {
            c.dns_config.mut_or_insert_default().options.push("ndots:5\nx".into());
        }),
        pod("unknown network mode", "namespace_options.network", |c| namespaces(c).network = EnumOrUnknown::from_i32(99)),
        pod("network of a target", "namespace_options.network", |c| namespaces(c).network = NamespaceMode::TARGET.into()),
        pod("ipc of a container", "namespace_options.ipc", |c| namespaces(c).ipc = NamespaceMode::CONTAINER.into()),
        pod("unknown user namespace mode", "userns_options.mode", |c| {
            namespaces(c).userns_options.mut_or_insert_default().mode = EnumOrUnknown::from_i32(77);
        }),
        pod("user namespace of a container", "userns_options.mode", |c| {
            namespaces(c).userns_options.mut_or_insert_default().mode = NamespaceMode::CONTAINER.into();
        }),
    ]
}

fn linux() -> Vec<Case> {
    vec![
        pod("cgroup parent that leads up", "cgroup_parent", |c| c.linux.mut_or_insert_default().cgroup_parent = "/a/../../b".into()),
        pod("group without a user", "run_as_group", |c| security(c).run_as_group = number(5)),
        pod("negative user", "run_as_user", |c| security(c).run_as_user = number(-1)),
        pod("user beyond 32 bits", "run_as_user", |c| security(c).run_as_user = number(1 << 40)),
        pod("negative group", "supplemental_groups", |c| security(c).supplemental_groups.push(-7)),
        pod("unknown groups policy", "supplemental_groups_policy", |c| {
            security(c).supplemental_groups_policy = EnumOrUnknown::from_i32(8);
        }),
        pod("unknown seccomp type", "seccomp.profile_type", |c| {
            security(c).seccomp.mut_or_insert_default().profile_type = EnumOrUnknown::from_i32(12);
        }),
        pod("relative seccomp profile", "security_context.seccomp", |c| {
            let profile = security(c).seccomp.mut_or_insert_default();
            profile.profile_type = security_profile::ProfileType::Localhost.into();
            profile.localhost_ref = "../profile.json".into();
        }),
        pod("unknown seccomp text", "seccomp_profile_path", |c| security(c).seccomp_profile_path = "sometimes".into()),
        pod("sysctl of the node", "linux.sysctls", |c| sysctl(c, "kernel.panic", "1")),
        pod("sysctl as a path", "linux.sysctls", |c| sysctl(c, "net/../kernel/panic", "1")),
        pod("two sysctls in one", "linux.sysctls", |c| sysctl(c, "net.ipv4.ip_forward", "1+kernel.panic=1")),
        pod("network sysctl on the host's network", "linux.sysctls", |c| {
            namespaces(c).network = NamespaceMode::NODE.into();
            sysctl(c, "net.ipv4.ip_forward", "1");
        }),
        pod("negative memory of the pod", "linux.resources", |c| {
            c.linux.mut_or_insert_default().resources.mut_or_insert_default().memory_limit_in_bytes = -5;
        }),
        pod("negative overhead", "linux.overhead", |c| {
            c.linux.mut_or_insert_default().overhead.mut_or_insert_default().cpu_shares = -5;
        }),
    ]
}
