//! Capabilities: what a container's process may do. The inheritable set stays empty, and so does the ambient one unless asked for.
use super::Host;
use crate::error::{Error, Result};
use crate::proto::cri::Capability as Asked;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};
use std::collections::HashSet;

/// What a container has that asks for nothing; the list is Docker's.
const DEFAULT: &[Capability] = &[
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// In the kernel's order: the index is the bit.
const BY_NUMBER: [&str; 41] = [
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

/// All that have a name.
#[cfg(test)]
pub fn all() -> HashSet<Capability> {
    BY_NUMBER.iter().filter_map(|name| name.parse().ok()).collect()
}

/// What this process may have and hand on.
pub fn of_this_process() -> HashSet<Capability> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = |key: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default();
        u64::from_str_radix(line.trim(), 16).unwrap_or(0)
    };
    let both = set("CapPrm:") & set("CapBnd:");
    let names = BY_NUMBER.iter().enumerate().filter(|(bit, _)| both >> bit & 1 == 1);
    names.filter_map(|(_, name)| name.parse().ok()).collect()
}

/// `NET_ADMIN`, `CAP_NET_ADMIN`, `net_admin`.
pub fn parse(field: &str, name: &str) -> Result<Capability> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    short.parse().map_err(|_| Error::invalid(format!("{field}: \"{name}\" is no capability that is known here")))
}

/// Checks the names.
pub fn check(asked: &Asked) -> Result<()> {
    names("capabilities.add_capabilities", &asked.add_capabilities)?;
    names("capabilities.drop_capabilities", &asked.drop_capabilities)?;
    names("capabilities.add_ambient_capabilities", &asked.add_ambient_capabilities).map(drop)
}

/// The names in a list, and whether `ALL` is among them.
fn names(field: &str, list: &[String]) -> Result<(HashSet<Capability>, bool)> {
    let is_all = |name: &&String| name.eq_ignore_ascii_case("ALL");
    let named = list.iter().filter(|n| !is_all(n)).map(|n| parse(field, n)).collect::<Result<_>>()?;
    Ok((named, list.iter().any(|n| is_all(&n))))
}

/// The sets of a container's process. `ALL` goes first: what is named beside it, in either list, wins.
pub fn of_container(asked: &Asked, host: &Host) -> Result<LinuxCapabilities> {
    let (add, add_all) = names("capabilities.add_capabilities", &asked.add_capabilities)?;
    let (dropped, drop_all) = names("capabilities.drop_capabilities", &asked.drop_capabilities)?;
    let (ambient, all_ambient) = names("capabilities.add_ambient_capabilities", &asked.add_ambient_capabilities)?;
    let mut own: HashSet<Capability> = match (drop_all, add_all) {
        (_, true) => host.capabilities.clone(),
        (true, false) => HashSet::new(),
        (false, false) => DEFAULT.iter().copied().filter(|c| host.capabilities.contains(c)).collect(),
    };
    if let Some(missing) = add.union(&ambient).find(|c| !host.capabilities.contains(c)) {
        return Err(Error::precondition(format!("capabilities: the daemon has no CAP_{missing} to give away")));
    }
    let ambient = if all_ambient { own.union(&ambient).copied().collect() } else { ambient };
    own.extend(add.union(&ambient));
    own.retain(|c| !dropped.contains(c));
    let ambient: HashSet<Capability> = ambient.intersection(&own).copied().collect();
    Ok(sets(&own, &ambient))
}

/// All that the daemon has.
pub fn privileged(host: &Host) -> LinuxCapabilities {
    sets(&host.capabilities, &HashSet::new())
}

/// Bounding, effective and permitted are the same. An ambient capability has to be inheritable: the kernel asks for it.
pub fn sets(own: &HashSet<Capability>, ambient: &HashSet<Capability>) -> LinuxCapabilities {
    let set = |from: &HashSet<Capability>| Some(from.iter().copied().collect::<Capabilities>());
    let mut made = LinuxCapabilities::default();
    made.set_bounding(set(own)).set_effective(set(own)).set_permitted(set(own));
    made.set_inheritable(set(ambient)).set_ambient(set(ambient));
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(add: &[&str], drop: &[&str], ambient: &[&str]) -> Asked {
        let list = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
        Asked { add_capabilities: list(add), drop_capabilities: list(drop), add_ambient_capabilities: list(ambient), ..Asked::default() }
    }

    #[test]
    fn all_41_are_known() {
        assert_eq!(all().len(), BY_NUMBER.len());
        assert!(parse("f", "cap_net_admin").is_ok() && parse("f", "NET_ADMIN").is_ok() && parse("f", "NOPE").is_err());
    }

    #[test]
    fn adding_and_dropping() {
        let host = Host::for_tests();
        let table: &[(Asked, usize)] = &[
            (asked(&[], &[], &[]), 14),
            (asked(&["NET_ADMIN"], &[], &[]), 15),
            (asked(&["CAP_CHOWN"], &["mknod"], &[]), 13),
            (asked(&[], &["ALL"], &[]), 0),
            (asked(&["CHOWN"], &["ALL"], &[]), 1),
            (asked(&["ALL"], &[], &[]), 41),
            (asked(&["ALL"], &["CHOWN"], &[]), 40),
            (asked(&["CHOWN"], &["CHOWN"], &[]), 13),
        ];
        for (asked, count) in table {
            let made = of_container(asked, &host).unwrap();
            for set in [made.bounding(), made.effective(), made.permitted()] {
                assert_eq!(set.as_ref().map(HashSet::len), Some(*count), "{asked:?}");
            }
            for set in [made.inheritable(), made.ambient()] {
                assert_eq!(set.as_ref().map(HashSet::len), Some(0), "{asked:?}");
            }
        }
    }

    #[test]
    fn ambient_only_if_asked_for_and_nothing_that_the_daemon_lacks() {
        let mut host = Host::for_tests();
        let made = of_container(&asked(&[], &["ALL"], &["NET_BIND_SERVICE"]), &host).unwrap();
        assert_eq!(made.ambient(), &Some(HashSet::from([Capability::NetBindService])));
        assert_eq!(made.bounding(), made.ambient());
        host.capabilities.remove(&Capability::NetRaw);
        host.capabilities.remove(&Capability::SysAdmin);
        assert_eq!(of_container(&asked(&[], &[], &[]), &host).unwrap().bounding().as_ref().map(HashSet::len), Some(13));
        assert!(of_container(&asked(&["SYS_ADMIN"], &[], &[]), &host).unwrap_err().chain().contains("CAP_SYS_ADMIN"));
        assert_eq!(privileged(&host).permitted().as_ref().map(HashSet::len), Some(39));
    }
}
