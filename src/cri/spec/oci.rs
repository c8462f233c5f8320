//! The OCI runtime configuration as we write it: what we set has a field, what a base spec brings besides is kept as it is.
//!
//! Not oci-spec's types: those order capabilities and annotations at random, close the set of capability names, and drop
//! what they do not know from a base spec.
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Fields that we carry but never look into.
pub type Other = Map<String, Value>;

fn is_false(v: &bool) -> bool {
    !*v
}

/// Go's encoder writes an absent list as null, and so do profiles made with it.
fn null_is_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// `config.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    /// Lowest version of the specification that has all the fields used.
    pub oci_version: String,
    /// First process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Root filesystem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    /// Set in the UTS namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Mounted in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// For the runtime and for tools.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Linux part.
    pub linux: Linux,
    /// hooks, domainname, vm …
    #[serde(flatten)]
    pub other: Other,
}

/// Root filesystem.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Root {
    /// Relative to the bundle.
    pub path: String,
    /// Mounted read-only.
    #[serde(skip_serializing_if = "is_false")]
    pub readonly: bool,
}

/// A process, the first or an exec's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Process {
    /// Has a pty.
    #[serde(skip_serializing_if = "is_false")]
    pub terminal: bool,
    /// Who it runs as.
    pub user: User,
    /// Command and arguments.
    pub args: Vec<String>,
    /// `KEY=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// Capability sets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// From a base spec only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rlimits: Vec<Rlimit>,
    /// PR_SET_NO_NEW_PRIVS.
    #[serde(skip_serializing_if = "is_false")]
    pub no_new_privileges: bool,
    /// AppArmor profile.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub apparmor_profile: String,
    /// Score for the OOM killer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// SELinux label.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub selinux_label: String,
    /// scheduler, ioPriority …
    #[serde(flatten)]
    pub other: Other,
}

/// Numeric identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct User {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// From a base spec only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    /// Supplementary groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
}

/// The five capability sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// Upper bound.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bounding: Vec<String>,
    /// In force.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub effective: Vec<String>,
    /// Empty but for what is ambient: CVE-2022-24769.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inheritable: Vec<String>,
    /// May be put in force.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub permitted: Vec<String>,
    /// Survive execve of a non-root user.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ambient: Vec<String>,
}

/// A resource limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE` …
    #[serde(rename = "type")]
    pub kind: String,
    /// Hard limit.
    pub hard: u64,
    /// Soft limit.
    pub soft: u64,
}

/// One mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Mount {
    /// Where in the container.
    pub destination: String,
    /// Filesystem or `bind`.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// What.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// As of mount(8).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Id-mapped mount, users.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uid_mappings: Vec<IdMapping>,
    /// Id-mapped mount, groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gid_mappings: Vec<IdMapping>,
}

/// One line of an id map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// First id inside.
    #[serde(rename = "containerID")]
    pub container_id: u32,
    /// First id outside.
    #[serde(rename = "hostID")]
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

/// Linux part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Linux {
    /// User namespace, users.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uid_mappings: Vec<IdMapping>,
    /// User namespace, groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gid_mappings: Vec<IdMapping>,
    /// Kernel parameters of the namespaces.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctl: BTreeMap<String, String>,
    /// Limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// `/parent/id` or `slice:prefix:id`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cgroups_path: String,
    /// Made or joined.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<Namespace>,
    /// Made in the container's /dev.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// System call filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Seccomp>,
    /// Propagation of the root mount.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rootfs_propagation: String,
    /// Cannot be read inside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub masked_paths: Vec<String>,
    /// Cannot be written inside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub readonly_paths: Vec<String>,
    /// SELinux label of mounts.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mount_label: String,
    /// Resource director class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<IntelRdt>,
    /// personality, timeOffsets …
    #[serde(flatten)]
    pub other: Other,
}

/// Resource director class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IntelRdt {
    /// Class of service.
    #[serde(rename = "closID", skip_serializing_if = "String::is_empty")]
    pub clos_id: String,
    /// Schemata of a base spec.
    #[serde(flatten)]
    pub other: Other,
}

/// Cgroup limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Resources {
    /// Device rules, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceRule>,
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Huge pages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hugepage_limits: Vec<HugepageLimit>,
    /// Block I/O class's content.
    #[serde(rename = "blockIO", skip_serializing_if = "Option::is_none")]
    pub block_io: Option<Value>,
    /// Keys of cgroup v2, verbatim.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unified: BTreeMap<String, String>,
    /// pids, network, rdma …
    #[serde(flatten)]
    pub other: Other,
}

/// Memory limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    /// Memory and swap together, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<i64>,
    /// reservation, swappiness …
    #[serde(flatten)]
    pub other: Other,
}

/// CPU limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// Relative weight of cgroup v1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shares: Option<u64>,
    /// Microseconds a period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<i64>,
    /// Microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period: Option<u64>,
    /// Cpuset.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cpus: String,
    /// Memory nodes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mems: String,
    /// burst, idle …
    #[serde(flatten)]
    pub other: Other,
}

/// Limit of one page size.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HugepageLimit {
    /// `2MB` …
    pub page_size: String,
    /// Bytes.
    pub limit: u64,
}

/// A device rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRule {
    /// Allowed or denied.
    pub allow: bool,
    /// `a`, `b`, `c`; absent is all.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Absent is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major: Option<i64>,
    /// Absent is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minor: Option<i64>,
    /// Of `rwm`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub access: String,
}

/// A device node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Device {
    /// In the container.
    pub path: String,
    /// `b`, `c`, `p`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Permissions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<u32>,
    /// Owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// A namespace, made unless a path says which to join.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// `pid`, `network`, `mount`, `ipc`, `uts`, `user`, `cgroup`, `time`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Joined.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
}

/// System call filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seccomp {
    /// What happens to a call without a rule.
    pub default_action: String,
    /// Its errno.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u32>,
    /// `SCMP_ARCH_…`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<String>,
    /// `SECCOMP_FILTER_FLAG_…`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// Agent's socket.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub listener_path: String,
    /// Sent to the agent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub listener_metadata: String,
    /// Rules.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub syscalls: Vec<Syscall>,
}

/// A rule for some system calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Syscall {
    /// Which.
    pub names: Vec<String>,
    /// `SCMP_ACT_…`.
    pub action: String,
    /// Errno of SCMP_ACT_ERRNO.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    /// All must match.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<SyscallArg>,
}

/// A condition on an argument.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyscallArg {
    /// Which argument.
    pub index: u32,
    /// Compared with.
    pub value: u64,
    /// Second operand of a masked comparison.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub value_two: u64,
    /// `SCMP_CMP_…`.
    pub op: String,
}

fn is_zero(v: &u64) -> bool {
    *v == 0
}

impl Spec {
    /// As bytes of config.json.
    pub fn to_json(&self) -> crate::error::Result<Vec<u8>> {
        use crate::error::Context;
        serde_json::to_vec(self).during(|| "write config.json")
    }
    /// Puts in the lowest version that has every field used: crun 1.8.1 refuses what is not 1.0.x, and a runtime that is
    /// too old for a field must refuse it, not ignore it.
    pub fn set_lowest_version(&mut self) {
        let mapped = self.mounts.iter().any(|m| !m.uid_mappings.is_empty() || !m.gid_mappings.is_empty());
        let newer = |keys: &[&str], map: &Other| keys.iter().any(|k| map.contains_key(*k));
        let process = self.process.as_ref().map(|p| &p.other);
        let version = if newer(&["netDevices", "memoryPolicy"], &self.linux.other) {
            "1.3.0"
        } else if process.is_some_and(|p| newer(&["execCPUAffinity"], p)) {
            "1.2.0"
        } else if mapped
            || newer(&["domainname"], &self.other)
            || newer(&["timeOffsets"], &self.linux.other)
            || process.is_some_and(|p| newer(&["scheduler", "ioPriority"], p))
        {
            "1.1.0"
        } else {
            "1.0.2"
        };
        self.oci_version = version.to_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_the_lowest_that_has_all_fields() {
        let mut spec = Spec::default();
        spec.set_lowest_version();
        assert_eq!(spec.oci_version, "1.0.2");
        spec.mounts.push(Mount { uid_mappings: vec![IdMapping::default()], ..Mount::default() });
        spec.set_lowest_version();
        assert_eq!(spec.oci_version, "1.1.0");
    }

    #[test]
    fn unknown_fields_of_a_base_spec_survive() {
        let text = r#"{"ociVersion":"1.1.0","hooks":{"prestart":[{"path":"/x"}]},"process":{"user":{"uid":0,"gid":0},"args":["a"],"cwd":"/","ioPriority":{"class":"IOPRIO_CLASS_BE"}},"linux":{"personality":{"domain":"LINUX32"},"resources":{"pids":{"limit":7},"cpu":{"burst":3}}}}"#;
        let spec: Spec = serde_json::from_str(text).unwrap();
        let back = serde_json::to_value(&spec).unwrap();
        assert_eq!(back["hooks"]["prestart"][0]["path"], "/x");
        assert_eq!(back["process"]["ioPriority"]["class"], "IOPRIO_CLASS_BE");
        assert_eq!(back["linux"]["resources"]["pids"]["limit"], 7);
        assert_eq!(back["linux"]["resources"]["cpu"]["burst"], 3);
        assert_eq!(back["linux"]["personality"]["domain"], "LINUX32");
    }
}
