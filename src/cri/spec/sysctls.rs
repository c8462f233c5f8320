//! Sysctls: only those that belong to a namespace of the pod's own; the node's stay as they are.
use crate::error::{Error, Result};
use crate::proto::cri::{NamespaceMode, PodSandboxConfig};
use std::collections::HashMap;

enum Namespace {
    Ipc,
    Network,
}

fn namespace_of(name: &str) -> Option<Namespace> {
    let dotted = name.replace('/', ".");
    let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."];
    match () {
        () if dotted.starts_with("net.") => Some(Namespace::Network),
        () if dotted == "kernel.sem" || ipc.iter().any(|p| dotted.starts_with(p)) => Some(Namespace::Ipc),
        () => None,
    }
}

/// Checks a pod's sysctls against the namespaces that it has.
pub fn check(config: &PodSandboxConfig) -> Result<()> {
    let linux = config.linux.get_or_default();
    let options = linux.security_context.get_or_default().namespace_options.get_or_default();
    let is_host = |mode: protobuf::EnumOrUnknown<NamespaceMode>| mode.enum_value_or_default() == NamespaceMode::NODE;
    for (name, value) in &linux.sysctls {
        let bad = |why: &str| Err(Error::invalid(format!("linux.sysctls: \"{name}\" {why}")));
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-_/".contains(c);
        if !name.chars().all(plain) || name.contains("..") || name.contains("//") {
            return bad("is not the name of a sysctl");
        }
        // crun and others pass several in one text, parted by '+'.
        if value.contains(['+', '\n', '\r', '\0']) || name.contains('+') {
            return bad("has a '+' or a line break in its value");
        }
        match namespace_of(name) {
            None => return bad("belongs to no namespace: it would change the node"),
            Some(Namespace::Network) if is_host(options.network) => return bad("needs a network of the pod's own"),
            Some(Namespace::Ipc) if is_host(options.ipc) => return bad("needs an IPC namespace of the pod's own"),
            Some(_) => {}
        }
    }
    Ok(())
}

/// What a pod's process sets: low ports and ping for all users of a pod's own network, and what the pod asks for.
pub fn of_sandbox(config: &PodSandboxConfig, own_network: bool) -> HashMap<String, String> {
    let mut all = HashMap::new();
    if own_network {
        all.insert("net.ipv4.ip_unprivileged_port_start".into(), "0".into());
        all.insert("net.ipv4.ping_group_range".into(), "0 2147483647".into());
    }
    let asked = config.linux.get_or_default().sysctls.iter();
    all.extend(asked.map(|(name, value)| (name.replace('/', "."), value.clone())));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pod_s_own() {
        let table = [
            ("net.core.somaxconn", "1", true),
            ("net/ipv4/ip_forward", "1", true),
            ("kernel.shm_rmid_forced", "1", true),
            ("kernel.msgmax", "1", true),
            ("kernel.sem", "1 2 3 4", true),
            ("fs.mqueue.msg_max", "1", true),
            ("kernel.semaphores", "1", false),
            ("kernel.core_pattern", "|/x", false),
            ("fs.file-max", "1", false),
            ("net.core.somaxconn", "1+kernel.core_pattern=|/x", false),
            ("net.core.somaxconn", "1\nkernel.core_pattern=x", false),
            ("net/../kernel/core_pattern", "1", false),
            ("net.core+x", "1", false),
            ("network", "1", false),
        ];
        for (name, value, good) in table {
            let mut pod = PodSandboxConfig::default();
            pod.linux.mut_or_insert_default().sysctls.insert(name.into(), value.into());
            assert_eq!(check(&pod).is_ok(), good, "{name}={value}");
        }
    }

    #[test]
    fn not_with_the_node_s_namespace() {
        let mut pod = PodSandboxConfig::default();
        let linux = pod.linux.mut_or_insert_default();
        let options = linux.security_context.mut_or_insert_default().namespace_options.mut_or_insert_default();
        options.network = NamespaceMode::NODE.into();
        options.ipc = NamespaceMode::NODE.into();
        for name in ["net.core.somaxconn", "kernel.shmmax"] {
            pod.linux.mut_or_insert_default().sysctls = [(name.to_string(), "1".to_string())].into();
            assert!(check(&pod).unwrap_err().chain().contains(name));
        }
    }
}
