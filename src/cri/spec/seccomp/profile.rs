//! The default profile, built from what a container may do.
use super::calls::ALWAYS;
use crate::error::{Error, Result};
use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArgBuilder, LinuxSeccompOperator as Op, LinuxSyscall,
};
use std::collections::HashSet;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;
/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NEW_NAMESPACES: u64 = 0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000;
/// PER_LINUX, PER_LINUX32, each with UNAME26 too, and the question what is set.
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x20000, 0x20008, 0xffff_ffff];

/// The kernel asks for the capability too, so the filter need not stand in the way.
const WITH_CAPABILITY: &[(Capability, &str)] = &[
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount open_tree \
         perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module finit_module init_module"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    (Capability::SysRawio, "ioperm iopl"),
    (Capability::SysTime, "clock_settime clock_settime64 settimeofday stime"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// Before kernel 4.8 ptrace was a way around filters; what we run on is newer.
const SINCE_4_8: &str = "process_vm_readv process_vm_writev ptrace";

#[cfg(target_arch = "x86_64")]
const OF_ARCH: (&str, &[Arch]) = ("arch_prctl modify_ldt", &[Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]);
#[cfg(target_arch = "aarch64")]
const OF_ARCH: (&str, &[Arch]) =
    ("arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2", &[Arch::ScmpArchAarch64, Arch::ScmpArchArm]);
#[cfg(target_arch = "riscv64")]
const OF_ARCH: (&str, &[Arch]) = ("riscv_flush_icache riscv_hwprobe", &[Arch::ScmpArchRiscv64]);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
const OF_ARCH: (&str, &[Arch]) = ("", &[Arch::ScmpArchNative]);

/// The profile of a process with these capabilities in its bounding set.
pub fn default_profile(bounding: &HashSet<Capability>) -> Result<LinuxSeccomp> {
    let mut rules = vec![allow(ALWAYS)];
    // One condition a rule: runtimes split several conditions on one argument into rules of their own, any of which lets through.
    rules.push(allow_if("socket", AF_ALG, Op::ScmpCmpLt)?);
    rules.push(allow_if("socket", AF_ALG + 1, Op::ScmpCmpEq)?);
    rules.push(allow_if("socket", AF_VSOCK, Op::ScmpCmpGt)?);
    for value in PERSONALITIES {
        rules.push(allow_if("personality", value, Op::ScmpCmpEq)?);
    }
    rules.push(allow(SINCE_4_8));
    if !OF_ARCH.0.is_empty() {
        rules.push(allow(OF_ARCH.0));
    }
    rules.extend(WITH_CAPABILITY.iter().filter(|(c, _)| bounding.contains(c)).map(|(_, names)| allow(names)));
    if !bounding.contains(&Capability::SysAdmin) {
        rules.push(allow_if("clone", NEW_NAMESPACES, Op::ScmpCmpMaskedEq)?);
        // Its flags are in memory, out of a filter's sight; with ENOSYS libraries fall back to clone.
        let mut clone3 = rule("clone3", Action::ScmpActErrno);
        clone3.set_errno_ret(Some(ENOSYS));
        rules.push(clone3);
    }
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(Action::ScmpActErrno).set_default_errno_ret(Some(EPERM));
    profile.set_architectures(Some(OF_ARCH.1.to_vec())).set_syscalls(Some(rules));
    Ok(profile)
}

fn rule(names: &str, action: Action) -> LinuxSyscall {
    let mut made = LinuxSyscall::default();
    made.set_names(names.split_ascii_whitespace().map(String::from).collect()).set_action(action);
    made
}

fn allow(names: &str) -> LinuxSyscall {
    rule(names, Action::ScmpActAllow)
}

/// Lets through what compares so on its first argument; `MaskedEq` asks for none of the bits.
fn allow_if(names: &str, value: u64, op: Op) -> Result<LinuxSyscall> {
    let arg = LinuxSeccompArgBuilder::default().index(0usize).value(value).value_two(0u64).op(op).build();
    let arg = arg.map_err(|e| Error::internal(format!("build the seccomp rule of {names}")).because(e))?;
    let mut made = allow(names);
    made.set_args(Some(vec![arg]));
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(of: &[Capability], name: &str) -> Vec<LinuxSyscall> {
        let profile = default_profile(&of.iter().copied().collect()).unwrap();
        assert_eq!(profile.default_action(), Action::ScmpActErrno);
        let all = profile.syscalls().clone().unwrap();
        all.into_iter().filter(|rule| rule.names().iter().any(|n| n == name)).collect()
    }

    /// Whether any rule lets a first argument through.
    fn passes(rules: &[LinuxSyscall], value: u64) -> bool {
        rules.iter().filter(|r| r.action() == Action::ScmpActAllow).any(|rule| {
            rule.args().iter().flatten().all(|arg| match arg.op() {
                Op::ScmpCmpLt => value < arg.value(),
                Op::ScmpCmpEq => value == arg.value(),
                Op::ScmpCmpGt => value > arg.value(),
                Op::ScmpCmpMaskedEq => value & arg.value() == arg.value_two().unwrap(),
                other => panic!("{other:?}"),
            })
        })
    }

    #[test]
    fn families_personalities_and_flags() {
        let socket = rules(&[], "socket");
        let shut: Vec<u64> = (0..64).filter(|family| !passes(&socket, *family)).collect();
        assert_eq!(shut, [AF_ALG, AF_VSOCK]);
        let personality = rules(&[], "personality");
        assert!(passes(&personality, 0x20008) && !passes(&personality, 0x004_0000));
        let clone = rules(&[], "clone");
        assert!(passes(&clone, 0x11) && !passes(&clone, 0x1000_0000) && !passes(&clone, 0x0002_0011));
        assert!(passes(&rules(&[Capability::SysAdmin], "clone"), 0x1000_0000));
    }

    #[test]
    fn clone3_is_unknown_without_sys_admin() {
        let rule = &rules(&[], "clone3")[0];
        assert_eq!((rule.action(), rule.errno_ret()), (Action::ScmpActErrno, Some(ENOSYS)));
        assert_eq!(rules(&[Capability::SysAdmin], "clone3")[0].action(), Action::ScmpActAllow);
    }

    #[test]
    fn capabilities_open_their_calls() {
        for (capability, names) in WITH_CAPABILITY {
            for name in names.split_ascii_whitespace().filter(|n| !n.starts_with("clone") && !SINCE_4_8.contains(n)) {
                assert!(rules(&[], name).is_empty(), "{name}");
                assert!(passes(&rules(&[*capability], name), 0), "{name}");
            }
        }
        for never in ["kexec_load", "keyctl", "add_key", "request_key", "userfaultfd", "io_uring_setup", "swapon", "nfsservctl"] {
            assert!(rules(&[Capability::SysAdmin], never).is_empty(), "{never}");
        }
    }
}
