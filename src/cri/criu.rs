//! CRIU: whether checkpoints can be made on this node, and what it said when one failed.
use crate::error::{Context, Error, Result};
use crate::sys::run::{End, run};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The oldest that containerd and runtimes ask for.
const LEAST: (u32, u32) = (3, 16);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Lines of CRIU's log that an error shows.
const LINES: usize = 3;

/// Checks that CRIU is here and new enough; `program` is the config's CriuPath, or empty.
pub fn check(program: &str) -> Result<()> {
    let program = if program.is_empty() { Path::new("criu") } else { Path::new(program) };
    let none = |why: &str| {
        let remedy = format!("install it (Debian: apt-get install criu), {}.{} or newer, or set CriuPath to it", LEAST.0, LEAST.1);
        Error::precondition(format!("checkpoints need CRIU, and {} {why}: {remedy}", program.display()))
    };
    let output = match run(Command::new(program).arg("--version"), &[], ANSWER_LIMIT, 4096) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(none("is not here")),
        other => other.during(|| format!("run {} --version", program.display()))?,
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match (&output.end, version(&text)) {
        (End::Exited(status), Some(found)) if status.success() && found >= LEAST => Ok(()),
        (End::Exited(status), Some((major, minor))) if status.success() => Err(none(&format!("is {major}.{minor}"))),
        _ => Err(none("does not tell its version")),
    }
}

fn version(text: &str) -> Option<(u32, u32)> {
    let line = text.lines().find_map(|l| l.trim().strip_prefix("Version:"))?;
    let mut parts = line.trim().split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

/// The last errors in CRIU's log, for the caller who cannot see it.
pub fn last_words(log: &Path) -> Option<String> {
    let text = std::fs::read_to_string(log).ok()?;
    let errors: Vec<&str> = text.lines().filter(|l| l.contains("Error")).map(|l| l.split_once(") ").map_or(l, |(_, said)| said)).collect();
    let last = &errors[errors.len().saturating_sub(LINES)..];
    (!last.is_empty()).then(|| last.join("; "))
}

/// CRIU's log below a work directory.
pub fn log_of(work: &Path) -> PathBuf {
    work.join("dump.log")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn versions_are_read_and_the_remedy_is_said() {
        assert_eq!(version("Version: 3.17.1\n"), Some((3, 17)));
        assert_eq!(version("Version: 4.1\nGitID: v4.1\n"), Some((4, 1)));
        assert_eq!(version("criu"), None);
        let scratch = crate::sys::fs::Scratch::new("criu");
        let program = scratch.path.join("criu");
        let error = check(program.to_str().unwrap()).unwrap_err();
        assert!(error.kind() == crate::error::Kind::FailedPrecondition && error.chain().contains("apt-get install criu"));
        std::fs::write(&program, "#!/bin/sh\necho Version: 3.15\n").unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        assert!(check(program.to_str().unwrap()).unwrap_err().chain().contains("is 3.15"));
        std::fs::write(&program, "#!/bin/sh\necho Version: 3.16\n").unwrap();
        check(program.to_str().unwrap()).unwrap();
    }

    #[test]
    fn errors_are_taken_from_the_log() {
        let scratch = crate::sys::fs::Scratch::new("criu-log");
        let log = scratch.path.join("dump.log");
        std::fs::write(&log, "(00.1) fine\n(00.2) Error (criu/x.c:1): one\n(00.3) Error (criu/y.c:2): two\n").unwrap();
        assert_eq!(last_words(&log).unwrap(), "Error (criu/x.c:1): one; Error (criu/y.c:2): two");
        assert_eq!(last_words(&scratch.path), None);
    }
}
