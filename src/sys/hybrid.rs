//! Hybrid: hides the controller-less cgroup2 of a hybrid host (`/sys/fs/cgroup/unified`) from programs that refuse it, as crun 1.8.
use std::ffi::CStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

const BASE: &CStr = c"/sys/fs/cgroup";
const UNIFIED: &CStr = c"/sys/fs/cgroup/unified";

/// Whether this host is hybrid: cgroup v1 with a cgroup2 beside it.
pub fn present() -> bool {
    rustix::fs::statfs(UNIFIED).is_ok_and(|s| s.f_type as u64 == 0x6367_7270)
}

/// The program runs in a mount namespace of its own, in which `unified` is not mounted and everything but `/sys/fs/cgroup` stays
/// a peer of the host's, so that mounts go both ways.
pub fn without_unified(command: &mut Command) -> &mut Command {
    // SAFETY: the closure runs between fork and exec and only makes system calls on constant strings.
    unsafe { command.pre_exec(hide) }
}

fn hide() -> io::Result<()> {
    let check = |rc: libc::c_int| if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: the child of fork has one thread, so that no other loses its file system context.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    // SAFETY: constant strings; the kernel ignores source, type and data when it changes propagation, so they may be null.
    // First private, or the unmount below would reach the host.
    check(unsafe { libc::mount(std::ptr::null(), BASE.as_ptr(), std::ptr::null(), libc::MS_PRIVATE, std::ptr::null()) })?;
    // SAFETY: a constant string.
    check(unsafe { libc::umount2(UNIFIED.as_ptr(), libc::MNT_DETACH) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::spawn;
    use std::time::Duration;

    #[test]
    fn unified_is_hidden_from_the_program_alone() {
        if !present() {
            eprintln!("skipped: this host is not hybrid");
            return;
        }
        let mut command = Command::new("/bin/sh");
        command.args([
            "-c",
            "grep -c ' /sys/fs/cgroup/unified ' /proc/self/mountinfo; grep -c ' /sys/fs/cgroup/memory ' /proc/self/mountinfo",
        ]);
        let out = spawn::run(without_unified(&mut command), &[], Duration::from_secs(5), 100).unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "0\n1\n");
        assert!(present());
    }
}
