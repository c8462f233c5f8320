//! Host: what a spec has from the node, and what cannot be compared where the node is another one than the reference's, which had
//! cgroup v1 on x86-64, and neither AppArmor nor SELinux.
use std::path::Path;

/// Whether every field is compared.
pub fn like_reference() -> bool {
    cgroup_v1() && cfg!(target_arch = "x86_64") && !apparmor()
}

/// Whether this host makes of the request what the reference's did.
pub fn has_answer(request: &str) -> bool {
    cgroup_v1() || request != "resources-unified"
}

/// Whether a field is free of the host.
pub fn comparable(field: &str) -> bool {
    let of_cgroups = field == "linux.namespaces[cgroup]" || field == "linux.resources.memory.swap";
    (cgroup_v1() || !of_cgroups)
        && (cfg!(target_arch = "x86_64") || !field.starts_with("linux.seccomp."))
        && (!apparmor() || field != "process.apparmorProfile")
}

/// The daemon's own score, below which none is to be, is 0 there.
pub fn oom_score(score: i64) -> i64 {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    if own.trim() == score.to_string() { 0 } else { score }
}

fn cgroup_v1() -> bool {
    !Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn apparmor() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}
