//! Checks of a whole request before anything exists; each error begins with the field.
use super::sysctl::{Defaults, Own};
use super::{capabilities, cdi, devices, files, mounts, namespaces, process, resources, seccomp, security, signal, sysctl, user};
use crate::error::{Error, Result};
use crate::proto::cri::{self, NamespaceMode};

/// Refuses a pod that can not be made.
pub fn check_sandbox(config: &cri::PodSandboxConfig) -> Result<()> {
    let Some(metadata) = config.metadata.as_ref() else { return Err(Error::invalid("config.metadata: missing")) };
    named(&metadata.name, "metadata.name")?;
    for (value, field) in [(&metadata.namespace, "namespace"), (&metadata.uid, "uid")].iter().filter(|(v, _)| !v.is_empty()) {
        named(value, &format!("metadata.{field}"))?;
    }
    no_windows(config.windows.is_some())?;
    files::check_hostname(&config.hostname)?;
    if let Some(dns) = config.dns_config.as_ref() {
        files::check_dns(dns)?;
    }
    plain(&config.log_directory, "log_directory")?;
    if !config.log_directory.is_empty() && (!config.log_directory.starts_with('/') || climbs(&config.log_directory)) {
        return Err(Error::invalid(format!("log_directory: {:?} is not an absolute path", config.log_directory)));
    }
    for (at, port) in config.port_mappings.iter().enumerate() {
        check_port(at, port)?;
    }
    check_keys(&config.labels, "labels")?;
    check_keys(&config.annotations, "annotations")?;
    let linux = config.linux.get_or_default();
    resources::check_cgroup_parent(&linux.cgroup_parent)?;
    resources::check(linux.resources.get_or_default(), "linux.resources")?;
    resources::check(linux.overhead.get_or_default(), "linux.overhead")?;
    let context = linux.security_context.get_or_default();
    let options = context.namespace_options.get_or_default();
    let modes = namespaces::modes(options)?;
    if modes.pid == NamespaceMode::TARGET {
        return Err(Error::invalid("linux.security_context.namespace_options.pid: TARGET is for containers only"));
    }
    let map = namespaces::id_map(options)?;
    user::user_string("", int(&context.run_as_user), int(&context.run_as_group))?;
    user::check_groups(&context.supplemental_groups, context.supplemental_groups_policy.value())?;
    seccomp::wanted(context.seccomp.as_ref(), &context.seccomp_profile_path, "")?;
    security::check_selinux(context.selinux_options.get_or_default())?;
    let own = Own { network: modes.network != NamespaceMode::NODE, ipc: modes.ipc != NamespaceMode::NODE, user: map.is_some() };
    sysctl::sysctls(&linux.sysctls, own, Defaults { unprivileged_ports: false, unprivileged_icmp: false })?;
    Ok(())
}

/// Refuses a container that can not be made in its pod.
pub fn check_container(config: &cri::ContainerConfig, sandbox: &cri::PodSandboxConfig) -> Result<()> {
    let Some(metadata) = config.metadata.as_ref() else { return Err(Error::invalid("config.metadata: missing")) };
    named(&metadata.name, "metadata.name")?;
    no_windows(config.windows.is_some())?;
    if config.image.get_or_default().image.is_empty() {
        return Err(Error::invalid("image: missing, name the image to run"));
    }
    for (list, field) in [(&config.command, "command"), (&config.args, "args")] {
        if list.iter().any(|a| a.contains('\0')) {
            return Err(Error::invalid(format!("{field}: has a NUL byte in it")));
        }
    }
    if !config.working_dir.is_empty() && (!config.working_dir.starts_with('/') || config.working_dir.contains('\0')) {
        return Err(Error::invalid(format!("working_dir: {:?} is not an absolute path", config.working_dir)));
    }
    process::check_env(&config.envs)?;
    mounts::check(&config.mounts, None)?;
    devices::check(&config.devices)?;
    cdi::check(config)?;
    check_keys(&config.labels, "labels")?;
    check_keys(&config.annotations, "annotations")?;
    plain(&config.log_path, "log_path")?;
    if config.log_path.starts_with('/') || climbs(&config.log_path) {
        return Err(Error::invalid(format!("log_path: {:?} leads out of the pod's log directory", config.log_path)));
    }
    signal::stop(config, None)?;
    let linux = config.linux.get_or_default();
    resources::check(linux.resources.get_or_default(), "linux.resources")?;
    check_context(linux.security_context.get_or_default(), sandbox)
}

fn check_context(context: &cri::LinuxContainerSecurityContext, sandbox: &cri::PodSandboxConfig) -> Result<()> {
    let pod = sandbox.linux.get_or_default().security_context.get_or_default();
    if context.privileged && !pod.privileged {
        return Err(Error::invalid("linux.security_context.privileged: no privileged container allowed in sandbox"));
    }
    let options = context.namespace_options.get_or_default();
    namespaces::modes(options)?.inside(namespaces::modes(pod.namespace_options.get_or_default())?)?;
    let map = namespaces::id_map(options)?;
    if map != namespaces::id_map(pod.namespace_options.get_or_default())? {
        return Err(Error::invalid(
            "linux.security_context.namespace_options.userns_options: user namespace config for sandbox is different from container",
        ));
    }
    user::user_string(&context.run_as_username, int(&context.run_as_user), int(&context.run_as_group))?;
    user::check_groups(&context.supplemental_groups, context.supplemental_groups_policy.value())?;
    capabilities::check(context.capabilities.get_or_default())?;
    seccomp::wanted(context.seccomp.as_ref(), &context.seccomp_profile_path, "")?;
    security::check_selinux(context.selinux_options.get_or_default())?;
    for (list, field) in [(&context.masked_paths, "masked_paths"), (&context.readonly_paths, "readonly_paths")] {
        if let Some(bad) = list.iter().find(|p| !p.starts_with('/') || p.contains('\0') || climbs(p)) {
            return Err(Error::invalid(format!("linux.security_context.{field}: {bad:?} is not an absolute path")));
        }
    }
    Ok(())
}

fn no_windows(asked: bool) -> Result<()> {
    if asked { Err(Error::invalid("windows: this node runs Linux; say what is wanted in linux")) } else { Ok(()) }
}

/// The number of an optional field.
pub fn int(value: &protobuf::MessageField<cri::Int64Value>) -> Option<i64> {
    value.as_ref().map(|v| v.value)
}

fn climbs(path: &str) -> bool {
    path.split('/').any(|p| p == "..")
}

/// No control characters: these end up in names, paths and logs.
fn plain(value: &str, field: &str) -> Result<()> {
    match value.len() > 4096 || value.chars().any(char::is_control) {
        true => Err(Error::invalid(format!("{field}: longer than 4096 bytes or has control characters in it"))),
        false => Ok(()),
    }
}

/// A part of a path, too.
fn named(value: &str, field: &str) -> Result<()> {
    if value.is_empty() || value.contains('/') {
        return Err(Error::invalid(format!("{field}: {value:?} is empty or has a slash in it")));
    }
    plain(value, field)
}

fn check_keys(map: &std::collections::HashMap<String, String>, field: &str) -> Result<()> {
    match map.iter().find(|(k, v)| k.is_empty() || k.contains('\0') || v.contains('\0')) {
        Some((key, _)) => Err(Error::invalid(format!("{field}[{key:?}]: an empty key, or a NUL byte"))),
        None => Ok(()),
    }
}

fn check_port(at: usize, port: &cri::PortMapping) -> Result<()> {
    if port.protocol.enum_value().is_err() {
        return Err(Error::invalid(format!("port_mappings[{at}].protocol: unknown value {}", port.protocol.value())));
    }
    for (value, field) in [(port.container_port, "container_port"), (port.host_port, "host_port")] {
        if !(0..=65535).contains(&value) {
            return Err(Error::invalid(format!("port_mappings[{at}].{field}: {value} is not a port")));
        }
    }
    if !port.host_ip.is_empty() && port.host_ip.parse::<std::net::IpAddr>().is_err() {
        return Err(Error::invalid(format!("port_mappings[{at}].host_ip: {:?} is not an address", port.host_ip)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::{EnumOrUnknown, MessageField};

    fn pod() -> cri::PodSandboxConfig {
        let metadata = cri::PodSandboxMetadata { name: "a".into(), namespace: "b".into(), uid: "c".into(), ..Default::default() };
        cri::PodSandboxConfig { metadata: MessageField::some(metadata), ..Default::default() }
    }

    fn container() -> cri::ContainerConfig {
        cri::ContainerConfig {
            metadata: MessageField::some(cri::ContainerMetadata { name: "c".into(), ..Default::default() }),
            image: MessageField::some(cri::ImageSpec { image: "i".into(), ..Default::default() }),
            ..Default::default()
        }
    }

    fn context(c: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
        c.linux.mut_or_insert_default().security_context.mut_or_insert_default()
    }

    #[test]
    fn bad_pods_are_refused_by_field() {
        check_sandbox(&pod()).unwrap();
        type Set = fn(&mut cri::PodSandboxConfig);
        let table: [(&str, Set); 10] = [
            ("config.metadata", |p| p.metadata = MessageField::none()),
            ("hostname", |p| p.hostname = "a b".into()),
            ("dns_config.servers", |p| p.dns_config.mut_or_insert_default().servers.push("1 2".into())),
            ("log_directory", |p| p.log_directory = "var/log".into()),
            ("port_mappings[0].host_port", |p| p.port_mappings.push(cri::PortMapping { host_port: 65536, ..Default::default() })),
            ("port_mappings[0].host_ip", |p| p.port_mappings.push(cri::PortMapping { host_ip: "x".into(), ..Default::default() })),
            ("linux.cgroup_parent", |p| p.linux.mut_or_insert_default().cgroup_parent = "/a/..".into()),
            ("linux.sysctls", |p| drop(p.linux.mut_or_insert_default().sysctls.insert("kernel.core_pattern".into(), "x".into()))),
            ("linux.overhead.cpu_shares", |p| p.linux.mut_or_insert_default().overhead.mut_or_insert_default().cpu_shares = -1),
            ("linux.security_context.namespace_options.pid", |p| {
                let c = p.linux.mut_or_insert_default().security_context.mut_or_insert_default();
                c.namespace_options.mut_or_insert_default().pid = EnumOrUnknown::from_i32(77);
            }),
        ];
        for (field, set) in table {
            let mut bad = pod();
            set(&mut bad);
            let text = check_sandbox(&bad).unwrap_err().chain();
            assert!(text.starts_with(field), "{field}: {text}");
        }
    }

    #[test]
    fn bad_containers_are_refused_by_field() {
        check_container(&container(), &pod()).unwrap();
        type Set = fn(&mut cri::ContainerConfig);
        let table: [(&str, Set); 14] = [
            ("config.metadata", |c| c.metadata = MessageField::none()),
            ("image", |c| c.image = MessageField::none()),
            ("command", |c| c.command.push("\0".into())),
            ("working_dir", |c| c.working_dir = "x".into()),
            ("envs", |c| c.envs.push(Default::default())),
            ("mounts[0].container_path", |c| c.mounts.push(Default::default())),
            ("devices[0].host_path", |c| c.devices.push(Default::default())),
            ("log_path", |c| c.log_path = "../x".into()),
            ("linux.security_context.namespace_options.ipc", |c| {
                context(c).namespace_options.mut_or_insert_default().ipc = NamespaceMode::NODE.into()
            }),
            ("stop_signal", |c| c.stop_signal = EnumOrUnknown::from_i32(1000)),
            ("linux.security_context.privileged", |c| context(c).privileged = true),
            ("linux.security_context.run_as_group", |c| context(c).run_as_group = MessageField::some(Default::default())),
            ("linux.security_context.capabilities", |c| context(c).capabilities.mut_or_insert_default().add_capabilities.push("X".into())),
            ("linux.security_context.masked_paths", |c| context(c).masked_paths.push("x".into())),
        ];
        for (field, set) in table {
            let mut bad = container();
            set(&mut bad);
            let text = check_container(&bad, &pod()).unwrap_err().chain();
            assert!(text.starts_with(field), "{field}: {text}");
        }
    }

    #[test]
    fn user_namespace_is_the_pods() {
        let line = cri::IDMapping { host_id: 1 << 16, length: 1 << 16, ..Default::default() };
        let user = cri::UserNamespace { mode: NamespaceMode::POD.into(), uids: vec![line.clone()], gids: vec![line], ..Default::default() };
        let mut c = container();
        context(&mut c).namespace_options.mut_or_insert_default().userns_options = MessageField::some(user.clone());
        assert!(check_container(&c, &pod()).unwrap_err().chain().contains("different from container"));
        let mut p = pod();
        let options = &mut p.linux.mut_or_insert_default().security_context.mut_or_insert_default().namespace_options;
        options.mut_or_insert_default().userns_options = MessageField::some(user);
        check_container(&c, &p).unwrap();
    }
}
