//! Mounts: the default table, what the pod shares with its containers, and the request's own, which win over both.
use super::actions::Action;
use super::host::{CgroupMode, Host, SelinuxContexts};
use super::namespaces::{Modes, mount_map};
use super::oci::Mount;
use super::options::Features;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::cri::{self, MountPropagation, NamespaceMode};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// How each error begins that the kubelet shall take for that of an image volume.
const IMAGE_FAILED: &str = "ImageVolumeMountFailed: ";

/// Never relabelled: other programs of the node would lose them (CVE-2021-43816).
const NOT_RELABELLED: [&str; 21] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/usr",
    "/var",
];

/// What `mount_options` may ask for: it takes rights away, and every kernel knows it.
const MOUNT_OPTIONS: [&str; 3] = ["noexec", "nodev", "nosuid"];

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.into(),
        kind: kind.into(),
        source: source.into(),
        options: options.iter().map(|s| s.to_string()).collect(),
        ..Mount::default()
    }
}

/// What every container has unless a mount of the request is there.
pub fn defaults() -> Vec<Mount> {
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ]
}

/// The cgroup filesystem; without a cgroup namespace the node's mount options must be said again, or it loses them.
pub fn cgroup(writable: bool, own_namespace: bool, host: &Host) -> Mount {
    // On v1, and without a namespace, it would be the node's whole tree.
    let access = if writable && own_namespace && host.cgroup == CgroupMode::Unified { "rw" } else { "ro" };
    let mut cgroup = mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]);
    if !own_namespace {
        cgroup.options.extend(host.cgroup_options.iter().cloned());
    }
    cgroup
}

/// In a user namespace a file system of a namespace that is the node's cannot be mounted anew: the node's own is bound, if it has
/// one.
pub fn bind_nodes_own(mounts: &mut Vec<Mount>, modes: Modes) {
    let bound = |at: &str, access: &str| mount(at, "bind", at, &["rbind", access, "nosuid", "nodev", "noexec"]);
    for one in mounts.iter_mut() {
        let node = |mode: NamespaceMode| mode == NamespaceMode::NODE;
        match one.destination.as_str() {
            "/sys" if node(modes.network) => *one = bound("/sys", "rro"),
            "/proc" if node(modes.pid) => *one = bound("/proc", "rw"),
            "/dev/mqueue" if node(modes.ipc) => *one = bound("/dev/mqueue", "rw"),
            _ => {}
        }
    }
    mounts.retain(|m| m.kind != "bind" || m.source != "/dev/mqueue" || Path::new("/dev/mqueue").exists());
}

/// A bind mount of ours into a sandbox. The flags are needed in a user namespace.
pub fn sandbox_bind(source: &Path, destination: &str) -> Mount {
    mount(destination, "bind", &source.display().to_string(), &["rbind", "ro", "nosuid", "nodev", "noexec"])
}

/// sysfs and cgroup of a privileged container can be written.
pub fn make_writable(mounts: &mut [Mount]) {
    for mount in mounts.iter_mut().filter(|m| m.kind == "sysfs" || m.kind == "cgroup") {
        for option in mount.options.iter_mut().filter(|o| *o == "ro") {
            *option = "rw".into();
        }
    }
}

/// An absolute path without `.`, `..` and double slashes; `..` does not climb above the root.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Refuses what cannot be mounted, by field.
pub fn check(mounts: &[cri::Mount], features: Option<Features>) -> Result<()> {
    for (at, m) in mounts.iter().enumerate() {
        let bad = |field: &str, why: &str| Err(Error::invalid(format!("mounts[{at}].{field}: {why}")));
        if m.container_path.is_empty() || m.container_path.contains('\0') || clean(&m.container_path) == "/" {
            return bad("container_path", &format!("{:?} is not a path that can be mounted on", m.container_path));
        }
        let propagation = m.propagation.enum_value();
        let Ok(propagation) = propagation else { return bad("propagation", "unknown value") };
        if m.image.is_some() {
            let bad = |field: &str, why: &str| Err(Error::invalid(format!("{IMAGE_FAILED}mounts[{at}].{field}: {why}")));
            if !m.host_path.is_empty() {
                return bad("host_path", "must be empty for an image volume");
            }
            if m.image.image.is_empty() {
                return bad("image.image", "is empty: name the image to mount");
            }
            if !m.readonly {
                return bad("readonly", "must be true for an image volume");
            }
            if m.image_sub_path.starts_with('/') || Path::new(&m.image_sub_path).components().any(|c| c == Component::ParentDir) {
                return bad("image_sub_path", &format!("{:?} leads out of the image", m.image_sub_path));
            }
        } else {
            if !m.host_path.starts_with('/') || m.host_path.contains('\0') {
                return bad("host_path", &format!("{:?} is not an absolute path", m.host_path));
            }
            if !m.image_sub_path.is_empty() {
                return bad("image_sub_path", "only for an image volume");
            }
        }
        if let Some(odd) = m.mount_options.iter().find(|o| !MOUNT_OPTIONS.contains(&o.as_str())) {
            return bad("mount_options", &format!("{odd:?} is none of {}", MOUNT_OPTIONS.join(", ")));
        }
        if m.recursive_read_only {
            if !m.readonly {
                return bad("recursive_read_only", "conflicts with a writable mount: set readonly");
            }
            if propagation != MountPropagation::PROPAGATION_PRIVATE {
                return bad("recursive_read_only", "needs private propagation");
            }
            if features.is_some_and(|f| !f.recursive_read_only) {
                return Err(Error::new(
                    Kind::Unknown,
                    format!(
                        "RROUnsupported: mounts[{at}].recursive_read_only: the runtime handler does not support it (host_path {:?})",
                        m.host_path
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// What the mounts of a container are made from.
pub struct Wanted<'a> {
    /// Defaults and the cgroup filesystem, or a base spec's.
    pub defaults: Vec<Mount>,
    /// The pod's files; the request's mounts win over them.
    pub shared: Vec<cri::Mount>,
    /// The request's.
    pub asked: &'a [cri::Mount],
    /// Where image volumes are mounted, by container path.
    pub images: &'a BTreeMap<String, PathBuf>,
    /// SELinux.
    pub selinux: Option<&'a SelinuxContexts>,
    /// Label of the container's files.
    pub label: &'a str,
    /// Of the runtime.
    pub features: Features,
}

/// The table, with what must be done before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// In the order of mounting.
    pub mounts: Vec<Mount>,
    /// What to do before.
    pub actions: Vec<Action>,
    /// Propagation of the root, if a mount needs one.
    pub rootfs_propagation: &'static str,
}

/// Makes the table.
pub fn table(wanted: Wanted<'_>, host: &Host) -> Result<Table> {
    check(wanted.asked, Some(wanted.features))?;
    let asked_at = |path: &str| wanted.asked.iter().any(|m| clean(&m.container_path) == clean(path));
    let mut all: Vec<&cri::Mount> = wanted.asked.iter().collect();
    all.extend(wanted.shared.iter().filter(|m| !asked_at(&m.container_path)));
    // Fewer parts first, so that a mount does not hide one beneath it; stable, so that the rest stays as asked.
    all.sort_by_key(|m| clean(&m.container_path).matches('/').count());
    let taken: Vec<String> = all.iter().map(|m| clean(&m.container_path)).collect();
    let own_dev = taken.iter().any(|t| t == "/dev");
    let mut table = Table::default();
    for default in wanted.defaults.iter() {
        let at = clean(&default.destination);
        let beneath_own = own_dev && at.starts_with("/dev/");
        if !beneath_own && !taken.contains(&at) {
            table.mounts.push(default.clone());
        }
    }
    let mut propagations = None;
    for m in all {
        let made = bind(m, &wanted, &mut table, host, &mut propagations)?;
        table.mounts.push(made);
    }
    Ok(table)
}

fn bind(m: &cri::Mount, wanted: &Wanted<'_>, table: &mut Table, host: &Host, read: &mut Option<Propagations>) -> Result<Mount> {
    let source = match m.image.as_ref() {
        Some(image) => wanted.images.get(&m.container_path).cloned().ok_or_else(|| {
            Error::new(Kind::Unknown, format!("{IMAGE_FAILED}image volume {:?} for {} is not mounted", image.image, m.container_path))
        })?,
        None => source(Path::new(&m.host_path), table)?,
    };
    let mut options = vec!["rbind"];
    match m.propagation.enum_value_or_default() {
        MountPropagation::PROPAGATION_PRIVATE => options.push("rprivate"),
        MountPropagation::PROPAGATION_BIDIRECTIONAL => {
            propagations(read, host)?.need(&source, Needed::Shared)?;
            options.push("rshared");
            table.rootfs_propagation = "rshared";
        }
        MountPropagation::PROPAGATION_HOST_TO_CONTAINER => {
            propagations(read, host)?.need(&source, Needed::SharedOrSlave)?;
            options.push("rslave");
            if table.rootfs_propagation.is_empty() {
                table.rootfs_propagation = "rslave";
            }
        }
    }
    options.push(match (m.readonly || m.image.is_some(), m.recursive_read_only) {
        (true, true) => "rro",
        (true, false) => "ro",
        (false, _) => "rw",
    });
    options.extend(m.mount_options.iter().map(String::as_str));
    if m.selinux_relabel && wanted.selinux.is_some() && !wanted.label.is_empty() {
        if NOT_RELABELLED.iter().any(|p| Path::new(p) == source) {
            return Err(Error::invalid(format!("mounts: SELinux relabeling of {} is not allowed", source.display())));
        }
        table.actions.push(Action::Relabel { path: source.clone(), label: wanted.label.to_owned() });
    }
    let mut made = mount(&clean(&m.container_path), "bind", &source.display().to_string(), &options);
    // What the pod mounted of an image has the right owners already.
    if m.image.is_none() {
        made.uid_mappings = mount_map(&m.uidMappings);
        made.gid_mappings = mount_map(&m.gidMappings);
    }
    if !made.uid_mappings.is_empty() && !wanted.features.id_mapped_mounts {
        return Err(Error::precondition(format!(
            "mounts: {} is to be id-mapped, which the runtime handler does not support",
            m.container_path
        )));
    }
    Ok(made)
}

/// The source with its links resolved; what is missing is to be made as a directory.
fn source(path: &Path, table: &mut Table) -> Result<PathBuf> {
    match std::fs::canonicalize(path) {
        Ok(real) => Ok(real),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            if path.symlink_metadata().is_ok() {
                return Err(Error::precondition(format!("mounts: host_path {} is a link to nowhere", path.display())));
            }
            let (parent, name) =
                path.parent().zip(path.file_name()).ok_or_else(|| Error::invalid(format!("mounts: host_path {}", path.display())))?;
            // The nearest directory that exists, resolved, and the rest below it.
            let real = source(parent, &mut Table::default())?.join(name);
            table.actions.push(Action::CreateDir(real.clone()));
            Ok(real)
        }
        Err(e) => Err(e).during(|| format!("mounts: host_path {}", path.display())),
    }
}

enum Needed {
    Shared,
    SharedOrSlave,
}

/// Mount points of this process and their optional fields (`shared:1 master:2`).
struct Propagations(Vec<(PathBuf, String)>);

fn propagations<'a>(read: &'a mut Option<Propagations>, host: &Host) -> Result<&'a Propagations> {
    if read.is_none() {
        let text = std::fs::read_to_string(&host.mountinfo).during(|| format!("read {}", host.mountinfo.display()))?;
        *read = Some(Propagations::parse(&text));
    }
    read.as_ref().ok_or_else(|| Error::internal("mount table"))
}

impl Propagations {
    fn parse(text: &str) -> Propagations {
        let line = |l: &str| {
            let (head, _) = l.split_once(" - ")?;
            let fields: Vec<&str> = head.split(' ').collect();
            Some((PathBuf::from(unescape(fields.get(4)?)), fields.get(6..)?.join(" ")))
        };
        Propagations(text.lines().filter_map(line).collect())
    }

    fn need(&self, path: &Path, needed: Needed) -> Result<()> {
        // The last of the deepest: later mounts cover earlier ones.
        let found = self.0.iter().filter(|(at, _)| path.starts_with(at)).max_by_key(|(at, _)| at.components().count());
        let Some((at, fields)) = found else { return Err(Error::precondition(format!("mounts: no mount holds {}", path.display()))) };
        let has = |tag: &str| fields.split(' ').any(|f| f.starts_with(tag));
        let (fits, what) = match needed {
            Needed::Shared => (has("shared:"), "shared"),
            Needed::SharedOrSlave => (has("shared:") || has("master:"), "shared or slave"),
        };
        if fits {
            return Ok(());
        }
        Err(Error::precondition(format!(
            "mounts: path {:?} is mounted on {:?} but it is not a {what} mount",
            path.display().to_string(),
            at.display().to_string()
        )))
    }
}

/// The kernel writes space, tab, line break and backslash as octal numbers.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests;
