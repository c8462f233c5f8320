//! Spec: from CRI's requests to OCI specs. It looks at the host through [`Host`] and into a root filesystem for users; the only
//! thing that it makes is a missing source directory of a mount.
mod capabilities;
mod check;
mod container;
mod devices;
mod dns;
mod environment;
mod host;
mod mounts;
mod namespaces;
mod process;
mod resources;
mod sandbox;
mod sandbox_image;
mod seccomp;
mod security;
mod signals;
mod sysctls;
mod users;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod run_tests;

pub use check::{check_container, check_sandbox};
pub use container::container;
pub use dns::resolv_conf;
pub use host::Host;
pub use process::exec_process;
pub use resources::{cgroup_path, update_resources};
pub use sandbox::sandbox;
pub use sandbox_image::run_sandbox_image;
pub use signals::{signal_name, stop_signal};

use super::store::sandbox::Pins;
use crate::proto::cri::{ContainerConfig, PodSandboxConfig};
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::Spec;
use std::path::{Path, PathBuf};

/// What the config says about all containers of a runtime handler.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Cgroups are made by systemd.
    pub systemd_cgroup: bool,
    /// Privileged containers see no devices of the host.
    pub privileged_without_host_devices: bool,
    /// An OOM score below the daemon's own is raised to it.
    pub restrict_oom_score_adj: bool,
    /// No cgroups at all, for a daemon that may not make them.
    pub disable_cgroup: bool,
}

/// What a pod's own process is made from.
pub struct SandboxInput<'a> {
    /// The pod's ID.
    pub id: &'a str,
    /// Its checked configuration.
    pub config: &'a PodSandboxConfig,
    /// Where its namespaces are.
    pub pins: &'a Pins,
    /// Its /dev/shm on the host; none for the host's own.
    pub shm: Option<PathBuf>,
    /// The host.
    pub host: &'a Host,
    /// The handler's options.
    pub options: &'a Options,
}

/// What a container is made from.
pub struct ContainerInput<'a> {
    /// The container's ID.
    pub id: &'a str,
    /// The pod's ID.
    pub sandbox_id: &'a str,
    /// The pod's configuration.
    pub sandbox: &'a PodSandboxConfig,
    /// Where the pod's namespaces are.
    pub pins: &'a Pins,
    /// The pod's process.
    pub sandbox_pid: u32,
    /// The container whose processes it shall see.
    pub target_pid: Option<u32>,
    /// Its checked configuration.
    pub config: &'a ContainerConfig,
    /// Its image's configuration.
    pub image: &'a ImageConfiguration,
    /// Its image's name, for annotations.
    pub image_name: &'a str,
    /// Its mounted root filesystem, in which users are looked up.
    pub rootfs: &'a Path,
    /// Has the pod's hostname, hosts, resolv.conf and shm.
    pub pod_dir: &'a Path,
    /// Where the volumes that its image defines are to be.
    pub volumes_dir: &'a Path,
    /// The host.
    pub host: &'a Host,
    /// The handler's options.
    pub options: &'a Options,
}

/// A volume that an image defines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The directory to be made, and filled from the image.
    pub host_path: PathBuf,
    /// Where it is in the container; absolute, without `..`.
    pub container_path: PathBuf,
}

/// A container's spec, and what was found out while it was made.
#[derive(Debug)]
pub struct Built {
    /// The spec.
    pub spec: Spec,
    /// User, group and all groups of its process.
    pub user: (u32, u32, Vec<u32>),
    /// What has to be there before it starts.
    pub volumes: Vec<Volume>,
}

/// Accepted by crun 1.8 and runc 1.1 alike.
const OCI_VERSION: &str = "1.0.2";
