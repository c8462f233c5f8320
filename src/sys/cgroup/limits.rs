//! Limits that a group has now, in v1's words for both layouts.
use super::parse::{limit, number};
use super::{Cgroup, Layout};

/// Limits in force; None is without limit, or not known to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Limits {
    /// Share of the processors against neighbours, 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// In microseconds.
    pub cpu_period: Option<u64>,
    /// Processor time a period, in microseconds.
    pub cpu_quota: Option<u64>,
    /// In bytes.
    pub memory: Option<u64>,
    /// v1: memory and swap together; v2: swap alone. In bytes.
    pub memory_and_swap: Option<u64>,
    /// What reclaim leaves to the group, in bytes.
    pub memory_reserved: Option<u64>,
}

impl Cgroup {
    /// The limits in force.
    pub fn limits(&self) -> Limits {
        let number = |controller, file| self.read(controller, file).ok().as_deref().and_then(number);
        let bound = |controller, file| self.read(controller, file).ok().as_deref().and_then(limit);
        match &self.layout {
            Layout::V1(_) => Limits {
                cpu_shares: number("cpu", "cpu.shares"),
                cpu_period: number("cpu", "cpu.cfs_period_us"),
                // -1 is without limit, and no number here.
                cpu_quota: number("cpu", "cpu.cfs_quota_us"),
                memory: bound("memory", "memory.limit_in_bytes"),
                memory_and_swap: bound("memory", "memory.memsw.limit_in_bytes"),
                memory_reserved: bound("memory", "memory.soft_limit_in_bytes"),
            },
            Layout::V2(_) => {
                let max = self.read("cpu", "cpu.max").unwrap_or_default();
                let (quota, period) = max.trim().split_once(' ').unwrap_or_default();
                Limits {
                    cpu_shares: number("cpu", "cpu.weight").map(shares_of_weight),
                    cpu_period: period.parse().ok(),
                    cpu_quota: quota.parse().ok(),
                    memory: bound("memory", "memory.max"),
                    memory_and_swap: bound("memory", "memory.swap.max"),
                    memory_reserved: bound("memory", "memory.min"),
                }
            }
        }
    }
}

/// The kubelet's and runtimes' linear mapping of 2..262144 on 1..10000, backwards.
fn shares_of_weight(weight: u64) -> u64 {
    2 + weight.clamp(1, 10_000).saturating_sub(1) * 262_142 / 9_999
}
