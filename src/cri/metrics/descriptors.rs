//! Descriptors: THE table of metrics: names, labels and meanings are those of the kubelet's own cAdvisor, so that dashboards made
//! for it go on. Times are whole seconds, as CRI's values are whole numbers.
use crate::proto::cri::{MetricDescriptor, MetricType};

/// Labels of every metric. Of a container: its name, cgroup, image, ID, and its pod's namespace and name; of a pod alone the first
/// and third are empty.
pub const BASE: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// One metric.
pub struct Descriptor {
    /// `container_…`.
    pub name: &'static str,
    /// For people.
    pub help: &'static str,
    /// Whether it only grows.
    pub kind: MetricType,
    /// Labels after [`BASE`].
    pub labels: &'static [&'static str],
}

impl Descriptor {
    /// As CRI tells it.
    pub fn message(&self) -> MetricDescriptor {
        MetricDescriptor {
            name: self.name.into(),
            help: self.help.into(),
            label_keys: BASE.iter().chain(self.labels).map(ToString::to_string).collect(),
            ..MetricDescriptor::default()
        }
    }
}

const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Descriptor {
    Descriptor { name, help, kind: MetricType::COUNTER, labels }
}

const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Descriptor {
    Descriptor { name, help, kind: MetricType::GAUGE, labels }
}

pub const LAST_SEEN: Descriptor = gauge("container_last_seen", "When it was read, in seconds since 1970.", &[]);
pub const START_TIME: Descriptor = gauge("container_start_time_seconds", "When it was started, in seconds since 1970.", &[]);
pub const CPU_USER: Descriptor = counter("container_cpu_user_seconds_total", "Processor time in user mode.", &[]);
pub const CPU_SYSTEM: Descriptor = counter("container_cpu_system_seconds_total", "Processor time in the kernel.", &[]);
pub const CPU_USAGE: Descriptor = counter("container_cpu_usage_seconds_total", "Processor time; the cpu is always \"total\".", &["cpu"]);
pub const CPU_PERIODS: Descriptor = counter("container_cpu_cfs_periods_total", "Quota periods in which it could run.", &[]);
pub const CPU_THROTTLED_PERIODS: Descriptor =
    counter("container_cpu_cfs_throttled_periods_total", "Quota periods in which it was held back.", &[]);
pub const CPU_THROTTLED: Descriptor =
    counter("container_cpu_cfs_throttled_seconds_total", "Time for which it was held back by its quota.", &[]);
pub const HUGETLB_USAGE: Descriptor = gauge("container_hugetlb_usage_bytes", "Huge pages in use.", &["pagesize"]);
pub const HUGETLB_MAX: Descriptor =
    gauge("container_hugetlb_max_usage_bytes", "Highest use of huge pages; the present one where the kernel keeps none.", &["pagesize"]);
pub const MEMORY_CACHE: Descriptor = gauge("container_memory_cache", "Page cache.", &[]);
pub const MEMORY_RSS: Descriptor = gauge("container_memory_rss", "Anonymous memory.", &[]);
pub const MEMORY_KERNEL: Descriptor = gauge("container_memory_kernel_usage", "Kernel memory.", &[]);
pub const MEMORY_MAPPED: Descriptor = gauge("container_memory_mapped_file", "Mapped files.", &[]);
pub const MEMORY_SWAP: Descriptor = gauge("container_memory_swap", "Swap in use.", &[]);
pub const MEMORY_FAILCNT: Descriptor = counter("container_memory_failcnt", "How often the memory limit was hit.", &[]);
pub const MEMORY_USAGE: Descriptor = gauge("container_memory_usage_bytes", "All memory, page cache included.", &[]);
pub const MEMORY_MAX: Descriptor = gauge("container_memory_max_usage_bytes", "Highest memory usage.", &[]);
pub const MEMORY_WORKING_SET: Descriptor =
    gauge("container_memory_working_set_bytes", "Memory without the file pages that could go at once.", &[]);
pub const MEMORY_FAILURES: Descriptor = counter(
    "container_memory_failures_total",
    "Page faults: pgfault and pgmajfault, of the container and of what is below it.",
    &["failure_type", "scope"],
);
pub const OOM_EVENTS: Descriptor = counter("container_oom_events_total", "Processes that the kernel killed for want of memory.", &[]);
pub const FS_INODES_FREE: Descriptor = gauge("container_fs_inodes_free", "Free inodes of the filesystem that it writes to.", &["device"]);
pub const FS_INODES_TOTAL: Descriptor = gauge("container_fs_inodes_total", "Inodes of the filesystem that it writes to.", &["device"]);
pub const FS_LIMIT: Descriptor = gauge("container_fs_limit_bytes", "Size of the filesystem that it writes to.", &["device"]);
pub const FS_USAGE: Descriptor = gauge("container_fs_usage_bytes", "What its writable layer takes.", &["device"]);
pub const FS_READ_BYTES: Descriptor = counter("container_fs_reads_bytes_total", "Bytes read from devices.", &["device"]);
pub const FS_READS: Descriptor = counter("container_fs_reads_total", "Reads from devices.", &["device"]);
pub const FS_WRITE_BYTES: Descriptor = counter("container_fs_writes_bytes_total", "Bytes written to devices.", &["device"]);
pub const FS_WRITES: Descriptor = counter("container_fs_writes_total", "Writes to devices.", &["device"]);
pub const BLKIO_USAGE: Descriptor =
    counter("container_blkio_device_usage_total", "Bytes read from and written to devices.", &["device", "major", "minor", "operation"]);
pub const NETWORK_RX_BYTES: Descriptor = counter("container_network_receive_bytes_total", "Bytes received by the pod.", &["interface"]);
pub const NETWORK_RX_PACKETS: Descriptor =
    counter("container_network_receive_packets_total", "Packets received by the pod.", &["interface"]);
pub const NETWORK_RX_DROPPED: Descriptor =
    counter("container_network_receive_packets_dropped_total", "Packets dropped while the pod received.", &["interface"]);
pub const NETWORK_RX_ERRORS: Descriptor =
    counter("container_network_receive_errors_total", "Errors while the pod received.", &["interface"]);
pub const NETWORK_TX_BYTES: Descriptor = counter("container_network_transmit_bytes_total", "Bytes sent by the pod.", &["interface"]);
pub const NETWORK_TX_PACKETS: Descriptor = counter("container_network_transmit_packets_total", "Packets sent by the pod.", &["interface"]);
pub const NETWORK_TX_DROPPED: Descriptor =
    counter("container_network_transmit_packets_dropped_total", "Packets dropped while the pod sent.", &["interface"]);
pub const NETWORK_TX_ERRORS: Descriptor = counter("container_network_transmit_errors_total", "Errors while the pod sent.", &["interface"]);
pub const PROCESSES: Descriptor = gauge("container_processes", "Processes.", &[]);
pub const THREADS: Descriptor = gauge("container_threads", "Threads of all processes.", &[]);
pub const THREADS_MAX: Descriptor = gauge("container_threads_max", "How many threads there may be; 0 is without limit.", &[]);
pub const FILE_DESCRIPTORS: Descriptor = gauge("container_file_descriptors", "Open files of all processes.", &[]);
pub const SOCKETS: Descriptor = gauge("container_sockets", "Open sockets of all processes.", &[]);
pub const ULIMITS: Descriptor = gauge("container_ulimits_soft", "Soft limits of its first process.", &["ulimit"]);
pub const SPEC_CPU_PERIOD: Descriptor = gauge("container_spec_cpu_period", "Length of a quota period, in microseconds.", &[]);
pub const SPEC_CPU_QUOTA: Descriptor =
    gauge("container_spec_cpu_quota", "Processor time a period, in microseconds; none without limit.", &[]);
pub const SPEC_CPU_SHARES: Descriptor = gauge("container_spec_cpu_shares", "Share of the processors against neighbours.", &[]);
pub const SPEC_MEMORY_LIMIT: Descriptor = gauge("container_spec_memory_limit_bytes", "Memory limit; 0 is without limit.", &[]);
pub const SPEC_MEMORY_RESERVATION: Descriptor =
    gauge("container_spec_memory_reservation_limit_bytes", "Memory that reclaim leaves to it; 0 is none.", &[]);
pub const SPEC_MEMORY_SWAP: Descriptor =
    gauge("container_spec_memory_swap_limit_bytes", "Swap limit, on cgroup v1 with memory; 0 is without limit.", &[]);
pub const PRESSURE_CPU_STALLED: Descriptor =
    counter("container_pressure_cpu_stalled_seconds_total", "Time in which all tasks waited for the processor.", &[]);
pub const PRESSURE_CPU_WAITING: Descriptor =
    counter("container_pressure_cpu_waiting_seconds_total", "Time in which some task waited for the processor.", &[]);
pub const PRESSURE_MEMORY_STALLED: Descriptor =
    counter("container_pressure_memory_stalled_seconds_total", "Time in which all tasks waited for memory.", &[]);
pub const PRESSURE_MEMORY_WAITING: Descriptor =
    counter("container_pressure_memory_waiting_seconds_total", "Time in which some task waited for memory.", &[]);
pub const PRESSURE_IO_STALLED: Descriptor =
    counter("container_pressure_io_stalled_seconds_total", "Time in which all tasks waited for devices.", &[]);
pub const PRESSURE_IO_WAITING: Descriptor =
    counter("container_pressure_io_waiting_seconds_total", "Time in which some task waited for devices.", &[]);

/// All of them.
pub const ALL: [&Descriptor; 56] = [
    &LAST_SEEN,
    &START_TIME,
    &CPU_USER,
    &CPU_SYSTEM,
    &CPU_USAGE,
    &CPU_PERIODS,
    &CPU_THROTTLED_PERIODS,
    &CPU_THROTTLED,
    &HUGETLB_USAGE,
    &HUGETLB_MAX,
    &MEMORY_CACHE,
    &MEMORY_RSS,
    &MEMORY_KERNEL,
    &MEMORY_MAPPED,
    &MEMORY_SWAP,
    &MEMORY_FAILCNT,
    &MEMORY_USAGE,
    &MEMORY_MAX,
    &MEMORY_WORKING_SET,
    &MEMORY_FAILURES,
    &OOM_EVENTS,
    &FS_INODES_FREE,
    &FS_INODES_TOTAL,
    &FS_LIMIT,
    &FS_USAGE,
    &FS_READ_BYTES,
    &FS_READS,
    &FS_WRITE_BYTES,
    &FS_WRITES,
    &BLKIO_USAGE,
    &NETWORK_RX_BYTES,
    &NETWORK_RX_PACKETS,
    &NETWORK_RX_DROPPED,
    &NETWORK_RX_ERRORS,
    &NETWORK_TX_BYTES,
    &NETWORK_TX_PACKETS,
    &NETWORK_TX_DROPPED,
    &NETWORK_TX_ERRORS,
    &PROCESSES,
    &THREADS,
    &THREADS_MAX,
    &FILE_DESCRIPTORS,
    &SOCKETS,
    &ULIMITS,
    &SPEC_CPU_PERIOD,
    &SPEC_CPU_QUOTA,
    &SPEC_CPU_SHARES,
    &SPEC_MEMORY_LIMIT,
    &SPEC_MEMORY_RESERVATION,
    &SPEC_MEMORY_SWAP,
    &PRESSURE_CPU_STALLED,
    &PRESSURE_CPU_WAITING,
    &PRESSURE_MEMORY_STALLED,
    &PRESSURE_MEMORY_WAITING,
    &PRESSURE_IO_STALLED,
    &PRESSURE_IO_WAITING,
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_described() {
        let names: BTreeSet<&str> = ALL.iter().map(|d| d.name).collect();
        assert_eq!((names.len(), ALL.len()), (56, 56));
        for one in ALL {
            let message = one.message();
            assert!(!message.help.is_empty() && message.label_keys.len() == BASE.len() + one.labels.len());
            let grows = one.name.ends_with("_total") && one.name != "container_fs_inodes_total" || one.name.ends_with("failcnt");
            assert_eq!(one.kind == MetricType::COUNTER, grows, "{}", one.name);
        }
    }
}
