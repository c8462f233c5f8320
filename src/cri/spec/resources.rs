//! Cgroup limits, oom_score_adj and the cgroup's path.
use super::host::{CgroupMode, Host};
use super::oci::{Cpu, HugepageLimit, Memory, Resources};
use crate::config::CriRuntime;
use crate::error::{Error, Result};
use crate::proto::cri;

/// CPU weight of a pod's own process, as containerd has it.
pub const SANDBOX_SHARES: u64 = 2;
/// oom_score_adj of a pod's own process: the last to die.
pub const SANDBOX_OOM: i32 = -998;

/// `/parent/id`, or `slice:cri-containerd:id` for systemd.
pub fn cgroup_path(parent: &str, id: &str, systemd: bool) -> String {
    // The handler's flag decides, not the parent's name: a runtime without systemd would take the colons for a path.
    if systemd {
        let base = parent.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        // Without a slice runtimes take system.slice.
        let slice = if base.ends_with(".slice") { base } else { "" };
        return format!("{slice}:cri-containerd:{id}");
    }
    let parent = if parent.is_empty() { "/k8s.io" } else { parent };
    format!("/{}/{id}", parent.trim_matches('/')).replace("//", "/")
}

/// Refuses a parent that leads elsewhere.
pub fn check_cgroup_parent(parent: &str) -> Result<()> {
    if parent.split('/').any(|p| p == "..") || parent.contains(['\0', '\n', ':']) {
        return Err(Error::invalid(format!("linux.cgroup_parent: {parent:?} is not a cgroup")));
    }
    Ok(())
}

/// Refuses values that no cgroup takes; `at` is the field's place in the request.
pub fn check(asked: &cri::LinuxContainerResources, at: &str) -> Result<()> {
    let bad = |field: &str, why: String| Err(Error::invalid(format!("{at}.{field}: {why}")));
    if asked.cpu_period != 0 && !(1000..=1_000_000).contains(&asked.cpu_period) {
        return bad("cpu_period", format!("{} is not in 1000..=1000000 µs", asked.cpu_period));
    }
    if asked.cpu_quota > 0 && asked.cpu_quota < 1000 {
        return bad("cpu_quota", format!("{} is less than 1000 µs", asked.cpu_quota));
    }
    if asked.cpu_quota < -1 {
        return bad("cpu_quota", format!("{} is neither -1 nor a time", asked.cpu_quota));
    }
    if asked.cpu_shares < 0 {
        return bad("cpu_shares", format!("{} is negative", asked.cpu_shares));
    }
    if !(-1000..=1000).contains(&asked.oom_score_adj) {
        return bad("oom_score_adj", format!("{} is not in -1000..=1000", asked.oom_score_adj));
    }
    for (value, field) in
        [(asked.memory_limit_in_bytes, "memory_limit_in_bytes"), (asked.memory_swap_limit_in_bytes, "memory_swap_limit_in_bytes")]
    {
        if value < -1 {
            return bad(field, format!("{value} is neither -1 nor a size"));
        }
    }
    let (limit, swap) = (asked.memory_limit_in_bytes, asked.memory_swap_limit_in_bytes);
    if limit > 0 && swap > 0 && swap < limit {
        return bad("memory_swap_limit_in_bytes", format!("{swap} is less than the memory limit {limit}: it limits both together"));
    }
    for (value, field) in [(&asked.cpuset_cpus, "cpuset_cpus"), (&asked.cpuset_mems, "cpuset_mems")] {
        if !value.is_empty() && !is_set(value) {
            return bad(field, format!("{value:?} is not a list of numbers and ranges"));
        }
    }
    for limit in &asked.hugepage_limits {
        let number = limit
            .page_size
            .strip_suffix(['K', 'M', 'G'])
            .or(limit.page_size.strip_suffix("KB"))
            .or(limit.page_size.strip_suffix("MB"))
            .or(limit.page_size.strip_suffix("GB"));
        if !number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
            return bad("hugepage_limits", format!("page size {:?} is not like 2MB", limit.page_size));
        }
    }
    for key in asked.unified.keys() {
        if key.is_empty() || key.starts_with('.') || !key.contains('.') || key.contains(['/', '\0', '\n']) {
            return bad("unified", format!("{key:?} is not a file of a cgroup"));
        }
    }
    Ok(())
}

fn is_set(text: &str) -> bool {
    text.split(',').all(|part| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        matches!((low.trim().parse::<u32>(), high.trim().parse::<u32>()), (Ok(l), Ok(h)) if l <= h)
    })
}

/// Puts the request's limits on top of what is there; a zero or an empty value leaves as it was.
pub fn apply(current: &mut Resources, asked: &cri::LinuxContainerResources, host: &Host) {
    let cpu = current.cpu.get_or_insert_with(Cpu::default);
    if asked.cpu_period > 0 {
        cpu.period = Some(asked.cpu_period as u64);
    }
    if asked.cpu_quota != 0 {
        cpu.quota = Some(asked.cpu_quota);
    }
    if asked.cpu_shares > 0 {
        cpu.shares = Some(asked.cpu_shares as u64);
    }
    if !asked.cpuset_cpus.is_empty() {
        cpu.cpus = asked.cpuset_cpus.clone();
    }
    if !asked.cpuset_mems.is_empty() {
        cpu.mems = asked.cpuset_mems.clone();
    }
    let memory = current.memory.get_or_insert_with(Memory::default);
    let (limit, swap) = (asked.memory_limit_in_bytes, asked.memory_swap_limit_in_bytes);
    if limit != 0 {
        memory.limit = Some(limit);
    }
    if host.swap && (limit != 0 || swap != 0) {
        // Both limits equal: no swap, unless the request gives some.
        memory.swap = Some(if swap != 0 { swap } else { limit });
    }
    current.unified.extend(asked.unified.iter().map(|(k, v)| (k.clone(), v.clone())));
}

/// Huge page limits; the config decides whether they are taken, and whether a missing controller is an error.
pub fn hugepages(
    current: &mut Resources,
    asked: &cri::LinuxContainerResources,
    host: &Host,
    runtime: &CriRuntime,
) -> Result<Option<String>> {
    let limits = &asked.hugepage_limits;
    if limits.is_empty() || runtime.disable_hugetlb_controller {
        return Ok(None);
    }
    if host.hugetlb {
        set_hugepages(current, asked);
        return Ok(None);
    }
    // The kubelet sends a limit of 0 for each page size that the node knows: nothing is lost with those.
    if runtime.tolerate_missing_hugetlb_controller || limits.iter().all(|l| l.limit == 0) {
        return Ok(Some("linux.resources.hugepage_limits: not set, the hugetlb cgroup controller is missing".into()));
    }
    Err(Error::precondition(
        "linux.resources.hugepage_limits: the hugetlb cgroup controller is missing; tolerate_missing_hugetlb_controller = true goes on without",
    ))
}

fn set_hugepages(current: &mut Resources, asked: &cri::LinuxContainerResources) {
    for limit in &asked.hugepage_limits {
        // runc wants the unit spelled out.
        let size = if limit.page_size.ends_with('B') { limit.page_size.clone() } else { format!("{}B", limit.page_size) };
        current.hugepage_limits.retain(|l| l.page_size != size);
        current.hugepage_limits.push(HugepageLimit { page_size: size, limit: limit.limit });
    }
}

/// Refuses keys of cgroup v2 where there is none.
pub fn check_unified(asked: &cri::LinuxContainerResources, host: &Host) -> Result<()> {
    if asked.unified.is_empty() || host.cgroup == CgroupMode::Unified {
        return Ok(());
    }
    Err(Error::precondition("linux.resources.unified: this node has cgroup v1, these are keys of v2"))
}

/// New limits for a container: those it has with the request's on top.
pub fn update_resources(current: &Resources, asked: &cri::LinuxContainerResources, host: &Host, runtime: &CriRuntime) -> Result<Resources> {
    check(asked, "linux")?;
    check_unified(asked, host)?;
    let mut updated = current.clone();
    apply(&mut updated, asked, host);
    hugepages(&mut updated, asked, host, runtime)?;
    Ok(updated)
}

/// Limits of a spec as CRI says them, for ContainerStatus.
pub fn in_force(limits: Option<&Resources>, oom_score_adj: i32) -> cri::LinuxContainerResources {
    let mut found = cri::LinuxContainerResources { oom_score_adj: i64::from(oom_score_adj), ..Default::default() };
    let Some(limits) = limits else { return found };
    if let Some(cpu) = &limits.cpu {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        found.cpu_period = cpu.period.map(number).unwrap_or_default();
        found.cpu_quota = cpu.quota.unwrap_or_default();
        found.cpu_shares = cpu.shares.map(number).unwrap_or_default();
        (found.cpuset_cpus, found.cpuset_mems) = (cpu.cpus.clone(), cpu.mems.clone());
    }
    if let Some(memory) = &limits.memory {
        found.memory_limit_in_bytes = memory.limit.unwrap_or_default();
        found.memory_swap_limit_in_bytes = memory.swap.unwrap_or_default();
    }
    let page = |l: &HugepageLimit| cri::HugepageLimit { page_size: l.page_size.clone(), limit: l.limit, ..Default::default() };
    found.hugepage_limits = limits.hugepage_limits.iter().map(page).collect();
    found.unified = limits.unified.clone().into_iter().collect();
    found
}

/// The score that can be given.
pub fn allowed_score(asked: i32, host: &Host, runtime: &CriRuntime) -> i32 {
    oom_score_adj(asked, host, runtime).0
}

/// The score that can be given, and a warning if it is not the one asked for.
pub fn oom_score_adj(asked: i32, host: &Host, runtime: &CriRuntime) -> (i32, Option<String>) {
    let floor = host.oom_score_adj;
    if asked >= floor || (host.cap_sys_resource && !runtime.restrict_oom_score_adj) {
        return (asked, None);
    }
    let why = if host.cap_sys_resource { "restrict_oom_score_adj is set" } else { "this daemon lacks CAP_SYS_RESOURCE" };
    (floor, Some(format!("oom_score_adj {asked} raised to {floor}: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_path_has_the_drivers_form() {
        for (parent, systemd, want) in [
            ("/kubepods/burstable/pod1", false, "/kubepods/burstable/pod1/ab"),
            ("kubepods", false, "/kubepods/ab"),
            ("", false, "/k8s.io/ab"),
            ("/", false, "/ab"),
            ("/kubepods.slice/kubepods-pod1.slice", true, "kubepods-pod1.slice:cri-containerd:ab"),
            ("/kubepods.slice/kubepods-pod1.slice", false, "/kubepods.slice/kubepods-pod1.slice/ab"),
            ("", true, ":cri-containerd:ab"),
        ] {
            assert_eq!(cgroup_path(parent, "ab", systemd), want, "{parent}");
        }
        assert!(check_cgroup_parent("/a/../../b").is_err() && check_cgroup_parent("/a/b").is_ok());
    }

    #[test]
    fn values_that_no_cgroup_takes_are_refused_by_field() {
        type Set = fn(&mut cri::LinuxContainerResources);
        let table: [(&str, Set); 12] = [
            ("cpu_period", |r| r.cpu_period = 999),
            ("cpu_period", |r| r.cpu_period = -1),
            ("cpu_quota", |r| r.cpu_quota = 1),
            ("cpu_quota", |r| r.cpu_quota = -2),
            ("cpu_shares", |r| r.cpu_shares = -1),
            ("oom_score_adj", |r| r.oom_score_adj = 1001),
            ("memory_limit_in_bytes", |r| r.memory_limit_in_bytes = -5),
            ("memory_swap_limit_in_bytes", |r| (r.memory_limit_in_bytes, r.memory_swap_limit_in_bytes) = (10, 5)),
            ("cpuset_cpus", |r| r.cpuset_cpus = "3-1".into()),
            ("cpuset_mems", |r| r.cpuset_mems = "a".into()),
            ("hugepage_limits", |r| r.hugepage_limits.push(cri::HugepageLimit { page_size: "big".into(), ..Default::default() })),
            ("unified", |r| drop(r.unified.insert("../memory.max".into(), "1".into()))),
        ];
        for (field, set) in table {
            let mut asked = cri::LinuxContainerResources::new();
            set(&mut asked);
            assert!(check(&asked, "linux.resources").unwrap_err().chain().starts_with(&format!("linux.resources.{field}")), "{field}");
        }
        let fine = cri::LinuxContainerResources { cpu_quota: -1, cpuset_cpus: "0,2-3".into(), oom_score_adj: -997, ..Default::default() };
        check(&fine, "x").unwrap();
    }

    #[test]
    fn swap_equals_memory_unless_given_or_not_accounted() {
        let asked = cri::LinuxContainerResources { memory_limit_in_bytes: 100, ..Default::default() };
        let mut r = Resources::default();
        apply(&mut r, &asked, &Host::plain());
        assert_eq!(r.memory.as_ref().unwrap().swap, Some(100));
        let mut r = Resources::default();
        apply(&mut r, &asked, &Host { swap: false, ..Host::plain() });
        assert_eq!(r.memory.unwrap().swap, None);
        let mut r = Resources::default();
        apply(&mut r, &cri::LinuxContainerResources { memory_swap_limit_in_bytes: 300, ..asked }, &Host::plain());
        assert_eq!(r.memory.unwrap().swap, Some(300));
    }

    #[test]
    fn status_says_what_is_in_force() {
        let asked = cri::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 512,
            cpuset_cpus: "0".into(),
            cpuset_mems: "0".into(),
            memory_limit_in_bytes: 1 << 20,
            memory_swap_limit_in_bytes: 1 << 21,
            hugepage_limits: vec![cri::HugepageLimit { page_size: "2MB".into(), limit: 4 << 20, ..Default::default() }],
            unified: [("pids.max".to_owned(), "5".to_owned())].into(),
            oom_score_adj: 7,
            ..Default::default()
        };
        let mut limits = Resources::default();
        apply(&mut limits, &asked, &Host::plain());
        hugepages(&mut limits, &asked, &Host::plain(), &crate::config::Config::default().cri_runtime).unwrap();
        assert_eq!(in_force(Some(&limits), 7), asked);
        assert_eq!(in_force(None, 7).oom_score_adj, 7);
    }

    #[test]
    fn update_leaves_what_is_not_named() {
        let runtime = crate::config::Config::default().cri_runtime;
        let mut current = Resources::default();
        apply(
            &mut current,
            &cri::LinuxContainerResources { cpu_shares: 10, cpu_quota: 5000, memory_limit_in_bytes: 9, ..Default::default() },
            &Host::plain(),
        );
        let new =
            update_resources(&current, &cri::LinuxContainerResources { cpu_shares: 20, ..Default::default() }, &Host::plain(), &runtime)
                .unwrap();
        assert_eq!((new.cpu.clone().unwrap().shares, new.cpu.unwrap().quota, new.memory.unwrap().limit), (Some(20), Some(5000), Some(9)));
        let keys = cri::LinuxContainerResources { unified: [("memory.high".to_owned(), "1".to_owned())].into(), ..Default::default() };
        assert!(update_resources(&current, &keys, &Host { cgroup: CgroupMode::Legacy, ..Host::plain() }, &runtime).is_err());
        assert_eq!(update_resources(&current, &keys, &Host::plain(), &runtime).unwrap().unified["memory.high"], "1");
    }
}
