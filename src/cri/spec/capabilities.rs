//! Capability sets: the default fourteen, what the request adds and drops, and never an inheritable one that is not ambient.
use super::host::Host;
use super::oci::Capabilities;
use crate::error::{Error, Result};
use crate::proto::cri;

/// By number, as in linux/capability.h.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Number of the newest capability that we know.
pub const LAST: i64 = NAMES.len() as i64 - 1;

/// What a container has unless it asks for something else: the set of Docker and containerd.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Names of the bits, up to `last`.
pub fn names(bits: u64, last: u8) -> Vec<String> {
    NAMES.iter().enumerate().filter(|(n, _)| *n <= last as usize && bits >> n & 1 == 1).map(|(_, name)| format!("CAP_{name}")).collect()
}

/// The default set.
pub fn default() -> Capabilities {
    same(DEFAULT.iter().map(|n| format!("CAP_{n}")).collect())
}

/// The same set as bounding, effective and permitted one.
pub fn same(set: Vec<String>) -> Capabilities {
    Capabilities { bounding: set.clone(), effective: set.clone(), permitted: set, ..Capabilities::default() }
}

/// A name of the request as the kernel calls it.
fn full(name: &str, field: &str) -> Result<String> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if NAMES.contains(&bare) {
        return Ok(format!("CAP_{bare}"));
    }
    Err(Error::invalid(format!("linux.security_context.capabilities.{field}: unknown capability {name:?}")))
}

fn is_all(name: impl AsRef<str>) -> bool {
    name.as_ref().eq_ignore_ascii_case("ALL")
}

/// Refuses names that no kernel knows.
pub fn check(asked: &cri::Capability) -> Result<()> {
    let lists = [
        (&asked.add_capabilities, "add_capabilities"),
        (&asked.drop_capabilities, "drop_capabilities"),
        (&asked.add_ambient_capabilities, "add_ambient_capabilities"),
    ];
    for (list, field) in lists {
        for name in list.iter().filter(|n| !is_all(n)) {
            full(name, field)?;
        }
    }
    Ok(())
}

/// Applies add and drop to `base`. ALL comes first, so that single names still count after it.
pub fn apply(base: Capabilities, asked: &cri::Capability, host: &Host) -> Result<Capabilities> {
    let mut set = base.bounding;
    if asked.add_capabilities.iter().any(is_all) {
        set = host.capabilities.clone();
    }
    if asked.drop_capabilities.iter().any(is_all) {
        set.clear();
    }
    let mut ambient = Vec::new();
    for name in asked.add_ambient_capabilities.iter().filter(|n| !is_all(n)) {
        insert(&mut ambient, full(name, "add_ambient_capabilities")?);
    }
    if asked.add_ambient_capabilities.iter().any(is_all) {
        ambient = host.capabilities.clone();
    }
    for name in asked.add_capabilities.iter().filter(|n| !is_all(n)) {
        insert(&mut set, full(name, "add_capabilities")?);
    }
    for name in &ambient {
        insert(&mut set, name.clone());
    }
    for name in asked.drop_capabilities.iter().filter(|n| !is_all(n)) {
        let name = full(name, "drop_capabilities")?;
        set.retain(|c| *c != name);
        ambient.retain(|c| *c != name);
    }
    // The kernel lets a capability be ambient only while it is inheritable.
    Ok(Capabilities { inheritable: ambient.clone(), ambient, ..same(set) })
}

fn insert(set: &mut Vec<String>, name: String) {
    if !set.contains(&name) {
        set.push(name);
    }
}

/// Refuses at creation what the start would fail on: a capability that this daemon has not got itself. Of the default set,
/// which nobody asked for, such a one is left out.
pub fn available(mut set: Capabilities, host: &Host) -> Result<Capabilities> {
    let by_default = default().bounding;
    let lacks = |c: &String| !host.capabilities.contains(c);
    if let Some(lacking) = set.bounding.iter().find(|c| lacks(c) && !by_default.contains(c)) {
        return Err(Error::precondition(format!(
            "linux.security_context.capabilities: {lacking} can not be given, this daemon does not have it itself"
        )));
    }
    for list in [&mut set.bounding, &mut set.effective, &mut set.permitted, &mut set.inheritable, &mut set.ambient] {
        list.retain(|c| !lacks(c));
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(add: &[&str], drop: &[&str], ambient: &[&str]) -> cri::Capability {
        let own = |l: &[&str]| l.iter().map(|s| s.to_string()).collect();
        cri::Capability {
            add_capabilities: own(add),
            drop_capabilities: own(drop),
            add_ambient_capabilities: own(ambient),
            ..Default::default()
        }
    }

    #[test]
    fn all_comes_before_single_names() {
        let host = Host::plain();
        let set = apply(default(), &asked(&["ALL"], &["chown"], &[]), &host).unwrap();
        assert_eq!(set.bounding.len(), 40);
        let set = apply(default(), &asked(&["NET_ADMIN"], &["all"], &[]), &host).unwrap();
        assert_eq!(set.bounding, ["CAP_NET_ADMIN"]);
    }

    #[test]
    fn inheritable_is_empty_unless_ambient() {
        let set = apply(default(), &asked(&["SYS_TIME"], &[], &[]), &Host::plain()).unwrap();
        assert!(set.inheritable.is_empty() && set.ambient.is_empty());
        assert_eq!(set.effective.last().unwrap(), "CAP_SYS_TIME");
        let set = apply(default(), &asked(&[], &[], &["NET_BIND_SERVICE"]), &Host::plain()).unwrap();
        assert_eq!((set.inheritable.clone(), set.ambient), (vec!["CAP_NET_BIND_SERVICE".to_owned()], set.inheritable));
    }

    #[test]
    fn unknown_name_is_refused_by_field() {
        let error = check(&asked(&[], &["FLY"], &[])).unwrap_err();
        assert!(error.chain().contains("drop_capabilities") && error.chain().contains("FLY"));
        check(&asked(&["CAP_KILL"], &["ALL"], &[])).unwrap();
    }

    #[test]
    fn what_the_daemon_lacks_is_refused() {
        let mut host = Host::plain();
        host.capabilities.retain(|c| c != "CAP_SYS_RESOURCE");
        let set = apply(default(), &asked(&["SYS_RESOURCE"], &[], &[]), &host).unwrap();
        host.capabilities.retain(|c| c != "CAP_CHOWN");
        assert!(available(set, &host).unwrap_err().chain().contains("CAP_SYS_RESOURCE"));
        let set = apply(default(), &asked(&["ALL"], &[], &[]), &host).unwrap();
        available(set, &host).unwrap();
        assert!(!available(default(), &host).unwrap().effective.contains(&"CAP_CHOWN".to_owned()));
    }
}
