//! Facts about this machine that a spec depends on, found out once.
use super::capabilities;
use crate::error::{Context, Result};
use rustix::fs::StatVfs;
use std::fs;
use std::path::{Path, PathBuf};

/// Which cgroup hierarchy limits containers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CgroupMode {
    /// Controllers on v1, with or without an empty v2 beside them.
    Legacy,
    /// v2 alone.
    Unified,
}

/// SELinux contexts of the loaded policy.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SelinuxContexts {
    /// Of container processes.
    pub process: String,
    /// Of their files.
    pub file: String,
}

/// What this machine can do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// Cgroup hierarchy.
    pub cgroup: CgroupMode,
    /// The kernel filters system calls.
    pub seccomp: bool,
    /// AppArmor is in force and profiles can be loaded.
    pub apparmor: bool,
    /// There is a program that loads profiles.
    pub apparmor_parser: bool,
    /// Where the loaded profiles are listed.
    pub apparmor_profiles: PathBuf,
    /// SELinux is in force, and its policy says these contexts.
    pub selinux: Option<SelinuxContexts>,
    /// Capabilities that this process has (`CAP_…`).
    pub capabilities: Vec<String>,
    /// Highest capability number of the kernel.
    pub last_cap: u8,
    /// Major and minor.
    pub kernel: (u32, u32),
    /// May lower oom_score_adj and raise rlimits.
    pub cap_sys_resource: bool,
    /// This process's own oom_score_adj: the floor without CAP_SYS_RESOURCE.
    pub oom_score_adj: i32,
    /// Huge pages can be limited.
    pub hugetlb: bool,
    /// Swap can be limited.
    pub swap: bool,
    /// resctrl is mounted.
    pub rdt: bool,
    /// Where it is.
    pub resctrl: PathBuf,
    /// The file of block I/O classes, where the config names one.
    pub blockio_config: Option<PathBuf>,
    /// `nsdelegate` and such that a cgroup2 mount without a cgroup namespace must repeat, or they are lost for the host.
    pub cgroup_options: Vec<String>,
    /// Host name, for pods that share it.
    pub hostname: String,
    /// Mount table, read only when a mount wants propagation.
    pub mountinfo: PathBuf,
    /// Device directory.
    pub dev: PathBuf,
}

impl Host {
    /// Looks at this machine.
    pub fn probe() -> Result<Host> {
        let status = fs::read_to_string("/proc/self/status").during(|| "read /proc/self/status")?;
        let set = |key| field(&status, key).and_then(|v| u64::from_str_radix(v, 16).ok()).unwrap_or(0);
        // What it may have and hand on.
        let able = set("CapPrm:") & set("CapBnd:");
        let last_cap = number("/proc/sys/kernel/cap_last_cap").unwrap_or(capabilities::LAST) as u8;
        let capabilities = capabilities::names(able, last_cap);
        let uname = rustix::system::uname();
        let cgroup = cgroup_mode(Path::new("/sys/fs/cgroup"));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Ok(Host {
            cgroup,
            seccomp: field(&status, "Seccomp:").is_some(),
            apparmor: apparmor(),
            apparmor_parser: ["/sbin", "/usr/sbin", "/bin", "/usr/bin"].iter().any(|d| Path::new(d).join("apparmor_parser").exists()),
            apparmor_profiles: PathBuf::from("/sys/kernel/security/apparmor/profiles"),
            selinux: selinux(Path::new("/sys/fs/selinux"), Path::new("/etc/selinux")),
            cap_sys_resource: capabilities.iter().any(|c| c == "CAP_SYS_RESOURCE"),
            capabilities,
            last_cap,
            kernel: kernel(&uname.release().to_string_lossy()),
            oom_score_adj: number("/proc/self/oom_score_adj").unwrap_or(0) as i32,
            hugetlb: hugetlb(cgroup),
            swap: swap(cgroup),
            rdt: Path::new("/sys/fs/resctrl/schemata").exists(),
            resctrl: PathBuf::from("/sys/fs/resctrl"),
            blockio_config: None,
            cgroup_options: cgroup_options(&mounts),
            hostname: uname.nodename().to_string_lossy().into_owned(),
            mountinfo: PathBuf::from("/proc/self/mountinfo"),
            dev: PathBuf::from("/dev"),
        })
    }

    /// A plain cgroup v2 machine with every capability, for tests of pure code.
    pub fn plain() -> Host {
        Host {
            cgroup: CgroupMode::Unified,
            seccomp: true,
            apparmor: false,
            apparmor_parser: false,
            apparmor_profiles: PathBuf::new(),
            selinux: None,
            capabilities: capabilities::names(u64::MAX, capabilities::LAST as u8),
            last_cap: capabilities::LAST as u8,
            kernel: (6, 12),
            cap_sys_resource: true,
            oom_score_adj: 0,
            hugetlb: true,
            swap: true,
            rdt: false,
            resctrl: PathBuf::from("/sys/fs/resctrl"),
            blockio_config: None,
            cgroup_options: Vec::new(),
            hostname: "node".into(),
            mountinfo: PathBuf::from("/proc/self/mountinfo"),
            dev: PathBuf::from("/dev"),
        }
    }
}

fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|l| l.strip_prefix(key)).map(str::trim)
}

fn number(path: &str) -> Option<i64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn kernel(release: &str) -> (u32, u32) {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|p| p.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// CGROUP2_SUPER_MAGIC of linux/magic.h.
const CGROUP2_MAGIC: rustix::fs::FsWord = 0x6367_7270;

fn cgroup_mode(root: &Path) -> CgroupMode {
    match rustix::fs::statfs(root) {
        Ok(fs) if fs.f_type == CGROUP2_MAGIC => CgroupMode::Unified,
        _ => CgroupMode::Legacy,
    }
}

fn apparmor() -> bool {
    let on = fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|v| v.starts_with('Y'));
    on && Path::new("/sys/kernel/security/apparmor").exists()
}

fn selinux(mount: &Path, etc: &Path) -> Option<SelinuxContexts> {
    let read_only = rustix::fs::statvfs(mount).map(|s: StatVfs| s.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY)).ok()?;
    if read_only || !mount.join("enforce").exists() {
        return None;
    }
    let config = fs::read_to_string(etc.join("config")).unwrap_or_default();
    let policy = field(&config, "SELINUXTYPE=").unwrap_or("targeted");
    let text = fs::read_to_string(etc.join(policy).join("contexts/lxc_contexts")).unwrap_or_default();
    Some(contexts(&text))
}

/// `process = "system_u:system_r:container_t:s0"` lines of lxc_contexts.
fn contexts(text: &str) -> SelinuxContexts {
    let value = |key: &str| {
        text.lines().filter_map(|l| l.split_once('=')).find(|(k, _)| k.trim() == key).map(|(_, v)| v.trim().trim_matches('"').to_owned())
    };
    SelinuxContexts {
        process: value("process").unwrap_or_else(|| "system_u:system_r:container_t:s0".into()),
        file: value("file").unwrap_or_else(|| "system_u:object_r:container_file_t:s0".into()),
    }
}

fn hugetlb(mode: CgroupMode) -> bool {
    match mode {
        CgroupMode::Legacy => Path::new("/sys/fs/cgroup/hugetlb").is_dir(),
        CgroupMode::Unified => {
            fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").is_ok_and(|c| c.split_whitespace().any(|c| c == "hugetlb"))
        }
    }
}

fn swap(mode: CgroupMode) -> bool {
    match mode {
        CgroupMode::Legacy => Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists(),
        CgroupMode::Unified => {
            // The root cgroup has no memory.swap.max: look at our own.
            let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
            let own = field(&own, "0::").unwrap_or("/").trim_start_matches('/').to_owned();
            Path::new("/sys/fs/cgroup").join(own).join("memory.swap.max").exists()
        }
    }
}

fn cgroup_options(mountinfo: &str) -> Vec<String> {
    let Some(line) = mountinfo.lines().rfind(|l| l.split(' ').nth(4) == Some("/sys/fs/cgroup")) else { return Vec::new() };
    let Some((_, tail)) = line.split_once(" - ") else { return Vec::new() };
    let options = tail.split(' ').nth(2).unwrap_or_default();
    options.split(',').filter(|o| matches!(*o, "nsdelegate" | "memory_recursiveprot")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_works_on_this_machine() {
        let host = Host::probe().unwrap();
        assert!(host.kernel.0 >= 4 && host.last_cap >= 37 && host.seccomp);
    }

    #[test]
    fn facts_are_read_from_their_files() {
        assert_eq!(kernel("6.18.5+deb13-amd64"), (6, 18));
        assert_eq!(
            cgroup_options("30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot"),
            ["nsdelegate", "memory_recursiveprot"]
        );
        assert_eq!(contexts("process = \"a:b:c:s0\"\nfile = \"d:e:f:s0\"\n").file, "d:e:f:s0");
    }
}
