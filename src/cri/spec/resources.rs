//! Resources: limits, and the cgroup that they apply to.
use super::Host;
use crate::error::{Error, Result};
use crate::proto::cri::LinuxContainerResources as Asked;
use oci_spec::runtime::{LinuxCpu, LinuxDeviceCgroup, LinuxHugepageLimit, LinuxMemory, LinuxResources};

/// Where a cgroup goes whose pod names no parent.
const DEFAULT_PARENT: &str = "/k8s.io";

/// A container's cgroup as runtimes take it: a path, or slice, prefix and name for systemd.
pub fn cgroup_path(parent: &str, id: &str, systemd: bool) -> String {
    if systemd {
        let slice = parent.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        return format!("{slice}:cri-containerd:{id}");
    }
    let parent = if parent.is_empty() { DEFAULT_PARENT } else { parent.trim_end_matches('/') };
    let root = if parent.starts_with('/') { "" } else { "/" };
    format!("{root}{parent}/{id}")
}

/// The limits of a new container: all devices shut but for those that runtimes open by themselves, and for `devices`.
pub fn of_container(asked: &Asked, devices: Vec<LinuxDeviceCgroup>, host: &Host) -> Result<LinuxResources> {
    let mut none = LinuxResources::default();
    none.set_devices(Some(devices));
    update_resources(&none, asked, host)
}

/// All devices shut, or all open.
pub fn all_devices(allow: bool) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow).set_access(Some("rwm".into()));
    rule
}

/// Limits with those set that are asked for; what is zero or empty in the request stays as it is.
pub fn update_resources(current: &LinuxResources, asked: &Asked, host: &Host) -> Result<LinuxResources> {
    check(asked)?;
    let mut all = current.clone();
    cpu(&mut all, asked);
    memory(&mut all, asked, host);
    if host.hugetlb && !asked.hugepage_limits.is_empty() {
        let limits = asked.hugepage_limits.iter().map(|asked| {
            let mut limit = LinuxHugepageLimit::default();
            limit.set_page_size(asked.page_size.clone()).set_limit(i64::try_from(asked.limit).unwrap_or(i64::MAX));
            limit
        });
        all.set_hugepage_limits(Some(limits.collect()));
    }
    if !asked.unified.is_empty() {
        let mut unified = all.unified().clone().unwrap_or_default();
        unified.extend(asked.unified.clone());
        all.set_unified(Some(unified));
    }
    Ok(all)
}

/// Checks what no kernel would take.
pub fn check(asked: &Asked) -> Result<()> {
    let least = [("cpu_period", asked.cpu_period, 0), ("cpu_shares", asked.cpu_shares, 0), ("cpu_quota", asked.cpu_quota, -1)];
    // -1 is "no limit".
    let memory =
        [("memory_limit_in_bytes", asked.memory_limit_in_bytes, -1), ("memory_swap_limit_in_bytes", asked.memory_swap_limit_in_bytes, -1)];
    if let Some((field, value, _)) = least.iter().chain(&memory).find(|(_, value, least)| value < least) {
        return Err(Error::invalid(format!("resources.{field}: {value} is too small")));
    }
    if !(-1000..=1000).contains(&asked.oom_score_adj) {
        return Err(Error::invalid(format!("resources.oom_score_adj: {} is not between -1000 and 1000", asked.oom_score_adj)));
    }
    for (field, list) in [("cpuset_cpus", &asked.cpuset_cpus), ("cpuset_mems", &asked.cpuset_mems)] {
        if !list.chars().all(|c| c.is_ascii_digit() || ",-".contains(c)) {
            return Err(Error::invalid(format!("resources.{field}: \"{list}\" is no list of numbers and ranges")));
        }
    }
    if let Some(key) = asked.unified.keys().find(|k| k.is_empty() || k.contains('/') || k.contains('\n')) {
        return Err(Error::invalid(format!("resources.unified: \"{key}\" is no file of a cgroup")));
    }
    Ok(())
}

fn cpu(all: &mut LinuxResources, asked: &Asked) {
    let mut cpu: LinuxCpu = all.cpu().clone().unwrap_or_default();
    let before = cpu.clone();
    if asked.cpu_shares != 0 {
        cpu.set_shares(u64::try_from(asked.cpu_shares).ok());
    }
    if asked.cpu_period != 0 {
        cpu.set_period(u64::try_from(asked.cpu_period).ok());
    }
    if asked.cpu_quota != 0 {
        cpu.set_quota(Some(asked.cpu_quota));
    }
    if !asked.cpuset_cpus.is_empty() {
        cpu.set_cpus(Some(asked.cpuset_cpus.clone()));
    }
    if !asked.cpuset_mems.is_empty() {
        cpu.set_mems(Some(asked.cpuset_mems.clone()));
    }
    if cpu != before {
        all.set_cpu(Some(cpu));
    }
}

/// Without a word about swap there is none: memory and swap together are limited to what memory alone may be.
fn memory(all: &mut LinuxResources, asked: &Asked, host: &Host) {
    let (limit, swap) = (asked.memory_limit_in_bytes, asked.memory_swap_limit_in_bytes);
    if limit == 0 && swap == 0 {
        return;
    }
    let mut memory: LinuxMemory = all.memory().unwrap_or_default();
    if limit != 0 {
        memory.set_limit(Some(limit));
    }
    if host.swap {
        memory.set_swap(Some(if swap != 0 { swap } else { limit }));
    }
    all.set_memory(Some(memory));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::cri::HugepageLimit;

    #[test]
    fn paths() {
        assert_eq!(cgroup_path("/kubepods/pod1", "c", false), "/kubepods/pod1/c");
        assert_eq!(cgroup_path("kubepods/pod1/", "c", false), "/kubepods/pod1/c");
        assert_eq!(cgroup_path("", "c", false), "/k8s.io/c");
        assert_eq!(cgroup_path("/kubepods.slice/kubepods-pod1.slice", "c", true), "kubepods-pod1.slice:cri-containerd:c");
        assert_eq!(cgroup_path("", "c", true), ":cri-containerd:c");
    }

    #[test]
    fn updates_keep_what_is_not_asked_for() {
        let host = Host::for_tests();
        let asked = Asked { cpu_shares: 512, cpu_quota: 50_000, cpu_period: 100_000, memory_limit_in_bytes: 1 << 20, ..Asked::default() };
        let first = of_container(&asked, vec![all_devices(false)], &host).unwrap();
        let memory = first.memory().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(1 << 20), Some(1 << 20)));
        let limit = HugepageLimit { page_size: "2MB".into(), limit: u64::MAX, ..HugepageLimit::default() };
        let asked =
            Asked { cpu_shares: 2, hugepage_limits: vec![limit], unified: [("memory.high".into(), "1".into())].into(), ..Asked::default() };
        let second = update_resources(&first, &asked, &host).unwrap();
        let cpu = second.cpu().clone().unwrap();
        assert_eq!((cpu.shares(), cpu.quota(), cpu.period()), (Some(2), Some(50_000), Some(100_000)));
        assert_eq!((second.memory(), second.devices()), (first.memory(), first.devices()));
        assert_eq!(second.hugepage_limits().as_ref().unwrap()[0].limit(), i64::MAX);
        assert_eq!(second.unified().as_ref().unwrap()["memory.high"], "1");
        let poor = Host { swap: false, hugetlb: false, ..host };
        let third = of_container(&Asked { memory_limit_in_bytes: 5, ..asked }, vec![], &poor).unwrap();
        assert_eq!((third.memory().unwrap().swap(), third.hugepage_limits()), (None, &None));
    }

    #[test]
    fn refused() {
        let bad = [
            Asked { cpu_shares: -1, ..Asked::default() },
            Asked { cpu_quota: -2, ..Asked::default() },
            Asked { memory_limit_in_bytes: -2, ..Asked::default() },
            Asked { oom_score_adj: 1001, ..Asked::default() },
            Asked { cpuset_cpus: "0;1".into(), ..Asked::default() },
            Asked { unified: [("../memory.max".to_string(), "1".to_string())].into(), ..Asked::default() },
        ];
        for asked in &bad {
            assert!(check(asked).unwrap_err().chain().starts_with("resources."), "{asked:?}");
        }
        check(&Asked { cpu_quota: -1, memory_limit_in_bytes: -1, cpuset_cpus: "0-1,3".into(), ..Asked::default() }).unwrap();
    }
}
