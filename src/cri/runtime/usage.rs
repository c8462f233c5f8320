//! Usage: what the kernel counted, in CRI's words. A field that the kernel does not count stays empty: pressure without PSI,
//! what is available without a limit, swap without its accounting.
use crate::cri::rates::Counter;
use crate::cri::{Cri, now};
use crate::proto::cri::{CpuUsage, IoUsage, MemoryUsage, NetworkInterfaceUsage, NetworkUsage, PsiData, PsiStats, SwapUsage, UInt64Value};
use crate::sys::cgroup::{Memory, Pressure, Stall, Stats};
use crate::sys::procfs::Interface;
use protobuf::MessageField;

/// The interface that a pod's own traffic is counted on.
pub const DEFAULT_INTERFACE: &str = "eth0";

/// A number as CRI wraps it.
pub fn value(value: u64) -> MessageField<UInt64Value> {
    MessageField::some(UInt64Value { value, ..UInt64Value::default() })
}

fn optional(number: Option<u64>) -> MessageField<UInt64Value> {
    number.map_or_else(MessageField::none, value)
}

/// Processor use.
pub fn cpu(cri: &Cri, counter: Counter<'_>, read: &Stats) -> CpuUsage {
    let timestamp = now();
    CpuUsage {
        timestamp,
        usage_core_nano_seconds: value(read.cpu.usage_ns),
        usage_nano_cores: value(cri.rates.nano_cores(counter, timestamp, read.cpu.usage_ns)),
        psi: pressure(read.cpu_pressure),
        ..CpuUsage::default()
    }
}

/// Memory use.
pub fn memory(memory: &Memory, stall: Option<Pressure>) -> MemoryUsage {
    MemoryUsage {
        timestamp: now(),
        working_set_bytes: value(memory.working_set),
        available_bytes: optional(memory.limit.map(|limit| limit.saturating_sub(memory.working_set))),
        usage_bytes: value(memory.usage),
        rss_bytes: value(memory.rss),
        page_faults: value(memory.page_faults),
        major_page_faults: value(memory.major_page_faults),
        psi: pressure(stall),
        ..MemoryUsage::default()
    }
}

/// Swap; 0 of 0 where the kernel has none.
pub fn swap(read: &Stats) -> SwapUsage {
    let swap = read.swap.unwrap_or_default();
    SwapUsage {
        timestamp: now(),
        swap_available_bytes: optional(swap.limit.map(|limit| limit.saturating_sub(swap.usage))),
        swap_usage_bytes: value(swap.usage),
        ..SwapUsage::default()
    }
}

/// Time lost on devices: none without PSI, since CRI tells nothing else of them.
pub fn io(read: &Stats) -> MessageField<IoUsage> {
    let psi = pressure(read.io_pressure);
    if psi.is_none() { MessageField::none() } else { MessageField::some(IoUsage { timestamp: now(), psi, ..IoUsage::default() }) }
}

/// A pod's traffic; the loopback is nobody's traffic.
pub fn network(interfaces: Vec<Interface>) -> NetworkUsage {
    let mut found = NetworkUsage { timestamp: now(), ..NetworkUsage::default() };
    for interface in interfaces.into_iter().filter(|i| i.name != "lo") {
        let usage = NetworkInterfaceUsage {
            rx_bytes: value(interface.rx.bytes),
            rx_errors: value(interface.rx.errors),
            tx_bytes: value(interface.tx.bytes),
            tx_errors: value(interface.tx.errors),
            name: interface.name,
            ..NetworkInterfaceUsage::default()
        };
        if usage.name == DEFAULT_INTERFACE {
            found.default_interface = MessageField::some(usage);
        } else {
            found.interfaces.push(usage);
        }
    }
    found
}

fn pressure(pressure: Option<Pressure>) -> MessageField<PsiStats> {
    // The kernel counts microseconds, CRI nanoseconds.
    let data = |stall: Stall| {
        MessageField::some(PsiData {
            Total: stall.total_us * 1000,
            Avg10: stall.avg10,
            Avg60: stall.avg60,
            Avg300: stall.avg300,
            ..PsiData::default()
        })
    };
    pressure
        .map_or_else(MessageField::none, |p| MessageField::some(PsiStats { Full: data(p.full), Some: data(p.some), ..PsiStats::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::cgroup::Swap;

    #[test]
    fn what_is_not_counted_is_empty() {
        let used = memory(&Memory { working_set: 30, limit: Some(100), ..Memory::default() }, None);
        assert_eq!((used.available_bytes.value, used.psi.is_some()), (70, false));
        assert!(memory(&Memory::default(), None).available_bytes.is_none());
        assert!(io(&Stats::default()).is_none());
        let read = Stats { swap: Some(Swap { usage: 2, limit: Some(10) }), ..Stats::default() };
        assert_eq!((swap(&read).swap_usage_bytes.value, swap(&read).swap_available_bytes.value), (2, 8));
    }

    #[test]
    fn pressure_is_in_nanoseconds() {
        let stall = Stall { avg10: 1.5, total_us: 7, ..Stall::default() };
        let read = Stats { io_pressure: Some(Pressure { some: stall, full: Stall::default() }), ..Stats::default() };
        let psi = &io(&read).psi;
        assert_eq!((psi.Some.Total, psi.Some.Avg10, psi.Full.Total), (7000, 1.5, 0));
    }

    #[test]
    fn interfaces_besides_the_default_one_are_listed_without_the_loopback() {
        let named = |name: &str| Interface { name: name.into(), ..Interface::default() };
        let used = network(vec![named("lo"), named("eth0"), named("net1")]);
        assert_eq!(used.default_interface.name, "eth0");
        assert_eq!(used.interfaces.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["net1"]);
    }
}
