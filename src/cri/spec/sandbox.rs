//! Sandbox: the process that keeps a pod's namespaces, and can do nothing else.
use super::namespaces::{self, Pids};
use super::{OCI_VERSION, SandboxInput, capabilities, mounts, resources, seccomp, security, sysctls};
use crate::error::Result;
use crate::proto::cri::NamespaceMode;
use oci_spec::runtime::{Linux, LinuxCpu, LinuxResources, Process, Root, Spec, User};
use std::collections::{HashMap, HashSet};

/// Killed last when memory runs out.
const OOM_SCORE: i32 = -998;
/// The least that the kernel knows.
const CPU_SHARES: u64 = 2;

/// The spec of a pod's own process.
pub fn sandbox(input: &SandboxInput<'_>) -> Result<Spec> {
    let config = input.config;
    let linux_config = config.linux.get_or_default();
    let context = linux_config.security_context.get_or_default();
    let mut process = Process::default();
    process
        .set_terminal(Some(false))
        .set_user(user(input)?)
        .set_args(Some(vec!["/pause".into()]))
        .set_env(Some(vec!["PATH=/".into()]))
        .set_cwd("/".into())
        .set_capabilities(Some(capabilities::sets(&HashSet::new(), &HashSet::new())))
        .set_rlimits(None)
        .set_no_new_privileges(Some(false))
        .set_oom_score_adj(Some(input.host.oom_score(OOM_SCORE, input.options.restrict_oom_score_adj)));
    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(Some(true));
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.into())
        .set_process(Some(process))
        .set_root(Some(root))
        // The pinned namespace has its name already, and runtimes refuse to name a joined one.
        .set_hostname(None)
        .set_mounts(Some(mounts_of(input)))
        .set_annotations(Some(annotations(input)))
        .set_linux(Some(linux(input, context.privileged)?));
    Ok(spec)
}

fn user(input: &SandboxInput<'_>) -> Result<User> {
    let context = input.config.linux.get_or_default().security_context.get_or_default();
    let id = |field: &str, value: Option<i64>| value.map_or(Ok(0), |id| super::users::number(field, id));
    let mut user = User::default();
    user.set_uid(id("linux.security_context.run_as_user", context.run_as_user.as_ref().map(|v| v.value))?);
    user.set_gid(id("linux.security_context.run_as_group", context.run_as_group.as_ref().map(|v| v.value))?);
    Ok(user)
}

fn mounts_of(input: &SandboxInput<'_>) -> Vec<oci_spec::runtime::Mount> {
    // All sysfs mounts of a network namespace share what the first one says, so it must be writable for a privileged container.
    let privileged = input.config.linux.get_or_default().security_context.get_or_default().privileged;
    let mut all = mounts::defaults(privileged);
    if let Some(shm) = &input.shm {
        all.push(mounts::mount("/dev/shm", "bind", shm, &["rbind", "ro", "nosuid", "nodev", "noexec"]));
    }
    all
}

fn linux(input: &SandboxInput<'_>, privileged: bool) -> Result<Linux> {
    let linux_config = input.config.linux.get_or_default();
    let context = linux_config.security_context.get_or_default();
    let pids = match context.namespace_options.get_or_default().pid.enum_value_or_default() {
        NamespaceMode::NODE => Pids::Node,
        _ => Pids::Own,
    };
    let wish = match seccomp::wish(context.seccomp.as_ref(), &context.seccomp_profile_path)? {
        _ if privileged => seccomp::Wish::Unconfined,
        // Our pause program needs few calls.
        seccomp::Wish::Unset => seccomp::Wish::Default,
        said => said,
    };
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(CPU_SHARES));
    let mut limits = LinuxResources::default();
    limits.set_devices(Some(vec![resources::all_devices(false)])).set_cpu(Some(cpu));
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces::list(input.pins, &pids, input.host, privileged)))
        .set_devices(None)
        .set_sysctl(Some(sysctls::of_sandbox(input.config, input.pins.net.is_some())))
        .set_seccomp(seccomp::filter(&wish, &HashSet::new())?)
        .set_masked_paths(security::paths(security::MASKED))
        .set_readonly_paths(security::paths(security::READONLY))
        .set_resources(None)
        .set_cgroups_path(None);
    if !input.options.disable_cgroup {
        let path = super::cgroup_path(&linux_config.cgroup_parent, input.id, input.options.systemd_cgroup);
        linux.set_resources(Some(limits)).set_cgroups_path(Some(path.into()));
    }
    Ok(linux)
}

fn annotations(input: &SandboxInput<'_>) -> HashMap<String, String> {
    let metadata = input.config.metadata.get_or_default();
    let all = [
        ("container-type", "sandbox"),
        ("sandbox-id", input.id),
        ("sandbox-name", &metadata.name),
        ("sandbox-namespace", &metadata.namespace),
        ("sandbox-uid", &metadata.uid),
        ("sandbox-log-directory", &input.config.log_directory),
    ];
    all.into_iter().map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::fixture;
    use super::super::host::Host;
    use crate::proto::cri::security_profile::ProfileType;
    use crate::proto::cri::{NamespaceMode, SecurityProfile};
    use protobuf::MessageField;
    use serde_json::{Value, json};

    #[test]
    fn can_do_nothing_and_keeps_the_pod_s_namespaces() {
        let mut f = fixture(Host::for_tests());
        f.pins = super::super::Pins { net: Some("/n".into()), ipc: Some("/i".into()), uts: Some("/u".into()) };
        let spec = serde_json::to_value(f.sandbox().unwrap()).unwrap();
        assert_eq!((&spec["process"]["args"], &spec["process"]["oomScoreAdj"]), (&json!(["/pause"]), &json!(-998)));
        for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
            assert_eq!(spec["process"]["capabilities"][set], json!([]), "{set}");
        }
        assert_eq!((&spec["hostname"], &spec["root"]["readonly"]), (&Value::Null, &json!(true)));
        assert_eq!(spec["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
        assert_eq!(spec["linux"]["resources"]["cpu"]["shares"], 2);
        assert_eq!(
            spec["linux"]["sysctl"],
            json!({"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"})
        );
        assert_eq!(spec["annotations"]["io.kubernetes.cri.container-type"], "sandbox");
        assert_eq!(spec["annotations"]["io.kubernetes.cri.sandbox-log-directory"], "/var/log/p");
        let kinds: Vec<_> = spec["linux"]["namespaces"].as_array().unwrap().iter().map(|n| n["type"].clone()).collect();
        assert_eq!(kinds, ["mount", "network", "ipc", "uts", "pid", "cgroup"]);
    }

    #[test]
    fn on_the_node_s_network_it_sets_nothing() {
        let mut f = fixture(Host::for_tests());
        let context = f.pod.linux.mut_or_insert_default().security_context.mut_or_insert_default();
        context.namespace_options.mut_or_insert_default().pid = NamespaceMode::NODE.into();
        context.seccomp = MessageField::some(SecurityProfile { profile_type: ProfileType::Unconfined.into(), ..Default::default() });
        let spec = serde_json::to_value(f.sandbox().unwrap()).unwrap();
        assert_eq!((&spec["linux"]["sysctl"], &spec["linux"]["seccomp"]), (&json!({}), &Value::Null));
        assert_eq!(spec["linux"]["namespaces"], json!([{"type": "mount"}, {"type": "cgroup"}]));
    }
}
