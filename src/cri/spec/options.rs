//! What the config and the runtime handler say about specs.
use crate::config::{CriRuntime, RuntimeHandler};

/// What a handler's OCI runtime can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// Mount option `rro`.
    pub recursive_read_only: bool,
    /// Fields uidMappings and gidMappings of mounts.
    pub id_mapped_mounts: bool,
}

/// What the config says.
pub struct Options<'a> {
    /// The CRI plugin's section.
    pub runtime: &'a CriRuntime,
    /// The handler's section.
    pub handler: &'a RuntimeHandler,
    /// Cgroups are systemd's.
    pub systemd_cgroup: bool,
    /// Of the handler's runtime.
    pub features: Features,
}
