//! The spec of a pod's own process.
use super::actions::Action;
use super::annotations::{self, Subject};
use super::check::int;
use super::host::Host;
use super::oci::Spec;
use super::options::Options;
use super::sysctl::{Defaults, Own};
use super::user::{ImageGroups, Wanted};
use super::{base, mounts, namespaces, resources, seccomp, security, sysctl, user};
use crate::cri::store::sandbox::Pins;
use crate::error::Result;
use crate::proto::cri::{self, NamespaceMode};
use std::path::Path;

/// Where the runtime room puts the built-in pause.
const PAUSE: &str = "/pause";

/// What a sandbox's spec is made from.
pub struct SandboxInput<'a> {
    /// Pod id.
    pub id: &'a str,
    /// The request.
    pub config: &'a cri::PodSandboxConfig,
    /// Pinned namespaces.
    pub pins: &'a Pins,
    /// The pod's own /dev/shm; without one, the node's.
    pub shm: Option<&'a Path>,
    /// The pod's resolv.conf, where the sandbox's process reads it (VM runtimes).
    pub resolv_conf: Option<&'a Path>,
    /// Facts.
    pub host: &'a Host,
    /// Config.
    pub options: &'a Options<'a>,
}

/// Makes the spec, and says what must be done before it can run. The request has passed `check_sandbox`.
pub fn sandbox(input: &SandboxInput<'_>) -> Result<(Spec, Vec<Action>)> {
    let linux = input.config.linux.get_or_default();
    let context = linux.security_context.get_or_default();
    let options = context.namespace_options.get_or_default();
    let modes = namespaces::modes(options)?;
    let map = namespaces::id_map(options)?;
    let own_network = modes.network != NamespaceMode::NODE;

    let mut spec = base::default();
    if let Some(root) = &mut spec.root {
        root.readonly = true;
    }
    // A pinned namespace has its name already, and runtimes refuse to name a joined one; the node's is not ours to name.
    if own_network && input.pins.uts.is_none() {
        spec.hostname = input.config.hostname.clone();
    }
    set_mounts(&mut spec, input);
    if map.is_some() {
        mounts::bind_nodes_own(&mut spec.mounts, modes);
    }
    let actions = set_process(&mut spec, input, context)?;

    spec.linux.namespaces = namespaces::of_sandbox(modes, input.pins, map.as_ref());
    let own = Own { network: own_network, ipc: modes.ipc != NamespaceMode::NODE, user: map.is_some() };
    if let Some(map) = map {
        (spec.linux.uid_mappings, spec.linux.gid_mappings) = (map.uids, map.gids);
    }
    let runtime = input.options.runtime;
    let defaults = Defaults { unprivileged_ports: runtime.enable_unprivileged_ports, unprivileged_icmp: runtime.enable_unprivileged_icmp };
    spec.linux.sysctl = sysctl::sysctls(&linux.sysctls, own, defaults)?;
    if runtime.disable_cgroup {
        spec.linux.resources = None;
    } else {
        spec.linux.cgroups_path = resources::cgroup_path(&linux.cgroup_parent, input.id, input.options.systemd_cgroup);
        let limits = spec.linux.resources.get_or_insert_default();
        limits.cpu.get_or_insert_default().shares = Some(resources::SANDBOX_SHARES);
    }
    if !context.privileged {
        // A pause makes few calls.
        let unset = if input.host.seccomp { "runtime/default" } else { &runtime.unset_seccomp_profile };
        let wanted = seccomp::wanted(context.seccomp.as_ref(), &context.seccomp_profile_path, unset)?;
        let bounding = spec.process.as_ref().and_then(|p| p.capabilities.as_ref()).map(|c| c.bounding.clone()).unwrap_or_default();
        spec.linux.seccomp = seccomp::filter(&wanted, &bounding, input.host)?;
    }
    spec.annotations = annotations::passed(&input.config.annotations, &input.options.handler.pod_annotations);
    spec.annotations.extend(annotations::standard(input.id, input.config, &Subject::Sandbox));
    spec.set_lowest_version();
    Ok((spec, actions))
}

fn set_mounts(spec: &mut Spec, input: &SandboxInput<'_>) {
    spec.mounts.retain(|m| m.destination != "/dev/shm");
    spec.mounts.push(mounts::sandbox_bind(input.shm.unwrap_or(Path::new("/dev/shm")), "/dev/shm"));
    if let Some(resolv_conf) = input.resolv_conf {
        spec.mounts.push(mounts::sandbox_bind(resolv_conf, "/etc/resolv.conf"));
    }
    // All sysfs mounts of a network namespace are one: read-only here would be read-only in a privileged container.
    if input.config.linux.get_or_default().security_context.get_or_default().privileged {
        mounts::make_writable(&mut spec.mounts);
    }
}

fn set_process(spec: &mut Spec, input: &SandboxInput<'_>, context: &cri::LinuxSandboxSecurityContext) -> Result<Vec<Action>> {
    let process = spec.process.get_or_insert_default();
    process.args = vec![PAUSE.to_owned()];
    process.env = vec!["PATH=/".to_owned()];
    process.no_new_privileges = true;
    // A pause only waits.
    process.capabilities = Some(Default::default());
    process.user = user::resolve(
        &Wanted {
            user: user::user_string("", int(&context.run_as_user), int(&context.run_as_group))?,
            supplemental: context.supplemental_groups.clone(),
            image_groups: ImageGroups::Ignored,
        },
        None,
    )?;
    process.oom_score_adj = Some(resources::oom_score_adj(resources::SANDBOX_OOM, input.host, input.options.runtime).0);
    let mut actions = Vec::new();
    if context.apparmor.is_some() {
        let host = security::allowed_apparmor(input.host, input.options.runtime);
        let (profile, load) = security::apparmor(context.apparmor.as_ref(), "", context.privileged, &host)?;
        process.apparmor_profile = profile;
        actions.extend(load);
    }
    if !context.privileged && input.options.runtime.enable_selinux {
        let level = security::pod_level(input.id, input.options.runtime.selinux_category_range);
        let labels = security::selinux(context.selinux_options.as_ref(), &level, input.host.selinux.as_ref());
        process.selinux_label = labels.process;
        if let (Some(shm), false) = (input.shm, labels.mount.is_empty()) {
            actions.push(Action::Relabel { path: shm.to_path_buf(), label: labels.mount.clone() });
        }
        spec.linux.mount_label = labels.mount;
    }
    Ok(actions)
}
