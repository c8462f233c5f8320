//! Container: a container's spec, from its request, its image and its pod.
use super::namespaces::{self, Pids};
use super::{Built, ContainerInput, OCI_VERSION, devices, mounts, process, resources, seccomp, security, users};
use crate::error::{Error, Result};
use crate::proto::cri::NamespaceMode;
use oci_spec::runtime::{Capability, Linux, Root, Spec};
use std::collections::{HashMap, HashSet};

/// The spec of a container.
pub fn container(input: &ContainerInput<'_>) -> Result<Built> {
    let context = input.config.linux.get_or_default().security_context.get_or_default();
    let identity = users::identity(input)?;
    let process = process::of_container(input, &identity)?;
    let bounding = process.capabilities().as_ref().and_then(|c| c.bounding().clone()).unwrap_or_default();
    let (all_mounts, volumes) = mounts::of_container(input)?;
    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(Some(context.readonly_rootfs));
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.into())
        .set_root(Some(root))
        .set_hostname(None)
        .set_mounts(Some(all_mounts))
        .set_annotations(Some(annotations(input)))
        .set_linux(Some(linux(input, &bounding)?))
        .set_process(Some(process));
    Ok(Built { spec, user: (identity.uid, identity.gid, identity.groups), volumes })
}

fn linux(input: &ContainerInput<'_>, bounding: &HashSet<Capability>) -> Result<Linux> {
    let config = input.config.linux.get_or_default();
    let context = config.security_context.get_or_default();
    let devices = devices::of_container(input)?;
    let wish = match context.privileged {
        true => seccomp::Wish::Unconfined,
        false => seccomp::wish(context.seccomp.as_ref(), &context.seccomp_profile_path)?,
    };
    let (masked, readonly) = match (context.privileged, config.security_context.is_some()) {
        (true, _) => (None, None),
        (false, true) => (Some(context.masked_paths.clone()), Some(context.readonly_paths.clone())),
        (false, false) => (security::paths(security::MASKED), security::paths(security::READONLY)),
    };
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces::list(input.pins, &pids(input)?, input.host, context.privileged)))
        .set_devices(Some(devices.nodes))
        .set_seccomp(seccomp::filter(&wish, bounding)?)
        .set_rootfs_propagation(mounts::root_propagation(&input.config.mounts))
        .set_masked_paths(masked)
        .set_readonly_paths(readonly)
        .set_mount_label(security::selinux(context, input.host).map(|labels| labels.mount))
        .set_resources(None)
        .set_cgroups_path(None);
    if !input.options.disable_cgroup {
        let parent = &input.sandbox.linux.get_or_default().cgroup_parent;
        let path = super::cgroup_path(parent, input.id, input.options.systemd_cgroup);
        let limits = resources::of_container(config.resources.get_or_default(), devices.rules, input.host)?;
        linux.set_resources(Some(limits)).set_cgroups_path(Some(path.into()));
    }
    Ok(linux)
}

fn pids(input: &ContainerInput<'_>) -> Result<Pids> {
    let context = input.config.linux.get_or_default().security_context.get_or_default();
    Ok(match context.namespace_options.get_or_default().pid.enum_value_or_default() {
        NamespaceMode::POD => Pids::Of(input.sandbox_pid),
        NamespaceMode::CONTAINER => Pids::Own,
        NamespaceMode::NODE => Pids::Node,
        NamespaceMode::TARGET => {
            Pids::Of(input.target_pid.ok_or_else(|| Error::precondition("namespace_options.target_id: the target container does not run"))?)
        }
    })
}

fn annotations(input: &ContainerInput<'_>) -> HashMap<String, String> {
    let pod = input.sandbox.metadata.get_or_default();
    let all = [
        ("container-type", "container"),
        ("sandbox-id", input.sandbox_id),
        ("sandbox-name", &pod.name),
        ("sandbox-namespace", &pod.namespace),
        ("sandbox-uid", &pod.uid),
        ("container-name", &input.config.metadata.get_or_default().name),
        ("image-name", input.image_name),
    ];
    all.into_iter().map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Host;
    use super::super::fixture::{Fixture, fixture};
    use super::super::host::Cgroups;
    use super::*;
    use serde_json::{Value, json};

    fn ready() -> Fixture {
        let mut f = fixture(Host::for_tests());
        f.config.command = vec!["sh".into()];
        f
    }

    fn namespaces_of(spec: &Value) -> Vec<(String, String)> {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
        spec["linux"]["namespaces"].as_array().unwrap().iter().map(|n| (text(&n["type"]), text(&n["path"]))).collect()
    }

    #[test]
    fn namespaces_are_the_pod_s() {
        let mut f = ready();
        let own = |kind: &str, path: &str| (kind.to_string(), path.to_string());
        let host_network = [own("mount", ""), own("pid", "/proc/42/ns/pid"), own("cgroup", "")];
        assert_eq!(namespaces_of(&f.json()), host_network);
        f.pins = super::super::Pins { net: Some("/n".into()), ipc: Some("/i".into()), uts: Some("/u".into()) };
        f.host.cgroups = Cgroups::V1;
        f.context().namespace_options.mut_or_insert_default().pid = NamespaceMode::CONTAINER.into();
        let joined = [own("mount", ""), own("network", "/n"), own("ipc", "/i"), own("uts", "/u"), own("pid", "")];
        assert_eq!(namespaces_of(&f.json()), joined);
        f.context().namespace_options.mut_or_insert_default().pid = NamespaceMode::NODE.into();
        assert_eq!(namespaces_of(&f.json()), joined[..4]);
        f.context().namespace_options.mut_or_insert_default().pid = NamespaceMode::TARGET.into();
        assert!(f.build(1).unwrap_err().chain().contains("target_id"));
    }

    #[test]
    fn commands() {
        let list = |words: &str| words.split_ascii_whitespace().map(String::from).collect::<Vec<_>>();
        // command, args, entrypoint, cmd
        let table = [
            ("", "", "e", "c", "e c"),
            ("", "a", "e", "c", "e a"),
            ("x", "", "e", "c", "x"),
            ("x", "a b", "e", "c", "x a b"),
            ("", "", "", "c d", "c d"),
            ("", "a", "", "c", "a"),
        ];
        for (command, args, entrypoint, cmd, expected) in table {
            let mut f = ready();
            (f.config.command, f.config.args) = (list(command), list(args));
            let mut image = oci_spec::image::Config::default();
            image.set_entrypoint(Some(list(entrypoint))).set_cmd(Some(list(cmd)));
            f.image.set_config(Some(image));
            assert_eq!(f.json()["process"]["args"], json!(list(expected)));
        }
        let mut f = ready();
        f.config.command.clear();
        assert!(f.build(1).unwrap_err().chain().contains("no command specified"));
    }

    #[test]
    fn hidden_paths_are_as_given_or_the_defaults() {
        let mut f = ready();
        let powercap = json!("/sys/devices/virtual/powercap");
        assert!(f.json()["linux"]["maskedPaths"].as_array().unwrap().contains(&powercap));
        f.context().masked_paths = vec!["/proc/kcore".into()];
        assert_eq!(f.json()["linux"]["maskedPaths"], json!(["/proc/kcore"]));
        assert_eq!(f.json()["linux"]["readonlyPaths"], json!([]));
    }

    #[test]
    fn privileged() {
        let mut f = ready();
        f.context().privileged = true;
        f.context().seccomp.mut_or_insert_default();
        let spec = f.json();
        assert_eq!((&spec["linux"]["seccomp"], &spec["linux"]["maskedPaths"]), (&Value::Null, &Value::Null));
        assert_eq!(spec["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 41);
        assert_eq!(spec["linux"]["resources"]["devices"], json!([{"allow": true, "access": "rwm"}]));
        assert!(spec["linux"]["devices"].as_array().unwrap().iter().any(|d| d["path"] == "/dev/null"));
        f.options.privileged_without_host_devices = true;
        let spec = f.json();
        assert_eq!((&spec["linux"]["devices"], &spec["linux"]["resources"]["devices"][0]["allow"]), (&json!([]), &json!(false)));
    }

    #[test]
    fn the_rest_of_a_plain_container() {
        let mut f = ready();
        f.pod.linux.mut_or_insert_default().cgroup_parent = "/kubepods/p".into();
        f.config.devices = vec![crate::proto::cri::Device {
            container_path: "/dev/mynull".into(),
            host_path: "/dev/null".into(),
            permissions: "rw".into(),
            ..Default::default()
        }];
        let spec = f.json();
        assert_eq!(spec["ociVersion"], "1.0.2");
        assert_eq!(spec["linux"]["cgroupsPath"], "/kubepods/p/c1");
        assert_eq!(spec["linux"]["devices"][0]["path"], "/dev/mynull");
        assert_eq!(spec["linux"]["resources"]["devices"][1], json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}));
        assert_eq!(spec["annotations"]["io.kubernetes.cri.container-name"], "c");
        assert_eq!(spec["annotations"]["io.kubernetes.cri.sandbox-id"], "p1");
        assert_eq!(spec["process"]["rlimits"], Value::Null);
        assert_eq!((&spec["hostname"], &spec["hooks"]), (&Value::Null, &Value::Null));
        f.options.disable_cgroup = true;
        let spec = f.json();
        assert_eq!((&spec["linux"]["cgroupsPath"], &spec["linux"]["resources"]), (&Value::Null, &Value::Null));
    }
}
