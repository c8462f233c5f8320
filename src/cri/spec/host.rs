//! Host: facts about the node that specs depend on, found once.
use super::capabilities;
use oci_spec::runtime::Capability;
use std::collections::HashSet;
use std::path::Path;

/// Which cgroup hierarchy limits resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cgroups {
    /// One directory a controller.
    V1,
    /// The unified one.
    V2,
}

/// Facts about the node.
#[derive(Clone, Debug)]
pub struct Host {
    /// The hierarchy.
    pub cgroups: Cgroups,
    /// All that the daemon may give away.
    pub capabilities: HashSet<Capability>,
    /// The daemon's own OOM score.
    pub oom_score_adj: i32,
    /// The daemon may lower OOM scores.
    pub lowers_oom_score: bool,
    /// The cgroups count swap.
    pub swap: bool,
    /// The cgroups count huge pages.
    pub hugetlb: bool,
    /// AppArmor profiles that are loaded; none without AppArmor.
    pub apparmor: Option<HashSet<String>>,
    /// SELinux labels are in use.
    pub selinux: bool,
    /// Trees can be mounted read-only as a whole.
    pub recursive_read_only: bool,
    /// `/proc/self/mountinfo`'s name, a file of its own in tests.
    pub mountinfo: std::path::PathBuf,
    /// The node's name.
    pub hostname: String,
}

impl Host {
    /// Looks at this node.
    pub fn probe() -> Host {
        let cgroups = cgroups();
        let capabilities = capabilities::of_this_process();
        let lowers_oom_score = capabilities.contains(&Capability::SysResource);
        Host {
            cgroups,
            capabilities,
            oom_score_adj: first_line("/proc/self/oom_score_adj").parse().unwrap_or(0),
            lowers_oom_score,
            swap: swap(cgroups),
            hugetlb: match cgroups {
                Cgroups::V1 => Path::new("/sys/fs/cgroup/hugetlb").is_dir(),
                Cgroups::V2 => first_line("/sys/fs/cgroup/cgroup.controllers").split(' ').any(|c| c == "hugetlb"),
            },
            apparmor: apparmor(),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            recursive_read_only: kernel() >= (5, 12),
            mountinfo: "/proc/self/mountinfo".into(),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        }
    }
    /// A node with everything, for tests.
    #[cfg(test)]
    pub fn for_tests() -> Host {
        Host {
            cgroups: Cgroups::V2,
            capabilities: capabilities::all(),
            oom_score_adj: 0,
            lowers_oom_score: true,
            swap: true,
            hugetlb: true,
            apparmor: None,
            selinux: false,
            recursive_read_only: true,
            mountinfo: "/proc/self/mountinfo".into(),
            hostname: "node".into(),
        }
    }
    /// An OOM score that can be set from here; a lower one than the daemon may give becomes its own.
    pub fn oom_score(&self, asked: i32, restrict: bool) -> i32 {
        if restrict || !self.lowers_oom_score { asked.max(self.oom_score_adj) } else { asked }
    }
}

fn first_line(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().lines().next().unwrap_or_default().trim().to_string()
}

fn cgroups() -> Cgroups {
    const CGROUP2_SUPER_MAGIC: u32 = 0x6367_7270;
    match rustix::fs::statfs("/sys/fs/cgroup") {
        Ok(found) if u32::try_from(found.f_type) == Ok(CGROUP2_SUPER_MAGIC) => Cgroups::V2,
        _ => Cgroups::V1,
    }
}

fn swap(cgroups: Cgroups) -> bool {
    match cgroups {
        Cgroups::V1 => Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists(),
        // The root has no such file; a daemon that runs in the root believes that its children have.
        Cgroups::V2 => match first_line("/proc/self/cgroup").trim_start_matches("0::/") {
            "" => true,
            own => Path::new("/sys/fs/cgroup").join(own).join("memory.swap.max").exists(),
        },
    }
}

fn apparmor() -> Option<HashSet<String>> {
    if !first_line("/sys/module/apparmor/parameters/enabled").starts_with('Y') {
        return None;
    }
    let loaded = std::fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap_or_default();
    Some(loaded.lines().filter_map(|line| Some(line.rsplit_once(" (")?.0.to_string())).collect())
}

fn kernel() -> (u32, u32) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oom_scores_stay_settable() {
        let mut host = Host::for_tests();
        assert_eq!(host.oom_score(-998, false), -998);
        assert_eq!(host.oom_score(-998, true), 0);
        host.lowers_oom_score = false;
        host.oom_score_adj = 100;
        assert_eq!(host.oom_score(-998, false), 100);
        assert_eq!(host.oom_score(500, false), 500);
    }
}
