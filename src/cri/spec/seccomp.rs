//! System call filters: RuntimeDefault made for the container's capabilities and this kernel, Localhost from a file, or none.
use super::host::Host;
use super::oci::{Seccomp, Syscall, SyscallArg};
use super::seccomp_table as table;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::cri;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

/// Largest profile that is read.
const LIMIT: u64 = 4 << 20;
const ALLOW: &str = "SCMP_ACT_ALLOW";
const ERRNO: &str = "SCMP_ACT_ERRNO";
/// Address families that reach the hypervisor and the kernel's crypto.
const AF_VSOCK: u64 = 40;
const AF_ALG: u64 = 38;
const ENOSYS: u32 = 38;

/// What a request wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// No filter.
    Unconfined,
    /// Ours.
    RuntimeDefault,
    /// A file.
    Localhost(PathBuf),
}

/// Reads the request: the field, else the deprecated string, else what the config says for "unset".
pub fn wanted(field: Option<&cri::SecurityProfile>, deprecated: &str, unset: &str) -> Result<Wanted> {
    use cri::security_profile::ProfileType;
    const AT: &str = "linux.security_context.seccomp";
    let localhost = |path: &str| {
        let path = PathBuf::from(path.strip_prefix("localhost/").unwrap_or(path));
        match path.is_absolute() {
            true => Ok(Wanted::Localhost(path)),
            false => Err(Error::invalid(format!("{AT}: localhost profile {path:?} is not an absolute path"))),
        }
    };
    if let Some(profile) = field {
        let kind = profile.profile_type.enum_value().map_err(|n| Error::invalid(format!("{AT}.profile_type: unknown value {n}")))?;
        if kind != ProfileType::Localhost && !profile.localhost_ref.is_empty() {
            return Err(Error::invalid(format!("{AT}.localhost_ref: only for profile type Localhost")));
        }
        return match kind {
            ProfileType::RuntimeDefault => Ok(Wanted::RuntimeDefault),
            ProfileType::Unconfined => Ok(Wanted::Unconfined),
            ProfileType::Localhost => localhost(&profile.localhost_ref),
        };
    }
    match if deprecated.is_empty() { unset } else { deprecated } {
        "" | "unconfined" => Ok(Wanted::Unconfined),
        "runtime/default" | "docker/default" => Ok(Wanted::RuntimeDefault),
        path if path.starts_with("localhost/") => localhost(path),
        other => Err(Error::invalid(format!("{AT}_profile_path: {other:?} is none of unconfined, runtime/default, localhost/PATH"))),
    }
}

/// The filter of a process with these capabilities.
pub fn filter(wanted: &Wanted, bounding: &[String], host: &Host) -> Result<Option<Seccomp>> {
    match wanted {
        Wanted::Unconfined => Ok(None),
        _ if !host.seccomp => Err(Error::precondition("linux.security_context.seccomp: this kernel has no seccomp")),
        Wanted::RuntimeDefault => Ok(Some(default_profile(std::env::consts::ARCH, host.kernel, bounding))),
        Wanted::Localhost(path) => load(path).map(Some),
    }
}

fn load(path: &PathBuf) -> Result<Seccomp> {
    let what = || format!("load seccomp profile {}", path.display());
    let file = File::open(path).during(what).map_err(|e| e.with_kind(Kind::FailedPrecondition))?;
    if !file.metadata().during(what)?.is_file() {
        return Err(Error::precondition(format!("seccomp profile {} is not a regular file", path.display())));
    }
    let mut bytes = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut bytes).during(what)?;
    if bytes.len() as u64 > LIMIT {
        return Err(Error::precondition(format!("seccomp profile {} is larger than {LIMIT} bytes", path.display())));
    }
    serde_json::from_slice(&bytes).during(what).map_err(|e| e.with_kind(Kind::FailedPrecondition))
}

/// RuntimeDefault: what Docker and containerd allow, by architecture, kernel version and capabilities; all else is EPERM.
pub fn default_profile(arch: &str, kernel: (u32, u32), bounding: &[String]) -> Seccomp {
    let mut rules = vec![allow(table::ALWAYS)];
    // One condition a rule: conditions on the same argument in one rule are OR for runc, so "neither ALG nor VSOCK" is
    // three ranges that leave both out.
    for (op, value) in [("SCMP_CMP_LT", AF_ALG), ("SCMP_CMP_EQ", AF_ALG + 1), ("SCMP_CMP_GT", AF_VSOCK)] {
        rules.push(allow_if("socket", 0, value, op));
    }
    // PER_LINUX, PER_LINUX32, UNAME26 with either, and the question for the current one.
    for value in [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        rules.push(allow_if("personality", 0, value, "SCMP_CMP_EQ"));
    }
    if kernel >= (4, 8) {
        // From there on ptrace cannot be used to get around a filter.
        rules.push(allow(&["process_vm_readv", "process_vm_writev", "ptrace"]));
    }
    if let Some((_, _, own)) = table::ARCHES.iter().find(|(a, _, own)| *a == arch && !own.is_empty()) {
        rules.push(allow(own));
    }
    let has = |cap: &str| bounding.iter().any(|c| c == cap);
    for (_, names) in table::BY_CAPABILITY.iter().filter(|(cap, _)| has(cap)) {
        rules.push(allow(names));
    }
    if !has("CAP_SYS_ADMIN") {
        // s390x has clone's flags second.
        let index = u32::from(arch == "s390x");
        let mut clone = allow_if("clone", index, table::NEW_NAMESPACES, "SCMP_CMP_MASKED_EQ");
        clone.args[0].value_two = 0;
        rules.push(clone);
        // Its flags are in memory, out of a filter's reach: ENOSYS makes libc fall back to clone.
        rules.push(Syscall { names: vec!["clone3".into()], action: ERRNO.into(), errno_ret: Some(ENOSYS), args: vec![] });
    }
    Seccomp {
        default_action: ERRNO.into(),
        architectures: table::ARCHES.iter().find(|(a, ..)| *a == arch).map(|(_, list, _)| own(list)).unwrap_or_default(),
        syscalls: rules,
        ..Seccomp::default()
    }
}

fn own(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| s.to_string()).collect()
}

fn allow(names: &[&str]) -> Syscall {
    Syscall { names: own(names), action: ALLOW.into(), ..Syscall::default() }
}

fn allow_if(name: &str, index: u32, value: u64, op: &str) -> Syscall {
    let arg = SyscallArg { index, value, value_two: 0, op: op.into() };
    Syscall { names: vec![name.into()], action: ALLOW.into(), errno_ret: None, args: vec![arg] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(list: &[&str]) -> Vec<String> {
        list.iter().map(|c| format!("CAP_{c}")).collect()
    }

    fn allows(profile: &Seccomp, name: &str) -> bool {
        profile.syscalls.iter().any(|r| r.action == ALLOW && r.args.is_empty() && r.names.iter().any(|n| n == name))
    }

    #[test]
    fn calls_come_with_their_capability() {
        let plain = default_profile("x86_64", (6, 1), &caps(&["CHOWN"]));
        for (name, cap) in [
            ("mount", "SYS_ADMIN"),
            ("bpf", "BPF"),
            ("reboot", "SYS_BOOT"),
            ("chroot", "SYS_CHROOT"),
            ("clock_settime", "SYS_TIME"),
            ("open_by_handle_at", "DAC_READ_SEARCH"),
            ("syslog", "SYSLOG"),
        ] {
            assert!(!allows(&plain, name), "{name}");
            assert!(allows(&default_profile("x86_64", (6, 1), &caps(&[cap])), name), "{name}");
        }
        assert!(!allows(&plain, "socket") && !allows(&plain, "clone") && !allows(&plain, "clone3") && !allows(&plain, "io_uring_setup"));
        assert!(!allows(&plain, "keyctl") && !allows(&plain, "userfaultfd"));
        assert!(allows(&plain, "arch_prctl") && allows(&plain, "ptrace"));
        assert!(!allows(&default_profile("x86_64", (4, 7), &[]), "ptrace"));
        assert!(!allows(&default_profile("aarch64", (6, 1), &[]), "arch_prctl"));
    }

    #[test]
    fn socket_leaves_out_vsock_and_alg() {
        let profile = default_profile("x86_64", (6, 1), &[]);
        let passes = |family: u64| {
            profile.syscalls.iter().filter(|r| r.names == ["socket"]).any(|r| {
                let arg = &r.args[0];
                match arg.op.as_str() {
                    "SCMP_CMP_LT" => family < arg.value,
                    "SCMP_CMP_GT" => family > arg.value,
                    _ => family == arg.value,
                }
            })
        };
        assert_eq!((0..100).filter(|f| !passes(*f)).collect::<Vec<_>>(), [AF_ALG, AF_VSOCK]);
    }

    #[test]
    fn clone_may_make_no_namespaces_and_clone3_is_absent() {
        let profile = default_profile("s390x", (6, 1), &[]);
        let clone = profile.syscalls.iter().find(|r| r.names == ["clone"]).unwrap();
        assert_eq!((clone.args[0].index, clone.args[0].value), (1, 0x7e02_0000));
        let clone3 = profile.syscalls.iter().find(|r| r.names == ["clone3"]).unwrap();
        assert_eq!((clone3.action.as_str(), clone3.errno_ret), (ERRNO, Some(38)));
        assert!(allows(&default_profile("x86_64", (6, 1), &caps(&["SYS_ADMIN"])), "clone3"));
    }

    #[test]
    fn fields_win_over_the_deprecated_string_and_that_over_the_config() {
        let field = |kind: i32, path: &str| cri::SecurityProfile {
            profile_type: protobuf::EnumOrUnknown::from_i32(kind),
            localhost_ref: path.into(),
            ..Default::default()
        };
        assert_eq!(wanted(Some(&field(1, "")), "runtime/default", "").unwrap(), Wanted::Unconfined);
        assert_eq!(wanted(Some(&field(2, "/p.json")), "", "").unwrap(), Wanted::Localhost("/p.json".into()));
        assert_eq!(wanted(None, "localhost//p.json", "").unwrap(), Wanted::Localhost("/p.json".into()));
        assert_eq!(wanted(None, "", "runtime/default").unwrap(), Wanted::RuntimeDefault);
        assert_eq!(wanted(None, "", "").unwrap(), Wanted::Unconfined);
        for (f, s) in [(Some(field(0, "/x")), ""), (Some(field(7, "")), ""), (Some(field(2, "p")), ""), (None, "bogus")] {
            assert!(wanted(f.as_ref(), s, "").unwrap_err().chain().contains("seccomp"));
        }
    }

    #[test]
    fn profile_without_a_default_action_is_refused() {
        let path = std::env::temp_dir().join(format!("cradle-spec-seccomp-{}", std::process::id()));
        std::fs::write(&path, r#"{"syscalls":[]}"#).unwrap();
        assert_eq!(load(&path).unwrap_err().kind(), Kind::FailedPrecondition);
        std::fs::write(
            &path,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO","args":null}]}"#,
        )
        .unwrap();
        let profile = load(&path);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(profile.unwrap().syscalls[0].names, ["chmod"]);
    }
}
