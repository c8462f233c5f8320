//! The spec of a container, and what must be there before it runs.
use super::actions::Action;
use super::annotations::{self, Subject};
use super::check::int;
use super::host::{CgroupMode, Host};
use super::mounts::{self, Table};
use super::namespaces::{self, IdMap, Joined, Modes};
use super::oci::Spec;
use super::options::Options;
use super::process::{self, ImageProcess};
use super::user::{ImageGroups, Wanted};
use super::{base, capabilities, cdi, classes, devices, resources, seccomp, security, user};
use crate::cri::store::sandbox::Pins;
use crate::error::{Error, Result};
use crate::proto::cri::{self, NamespaceMode, SupplementalGroupsPolicy};
use oci_spec::image::ImageConfiguration;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a container's spec is made from.
pub struct ContainerInput<'a> {
    /// Container id.
    pub id: &'a str,
    /// Its pod's id.
    pub sandbox_id: &'a str,
    /// Its pod's request.
    pub sandbox: &'a cri::PodSandboxConfig,
    /// Its pod's pinned namespaces.
    pub pins: &'a Pins,
    /// Its pod's process.
    pub sandbox_pid: u32,
    /// The process whose PID namespace is shared with mode TARGET.
    pub target_pid: Option<u32>,
    /// The request.
    pub config: &'a cri::ContainerConfig,
    /// The image's config.
    pub image: &'a ImageConfiguration,
    /// The image's name.
    pub image_name: &'a str,
    /// The root filesystem, to look users up.
    pub rootfs: &'a Path,
    /// Holds the pod's hostname, hosts, resolv.conf and shm.
    pub pod_dir: &'a Path,
    /// Holds the directories of image-defined volumes.
    pub volumes_dir: &'a Path,
    /// Where image volumes of the request are mounted, by container path.
    pub image_volumes: &'a BTreeMap<String, PathBuf>,
    /// Facts.
    pub host: &'a Host,
    /// Config.
    pub options: &'a Options<'a>,
}

/// A volume that the image defines: a directory that begins with what the image has there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// On the node.
    pub host_path: PathBuf,
    /// In the container; to be looked up inside its root.
    pub container_path: PathBuf,
}

/// A spec, and what belongs to it.
#[derive(Debug)]
pub struct Built {
    /// For the runtime.
    pub spec: Spec,
    /// For ContainerStatus: uid, gid, supplementary groups.
    pub user: (u32, u32, Vec<u32>),
    /// For ContainerStatus: the limits in force.
    pub limits: cri::LinuxContainerResources,
    /// To be made and filled.
    pub volumes: Vec<Volume>,
    /// To be done before the start.
    pub actions: Vec<Action>,
    /// For the log.
    pub warnings: Vec<String>,
}

/// Everything read from the request once.
struct Facts<'a> {
    input: &'a ContainerInput<'a>,
    context: &'a cri::LinuxContainerSecurityContext,
    image: ImageProcess,
    modes: Modes,
    map: Option<IdMap>,
    own_cgroup: bool,
    labels: security::Labels,
}

/// Makes the spec. The request has passed `check_container`.
pub fn container(input: &ContainerInput<'_>) -> Result<Built> {
    let context = input.config.linux.get_or_default().security_context.get_or_default();
    let namespace_options = context.namespace_options.get_or_default();
    let pod_options = input.sandbox.linux.get_or_default().security_context.get_or_default().namespace_options.get_or_default();
    let facts = Facts {
        input,
        context,
        image: ImageProcess::from(input.image),
        modes: namespaces::modes(namespace_options)?.inside(namespaces::modes(pod_options)?)?,
        map: namespaces::id_map(namespace_options)?,
        // On v1 the runtimes' cgroup namespaces hide paths that tools expect; a privileged container sees the node's.
        own_cgroup: input.host.cgroup == CgroupMode::Unified && !context.privileged,
        labels: labels(input, context),
    };
    let mut built = Built {
        spec: base::load(&input.options.handler.base_runtime_spec)?,
        user: (0, 0, vec![]),
        limits: Default::default(),
        volumes: volumes(&facts)?,
        actions: vec![],
        warnings: vec![],
    };
    set_process(&mut built, &facts)?;
    set_security(&mut built, &facts)?;
    set_mounts(&mut built, &facts)?;
    set_namespaces(&mut built.spec, &facts)?;
    set_devices(&mut built.spec, &facts)?;
    set_resources(&mut built, &facts)?;
    set_classes(&mut built, &facts)?;
    set_cdi(&mut built.spec, &facts)?;
    let config = input.config;
    let passed = [
        (&input.sandbox.annotations, &input.options.handler.pod_annotations),
        (&config.annotations, &input.options.handler.container_annotations),
    ];
    for (given, patterns) in passed {
        built.spec.annotations.extend(annotations::passed(given, patterns));
    }
    let subject = Subject::Container { name: &config.metadata.name, image: input.image_name };
    built.spec.annotations.extend(annotations::standard(input.sandbox_id, input.sandbox, &subject));
    built.spec.set_lowest_version();
    let score = built.spec.process.as_ref().and_then(|p| p.oom_score_adj).unwrap_or_default();
    built.limits = resources::in_force(built.spec.linux.resources.as_ref(), score);
    Ok(built)
}

fn labels(input: &ContainerInput<'_>, context: &cri::LinuxContainerSecurityContext) -> security::Labels {
    if context.privileged || !input.options.runtime.enable_selinux {
        return security::Labels::default();
    }
    let pod = input.sandbox.linux.get_or_default().security_context.get_or_default().selinux_options.as_ref();
    let level = security::pod_level(input.sandbox_id, input.options.runtime.selinux_category_range);
    security::selinux(context.selinux_options.as_ref().or(pod), &level, input.host.selinux.as_ref())
}

/// VOLUMEs of the image that no mount of the request covers, cleaned below the root: `/../../etc` is `/etc` in there.
fn volumes(facts: &Facts<'_>) -> Result<Vec<Volume>> {
    let input = facts.input;
    if input.options.runtime.ignore_image_defined_volumes {
        return Ok(vec![]);
    }
    let mut found: Vec<Volume> = Vec::new();
    for (at, volume) in facts.image.volumes.iter().enumerate() {
        let path = mounts::clean(volume);
        if path == "/" || path.contains('\0') {
            return Err(Error::precondition(format!("the image's volume {volume:?} is not a path that can be mounted on")));
        }
        let covered = input.config.mounts.iter().any(|m| mounts::clean(&m.container_path) == path);
        if !covered && !found.iter().any(|v| v.container_path == Path::new(&path)) {
            found.push(Volume { host_path: input.volumes_dir.join(at.to_string()), container_path: path.into() });
        }
    }
    Ok(found)
}

fn set_process(built: &mut Built, facts: &Facts<'_>) -> Result<()> {
    let (input, context, config) = (facts.input, facts.context, facts.input.config);
    let process = built.spec.process.get_or_insert_default();
    process.args = process::args(&config.command, &config.args, &facts.image)?;
    process::check_env(&config.envs)?;
    // On the node's network a pod has the node's name.
    let own_name = !input.sandbox.hostname.is_empty() && facts.modes.network != NamespaceMode::NODE;
    let hostname = if own_name { &input.sandbox.hostname } else { &input.host.hostname };
    process.env = process::env(&process.env, config.tty, hostname, &facts.image, &config.envs)?;
    process.cwd = process::cwd(&config.working_dir, &facts.image);
    process.terminal = config.tty;
    process.no_new_privileges = context.no_new_privs;
    let asked = user::user_string(&context.run_as_username, int(&context.run_as_user), int(&context.run_as_group))?;
    let policy = context.supplemental_groups_policy;
    user::check_groups(&context.supplemental_groups, policy.value())?;
    let found = user::resolve(
        &Wanted {
            user: if asked.is_empty() { facts.image.user.clone() } else { asked },
            supplemental: context.supplemental_groups.clone(),
            image_groups: match policy.enum_value_or_default() {
                SupplementalGroupsPolicy::Merge => ImageGroups::Merged,
                SupplementalGroupsPolicy::Strict => ImageGroups::Ignored,
            },
        },
        Some(input.rootfs),
    )?;
    built.user = (found.uid, found.gid, found.additional_gids.clone());
    process.user = super::oci::User { umask: process.user.umask, ..found };
    if let Some(root) = &mut built.spec.root {
        root.readonly |= context.readonly_rootfs;
    }
    Ok(())
}

fn set_security(built: &mut Built, facts: &Facts<'_>) -> Result<()> {
    let (host, context, runtime) = (facts.input.host, facts.context, facts.input.options.runtime);
    let Spec { process, linux, .. } = &mut built.spec;
    let process = process.get_or_insert_default();
    let mut caps = process.capabilities.take().unwrap_or_default();
    if let Some(asked) = context.capabilities.as_ref() {
        caps = capabilities::apply(caps, asked, host)?;
    }
    if context.privileged {
        caps = capabilities::same(host.capabilities.clone());
    } else if facts.map.is_none() {
        caps = capabilities::available(caps, host)?;
    }
    if context.capabilities.get_or_default().add_ambient_capabilities.is_empty() {
        caps.ambient.clear();
        caps.inheritable.clear();
    }
    if context.privileged {
        linux.masked_paths.clear();
        linux.readonly_paths.clear();
        linux.seccomp = None;
        process.apparmor_profile.clear();
    } else {
        // An empty list is a wish (procMount Unmasked); no context at all is none.
        let asked = facts.input.config.linux.get_or_default().security_context.is_some();
        if asked && !runtime.disable_proc_mount {
            linux.masked_paths = context.masked_paths.clone();
            linux.readonly_paths = context.readonly_paths.clone();
        }
        let wanted = seccomp::wanted(context.seccomp.as_ref(), &context.seccomp_profile_path, &runtime.unset_seccomp_profile)?;
        // A base spec's filter stays unless the request has one.
        if let Some(filter) = seccomp::filter(&wanted, &caps.bounding, host)? {
            linux.seccomp = Some(filter);
        }
    }
    process.capabilities = Some(caps);
    let without = security::allowed_apparmor(host, runtime);
    let (profile, load) = security::apparmor(context.apparmor.as_ref(), &context.apparmor_profile, context.privileged, &without)?;
    if !profile.is_empty() {
        process.apparmor_profile = profile;
    }
    built.actions.extend(load);
    process.selinux_label = facts.labels.process.clone();
    linux.mount_label = facts.labels.mount.clone();
    Ok(())
}

fn set_mounts(built: &mut Built, facts: &Facts<'_>) -> Result<()> {
    let (input, context) = (facts.input, facts.context);
    let mut defaults = std::mem::take(&mut built.spec.mounts);
    if facts.map.is_some() {
        mounts::bind_nodes_own(&mut defaults, facts.modes);
    }
    defaults.push(mounts::cgroup(input.options.handler.cgroup_writable, facts.own_cgroup, input.host));
    if context.privileged {
        mounts::make_writable(&mut defaults);
    }
    let made = mounts::table(
        mounts::Wanted {
            defaults,
            shared: shared(built, facts),
            asked: &input.config.mounts,
            images: input.image_volumes,
            selinux: input.host.selinux.as_ref(),
            label: &facts.labels.mount,
            features: input.options.features,
        },
        input.host,
    )?;
    let Table { mounts, actions, rootfs_propagation } = made;
    built.spec.mounts = mounts;
    built.actions.extend(actions);
    if !rootfs_propagation.is_empty() {
        built.spec.linux.rootfs_propagation = rootfs_propagation.to_owned();
    }
    Ok(())
}

/// The pod's files, its /dev/shm, and the image's volumes. A file that the pod has not got is not mounted. None is id-mapped: in a
/// pod with a user namespace they have its owners on disk.
fn shared(built: &Built, facts: &Facts<'_>) -> Vec<cri::Mount> {
    let (input, context) = (facts.input, facts.context);
    let mount = |container: &str, host: &Path, readonly: bool| cri::Mount {
        container_path: container.to_owned(),
        host_path: host.display().to_string(),
        readonly,
        selinux_relabel: host.starts_with(input.pod_dir) || host.starts_with(input.volumes_dir),
        ..cri::Mount::default()
    };
    let mut list = Vec::new();
    for name in ["hostname", "hosts", "resolv.conf"] {
        let path = input.pod_dir.join(name);
        if path.exists() {
            list.push(mount(&format!("/etc/{name}"), &path, context.readonly_rootfs));
        }
    }
    let own_shm = input.pod_dir.join("shm");
    let shm = if facts.modes.ipc == NamespaceMode::NODE { Path::new("/dev/shm") } else { &own_shm };
    if shm.exists() {
        list.push(mount("/dev/shm", shm, false));
    }
    list.extend(built.volumes.iter().map(|v| mount(&v.container_path.display().to_string(), &v.host_path, false)));
    list
}

fn set_namespaces(spec: &mut Spec, facts: &Facts<'_>) -> Result<()> {
    let input = facts.input;
    let joined = Joined { pins: input.pins, sandbox_pid: input.sandbox_pid, target_pid: input.target_pid, own_cgroup: facts.own_cgroup };
    let mut list = namespaces::of_container(facts.modes, &joined, facts.map.as_ref())?;
    // A base spec may bring one that CRI knows nothing of.
    list.extend(spec.linux.namespaces.drain(..).filter(|n| n.kind == "time"));
    spec.linux.namespaces = list;
    if let Some(map) = &facts.map {
        (spec.linux.uid_mappings, spec.linux.gid_mappings) = (map.uids.clone(), map.gids.clone());
    }
    Ok(())
}

fn set_devices(spec: &mut Spec, facts: &Facts<'_>) -> Result<()> {
    let (input, handler) = (facts.input, facts.input.options.handler);
    let mut asked = devices::asked(&input.config.devices)?;
    if input.options.runtime.device_ownership_from_security_context {
        devices::own(&mut asked.nodes, int(&facts.context.run_as_user), int(&facts.context.run_as_group));
    }
    spec.linux.devices.extend(asked.nodes);
    let rules = &mut spec.linux.resources.get_or_insert_default().devices;
    rules.extend(asked.rules);
    if facts.context.privileged {
        if !handler.privileged_without_host_devices {
            let node = devices::of_node(input.host)?;
            spec.linux.devices.extend(node);
            *rules = vec![devices::all(true)];
        } else if handler.privileged_without_host_devices_all_devices_allowed {
            *rules = vec![devices::all(true)];
        }
    }
    Ok(())
}

fn set_resources(built: &mut Built, facts: &Facts<'_>) -> Result<()> {
    let (input, options) = (facts.input, facts.input.options);
    let linux = input.config.linux.get_or_default();
    if options.runtime.disable_cgroup {
        built.spec.linux.resources = None;
    } else {
        let parent = &input.sandbox.linux.get_or_default().cgroup_parent;
        built.spec.linux.cgroups_path = resources::cgroup_path(parent, input.id, options.systemd_cgroup);
    }
    let Some(asked) = linux.resources.as_ref() else { return Ok(()) };
    if let Some(limits) = &mut built.spec.linux.resources {
        resources::check_unified(asked, input.host)?;
        resources::apply(limits, asked, input.host);
        built.warnings.extend(resources::hugepages(limits, asked, input.host, options.runtime)?);
    }
    let (score, warning) = resources::oom_score_adj(asked.oom_score_adj as i32, input.host, options.runtime);
    built.spec.process.get_or_insert_default().oom_score_adj = Some(score);
    built.warnings.extend(warning);
    Ok(())
}

/// RDT and block I/O classes of annotations.
fn set_classes(built: &mut Built, facts: &Facts<'_>) -> Result<()> {
    let input = facts.input;
    let found = classes::of(input.config, input.sandbox, &input.options.runtime.containerd, input.host)?;
    if found.rdt.is_some() {
        built.spec.linux.intel_rdt = found.rdt;
    }
    if let (Some(limits), true) = (&mut built.spec.linux.resources, found.block_io.is_some()) {
        limits.block_io = found.block_io;
    }
    built.warnings.extend(found.warnings);
    Ok(())
}

/// Last, on top of all else, as the devices' makers expect it.
fn set_cdi(spec: &mut Spec, facts: &Facts<'_>) -> Result<()> {
    let names = cdi::asked(facts.input.config);
    if names.is_empty() {
        return Ok(());
    }
    if !facts.input.options.runtime.enable_cdi {
        return Err(Error::precondition(format!("CDI_devices: {} asked for, but enable_cdi is off", names.join(", "))));
    }
    cdi::apply(spec, &names, &facts.input.options.runtime.cdi_spec_dirs)
}

#[cfg(test)]
pub(super) mod tests;
