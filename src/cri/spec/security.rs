//! Security: AppArmor profiles, SELinux labels, hidden paths.
use super::Host;
use crate::error::{Error, Result};
use crate::proto::cri::LinuxContainerSecurityContext as Context;
use crate::proto::cri::security_profile::ProfileType;

/// containerd's name of the profile for all containers.
const APPARMOR_DEFAULT: &str = "cri-containerd.apparmor.d";

/// Hidden where no security context says otherwise. powercap tells what a neighbour computes.
pub const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// Read-only where no security context says otherwise.
pub const READONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// As strings of a spec.
pub fn paths(list: &[&str]) -> Option<Vec<String>> {
    Some(list.iter().map(|p| p.to_string()).collect())
}

/// The profile of a process, if the node has AppArmor.
pub fn apparmor(context: &Context, host: &Host) -> Result<Option<String>> {
    let asked = match (context.apparmor.as_ref(), context.apparmor_profile.as_str()) {
        (Some(profile), _) => match profile.profile_type.enum_value_or_default() {
            ProfileType::Unconfined => return Ok(None),
            ProfileType::RuntimeDefault => None,
            ProfileType::Localhost => Some(profile.localhost_ref.as_str()),
        },
        (None, "unconfined") => return Ok(None),
        (None, "" | "runtime/default") => None,
        (None, name) => Some(name),
    };
    let explicit = context.apparmor.is_some() || !context.apparmor_profile.is_empty();
    if context.privileged {
        return Ok(None);
    }
    let Some(loaded) = &host.apparmor else {
        let refused = explicit && asked.is_some();
        return if refused { Err(Error::precondition("apparmor: this node has no AppArmor")) } else { Ok(None) };
    };
    match asked.map(|name| name.strip_prefix("localhost/").unwrap_or(name)) {
        Some(name) if loaded.contains(name) => Ok(Some(name.into())),
        Some(name) => Err(Error::precondition(format!("apparmor profile not found {name}: load it on the node"))),
        None if loaded.contains(APPARMOR_DEFAULT) => Ok(Some(APPARMOR_DEFAULT.into())),
        None => {
            log::warn!("apparmor: profile {APPARMOR_DEFAULT} is not loaded; the container runs without one");
            Ok(None)
        }
    }
}

/// SELinux labels of a container.
pub struct Labels {
    /// Of its process.
    pub process: String,
    /// Of its files.
    pub mount: String,
}

/// The labels that are asked for, if the node has SELinux.
pub fn selinux(context: &Context, host: &Host) -> Option<Labels> {
    let options = context.selinux_options.as_ref().filter(|_| host.selinux && !context.privileged)?;
    let or = |value: &str, default: &str| if value.is_empty() { default.to_string() } else { value.to_string() };
    let (user, level) = (or(&options.user, "system_u"), or(&options.level, "s0"));
    let process = format!("{user}:{}:{}:{level}", or(&options.role, "system_r"), or(&options.type_, "container_t"));
    Some(Labels { process, mount: format!("{user}:object_r:container_file_t:{level}") })
}
