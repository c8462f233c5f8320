//! What is left of a daemon: mounts, namespaces, cgroups, processes, network. Looks only at what is that daemon's.
use super::Daemon;
use super::daemon::signal;
use std::path::{Path, PathBuf};

/// All that is left, one line each.
pub fn of(daemon: &Daemon) -> Vec<String> {
    // The directory of pinned namespaces stays a mount point, as /run/netns does for everyone.
    let of_daemon = mounts(&daemon.dir).into_iter().filter(|m| !m.ends_with("netns"));
    let mut left: Vec<String> = of_daemon.map(|m| format!("mount {}", m.display())).collect();
    left.extend(processes(daemon).into_iter().map(|(pid, what)| format!("process {pid} ({what})")));
    left.extend(cgroups(daemon).into_iter().map(|c| format!("cgroup {}", c.display())));
    left.extend(network(daemon));
    for sub in ["netns", "sandboxes", "containers", "../io.containerd.runtime.v2.task/k8s.io"] {
        let sub = format!("state/io.containerd.grpc.v1.cri/{sub}");
        left.extend(entries(&daemon.path(&sub)).into_iter().map(|p| format!("file {}", p.display())));
    }
    left
}

/// Removes it all, after a failure: the next story shall not suffer.
pub fn sweep(daemon: &Daemon) {
    for (pid, _) in processes(daemon) {
        signal_if_there(pid);
    }
    for mount in mounts(&daemon.dir).iter().rev() {
        let _ = super::run("umount", &["-l", &mount.display().to_string()]);
    }
    forget(daemon);
}

/// Removes what we made ourselves.
pub fn forget(daemon: &Daemon) {
    let _ = super::run("ip", &["link", "delete", &daemon.net.name]);
    for cgroup in cgroup_roots(daemon) {
        let _ = std::fs::remove_dir(cgroup);
    }
    let _ = super::run("umount", &[&daemon.path("state/io.containerd.grpc.v1.cri/netns").display().to_string()]);
    if mounts(&daemon.dir).is_empty() {
        let _ = std::fs::remove_dir_all(&daemon.dir);
    }
}

/// Whether a shim of this daemon runs.
pub fn any_shim(dir: &Path) -> bool {
    !with_cmdline(dir).is_empty()
}

fn signal_if_there(pid: u32) {
    if Path::new(&format!("/proc/{pid}")).exists() {
        signal(pid, "KILL");
    }
}

/// Mount points under a directory.
pub fn mounts(dir: &Path) -> Vec<PathBuf> {
    let info = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    info.lines().filter_map(|l| l.split(' ').nth(4)).map(PathBuf::from).filter(|p| p.starts_with(dir)).collect()
}

/// Processes that name the directory in their arguments: shims, runtimes, plugins.
fn with_cmdline(dir: &Path) -> Vec<(u32, String)> {
    let dir = dir.display().to_string();
    each_process(|base| {
        let line = String::from_utf8_lossy(&std::fs::read(base.join("cmdline")).unwrap_or_default()).replace('\0', " ");
        // A longer directory name may begin with ours.
        let ours = line.match_indices(&dir).any(|(at, _)| !line[at + dir.len()..].starts_with(|c: char| c.is_ascii_digit()));
        ours.then(|| line.trim().to_string())
    })
}

/// Shims of the daemon, and what is in the cgroups of its pods.
pub fn processes(daemon: &Daemon) -> Vec<(u32, String)> {
    let mut all = with_cmdline(&daemon.dir);
    let below = format!("{}/", daemon.cgroup_parent);
    all.extend(each_process(|base| {
        let cgroups = std::fs::read_to_string(base.join("cgroup")).unwrap_or_default();
        cgroups.contains(&below).then(|| format!("{} in {below}", std::fs::read_to_string(base.join("comm")).unwrap_or_default().trim()))
    }));
    all.sort();
    all.dedup_by_key(|(pid, _)| *pid);
    all
}

fn each_process(look: impl Fn(&Path) -> Option<String>) -> Vec<(u32, String)> {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let own = std::process::id();
    entries
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own)
        .filter_map(|pid| Some((pid, look(Path::new(&format!("/proc/{pid}")))?)))
        .collect()
}

/// The cgroup parent in each hierarchy that has it.
fn cgroup_roots(daemon: &Daemon) -> Vec<PathBuf> {
    let relative = daemon.cgroup_parent.trim_start_matches('/');
    let mut roots = entries(Path::new("/sys/fs/cgroup"));
    roots.push("/sys/fs/cgroup".into());
    roots.into_iter().map(|r| r.join(relative)).filter(|p| p.is_dir()).collect()
}

/// Cgroups below the parent.
fn cgroups(daemon: &Daemon) -> Vec<PathBuf> {
    cgroup_roots(daemon).iter().flat_map(|root| entries(root)).filter(|p| p.is_dir()).collect()
}

fn network(daemon: &Daemon) -> Vec<String> {
    let mut left = vec![];
    let ports = super::run("ip", &["-o", "link", "show", "master", &daemon.net.name]);
    left.extend(String::from_utf8_lossy(&ports.stdout).lines().map(|l| format!("veth {l}")));
    let leases = entries(&daemon.path("ipam").join(&daemon.net.name));
    let is_ip = |p: &PathBuf| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(&daemon.net.prefix));
    left.extend(leases.into_iter().filter(is_ip).map(|p| format!("IP lease {}", p.display())));
    let rules = super::run("iptables-save", &[]);
    let ours = format!("\"{}\"", daemon.net.name);
    let rules = String::from_utf8_lossy(&rules.stdout).replace('\\', "");
    left.extend(rules.lines().filter(|l| l.contains(&ours)).map(|l| format!("rule {l}")));
    left
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).map(|all| all.filter_map(Result::ok).map(|e| e.path()).collect()).unwrap_or_default()
}
