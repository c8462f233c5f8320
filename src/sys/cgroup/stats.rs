//! Usage of a group in one set of words for both layouts.
use super::parse::{Device, Pressure, blkio, flat_keyed, io_stat, limit, number, pressure};
use super::{Cgroup, Layout};
use std::io;

/// Everything that is counted of a group.
#[derive(Clone, Default, Debug)]
pub struct Stats {
    /// Processor time.
    pub cpu: Cpu,
    /// Memory; None without the controller.
    pub memory: Option<Memory>,
    /// Swap; None where it is not accounted.
    pub swap: Option<Swap>,
    /// Processes and threads; None without the controller.
    pub pids: Option<Pids>,
    /// Kills for want of memory.
    pub oom_kills: u64,
    /// Block devices.
    pub io: Vec<Device>,
    /// Huge pages, an entry a size.
    pub hugetlb: Vec<Hugetlb>,
    /// Time lost waiting for the processor (v2).
    pub cpu_pressure: Option<Pressure>,
    /// Time lost waiting for memory (v2).
    pub memory_pressure: Option<Pressure>,
    /// Time lost waiting for devices (v2).
    pub io_pressure: Option<Pressure>,
}

/// Processor time and its limit's effect.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Cpu {
    /// All time, in nanoseconds.
    pub usage_ns: u64,
    /// In user mode.
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
    /// Periods in which the group could run.
    pub periods: u64,
    /// Periods in which it was held back.
    pub throttled_periods: u64,
    /// For how long.
    pub throttled_ns: u64,
}

/// Memory in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Memory {
    /// Charged to the group, page cache included.
    pub usage: u64,
    /// Usage without the file pages that could go at once: what the kubelet evicts by.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Page cache.
    pub cache: u64,
    /// Mapped files.
    pub mapped_file: u64,
    /// Kernel memory, where it is counted apart.
    pub kernel: u64,
    /// Highest usage.
    pub max_usage: Option<u64>,
    /// How often the limit was hit.
    pub failures: u64,
    /// None without a limit.
    pub limit: Option<u64>,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that read from a device.
    pub major_page_faults: u64,
}

/// Swap in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Swap {
    /// In use.
    pub usage: u64,
    /// None without a limit.
    pub limit: Option<u64>,
}

/// Count of tasks.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Pids {
    /// Now.
    pub current: u64,
    /// None without a limit.
    pub limit: Option<u64>,
}

/// Huge pages of one size.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Hugetlb {
    /// `2MB`.
    pub size: String,
    /// Bytes in use.
    pub usage: u64,
    /// Highest use; v2 does not count it.
    pub max: u64,
    /// How often the limit was hit.
    pub failures: u64,
}

impl Cgroup {
    /// What the group used up to now; NotFound once it is removed.
    pub fn stats(&self) -> io::Result<Stats> {
        match &self.layout {
            Layout::V1(_) => self.stats_v1(),
            Layout::V2(_) => self.stats_v2(),
        }
    }
    fn number(&self, controller: &str, file: &str) -> Option<u64> {
        number(&self.read(controller, file).ok()?)
    }
    fn limit(&self, controller: &str, file: &str) -> Option<u64> {
        limit(&self.read(controller, file).ok()?)
    }
    fn pids(&self) -> Option<Pids> {
        Some(Pids { current: self.number("pids", "pids.current")?, limit: self.limit("pids", "pids.max") })
    }
    fn stats_v1(&self) -> io::Result<Stats> {
        let usage_ns = number(&self.read("cpuacct", "cpuacct.usage")?).unwrap_or_default();
        let mut cpu = Cpu { usage_ns, ..Cpu::default() };
        cpu.user_ns = self.number("cpuacct", "cpuacct.usage_user").unwrap_or_default();
        cpu.system_ns = self.number("cpuacct", "cpuacct.usage_sys").unwrap_or_default();
        for (key, value) in flat_keyed(&self.read("cpu", "cpu.stat").unwrap_or_default()) {
            match key {
                "nr_periods" => cpu.periods = value,
                "nr_throttled" => cpu.throttled_periods = value,
                "throttled_time" => cpu.throttled_ns = value,
                _ => {}
            }
        }
        let bytes = self.read("blkio", "blkio.throttle.io_service_bytes_recursive").unwrap_or_default();
        let operations = self.read("blkio", "blkio.throttle.io_serviced_recursive").unwrap_or_default();
        let memory = self.memory_v1();
        Ok(Stats {
            cpu,
            swap: memory.and_then(|m| self.swap_v1(&m)),
            memory,
            pids: self.pids(),
            oom_kills: self.oom_kills().unwrap_or_default(),
            io: blkio(&bytes, &operations),
            hugetlb: self.hugetlb("hugetlb", "usage_in_bytes"),
            ..Stats::default()
        })
    }
    fn memory_v1(&self) -> Option<Memory> {
        let mut found = Memory { usage: self.number("memory", "memory.usage_in_bytes")?, ..Memory::default() };
        let mut inactive = 0;
        for (key, value) in flat_keyed(&self.read("memory", "memory.stat").unwrap_or_default()) {
            match key {
                "total_inactive_file" => inactive = value,
                "total_rss" => found.rss = value,
                "total_cache" => found.cache = value,
                "total_mapped_file" => found.mapped_file = value,
                "total_pgfault" => found.page_faults = value,
                "total_pgmajfault" => found.major_page_faults = value,
                _ => {}
            }
        }
        found.working_set = found.usage.saturating_sub(inactive);
        found.kernel = self.number("memory", "memory.kmem.usage_in_bytes").unwrap_or_default();
        found.max_usage = self.number("memory", "memory.max_usage_in_bytes");
        found.failures = self.number("memory", "memory.failcnt").unwrap_or_default();
        found.limit = self.limit("memory", "memory.limit_in_bytes");
        Some(found)
    }
    /// v1 counts memory and swap together.
    fn swap_v1(&self, memory: &Memory) -> Option<Swap> {
        let both = self.number("memory", "memory.memsw.usage_in_bytes")?;
        let limit = self.limit("memory", "memory.memsw.limit_in_bytes");
        let own = limit.map(|l| l.saturating_sub(memory.limit.unwrap_or_default()));
        Some(Swap { usage: both.saturating_sub(memory.usage), limit: own })
    }
    fn stats_v2(&self) -> io::Result<Stats> {
        let mut cpu = Cpu::default();
        for (key, value) in flat_keyed(&self.read("cpu", "cpu.stat")?) {
            match key {
                "usage_usec" => cpu.usage_ns = value * 1000,
                "user_usec" => cpu.user_ns = value * 1000,
                "system_usec" => cpu.system_ns = value * 1000,
                "nr_periods" => cpu.periods = value,
                "nr_throttled" => cpu.throttled_periods = value,
                "throttled_usec" => cpu.throttled_ns = value * 1000,
                _ => {}
            }
        }
        let stall = |file| self.read("", file).ok().as_deref().and_then(pressure);
        let swap = self.number("memory", "memory.swap.current").map(|usage| Swap { usage, limit: self.limit("memory", "memory.swap.max") });
        Ok(Stats {
            cpu,
            memory: self.memory_v2(),
            swap,
            pids: self.pids(),
            oom_kills: self.oom_kills().unwrap_or_default(),
            io: io_stat(&self.read("io", "io.stat").unwrap_or_default()),
            hugetlb: self.hugetlb("hugetlb", "current"),
            cpu_pressure: stall("cpu.pressure"),
            memory_pressure: stall("memory.pressure"),
            io_pressure: stall("io.pressure"),
        })
    }
    fn memory_v2(&self) -> Option<Memory> {
        let mut found = Memory { usage: self.number("memory", "memory.current")?, ..Memory::default() };
        let mut inactive = 0;
        for (key, value) in flat_keyed(&self.read("memory", "memory.stat").unwrap_or_default()) {
            match key {
                "inactive_file" => inactive = value,
                "anon" => found.rss = value,
                "file" => found.cache = value,
                "file_mapped" => found.mapped_file = value,
                "kernel" => found.kernel = value,
                "pgfault" => found.page_faults = value,
                "pgmajfault" => found.major_page_faults = value,
                _ => {}
            }
        }
        found.working_set = found.usage.saturating_sub(inactive);
        found.max_usage = self.number("memory", "memory.peak");
        let events = self.read("memory", "memory.events").unwrap_or_default();
        found.failures = flat_keyed(&events).find(|(k, _)| *k == "max").map_or(0, |(_, v)| v);
        found.limit = self.limit("memory", "memory.max");
        Some(found)
    }
    fn hugetlb(&self, controller: &str, usage: &str) -> Vec<Hugetlb> {
        let Some(Ok(entries)) = self.dir(controller).map(std::fs::read_dir) else { return vec![] };
        let mut found = vec![];
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(size) = name.to_str().and_then(|n| n.strip_prefix("hugetlb.")?.strip_suffix(usage)?.strip_suffix('.')) else {
                continue;
            };
            if size.ends_with(".rsvd") {
                continue;
            }
            found.push(Hugetlb {
                size: size.into(),
                usage: self.number(controller, &format!("hugetlb.{size}.{usage}")).unwrap_or_default(),
                max: self.number(controller, &format!("hugetlb.{size}.max_usage_in_bytes")).unwrap_or_default(),
                failures: self.number(controller, &format!("hugetlb.{size}.failcnt")).unwrap_or_default(),
            });
        }
        found
    }
}
