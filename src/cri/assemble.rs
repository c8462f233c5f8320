//! Assemble: from the config and a pod's records to what spec and core want: runtime, snapshotter, paths, specs.
use super::spec::Spec;
use super::store::image::Image;
use super::store::sandbox::{Record, Sandbox, State, namespaces};
use super::{Cri, spec};
use crate::config::{RuncOptions, RuntimeHandler};
use crate::core::runtime::Runtime;
use crate::error::{Context, Error, Result};
use crate::proto::cri::{ContainerConfig, NamespaceMode};
use crate::proto::runc_options::Options;
use crate::sys::cgroup::slice_path;
use crate::sys::fifo;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where `ip netns` and network plugins look for network namespaces.
const NETNS_DIR: &str = "/run/netns";

/// What a container is made of.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// Its request.
    pub config: &'a ContainerConfig,
    /// Its pod.
    pub pod: &'a Sandbox,
    /// Its image.
    pub image: &'a Image,
    /// Images that are shown as volumes, by container path.
    pub images: &'a BTreeMap<String, PathBuf>,
}

impl Cri {
    /// The config of a handler; empty is the default one.
    pub fn handler(&self, name: &str) -> Result<&RuntimeHandler> {
        let all = &self.runtime.containerd;
        let name = if name.is_empty() { &all.default_runtime_name } else { name };
        all.runtimes.get(name).ok_or_else(|| {
            let known: Vec<&str> = all.runtimes.keys().map(String::as_str).collect();
            Error::invalid(format!("runtime handler \"{name}\": not in the config's runtimes table; known: {}", known.join(", ")))
        })
    }
    /// What runs the containers of a handler.
    pub fn runtime_for(&self, handler: &str) -> Result<Runtime> {
        self.runtime_with_io(handler, None)
    }
    /// The same; `owner` gets the streams instead of whom the config names.
    pub fn runtime_with_io(&self, handler: &str, owner: Option<(u32, u32)>) -> Result<Runtime> {
        let handler = self.handler(handler)?;
        let options = self.runc_options(handler)?;
        let (io_uid, io_gid) = owner.unwrap_or((options.io_uid, options.io_gid));
        let message = Options {
            binary_name: options.binary_name,
            systemd_cgroup: options.systemd_cgroup,
            root: options.root,
            shim_cgroup: options.shim_cgroup,
            no_new_keyring: options.no_new_keyring,
            io_uid,
            io_gid,
            no_pivot_root: options.no_pivot_root,
            criu_path: options.criu_path,
            criu_image_path: options.criu_image_path,
            criu_work_path: options.criu_work_path,
            ..Options::default()
        };
        let value = message.write_to_bytes().during(|| "encode runtime options")?;
        let path = (!handler.runtime_path.is_empty()).then(|| PathBuf::from(&handler.runtime_path));
        let options = Some(Any { type_url: "containerd.runc.v1.Options".into(), value, ..Any::default() });
        Ok(Runtime { name: handler.runtime_type.clone(), path, options })
    }
    fn runc_options(&self, handler: &RuntimeHandler) -> Result<RuncOptions> {
        let table = toml::Value::Table(handler.options.clone());
        table.try_into().map_err(|e: toml::de::Error| Error::invalid(format!("options of runtime {}", handler.runtime_type)).because(e))
    }
    /// Whether a handler's cgroups are systemd's.
    pub fn systemd_cgroup(&self, handler: &str) -> bool {
        self.handler(handler).and_then(|h| self.runc_options(h)).is_ok_and(|o| o.systemd_cgroup)
    }
    /// The snapshotter of a handler.
    pub fn snapshotter_for(&self, handler: &str) -> String {
        let name = if handler.is_empty() { &self.runtime.containerd.default_runtime_name } else { handler };
        let of_runtime = self.handler(name).ok().map(|h| &h.snapshotter);
        let of_images = self.images_config.runtime_platforms.get(name).map(|p| &p.snapshotter);
        let own = of_runtime.into_iter().chain(of_images).find(|s| !s.is_empty());
        own.unwrap_or(&self.images_config.snapshotter).clone()
    }
    /// A container's cgroup, below the hierarchy, as its spec has it.
    pub fn cgroup_path(&self, id: &str) -> Result<String> {
        let container = self.containers.by_id.get(id)?;
        let pod = self.sandboxes.by_id.get(&container.record.sandbox_id)?;
        Ok(self.cgroup_path_in(&pod.record, id))
    }
    /// The cgroup of a container, or of the pod's own process, in a pod.
    pub fn cgroup_path_in(&self, pod: &Record, id: &str) -> String {
        let parent = &pod.config.linux.get_or_default().cgroup_parent;
        spec::cgroup_path(parent, id, self.systemd_cgroup(&pod.handler))
    }
    /// The pod's own cgroup, if its creator made one for it.
    pub fn pod_cgroup_path(&self, pod: &Record) -> Option<String> {
        let parent = pod.config.linux.get_or_default().cgroup_parent.trim_matches('/');
        match parent.rsplit('/').next() {
            None | Some("") => None,
            Some(slice) if self.systemd_cgroup(&pod.handler) => Some(slice_path(slice)),
            Some(_) => Some(format!("/{parent}")),
        }
    }
    /// Where a pod's network namespace is pinned.
    pub fn netns_path(&self, id: &str) -> PathBuf {
        let name = format!("cni-{}", &id[..32.min(id.len())]);
        if self.runtime.netns_mounts_under_state_dir { self.dirs.state.join("netns").join(name) } else { Path::new(NETNS_DIR).join(name) }
    }
    /// A FIFO for a container's input.
    pub fn stdin_fifo(&self, id: &str) -> Result<String> {
        let dir = self.dirs.container(id);
        super::dirs::make(&dir)?;
        let path = dir.join("stdin");
        fifo::make(&path).during(|| format!("create FIFO {}", path.display()))?;
        Ok(path.display().to_string())
    }
    /// The spec of a pod's own process.
    pub fn sandbox_spec(&self, id: &str, record: &Record) -> Result<Spec> {
        let dir = self.dirs.sandbox(id);
        let (spec, actions) = spec::sandbox(&spec::SandboxInput {
            id,
            config: &record.config,
            pins: &record.pins,
            shm: shared_memory(&dir, record).as_deref(),
            resolv_conf: None,
            host: &self.host,
            options: &self.options(&record.handler)?,
        })?;
        spec::perform(&actions)?;
        Ok(spec)
    }
    /// The spec of a container, made with a look at its root filesystem.
    pub fn container_spec(&self, id: &str, parts: &Parts<'_>, rootfs: &Path) -> Result<spec::Built> {
        let Parts { config, pod, image, images } = *parts;
        let State::Ready { pid: sandbox_pid } = pod.state else {
            return Err(Error::precondition(format!("sandbox \"{}\" is not ready", pod.id)));
        };
        let target_pid = self.target_pid(config, pod)?;
        spec::container(&spec::ContainerInput {
            id,
            sandbox_id: &pod.id,
            sandbox: &pod.record.config,
            pins: &pod.record.pins,
            sandbox_pid,
            target_pid,
            config,
            image: &image.config,
            image_name: &image.name(),
            rootfs,
            pod_dir: &self.dirs.sandbox(&pod.id),
            volumes_dir: &self.dirs.volumes(id),
            image_volumes: images,
            host: &self.host,
            options: &self.options(&pod.record.handler)?,
        })
    }
    /// PID mode TARGET: a running container of the same pod.
    fn target_pid(&self, config: &ContainerConfig, pod: &Sandbox) -> Result<Option<u32>> {
        let options = config.linux.get_or_default().security_context.get_or_default().namespace_options.get_or_default();
        if options.pid.enum_value_or_default() != NamespaceMode::TARGET {
            return Ok(None);
        }
        let target = self.containers.by_id.get(&options.target_id)?;
        if target.record.sandbox_id != pod.id {
            return Err(Error::invalid(format!("namespace_options.target_id: container \"{}\" is in another pod", target.id)));
        }
        let pid = target
            .pid()
            .ok_or_else(|| Error::precondition(format!("namespace_options.target_id: container \"{}\" does not run", target.id)))?;
        Ok(Some(pid))
    }
    fn options(&self, handler: &str) -> Result<spec::Options<'_>> {
        let kernel = self.handler_features(handler);
        Ok(spec::Options {
            runtime: &self.runtime,
            handler: self.handler(handler)?,
            systemd_cgroup: self.systemd_cgroup(handler),
            features: spec::Features { recursive_read_only: kernel.recursive_read_only, id_mapped_mounts: kernel.user_namespaces },
        })
    }
}

fn shared_memory(dir: &Path, record: &Record) -> Option<PathBuf> {
    let (_, _, ipc) = namespaces(&record.config);
    (ipc != NamespaceMode::NODE).then(|| dir.join("shm"))
}
