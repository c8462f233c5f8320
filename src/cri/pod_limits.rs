//! Pod limits: what a pod's containers may use together and what the pod itself costs, as one sum on the pod's own cgroup. All of it
//! is set or nothing: a file that refuses brings those before it back.
use crate::error::{Context, Error, Result};
use crate::proto::cri::LinuxContainerResources as Resources;
use crate::sys::cgroup::Cgroup;
use crate::undo::Undo;
use std::io::ErrorKind;

/// The kernel's period where none is asked for, in microseconds.
const PERIOD: i64 = 100_000;

/// One file of a cgroup.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Setting {
    /// The request's field that asks for it.
    field: &'static str,
    controller: String,
    file: String,
    value: String,
}

/// Refuses what a pod as a whole cannot have.
pub fn check(resources: &Resources, overhead: &Resources) -> Result<()> {
    for (at, asked) in [("resources", resources), ("overhead", overhead)] {
        super::spec::check_resources(asked, at)?;
        if asked.oom_score_adj != 0 {
            return Err(Error::invalid(format!("{at}.oom_score_adj: {}: processes have one, a pod has none", asked.oom_score_adj)));
        }
    }
    let only =
        |field: &str| Err(Error::invalid(format!("overhead.{field}: an overhead is an amount of CPU time and memory, nothing else")));
    match overhead {
        o if !o.cpuset_cpus.is_empty() => only("cpuset_cpus"),
        o if !o.cpuset_mems.is_empty() => only("cpuset_mems"),
        o if !o.hugepage_limits.is_empty() => only("hugepage_limits"),
        o if !o.unified.is_empty() => only("unified"),
        _ => Ok(()),
    }
}

/// What both are together; where the resources are without a limit, so is the sum.
fn sum(resources: &Resources, overhead: &Resources) -> Resources {
    let amount = |of: i64, more: i64| if of > 0 { of.saturating_add(more.max(0)) } else { of };
    let mut all = resources.clone();
    let period = |r: &Resources| if r.cpu_period > 0 { r.cpu_period } else { PERIOD };
    all.cpu_shares = amount(resources.cpu_shares, overhead.cpu_shares);
    // A quota is of its own period.
    let more = overhead.cpu_quota.max(0).saturating_mul(period(resources)) / period(overhead);
    all.cpu_quota = amount(resources.cpu_quota, more);
    all.memory_limit_in_bytes = amount(resources.memory_limit_in_bytes, overhead.memory_limit_in_bytes);
    let more = overhead.memory_swap_limit_in_bytes.max(overhead.memory_limit_in_bytes);
    all.memory_swap_limit_in_bytes = amount(resources.memory_swap_limit_in_bytes, more);
    all
}

/// Sets both on the cgroup at `path`; dropping the answer takes it back.
pub fn set(path: &str, resources: &Resources, overhead: &Resources) -> Result<Undo> {
    let wanted = sum(resources, overhead);
    let mut undo = Undo::new();
    let group = match Cgroup::at(path) {
        // Nobody has made it yet: who does will set its limits.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(undo),
        found => found.during(|| format!("find the pod's cgroup {path}"))?,
    };
    if group.is_v2() {
        keep_what_is_used(&group, &wanted)?;
    }
    for setting in settings(&wanted, group.is_v2(), &group)? {
        let Setting { field, controller, file, value } = setting;
        let shown = format!("resources.{field}: {value} for {file} of the pod's cgroup {path}");
        let old = group.read(&controller, &file).during(|| shown.clone())?;
        if old.trim() == value {
            continue;
        }
        group.set(&controller, &file, &value).during(|| shown)?;
        let group = group.clone();
        undo.push("a pod's cgroup limit", move || {
            group.set(&controller, &file, old.trim()).during(|| format!("set {file} back to {}", old.trim()))
        });
    }
    Ok(undo)
}

/// v2 kills where v1 refuses: a limit below what is in use is an error here too.
fn keep_what_is_used(group: &Cgroup, wanted: &Resources) -> Result<()> {
    let used: i64 = group.read("memory", "memory.current").ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let limit = wanted.memory_limit_in_bytes;
    if limit > 0 && limit < used {
        return Err(Error::precondition(format!(
            "resources.memory_limit_in_bytes: {limit} is less than the {used} bytes that the pod uses now"
        )));
    }
    Ok(())
}

fn settings(wanted: &Resources, v2: bool, group: &Cgroup) -> Result<Vec<Setting>> {
    let mut all = if v2 { of_v2(wanted) } else { of_v1(wanted, group) };
    let one = |field, file: &str, value: &str| Setting {
        field,
        controller: file.split('.').next().unwrap_or_default().into(),
        file: file.into(),
        value: value.into(),
    };
    for (field, file, value) in [("cpuset_cpus", "cpuset.cpus", &wanted.cpuset_cpus), ("cpuset_mems", "cpuset.mems", &wanted.cpuset_mems)] {
        if !value.is_empty() {
            all.push(one(field, file, value));
        }
    }
    for limit in &wanted.hugepage_limits {
        let size = if limit.page_size.ends_with('B') { limit.page_size.clone() } else { format!("{}B", limit.page_size) };
        let file = format!("hugetlb.{size}.{}", if v2 { "max" } else { "limit_in_bytes" });
        all.push(one("hugepage_limits", &file, &limit.limit.to_string()));
    }
    for (file, value) in &wanted.unified {
        if !v2 {
            return Err(Error::precondition("resources.unified: this node has cgroup v1, these are keys of v2"));
        }
        all.push(one("unified", file, value));
    }
    Ok(all)
}

fn of_v1(wanted: &Resources, group: &Cgroup) -> Vec<Setting> {
    let one = |field, controller: &str, file: &str, value: i64| Setting {
        field,
        controller: controller.into(),
        file: file.into(),
        value: value.to_string(),
    };
    let mut all = vec![
        one("cpu_shares", "cpu", "cpu.shares", wanted.cpu_shares),
        one("cpu_period", "cpu", "cpu.cfs_period_us", wanted.cpu_period),
        one("cpu_quota", "cpu", "cpu.cfs_quota_us", wanted.cpu_quota),
    ];
    let mut memory = vec![
        one("memory_limit_in_bytes", "memory", "memory.limit_in_bytes", wanted.memory_limit_in_bytes),
        one("memory_swap_limit_in_bytes", "memory", "memory.memsw.limit_in_bytes", wanted.memory_swap_limit_in_bytes),
    ];
    // The one may never be above the other: upwards the outer one goes first.
    let now = group.read("memory", "memory.memsw.limit_in_bytes").ok().and_then(|text| text.trim().parse::<i64>().ok());
    if wanted.memory_swap_limit_in_bytes < 0 || now.is_some_and(|now| wanted.memory_swap_limit_in_bytes > now) {
        memory.reverse();
    }
    all.append(&mut memory);
    all.retain(|setting| setting.value != "0");
    all
}

fn of_v2(wanted: &Resources) -> Vec<Setting> {
    let one =
        |field, controller: &str, file: &str, value: String| Setting { field, controller: controller.into(), file: file.into(), value };
    let bytes = |value: i64| if value < 0 { "max".to_string() } else { value.to_string() };
    let mut all = vec![];
    if wanted.cpu_shares > 0 {
        // The kubelet's and runtimes' linear mapping of 2..262144 on 1..10000.
        let weight = 1 + (wanted.cpu_shares.clamp(2, 262_144) - 2) * 9_999 / 262_142;
        all.push(one("cpu_shares", "cpu", "cpu.weight", weight.to_string()));
    }
    if wanted.cpu_quota != 0 {
        let period = if wanted.cpu_period > 0 { wanted.cpu_period } else { PERIOD };
        all.push(one("cpu_quota", "cpu", "cpu.max", format!("{} {period}", bytes(wanted.cpu_quota))));
    }
    let (memory, swap) = (wanted.memory_limit_in_bytes, wanted.memory_swap_limit_in_bytes);
    if memory != 0 {
        all.push(one("memory_limit_in_bytes", "memory", "memory.max", bytes(memory)));
    }
    if swap != 0 {
        // CRI counts both together, v2 swap alone.
        let swap = if swap < 0 { swap } else { (swap - memory.max(0)).max(0) };
        all.push(one("memory_swap_limit_in_bytes", "memory", "memory.swap.max", bytes(swap)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources() -> Resources {
        Resources { cpu_shares: 1024, cpu_quota: 50_000, cpu_period: 50_000, memory_limit_in_bytes: 1000, ..Resources::default() }
    }

    #[test]
    fn an_overhead_is_added_to_limits_and_makes_none() {
        let overhead =
            Resources { cpu_shares: 102, cpu_quota: 10_000, cpu_period: 100_000, memory_limit_in_bytes: 24, ..Resources::default() };
        let all = sum(&resources(), &overhead);
        assert_eq!((all.cpu_shares, all.cpu_quota, all.cpu_period, all.memory_limit_in_bytes), (1126, 55_000, 50_000, 1024));
        assert_eq!(sum(&Resources::default(), &overhead), Resources::default());
        let open = Resources { cpu_quota: -1, memory_limit_in_bytes: -1, ..Resources::default() };
        assert_eq!(sum(&open, &overhead), open);
    }

    #[test]
    fn v2_has_words_of_its_own() {
        let files = |r: &Resources| of_v2(r).into_iter().map(|s| format!("{} {}", s.file, s.value)).collect::<Vec<_>>();
        let asked = Resources { memory_swap_limit_in_bytes: 1500, ..resources() };
        assert_eq!(files(&asked), ["cpu.weight 39", "cpu.max 50000 50000", "memory.max 1000", "memory.swap.max 500"]);
        let open = Resources { cpu_quota: -1, memory_limit_in_bytes: -1, ..Resources::default() };
        assert_eq!(files(&open), ["cpu.max max 100000", "memory.max max"]);
        assert!(files(&Resources::default()).is_empty());
    }

    #[test]
    fn what_no_pod_has_is_refused_by_field() {
        let none = Resources::default();
        let score = Resources { oom_score_adj: 5, ..Resources::default() };
        let pinned = Resources { cpuset_cpus: "0".into(), ..Resources::default() };
        for (resources, overhead, field) in
            [(&score, &none, "resources.oom_score_adj"), (&none, &score, "overhead.oom"), (&none, &pinned, "overhead.cpuset_cpus")]
        {
            let error = check(resources, overhead).unwrap_err().chain();
            assert!(error.contains(field), "{error}");
        }
        check(&pinned, &none).unwrap();
    }
}
