//! Usage of a group in one set of words for both layouts.
use super::parse::{Device, Pressure, blkio, flat_keyed, io_stat, limit, number, pressure};
use super::{Cgroup, Layout};
use std::io;
use std::path::Path;

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
    /// Time lost waiting for the processor; None where the kernel does not count it, as on v1.
    pub cpu_pressure: Option<Pressure>,
    /// Time lost waiting for memory.
    pub memory_pressure: Option<Pressure>,
    /// Time lost waiting for devices.
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
    /// Page faults, of groups below too.
    pub page_faults: u64,
    /// Page faults that read from a device.
    pub major_page_faults: u64,
    /// Page faults and major ones of the group alone; v2 counts them with those below.
    pub own_faults: (u64, u64),
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
            hugetlb: self.hugetlb_v1(),
            cpu_pressure: self.stall("cpu.pressure"),
            memory_pressure: self.stall("memory.pressure"),
            io_pressure: self.stall("io.pressure"),
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
                "pgfault" => found.own_faults.0 = value,
                "pgmajfault" => found.own_faults.1 = value,
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
        let swap = self.number("memory", "memory.swap.current").map(|usage| Swap { usage, limit: self.limit("memory", "memory.swap.max") });
        Ok(Stats {
            cpu,
            memory: self.memory_v2(),
            swap,
            pids: self.pids(),
            oom_kills: self.oom_kills().unwrap_or_default(),
            io: io_stat(&self.read("io", "io.stat").unwrap_or_default()),
            hugetlb: self.dir("").map_or_else(Vec::new, |dir| hugetlb(dir, "current")),
            cpu_pressure: self.stall("cpu.pressure"),
            memory_pressure: self.stall("memory.pressure"),
            io_pressure: self.stall("io.pressure"),
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
        found.own_faults = (found.page_faults, found.major_page_faults);
        found.working_set = found.usage.saturating_sub(inactive);
        found.max_usage = self.number("memory", "memory.peak");
        let events = self.read("memory", "memory.events").unwrap_or_default();
        found.failures = flat_keyed(&events).find(|(k, _)| *k == "max").map_or(0, |(_, v)| v);
        found.limit = self.limit("memory", "memory.max");
        Some(found)
    }
    fn stall(&self, file: &str) -> Option<Pressure> {
        self.read_unified(file).as_deref().and_then(pressure)
    }
    /// A hybrid host may have bound this controller to its cgroup2.
    fn hugetlb_v1(&self) -> Vec<Hugetlb> {
        match (self.dir("hugetlb"), &self.unified) {
            (Some(dir), _) => hugetlb(dir, "usage_in_bytes"),
            (None, Some(dir)) => hugetlb(dir, "current"),
            (None, None) => vec![],
        }
    }
}

/// Each `hugetlb.<size>.<usage>` of a directory.
fn hugetlb(dir: &Path, usage: &str) -> Vec<Hugetlb> {
    let Ok(entries) = std::fs::read_dir(dir) else { return vec![] };
    let read = |file: String| std::fs::read_to_string(dir.join(file)).ok().as_deref().and_then(number).unwrap_or_default();
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
            usage: read(format!("hugetlb.{size}.{usage}")),
            max: read(format!("hugetlb.{size}.max_usage_in_bytes")),
            failures: read(format!("hugetlb.{size}.failcnt")),
        });
    }
    found.sort_by(|a, b| a.size.cmp(&b.size));
    found
}

impl Stats {
    /// Counts another group in: the groups of a pod whose parent is not its own. Limits and pressure are not sums and go.
    pub fn add(&mut self, other: &Stats) {
        self.cpu.add(&other.cpu);
        self.memory = sum(self.memory, other.memory, |mut a, b| {
            a.add(&b);
            a
        });
        self.swap = sum(self.swap, other.swap, |a, b| Swap { usage: a.usage + b.usage, limit: None });
        self.pids = sum(self.pids, other.pids, |a, b| Pids { current: a.current + b.current, limit: None });
        self.oom_kills += other.oom_kills;
        for device in &other.io {
            match self.io.iter_mut().find(|d| (d.major, d.minor) == (device.major, device.minor)) {
                Some(own) => own.add(device),
                None => self.io.push(device.clone()),
            }
        }
        (self.cpu_pressure, self.memory_pressure, self.io_pressure) = (None, None, None);
    }
}

fn sum<T>(a: Option<T>, b: Option<T>, add: impl FnOnce(T, T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(add(a, b)),
        (a, b) => a.or(b),
    }
}

impl Cpu {
    fn add(&mut self, other: &Cpu) {
        self.usage_ns += other.usage_ns;
        self.user_ns += other.user_ns;
        self.system_ns += other.system_ns;
        self.periods += other.periods;
        self.throttled_periods += other.throttled_periods;
        self.throttled_ns += other.throttled_ns;
    }
}

impl Memory {
    fn add(&mut self, other: &Memory) {
        self.usage += other.usage;
        self.working_set += other.working_set;
        self.rss += other.rss;
        self.cache += other.cache;
        self.mapped_file += other.mapped_file;
        self.kernel += other.kernel;
        self.failures += other.failures;
        self.page_faults += other.page_faults;
        self.major_page_faults += other.major_page_faults;
        self.own_faults = (self.own_faults.0 + other.own_faults.0, self.own_faults.1 + other.own_faults.1);
        // The sum of peaks was never reached at once, perhaps.
        (self.limit, self.max_usage) = (None, None);
    }
}

impl Device {
    fn add(&mut self, other: &Device) {
        self.read_bytes += other.read_bytes;
        self.write_bytes += other.write_bytes;
        self.reads += other.reads;
        self.writes += other.writes;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Limits;
    use super::*;
    use std::path::PathBuf;

    /// A directory of files as the kernel has them.
    struct Fixture(PathBuf);

    impl Fixture {
        fn new(name: &str, files: &[(&str, &str)]) -> Fixture {
            let dir = std::env::temp_dir().join(format!("cradle-cgroup-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&dir);
            std::fs::create_dir_all(&dir).unwrap();
            for (file, text) in files {
                std::fs::write(dir.join(file), text).unwrap();
            }
            Fixture(dir)
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const PRESSURE: &str = "some avg10=1.50 avg60=0.75 avg300=0.25 total=1200\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=300\n";

    const V2: &[(&str, &str)] = &[
        ("cpu.stat", "usage_usec 3000\nuser_usec 2000\nsystem_usec 1000\nnr_periods 10\nnr_throttled 4\nthrottled_usec 700\n"),
        ("cpu.weight", "39\n"),
        ("cpu.max", "20000 100000\n"),
        ("cpu.pressure", PRESSURE),
        ("memory.current", "10000\n"),
        ("memory.peak", "20000\n"),
        ("memory.max", "67108864\n"),
        ("memory.low", "0\n"),
        ("memory.min", "4096\n"),
        ("memory.swap.current", "512\n"),
        ("memory.swap.max", "max\n"),
        ("memory.stat", "anon 5000\nfile 4000\nkernel 900\nfile_mapped 300\ninactive_file 2500\npgfault 77\npgmajfault 3\n"),
        ("memory.events", "low 0\nhigh 0\nmax 6\noom 1\noom_kill 1\noom_group_kill 0\n"),
        ("memory.pressure", PRESSURE),
        ("pids.current", "5\n"),
        ("pids.max", "max\n"),
        ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"),
        ("io.pressure", PRESSURE),
        ("hugetlb.2MB.current", "2097152\n"),
        ("hugetlb.2MB.rsvd.current", "9\n"),
    ];

    const V1: &[(&str, &str)] = &[
        ("cpuacct.usage", "3000000\n"),
        ("cpuacct.usage_user", "2000000\n"),
        ("cpuacct.usage_sys", "1000000\n"),
        ("cpu.stat", "nr_periods 10\nnr_throttled 4\nthrottled_time 700000\n"),
        ("cpu.shares", "1024\n"),
        ("cpu.cfs_period_us", "100000\n"),
        ("cpu.cfs_quota_us", "20000\n"),
        ("memory.usage_in_bytes", "10000\n"),
        ("memory.max_usage_in_bytes", "20000\n"),
        ("memory.limit_in_bytes", "67108864\n"),
        ("memory.soft_limit_in_bytes", "9223372036854771712\n"),
        ("memory.failcnt", "6\n"),
        ("memory.kmem.usage_in_bytes", "900\n"),
        ("memory.memsw.usage_in_bytes", "10512\n"),
        ("memory.memsw.limit_in_bytes", "67108864\n"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
        (
            "memory.stat",
            "cache 4000\nrss 4999\npgfault 70\npgmajfault 2\ntotal_cache 4000\ntotal_rss 5000\ntotal_mapped_file 300\n\
             total_inactive_file 2500\ntotal_pgfault 77\ntotal_pgmajfault 3\n",
        ),
        ("pids.current", "5\n"),
        ("pids.max", "100\n"),
        ("blkio.throttle.io_service_bytes_recursive", "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n"),
        ("blkio.throttle.io_serviced_recursive", "8:0 Read 3\n8:0 Write 4\nTotal 7\n"),
        ("hugetlb.2MB.usage_in_bytes", "2097152\n"),
        ("hugetlb.2MB.max_usage_in_bytes", "4194304\n"),
        ("hugetlb.2MB.failcnt", "1\n"),
    ];

    fn v1(dir: &Path, unified: Option<PathBuf>) -> Cgroup {
        let all = ["cpu", "cpuacct", "memory", "pids", "blkio", "hugetlb"];
        Cgroup { layout: Layout::V1(all.iter().map(|c| ((*c).into(), dir.to_path_buf())).collect()), unified }
    }

    fn v2(dir: &Path) -> Cgroup {
        Cgroup { layout: Layout::V2(dir.to_path_buf()), unified: None }
    }

    #[test]
    fn both_layouts_are_read_into_the_same_words() {
        let (new, old) = (Fixture::new("same-v2", V2), Fixture::new("same-v1", V1));
        let (new, old) = (v2(&new.0).stats().unwrap(), v1(&old.0, None).stats().unwrap());
        let cpu =
            Cpu { usage_ns: 3_000_000, user_ns: 2_000_000, system_ns: 1_000_000, periods: 10, throttled_periods: 4, throttled_ns: 700_000 };
        assert_eq!((new.cpu, old.cpu), (cpu, cpu));
        let memory = Memory {
            usage: 10_000,
            working_set: 7_500,
            rss: 5_000,
            cache: 4_000,
            mapped_file: 300,
            kernel: 900,
            max_usage: Some(20_000),
            failures: 6,
            limit: Some(67_108_864),
            page_faults: 77,
            major_page_faults: 3,
            own_faults: (77, 3),
        };
        assert_eq!(new.memory, Some(memory));
        assert_eq!(old.memory, Some(Memory { own_faults: (70, 2), ..memory }));
        assert_eq!((new.swap, old.swap), (Some(Swap { usage: 512, limit: None }), Some(Swap { usage: 512, limit: Some(0) })));
        assert_eq!((new.pids, old.pids), (Some(Pids { current: 5, limit: None }), Some(Pids { current: 5, limit: Some(100) })));
        assert_eq!((new.oom_kills, old.oom_kills), (1, 1));
        assert_eq!(new.io, old.io);
        assert_eq!(new.io, [Device { major: 8, minor: 0, read_bytes: 1, write_bytes: 2, reads: 3, writes: 4 }]);
        let huge = Hugetlb { size: "2MB".into(), usage: 2_097_152, max: 0, failures: 0 };
        assert_eq!(new.hugetlb, std::slice::from_ref(&huge));
        assert_eq!(old.hugetlb, [Hugetlb { max: 4_194_304, failures: 1, ..huge }]);
    }

    #[test]
    fn pressure_is_the_groups_own_or_its_twins_on_a_hybrid_host() {
        let (new, old) = (Fixture::new("psi-v2", V2), Fixture::new("psi-v1", V1));
        let read = v2(&new.0).stats().unwrap();
        for pressure in [read.cpu_pressure, read.memory_pressure, read.io_pressure] {
            let pressure = pressure.unwrap();
            assert_eq!((pressure.some.total_us, pressure.full.total_us, pressure.some.avg10), (1200, 300, 1.5));
        }
        assert_eq!(v1(&old.0, None).stats().unwrap().cpu_pressure, None);
        assert_eq!(v1(&old.0, Some(new.0.clone())).stats().unwrap().cpu_pressure, read.cpu_pressure);
    }

    #[test]
    fn a_group_without_controllers_has_what_it_has_and_a_removed_one_is_not_found() {
        let bare = Fixture::new("bare", &[("cpu.stat", "usage_usec 1\n")]);
        let stats = v2(&bare.0).stats().unwrap();
        assert_eq!((stats.cpu.usage_ns, stats.memory, stats.swap, stats.pids), (1000, None, None, None));
        assert_eq!(v2(Path::new("/no/such/group")).stats().unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn limits_of_both_layouts() {
        let (new, old) = (Fixture::new("limits-v2", V2), Fixture::new("limits-v1", V1));
        let own = v2(&new.0).limits();
        let expected = Limits {
            cpu_shares: Some(998),
            cpu_period: Some(100_000),
            cpu_quota: Some(20_000),
            memory: Some(67_108_864),
            memory_and_swap: None,
            memory_reserved: Some(4096),
        };
        assert_eq!(own, expected);
        let expected = Limits { cpu_shares: Some(1024), memory_and_swap: Some(67_108_864), memory_reserved: None, ..expected };
        assert_eq!(v1(&old.0, None).limits(), expected);
    }

    #[test]
    fn groups_of_a_pod_add_up() {
        let fixture = Fixture::new("sum", V2);
        let one = v2(&fixture.0).stats().unwrap();
        let mut all = Stats::default();
        all.add(&one);
        all.add(&one);
        assert_eq!((all.cpu.usage_ns, all.memory.unwrap().working_set, all.pids.unwrap().current), (6_000_000, 15_000, 10));
        assert_eq!((all.io[0].read_bytes, all.io.len(), all.oom_kills, all.cpu_pressure), (2, 1, 2, None));
    }
}
