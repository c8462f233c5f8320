//! Pause: the static program that holds a sandbox's namespaces, built in so that no image has to be pulled for it.

/// The program's file, of a few KB: it reaps children and ends on SIGTERM or SIGINT.
pub const BYTES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::signal::kill;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    #[test]
    fn it_is_small_waits_and_ends_on_sigterm() {
        assert!(BYTES.len() < 16 << 10, "{} bytes", BYTES.len());
        let path = std::env::temp_dir().join(format!("cradle-shim-pause-{}", std::process::id()));
        std::fs::write(&path, BYTES).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = Command::new(&path).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(child.try_wait().unwrap().is_none());
        kill(child.id() as i32, libc::SIGCHLD).unwrap();
        kill(child.id() as i32, libc::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        std::fs::remove_file(&path).unwrap();
    }
}
