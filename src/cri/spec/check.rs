//! Check: what of a request can never work, found before anything is made; the message names the field.
use super::{capabilities, mounts, resources, seccomp, sysctls, users};
use crate::error::{Error, Kind, Result};
use crate::proto::cri::{
    ContainerConfig, LinuxContainerSecurityContext, Mount, MountPropagation, NamespaceMode, NamespaceOption, PodSandboxConfig,
    SupplementalGroupsPolicy,
};
use protobuf::{Enum, EnumOrUnknown};
use std::path::{Component, Path};

/// The kernel's limit.
const LONGEST_HOSTNAME: usize = 64;
/// Host directories whose labels are the host's own matter.
const NEVER_RELABELED: [&str; 12] = ["/", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sys", "/usr", "/var"];

/// Checks a pod.
pub fn check_sandbox(config: &PodSandboxConfig) -> Result<()> {
    let metadata = config.metadata.as_ref().ok_or_else(|| Error::invalid("metadata is missing: name the pod"))?;
    plain("metadata.name", &metadata.name)?;
    for (field, value) in [("namespace", &metadata.namespace), ("uid", &metadata.uid)].iter().filter(|(_, v)| !v.is_empty()) {
        plain(&format!("metadata.{field}"), value)?;
    }
    hostname(&config.hostname)?;
    absolute_or_empty("log_directory", &config.log_directory)?;
    for port in &config.port_mappings {
        known("port_mappings.protocol", port.protocol)?;
        for (field, number) in [("container_port", port.container_port), ("host_port", port.host_port)] {
            if !(0..=65535).contains(&number) {
                return Err(Error::invalid(format!("port_mappings.{field}: {number} is no port")));
            }
        }
        if !port.host_ip.is_empty() && port.host_ip.parse::<std::net::IpAddr>().is_err() {
            return Err(Error::invalid(format!("port_mappings.host_ip: \"{}\" is no address", port.host_ip)));
        }
    }
    if let Some(dns) = config.dns_config.as_ref() {
        super::resolv_conf(dns)?;
    }
    let linux = config.linux.get_or_default();
    cgroup_parent(&linux.cgroup_parent)?;
    let context = linux.security_context.get_or_default();
    namespaces(context.namespace_options.get_or_default())?;
    if context.run_as_group.is_some() && context.run_as_user.is_none() {
        return Err(Error::invalid("linux.security_context.run_as_group: needs run_as_user"));
    }
    ids([("run_as_user", context.run_as_user.as_ref()), ("run_as_group", context.run_as_group.as_ref())])?;
    known("linux.security_context.supplemental_groups_policy", context.supplemental_groups_policy)?;
    seccomp::wish(context.seccomp.as_ref(), &context.seccomp_profile_path)?;
    sysctls::check(config)
}

/// Checks a container of a pod.
pub fn check_container(config: &ContainerConfig, pod: &PodSandboxConfig) -> Result<()> {
    let metadata = config.metadata.as_ref().ok_or_else(|| Error::invalid("metadata is missing: name the container"))?;
    plain("metadata.name", &metadata.name)?;
    if config.image.get_or_default().image.is_empty() {
        return Err(Error::invalid("image.image is empty: name the image to run"));
    }
    let log = Path::new(&config.log_path);
    if log.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) || config.log_path.contains(['\n', '\0']) {
        return Err(Error::invalid(format!("log_path: {:?} leads out of the pod's log directory", config.log_path)));
    }
    for env in &config.envs {
        if env.key.is_empty() || env.key.contains(['=', '\0', '\n']) {
            return Err(Error::invalid(format!("envs: {:?} is no name of a variable", env.key)));
        }
    }
    for mount in &config.mounts {
        check_mount(mount)?;
    }
    for device in &config.devices {
        absolute("devices.host_path", &device.host_path)?;
        absolute("devices.container_path", &device.container_path)?;
        if device.permissions.is_empty() || !device.permissions.chars().all(|c| "rwm".contains(c)) {
            return Err(Error::invalid(format!("devices.permissions: \"{}\" is not made of r, w and m", device.permissions)));
        }
    }
    if !config.CDI_devices.is_empty() {
        return Err(Error::new(Kind::Unimplemented, "CDI_devices: not offered by this version"));
    }
    known("stop_signal", config.stop_signal)?;
    let linux = config.linux.get_or_default();
    resources::check(linux.resources.get_or_default())?;
    security(linux.security_context.get_or_default(), pod)
}

fn security(context: &LinuxContainerSecurityContext, pod: &PodSandboxConfig) -> Result<()> {
    let pod_context = pod.linux.get_or_default().security_context.get_or_default();
    if context.privileged && !pod_context.privileged {
        return Err(Error::invalid("security_context.privileged: no privileged container in a pod that is not privileged"));
    }
    namespaces(context.namespace_options.get_or_default())?;
    if context.run_as_group.is_some() && context.run_as_user.is_none() && context.run_as_username.is_empty() {
        return Err(Error::invalid("security_context.run_as_group: needs run_as_user or run_as_username"));
    }
    ids([("run_as_user", context.run_as_user.as_ref()), ("run_as_group", context.run_as_group.as_ref())])?;
    if context.run_as_username.contains([':', '\n', '\0', '/']) {
        return Err(Error::invalid(format!("security_context.run_as_username: {:?} is no name of a user", context.run_as_username)));
    }
    for id in &context.supplemental_groups {
        users::number("security_context.supplemental_groups", *id)?;
    }
    known::<SupplementalGroupsPolicy>("security_context.supplemental_groups_policy", context.supplemental_groups_policy)?;
    capabilities::check(context.capabilities.get_or_default())?;
    seccomp::wish(context.seccomp.as_ref(), &context.seccomp_profile_path)?;
    if let Some(profile) = context.apparmor.as_ref() {
        known("security_context.apparmor.profile_type", profile.profile_type)?;
    }
    for (field, paths) in [("masked_paths", &context.masked_paths), ("readonly_paths", &context.readonly_paths)] {
        for path in paths {
            absolute(&format!("security_context.{field}"), path)?;
        }
    }
    Ok(())
}

fn check_mount(mount: &Mount) -> Result<()> {
    let target = &mount.container_path;
    let bad = |field: &str, why: &str| Err(Error::invalid(format!("mounts.{field}: {why} (container_path \"{target}\")")));
    if target.is_empty() || target.contains('\0') || mounts::clean(target) == Path::new("/") {
        return bad("container_path", "has to be below the root");
    }
    if mount.image.is_some() {
        if !mount.host_path.is_empty() {
            return bad("host_path", "goes with no image: give one of both");
        }
        return Err(Error::new(Kind::Unimplemented, "ImageVolumeMountFailed: mounts.image: not offered by this version"));
    }
    if !mount.host_path.starts_with('/') || mount.host_path.contains('\0') {
        return bad("host_path", "has to be an absolute path");
    }
    if !mount.image_sub_path.is_empty() {
        return bad("image_sub_path", "goes with an image only");
    }
    known("mounts.propagation", mount.propagation)?;
    if !mount.uidMappings.is_empty() || !mount.gidMappings.is_empty() {
        return bad("uidMappings", "user namespaces are not offered by this version");
    }
    let private = mount.propagation.enum_value() == Ok(MountPropagation::PROPAGATION_PRIVATE);
    if mount.recursive_read_only && !(mount.readonly && private) {
        return bad("recursive_read_only", "needs readonly and private propagation");
    }
    if mount.selinux_relabel && NEVER_RELABELED.iter().any(|dir| mounts::clean(&mount.host_path) == Path::new(dir)) {
        return bad("selinux_relabel", "would change the labels of the host's own files");
    }
    Ok(())
}

fn namespaces(options: &NamespaceOption) -> Result<()> {
    for (field, mode) in [("network", options.network), ("pid", options.pid), ("ipc", options.ipc)] {
        let mode = known(&format!("namespace_options.{field}"), mode)?;
        if mode == NamespaceMode::TARGET && field != "pid" {
            return Err(Error::invalid(format!("namespace_options.{field}: TARGET is for pid only")));
        }
        if mode == NamespaceMode::CONTAINER && field != "pid" {
            return Err(Error::invalid(format!("namespace_options.{field}: CONTAINER is for pid only")));
        }
    }
    let Some(user) = options.userns_options.as_ref() else { return Ok(()) };
    match known("namespace_options.userns_options.mode", user.mode)? {
        NamespaceMode::NODE if user.uids.is_empty() && user.gids.is_empty() => Ok(()),
        NamespaceMode::NODE => Err(Error::invalid("namespace_options.userns_options: mappings go with mode POD only")),
        NamespaceMode::POD => Err(Error::precondition("namespace_options.userns_options: user namespaces are not offered by this version")),
        other => Err(Error::invalid(format!("namespace_options.userns_options.mode: {other:?} is neither POD nor NODE"))),
    }
}

fn known<E: Enum>(field: &str, value: EnumOrUnknown<E>) -> Result<E> {
    value.enum_value().map_err(|number| Error::invalid(format!("{field}: {number} is not known")))
}

fn ids<const N: usize>(all: [(&str, Option<&crate::proto::cri::Int64Value>); N]) -> Result<()> {
    for (field, value) in all {
        if let Some(id) = value {
            users::number(&format!("security_context.{field}"), id.value)?;
        }
    }
    Ok(())
}

fn plain(field: &str, value: &str) -> Result<()> {
    if value.is_empty() || value.contains(['/', '\n', '\r', '\0']) {
        return Err(Error::invalid(format!("{field}: {value:?} is empty or has a slash or a line break")));
    }
    Ok(())
}

fn hostname(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if name.len() > LONGEST_HOSTNAME || !name.chars().all(allowed) {
        return Err(Error::invalid(format!("hostname: {name:?} is longer than {LONGEST_HOSTNAME} characters or has odd ones")));
    }
    Ok(())
}

fn cgroup_parent(parent: &str) -> Result<()> {
    if Path::new(parent).components().any(|c| c == Component::ParentDir) || parent.contains(['\n', '\0', ':']) {
        return Err(Error::invalid(format!("linux.cgroup_parent: {parent:?} is no path of a cgroup")));
    }
    Ok(())
}

fn absolute_or_empty(field: &str, path: &str) -> Result<()> {
    if path.is_empty() { Ok(()) } else { absolute(field, path) }
}

fn absolute(field: &str, path: &str) -> Result<()> {
    let up = Path::new(path).components().any(|c| c == Component::ParentDir);
    if !path.starts_with('/') || up || path.contains(['\n', '\0']) {
        return Err(Error::invalid(format!("{field}: {path:?} has to be an absolute path without \"..\"")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::fixture;
    use super::super::host::Host;
    use super::*;
    use crate::proto::cri::{CDIDevice, Device, IDMapping, Int64Value, KeyValue, PortMapping, UserNamespace};
    use protobuf::MessageField;

    fn options(pod: &mut PodSandboxConfig) -> &mut NamespaceOption {
        pod.linux.mut_or_insert_default().security_context.mut_or_insert_default().namespace_options.mut_or_insert_default()
    }

    #[test]
    fn pods() {
        type Change = fn(&mut PodSandboxConfig);
        let bad: &[(&str, Change)] = &[
            ("metadata", |p| p.metadata = MessageField::none()),
            ("metadata.name", |p| p.metadata.mut_or_insert_default().name.clear()),
            ("metadata.uid", |p| p.metadata.mut_or_insert_default().uid = "a/b".into()),
            ("hostname", |p| p.hostname = "x".repeat(65)),
            ("hostname", |p| p.hostname = "a\nb".into()),
            ("log_directory", |p| p.log_directory = "logs".into()),
            ("log_directory", |p| p.log_directory = "/a/../../etc".into()),
            ("port_mappings.host_port", |p| p.port_mappings = vec![PortMapping { host_port: 70000, ..PortMapping::default() }]),
            ("port_mappings.host_ip", |p| p.port_mappings = vec![PortMapping { host_ip: "x".into(), ..PortMapping::default() }]),
            ("dns_config", |p| p.dns_config.mut_or_insert_default().servers = vec!["1.1.1.1\nx".into()]),
            ("cgroup_parent", |p| p.linux.mut_or_insert_default().cgroup_parent = "/a/../..".into()),
            ("namespace_options.network", |p| options(p).network = EnumOrUnknown::from_i32(9)),
            ("namespace_options.ipc", |p| options(p).ipc = NamespaceMode::TARGET.into()),
            ("userns_options", |p| options(p).userns_options = MessageField::some(UserNamespace::default())),
            ("userns_options", |p| {
                let uids = vec![IDMapping::default()];
                let user = UserNamespace { mode: NamespaceMode::NODE.into(), uids, ..UserNamespace::default() };
                options(p).userns_options = MessageField::some(user);
            }),
            ("run_as_group", |p| {
                let group = MessageField::some(Int64Value::default());
                p.linux.mut_or_insert_default().security_context.mut_or_insert_default().run_as_group = group;
            }),
        ];
        let good = fixture(Host::for_tests()).pod.clone();
        check_sandbox(&good).unwrap();
        for (field, change) in bad {
            let mut pod = good.clone();
            change(&mut pod);
            let text = check_sandbox(&pod).expect_err(field).chain();
            assert!(text.contains(field), "{field}: {text}");
        }
    }

    #[test]
    fn containers() {
        type Change = fn(&mut ContainerConfig);
        fn context(c: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
            c.linux.mut_or_insert_default().security_context.mut_or_insert_default()
        }
        fn mount(c: &mut ContainerConfig, change: fn(&mut Mount)) {
            let mut one = Mount { container_path: "/d".into(), host_path: "/data".into(), ..Mount::default() };
            change(&mut one);
            c.mounts = vec![one];
        }
        let bad: &[(&str, Change)] = &[
            ("metadata", |c| c.metadata = MessageField::none()),
            ("image", |c| c.image = MessageField::none()),
            ("log_path", |c| c.log_path = "../x".into()),
            ("log_path", |c| c.log_path = "/x".into()),
            ("envs", |c| c.envs = vec![KeyValue { key: "A=B".into(), ..KeyValue::default() }]),
            ("mounts.container_path", |c| mount(c, |m| m.container_path = "/a/..".into())),
            ("mounts.host_path", |c| mount(c, |m| m.host_path = "data".into())),
            ("mounts.host_path", |c| mount(c, |m| m.image = MessageField::some(Default::default()))),
            ("ImageVolumeMountFailed", |c| {
                mount(c, |m| {
                    m.host_path.clear();
                    m.image = MessageField::some(Default::default());
                })
            }),
            ("mounts.propagation", |c| mount(c, |m| m.propagation = EnumOrUnknown::from_i32(7))),
            ("recursive_read_only", |c| mount(c, |m| m.recursive_read_only = true)),
            ("selinux_relabel", |c| {
                mount(c, |m| {
                    m.host_path = "/usr/../etc".into();
                    m.selinux_relabel = true;
                })
            }),
            ("devices.permissions", |c| {
                let paths = ("/dev/x".to_string(), "/dev/y".to_string());
                c.devices = vec![Device { container_path: paths.0, host_path: paths.1, permissions: "rx".into(), ..Device::default() }];
            }),
            ("CDI_devices", |c| c.CDI_devices = vec![CDIDevice::default()]),
            ("stop_signal", |c| c.stop_signal = EnumOrUnknown::from_i32(99)),
            ("oom_score_adj", |c| c.linux.mut_or_insert_default().resources.mut_or_insert_default().oom_score_adj = -1001),
            ("privileged", |c| context(c).privileged = true),
            ("run_as_user", |c| context(c).run_as_user = MessageField::some(Int64Value { value: 1 << 32, ..Int64Value::default() })),
            ("run_as_group", |c| context(c).run_as_group = MessageField::some(Int64Value::default())),
            ("run_as_username", |c| context(c).run_as_username = "u:0".into()),
            ("supplemental_groups", |c| context(c).supplemental_groups = vec![-1]),
            ("supplemental_groups_policy", |c| context(c).supplemental_groups_policy = EnumOrUnknown::from_i32(5)),
            ("add_capabilities", |c| context(c).capabilities.mut_or_insert_default().add_capabilities = vec!["X".into()]),
            ("seccomp_profile_path", |c| context(c).seccomp_profile_path = "nope".into()),
            ("masked_paths", |c| context(c).masked_paths = vec!["proc".into()]),
        ];
        let f = fixture(Host::for_tests());
        check_container(&f.config, &f.pod).unwrap();
        for (field, change) in bad {
            let mut config = f.config.clone();
            change(&mut config);
            let text = check_container(&config, &f.pod).expect_err(field).chain();
            assert!(text.contains(field), "{field}: {text}");
        }
    }
}
