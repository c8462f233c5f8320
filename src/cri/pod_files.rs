//! Pod files: a pod's hostname, hosts, resolv.conf and /dev/shm, made before its process.
use super::dirs;
use super::spec;
use super::store::sandbox::{id_map, namespaces};
use crate::error::{Context, Result};
use crate::proto::cri::{NamespaceMode, PodSandboxConfig};
use crate::sys::mount::{self, Mount};
use std::path::Path;

/// Size of a pod's /dev/shm, as containerd has it: 64 MiB.
const SHM_SIZE: &str = "65536k";

/// Writes them under `dir`.
pub fn write(dir: &Path, config: &PodSandboxConfig) -> Result<()> {
    dirs::make(dir)?;
    let (network, _, ipc) = namespaces(config);
    let hostname = match network {
        NamespaceMode::NODE => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        _ => config.hostname.clone(),
    };
    file(&dir.join("hostname"), &format!("{hostname}\n"))?;
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_else(|_| "127.0.0.1\tlocalhost\n::1\tlocalhost\n".into());
    file(&dir.join("hosts"), &hosts)?;
    let resolv = match config.dns_config.as_ref() {
        Some(dns) => spec::resolv_conf(dns)?,
        // The node's own; a node without one has a pod without one.
        None => std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
    };
    file(&dir.join("resolv.conf"), &resolv)?;
    // The root of a user namespace owns its files, as in any pod.
    let root = id_map(config).and_then(|map| map.root());
    if let Some((uid, gid)) = root {
        for name in ["hostname", "hosts", "resolv.conf"] {
            let path = dir.join(name);
            std::os::unix::fs::lchown(&path, Some(uid), Some(gid)).during(|| format!("give {} to the pod's root", path.display()))?;
        }
    }
    if ipc != NamespaceMode::NODE { shm(&dir.join("shm"), root) } else { Ok(()) }
}

fn file(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).during(|| format!("write {}", path.display()))?;
    // Read by any user of the pod, whatever our umask is.
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(path, readable).during(|| format!("set the mode of {}", path.display()))
}

fn shm(path: &Path, root: Option<(u32, u32)>) -> Result<()> {
    dirs::make(path)?;
    let fixed = ["nosuid", "nodev", "noexec", "mode=1777"].map(String::from).into_iter().chain([format!("size={SHM_SIZE}")]);
    let options = fixed.chain(root.map(|(uid, gid)| format!("uid={uid},gid={gid}"))).collect();
    let tmpfs = Mount { kind: "tmpfs".into(), source: "shm".into(), target: None, options };
    mount::mount(&tmpfs, path).during(|| format!("mount {}", path.display()))
}
