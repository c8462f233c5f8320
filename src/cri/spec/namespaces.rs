//! Namespaces: which a sandbox makes or joins, which a container shares, and the id map of a user namespace.
use super::oci::{IdMapping, Namespace};
use crate::cri::store::sandbox::Pins;
use crate::error::{Error, Result};
use crate::proto::cri::{self, NamespaceMode};
use std::path::Path;

/// Modes of a request, as far as they are known values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Modes {
    /// Network.
    pub network: NamespaceMode,
    /// PID.
    pub pid: NamespaceMode,
    /// IPC.
    pub ipc: NamespaceMode,
}

impl Modes {
    /// The modes of a container of a pod: network and IPC are always the pod's, and so are processes unless the container wants
    /// its own or another container's. What the pod keeps from the node is no container's to take back.
    pub fn inside(self, pod: Modes) -> Result<Modes> {
        for (own, pods, field) in [(self.network, pod.network, "network"), (self.pid, pod.pid, "pid"), (self.ipc, pod.ipc, "ipc")] {
            if own == NamespaceMode::NODE && pods != NamespaceMode::NODE {
                return Err(Error::invalid(format!(
                    "linux.security_context.namespace_options.{field}: the pod is not in the node's namespace, so the container cannot be"
                )));
            }
        }
        let pid = match self.pid {
            NamespaceMode::POD if pod.pid == NamespaceMode::NODE => NamespaceMode::NODE,
            own => own,
        };
        Ok(Modes { network: pod.network, ipc: pod.ipc, pid })
    }
}

/// The id map of a user namespace of the pod's own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdMap {
    /// Users.
    pub uids: Vec<IdMapping>,
    /// Groups.
    pub gids: Vec<IdMapping>,
}

/// Reads the modes; what makes no sense is refused by its field.
pub fn modes(options: &cri::NamespaceOption) -> Result<Modes> {
    const AT: &str = "linux.security_context.namespace_options";
    let known = |value: protobuf::EnumOrUnknown<NamespaceMode>, field: &str| {
        value.enum_value().map_err(|n| Error::invalid(format!("{AT}.{field}: unknown value {n}")))
    };
    let modes = Modes { network: known(options.network, "network")?, pid: known(options.pid, "pid")?, ipc: known(options.ipc, "ipc")? };
    for (mode, field) in [(modes.network, "network"), (modes.ipc, "ipc")] {
        if matches!(mode, NamespaceMode::CONTAINER | NamespaceMode::TARGET) {
            return Err(Error::invalid(format!("{AT}.{field}: {mode:?} is not supported, use POD or NODE")));
        }
    }
    if modes.pid == NamespaceMode::TARGET && options.target_id.is_empty() {
        return Err(Error::invalid(format!("{AT}.target_id: missing, pid mode TARGET needs a container's id")));
    }
    Ok(modes)
}

/// The id map, `None` for the node's user namespace. Exactly one line for users and one for groups.
pub fn id_map(options: &cri::NamespaceOption) -> Result<Option<IdMap>> {
    const AT: &str = "linux.security_context.namespace_options.userns_options";
    let Some(user) = options.userns_options.as_ref() else { return Ok(None) };
    let mode = user.mode.enum_value().map_err(|n| Error::invalid(format!("{AT}.mode: unknown value {n}")))?;
    match mode {
        NamespaceMode::NODE if user.uids.is_empty() && user.gids.is_empty() => Ok(None),
        NamespaceMode::NODE => Err(Error::invalid(format!("{AT}: mode NODE takes no mappings"))),
        NamespaceMode::POD => Ok(Some(IdMap { uids: line(&user.uids, "uids")?, gids: line(&user.gids, "gids")? })),
        other => Err(Error::invalid(format!("{AT}.mode: {other:?} is not supported, use POD or NODE"))),
    }
}

fn line(mappings: &[cri::IDMapping], field: &str) -> Result<Vec<IdMapping>> {
    let at = format!("linux.security_context.namespace_options.userns_options.{field}");
    let [one] = mappings else {
        return Err(Error::invalid(format!("{at}: exactly one mapping line is supported, got {}", mappings.len())));
    };
    if one.length < 1 {
        return Err(Error::invalid(format!("{at}: the mapping has length 0")));
    }
    if one.container_id != 0 {
        return Err(Error::invalid(format!(
            "{at}: the mapping starts with ID {} in the container, so that its root is not mapped",
            one.container_id
        )));
    }
    if one.host_id.checked_add(one.length - 1).is_none() || one.container_id.checked_add(one.length - 1).is_none() {
        return Err(Error::invalid(format!("{at}: the mapping goes past the last id")));
    }
    Ok(vec![IdMapping { container_id: one.container_id, host_id: one.host_id, size: one.length }])
}

/// Mappings of an id-mapped mount.
pub fn mount_map(mappings: &[cri::IDMapping]) -> Vec<IdMapping> {
    mappings.iter().map(|m| IdMapping { container_id: m.container_id, host_id: m.host_id, size: m.length }).collect()
}

fn entry(kind: &str, path: Option<&Path>) -> Namespace {
    Namespace { kind: kind.into(), path: path.map(|p| p.display().to_string()).unwrap_or_default() }
}

/// Of a sandbox: pinned ones are joined, others made, the node's are left out.
pub fn of_sandbox(modes: Modes, pins: &Pins, map: Option<&IdMap>) -> Vec<Namespace> {
    let mut list = Vec::new();
    if modes.pid != NamespaceMode::NODE {
        list.push(entry("pid", None));
    }
    if modes.ipc != NamespaceMode::NODE {
        list.push(entry("ipc", pins.ipc.as_deref()));
    }
    let own_network = modes.network != NamespaceMode::NODE;
    if own_network {
        list.push(entry("uts", pins.uts.as_deref()));
    }
    list.push(entry("mount", None));
    if own_network {
        list.push(entry("network", pins.net.as_deref()));
    }
    if map.is_some() {
        list.push(entry("user", pins.user.as_deref()));
    }
    list
}

/// What a container joins.
pub struct Joined<'a> {
    /// Pinned namespaces of its pod.
    pub pins: &'a Pins,
    /// The sandbox's process.
    pub sandbox_pid: u32,
    /// The process whose PID namespace is shared with mode TARGET.
    pub target_pid: Option<u32>,
    /// It gets a cgroup namespace of its own.
    pub own_cgroup: bool,
}

/// Of a container: those of its pod, by pin or by the sandbox's process; the node's are left out.
pub fn of_container(modes: Modes, joined: &Joined<'_>, map: Option<&IdMap>) -> Result<Vec<Namespace>> {
    let of = |pid: u32, name: &str| format!("/proc/{pid}/ns/{name}");
    let shared = |kind: &str, name: &str, pin: &Option<std::path::PathBuf>| Namespace {
        kind: kind.into(),
        path: pin.as_ref().map_or_else(|| of(joined.sandbox_pid, name), |p| p.display().to_string()),
    };
    let mut list = Vec::new();
    match modes.pid {
        NamespaceMode::CONTAINER => list.push(entry("pid", None)),
        NamespaceMode::POD => list.push(Namespace { kind: "pid".into(), path: of(joined.sandbox_pid, "pid") }),
        NamespaceMode::NODE => {}
        NamespaceMode::TARGET => {
            let pid = joined.target_pid.ok_or_else(|| {
                Error::precondition("linux.security_context.namespace_options.target_id: the target container does not run")
            })?;
            list.push(Namespace { kind: "pid".into(), path: of(pid, "pid") });
        }
    }
    if modes.ipc != NamespaceMode::NODE {
        list.push(shared("ipc", "ipc", &joined.pins.ipc));
    }
    if modes.network != NamespaceMode::NODE {
        list.push(shared("uts", "uts", &joined.pins.uts));
    }
    list.push(entry("mount", None));
    if modes.network != NamespaceMode::NODE {
        list.push(shared("network", "net", &joined.pins.net));
    }
    if joined.own_cgroup {
        list.push(entry("cgroup", None));
    }
    if map.is_some() {
        list.push(shared("user", "user", &joined.pins.user));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[Namespace]) -> Vec<String> {
        list.iter().map(|n| if n.path.is_empty() { n.kind.clone() } else { format!("{}={}", n.kind, n.path) }).collect()
    }

    const POD: Modes = Modes { network: NamespaceMode::POD, pid: NamespaceMode::POD, ipc: NamespaceMode::POD };
    const NODE: Modes = Modes { network: NamespaceMode::NODE, pid: NamespaceMode::NODE, ipc: NamespaceMode::NODE };

    #[test]
    fn sandbox_joins_pins_and_leaves_out_the_nodes() {
        let pins = Pins { net: Some("/n".into()), ipc: Some("/i".into()), uts: Some("/u".into()), user: None };
        assert_eq!(names(&of_sandbox(POD, &pins, None)), ["pid", "ipc=/i", "uts=/u", "mount", "network=/n"]);
        assert_eq!(names(&of_sandbox(NODE, &Pins::default(), None)), ["mount"]);
        let map = IdMap { uids: vec![], gids: vec![] };
        let pins = Pins { user: Some("/s".into()), ..Pins::default() };
        assert_eq!(names(&of_sandbox(NODE, &pins, Some(&map))), ["mount", "user=/s"]);
    }

    #[test]
    fn container_pid_mode_decides_whose_processes_it_sees() {
        let pins = Pins { net: Some("/n".into()), ..Pins::default() };
        let joined = |target_pid| Joined { pins: &pins, sandbox_pid: 7, target_pid, own_cgroup: true };
        let pid = |pid, target| names(&of_container(Modes { pid, ..POD }, &joined(target), None).unwrap())[0].clone();
        assert_eq!(pid(NamespaceMode::CONTAINER, None), "pid");
        assert_eq!(pid(NamespaceMode::POD, None), "pid=/proc/7/ns/pid");
        assert_eq!(pid(NamespaceMode::TARGET, Some(9)), "pid=/proc/9/ns/pid");
        assert_eq!(pid(NamespaceMode::NODE, None), "ipc=/proc/7/ns/ipc");
        assert!(of_container(Modes { pid: NamespaceMode::TARGET, ..POD }, &joined(None), None).is_err());
        assert_eq!(names(&of_container(NODE, &joined(None), None).unwrap()), ["mount", "cgroup"]);
    }

    #[test]
    fn the_pod_decides_what_its_containers_share() {
        assert_eq!(POD.inside(NODE).unwrap(), NODE);
        assert_eq!(POD.inside(POD).unwrap(), POD);
        let own = Modes { pid: NamespaceMode::CONTAINER, ..POD };
        assert_eq!(own.inside(NODE).unwrap(), Modes { pid: NamespaceMode::CONTAINER, ..NODE });
        assert!(NODE.inside(POD).unwrap_err().chain().contains("namespace_options.network"));
    }

    #[test]
    fn user_namespace_needs_exactly_one_line() {
        let one = cri::IDMapping { host_id: 65536, container_id: 0, length: 65536, ..Default::default() };
        let options = |mode: NamespaceMode, uids: &[cri::IDMapping], gids: &[cri::IDMapping]| {
            let user = cri::UserNamespace { mode: mode.into(), uids: uids.to_vec(), gids: gids.to_vec(), ..Default::default() };
            cri::NamespaceOption { userns_options: protobuf::MessageField::some(user), ..Default::default() }
        };
        assert_eq!(id_map(&cri::NamespaceOption::new()).unwrap(), None);
        assert_eq!(id_map(&options(NamespaceMode::NODE, &[], &[])).unwrap(), None);
        assert_eq!(
            id_map(&options(NamespaceMode::POD, std::slice::from_ref(&one), std::slice::from_ref(&one))).unwrap().unwrap().uids[0].size,
            65536
        );
        let zero = cri::IDMapping { length: 0, ..one.clone() };
        let past = cri::IDMapping { host_id: u32::MAX, ..one.clone() };
        let rootless = cri::IDMapping { container_id: 1, ..one.clone() };
        let bad: [(NamespaceMode, Vec<cri::IDMapping>, Vec<cri::IDMapping>); 7] = [
            (NamespaceMode::POD, vec![rootless], vec![one.clone()]),
            (NamespaceMode::NODE, vec![one.clone()], vec![]),
            (NamespaceMode::POD, vec![], vec![one.clone()]),
            (NamespaceMode::POD, vec![one.clone(), one.clone()], vec![one.clone()]),
            (NamespaceMode::POD, vec![zero], vec![one.clone()]),
            (NamespaceMode::POD, vec![one.clone()], vec![past]),
            (NamespaceMode::CONTAINER, vec![one.clone()], vec![one]),
        ];
        for (mode, uids, gids) in bad {
            assert!(id_map(&options(mode, &uids, &gids)).unwrap_err().chain().contains("userns_options"));
        }
    }
}
