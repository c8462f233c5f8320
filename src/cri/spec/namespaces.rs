//! Namespaces: which a process gets of its own, which it joins.
use super::Pins;
use super::host::{Cgroups, Host};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType as Type};
use std::path::{Path, PathBuf};

/// A process's view of other processes.
pub enum Pids {
    /// A namespace of its own.
    Own,
    /// The node's.
    Node,
    /// That of a process.
    Of(u32),
}

/// The list of a spec. A cgroup namespace is made where the hierarchy is unified and the process is not privileged.
pub fn list(pins: &Pins, pids: &Pids, host: &Host, privileged: bool) -> Vec<LinuxNamespace> {
    let mut all = vec![namespace(Type::Mount, None)];
    let pinned = [(Type::Network, &pins.net), (Type::Ipc, &pins.ipc), (Type::Uts, &pins.uts)];
    all.extend(pinned.into_iter().filter_map(|(kind, path)| Some(namespace(kind, Some(path.as_deref()?)))));
    match pids {
        Pids::Own => all.push(namespace(Type::Pid, None)),
        Pids::Node => {}
        Pids::Of(pid) => all.push(namespace(Type::Pid, Some(&PathBuf::from(format!("/proc/{pid}/ns/pid"))))),
    }
    if host.cgroups == Cgroups::V2 && !privileged {
        all.push(namespace(Type::Cgroup, None));
    }
    all
}

fn namespace(kind: Type, path: Option<&Path>) -> LinuxNamespace {
    let mut made = LinuxNamespace::default();
    made.set_typ(kind).set_path(path.map(Path::to_path_buf));
    made
}
