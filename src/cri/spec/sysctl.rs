//! Kernel parameters of a pod: only those that belong to a namespace of its own, with values that are nothing but a value.
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// Which namespaces the pod has of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Own {
    /// Network.
    pub network: bool,
    /// IPC.
    pub ipc: bool,
    /// Users.
    pub user: bool,
}

/// Which defaults the config turns on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Defaults {
    /// Every process may bind every port.
    pub unprivileged_ports: bool,
    /// Every group may ping.
    pub unprivileged_icmp: bool,
}

/// The request's parameters and the defaults.
pub fn sysctls<'a>(
    asked: impl IntoIterator<Item = (&'a String, &'a String)>,
    own: Own,
    defaults: Defaults,
) -> Result<BTreeMap<String, String>> {
    let mut set = BTreeMap::new();
    for (name, value) in asked {
        let name = dotted(name);
        check(&name, value, own)?;
        set.insert(name, value.clone());
    }
    let mut default = |on: bool, name: &str, value: &str| {
        if on && own.network {
            set.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
    };
    default(defaults.unprivileged_ports, "net.ipv4.ip_unprivileged_port_start", "0");
    // The range's end is no valid group in a user namespace that maps fewer.
    default(defaults.unprivileged_icmp && !own.user, "net.ipv4.ping_group_range", "0 2147483647");
    Ok(set)
}

/// `net/ipv4/conf/eth0.1/x` is `net.ipv4.conf.eth0/1.x`, as sysctl(8) has it.
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

fn check(name: &str, value: &str, own: Own) -> Result<()> {
    let bad = |why: &str| Err(Error::invalid(format!("linux.sysctls[{name:?}]: {why}")));
    let parts_fit =
        name.split('.').all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'/')));
    if !parts_fit || name.len() > 253 || name.contains("//") {
        return bad("not a kernel parameter's name");
    }
    // Neither '+' nor '=' nor a line break: CVE-2022-0811.
    if value.is_empty() || value.len() > 4096 || !value.bytes().all(|b| b.is_ascii_alphanumeric() || b" \t._:,-/".contains(&b)) {
        return bad("the value has characters that no parameter has");
    }
    let ipc = matches!(
        name,
        "kernel.msgmax"
            | "kernel.msgmnb"
            | "kernel.msgmni"
            | "kernel.sem"
            | "kernel.shmall"
            | "kernel.shmmax"
            | "kernel.shmmni"
            | "kernel.shm_rmid_forced"
    ) || name.starts_with("fs.mqueue.")
        || matches!(name, "kernel.msg_next_id" | "kernel.sem_next_id" | "kernel.shm_next_id");
    if name.starts_with("net.") {
        return if own.network { Ok(()) } else { bad("the pod shares the host's network: it would change the host's value") };
    }
    if ipc {
        return if own.ipc { Ok(()) } else { bad("the pod shares the host's IPC namespace: it would change the host's value") };
    }
    bad("does not belong to a namespace: it would change the host's value")
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: Own = Own { network: true, ipc: true, user: false };
    const ON: Defaults = Defaults { unprivileged_ports: true, unprivileged_icmp: true };

    fn one(name: &str, value: &str, own: Own) -> Result<BTreeMap<String, String>> {
        sysctls([(&name.to_owned(), &value.to_owned())], own, ON)
    }

    #[test]
    fn defaults_are_set_unless_asked_otherwise_or_not_ours() {
        let set = one("net.ipv4.ip_unprivileged_port_start", "1024", POD).unwrap();
        assert_eq!(set["net.ipv4.ip_unprivileged_port_start"], "1024");
        assert_eq!(set["net.ipv4.ping_group_range"], "0 2147483647");
        assert!(sysctls([], Own { network: false, ..POD }, ON).unwrap().is_empty());
        assert_eq!(sysctls([], Own { user: true, ..POD }, ON).unwrap().len(), 1);
    }

    #[test]
    fn host_namespaces_and_injection_are_refused() {
        let host = Own { network: false, ipc: false, user: false };
        for (name, value, own) in [
            ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/x", POD),
            ("kernel.shm_rmid_forced", "1\n", POD),
            ("kernel.core_pattern", "x", POD),
            ("vm.swappiness", "1", POD),
            ("net.ipv4.ip_forward", "1", host),
            ("kernel.msgmax", "1", host),
            ("net..x", "1", POD),
            ("net.ipv4.../x", "1", POD),
            ("", "1", POD),
        ] {
            assert!(one(name, value, own).unwrap_err().chain().contains("linux.sysctls"), "{name}");
        }
        one("kernel.sem", "250 32000 32 128", POD).unwrap();
        one("fs.mqueue.msg_max", "10", POD).unwrap();
        assert!(one("net/ipv4/ip_forward", "1", POD).unwrap().contains_key("net.ipv4.ip_forward"));
    }
}
