//! Spec: from a CRI request to an OCI spec. Pure but for looks at the image's user files, mount sources and devices.
//!
//! `check_*` refuse a bad request before anything exists, naming the field; `sandbox` and `container` build; what has to be
//! done on the machine before the start is a list of `Action`s, done by `perform`.
//!
#![doc = include_str!("../../../tests/parity/differences.md")]
mod actions;
mod annotations;
mod base;
mod capabilities;
mod cdi;
mod check;
mod classes;
mod container;
mod devices;
mod files;
mod host;
mod mounts;
mod namespaces;
pub mod oci;
mod options;
mod process;
mod resources;
mod sandbox;
mod sandbox_image;
mod seccomp;
mod seccomp_table;
mod security;
mod signal;
mod sysctl;
mod user;
mod yaml;

pub use actions::{Action, perform};
pub use annotations::{CONTAINER_TYPE, SANDBOX_ID, SANDBOX_IMAGE};
pub use check::{check_container, check_sandbox};
pub use container::{Built, ContainerInput, Volume, container};
pub use host::{CgroupMode, Host};
pub use oci::{Process, Resources, Spec};
pub use options::{Features, Options};
pub use process::exec_process;
pub use resources::{allowed_score, cgroup_path, check as check_resources, in_force, update_resources};
pub use sandbox::{SandboxInput, sandbox};
pub use sandbox_image::run_sandbox_image;
pub use security::pod_level;

use crate::config::CriRuntime;
use crate::error::{Context, Result};
use crate::proto::cri;
use oci_spec::image::ImageConfiguration;

/// Refuses a config by which no container could be made: better now than at the first of them.
pub fn check_config(runtime: &CriRuntime) -> Result<()> {
    seccomp::wanted(None, "", &runtime.unset_seccomp_profile).during(|| "unset_seccomp_profile")?;
    for (name, handler) in &runtime.containerd.runtimes {
        base::load(&handler.base_runtime_spec).during(|| format!("runtime {name}"))?;
    }
    Ok(())
}

/// What StopContainer sends: the request's signal, else the image's, else SIGTERM.
pub fn stop_signal(config: &cri::ContainerConfig, image: &ImageConfiguration) -> Result<u32> {
    let own = image.config().as_ref().and_then(|c| c.stop_signal().as_deref());
    signal::stop(config, own)
}

/// CRI's name of a signal.
pub fn signal_name(number: u32) -> Option<String> {
    signal::name(number)
}

/// Text of a pod's resolv.conf.
pub fn resolv_conf(dns: &cri::DNSConfig) -> Result<String> {
    files::check_dns(dns)?;
    Ok(files::resolv_conf(dns))
}
