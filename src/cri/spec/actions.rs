//! What must be done on the machine before a spec can run: a pure build lists it, `perform` does it.
use crate::error::{Context, Error, Result};
use crate::sys::run::{self, End};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The parser takes a second for our profile; a node under load more.
const PARSER_LIMIT: Duration = Duration::from_secs(30);

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A bind source that is not there is made as a directory, 0755.
    CreateDir(PathBuf),
    /// The files of a bind source get the pod's SELinux label.
    Relabel {
        /// Where.
        path: PathBuf,
        /// What.
        label: String,
    },
    /// Our AppArmor profile must be loaded.
    LoadAppArmor,
}

/// Does them in order.
pub fn perform(actions: &[Action]) -> Result<()> {
    for action in actions {
        match action {
            Action::CreateDir(path) => std::fs::create_dir_all(path).during(|| format!("create mount source {}", path.display()))?,
            Action::Relabel { path, label } => relabel(path, label)?,
            Action::LoadAppArmor => load_apparmor()?,
        }
    }
    Ok(())
}

/// Sets the label of a tree, links not followed. A filesystem without labels is left alone, as containerd leaves it.
fn relabel(path: &Path, label: &str) -> Result<()> {
    let set = rustix::fs::lsetxattr(path, "security.selinux", label.as_bytes(), rustix::fs::XattrFlags::empty());
    match set {
        Err(rustix::io::Errno::NOTSUP) => return Ok(()),
        other => other.during(|| format!("label {} as {label}", path.display()))?,
    }
    if !path.symlink_metadata().is_ok_and(|m| m.is_dir()) {
        return Ok(());
    }
    for entry in std::fs::read_dir(path).during(|| format!("list {}", path.display()))? {
        relabel(&entry.during(|| format!("list {}", path.display()))?.path(), label)?;
    }
    Ok(())
}

/// Our profile, in force from the moment that it is loaded: no mounts, no writes to what configures the kernel, no
/// ptrace out of the container.
const PROFILE: &str = r#"
profile cri-containerd.apparmor.d flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,
  signal (receive) peer=unconfined,
  signal (receive) peer=/usr/bin/cradled,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  signal (send,receive) peer=cri-containerd.apparmor.d,
  ptrace (trace,read,tracedby,readby) peer=cri-containerd.apparmor.d,
  deny mount,
  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny @{PROC}/{sysrq-trigger,mem,kmem,kcore} rwklx,
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
"#;

/// The profile with the distribution's definitions, where it has them.
fn profile(etc: &Path) -> String {
    let has = |name: &str| etc.join(name).is_file();
    let variables = if has("tunables/global") { "#include <tunables/global>" } else { "@{PROC}=/proc/" };
    let base = if has("abstractions/base") { "{\n  #include <abstractions/base>" } else { "{" };
    format!("{variables}\n{}", PROFILE.replacen("mediate_deleted) {", &format!("mediate_deleted) {base}"), 1))
}

fn load_apparmor() -> Result<()> {
    let what = || "load AppArmor profile cri-containerd.apparmor.d with apparmor_parser";
    let mut command = Command::new("apparmor_parser");
    command.arg("-Kr");
    let output = run::run(&mut command, profile(Path::new("/etc/apparmor.d")).as_bytes(), PARSER_LIMIT, 4096).during(what)?;
    match output.end {
        End::Exited(status) if status.success() => Ok(()),
        End::Exited(_) => Err(Error::internal(format!("{}: {}", what(), String::from_utf8_lossy(&output.stderr).trim()))),
        End::TimedOut => Err(Error::internal(format!("{}: not done in {} s", what(), PARSER_LIMIT.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_includes_what_the_distribution_has() {
        let bare = profile(Path::new("/nonexistent"));
        assert!(bare.starts_with("@{PROC}=/proc/\n\nprofile cri-containerd.apparmor.d flags=") && !bare.contains("#include"), "{bare}");
        let dir = std::env::temp_dir().join(format!("cradle-spec-profile-{}", std::process::id()));
        for (sub, file) in [("tunables", "global"), ("abstractions", "base")] {
            std::fs::create_dir_all(dir.join(sub)).unwrap();
            std::fs::write(dir.join(sub).join(file), "").unwrap();
        }
        let full = profile(&dir);
        assert!(
            full.starts_with("#include <tunables/global>\n") && full.contains("{\n  #include <abstractions/base>\n  network,"),
            "{full}"
        );
        std::fs::remove_dir_all(dir).unwrap();
    }
}
