//! The OCI runtime, crun or runc, as a command line: what it is told, and what it said when it failed.
use super::reaper::Reaper;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::runc_options::Options;
use crate::sys::cgroup::Mode;
use crate::sys::{hybrid, signal};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where runtimes keep their state unless an option says otherwise; containerd's shim uses the same place.
const ROOT: &str = "/run/containerd/runc";
/// Environment variable with the default runtime.
const DEFAULT: &str = "CRADLE_OCI_RUNTIME";
/// What is kept of a runtime's output for an error.
const SAID_MAX: u64 = 64 << 10;

/// Tells concurrent runs' log files apart.
static RUNS: AtomicU32 = AtomicU32::new(0);

/// How a container's runtime is called; kept in its bundle, so that `delete` can do without the shim.
#[derive(Clone, Serialize, Deserialize, Default, Debug)]
#[serde(default)]
pub struct Runtime {
    /// Absolute path of the program.
    pub program: PathBuf,
    /// Its state directory, of one namespace.
    pub root: PathBuf,
    /// Whether cgroups are made by systemd.
    pub systemd_cgroup: bool,
    /// Whether it must not make a session keyring.
    pub no_new_keyring: bool,
    /// Whether it must not use pivot_root.
    pub no_pivot_root: bool,
    /// CRIU's program; empty: by PATH.
    pub criu: PathBuf,
}

/// A runtime's streams.
pub enum Streams {
    /// Output is taken for an error's text.
    Captured,
    /// They become the container's: input, output, error output; None is /dev/null.
    Given([Option<OwnedFd>; 3]),
}

impl Runtime {
    /// From Create's options; a runtime that is not there is said at once.
    pub fn new(options: &Options, namespace: &str) -> Result<Runtime> {
        let name = Some(options.binary_name.clone()).filter(|n| !n.is_empty()).or_else(|| std::env::var(DEFAULT).ok());
        let program = match &name {
            Some(name) => find(name),
            None => find("crun").or_else(|| find("runc")),
        };
        let program = program.ok_or_else(|| {
            let name = name.as_deref().unwrap_or("crun or runc");
            Error::new(Kind::NotFound, format!("OCI runtime {name}: not on the PATH; install it or set BinaryName to its absolute path"))
        })?;
        let root = if options.root.is_empty() { ROOT } else { &options.root };
        Ok(Runtime {
            program,
            root: Path::new(root).join(namespace),
            systemd_cgroup: options.systemd_cgroup,
            no_new_keyring: options.no_new_keyring,
            no_pivot_root: options.no_pivot_root,
            criu: PathBuf::from(&options.criu_path),
        })
    }
    /// Reads what [`Runtime::save`] wrote; without it, the defaults.
    pub fn load(bundle: &Path, namespace: &str) -> Result<Runtime> {
        let path = bundle.join("cradle-runtime.json");
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).during(|| format!("parse {}", path.display())),
            Err(_) => Runtime::new(&Options::default(), namespace),
        }
    }
    /// Writes it into the bundle; `runtime` holds the program's path as containerd's own shim leaves it.
    pub fn save(&self, bundle: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).during(|| "write the runtime's options")?;
        fs::write(bundle.join("cradle-runtime.json"), text).during(|| format!("write into bundle {}", bundle.display()))?;
        let path = self.program.to_string_lossy();
        fs::write(bundle.join("runtime"), path.as_bytes()).during(|| format!("write into bundle {}", bundle.display()))
    }
    /// Runs one command in `bundle`, whose log goes to `log` there, and waits for it.
    pub fn run(&self, reaper: &Arc<Reaper>, bundle: &Path, args: &[&str], streams: Streams) -> Result<()> {
        let what = args.first().copied().unwrap_or_default();
        let log = Scratch(bundle.join(format!(".{what}-{}.log", RUNS.fetch_add(1, Ordering::Relaxed))));
        let mut command = self.command(&log.0);
        command.args(args).current_dir(bundle);
        if let Some(dir) = self.criu.parent().filter(|dir| dir.is_absolute()) {
            // Runtimes look for `criu` there, whatever flag an older one may have for it.
            let path = std::env::var_os("PATH").unwrap_or_default();
            let all = std::iter::once(dir.to_path_buf()).chain(std::env::split_paths(&path));
            command.env("PATH", std::env::join_paths(all).unwrap_or(path.clone()));
        }
        let said = match streams {
            Streams::Captured => {
                let (reader, writer) = std::io::pipe().during(|| "make a pipe")?;
                let second = writer.try_clone().during(|| "make a pipe")?;
                command.stdin(Stdio::null()).stdout(writer).stderr(second);
                Some(reader)
            }
            Streams::Given([stdin, stdout, stderr]) => {
                let or_null = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
                command.stdin(or_null(stdin)).stdout(or_null(stdout)).stderr(or_null(stderr));
                None
            }
        };
        let (_, exit) = reaper.run(&mut command).during(|| format!("start OCI runtime {}", self.program.display()))?;
        // Our copies of the container's ends must close, or its output never ends.
        drop(command);
        let mut text = String::new();
        if let Some(reader) = said {
            let mut bytes = vec![];
            let _ = reader.take(SAID_MAX).read_to_end(&mut bytes);
            text = String::from_utf8_lossy(&bytes).trim().to_string();
        }
        let code = exit.recv().unwrap_or(255);
        if code == 0 {
            return Ok(());
        }
        let said = logged(&log.0).filter(|l| !l.is_empty()).unwrap_or(text);
        Err(Error::new(kind_of(&said), format!("{} {what}: exit {code}: {said}", self.program.display())))
    }
    /// Kills and removes a container without a shim that reaps.
    pub fn delete_alone(&self, bundle: &Path, id: &str) -> Result<()> {
        let log = Scratch(bundle.join(".delete.log"));
        let mut command = self.command(&log.0);
        command.args(["delete", "--force", id]).current_dir(bundle).stdin(Stdio::null());
        let output = command.output().during(|| format!("start OCI runtime {}", self.program.display()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = logged(&log.0).unwrap_or_else(|| String::from_utf8_lossy(&output.stderr).trim().to_string());
        Err(Error::new(kind_of(&said), format!("{} delete: {}: {said}", self.program.display(), output.status)))
    }
    /// The standard output of a command that needs no container.
    pub fn ask(program: &Path, args: &[&str]) -> Result<Vec<u8>> {
        let output = Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output();
        let output = output.during(|| format!("start OCI runtime {}", program.display()))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(Error::internal(format!("{} {}: {}", program.display(), args.join(" "), output.status)))
    }
    fn command(&self, log: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.root).arg("--log").arg(log).args(["--log-format", "json"]);
        if self.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS").env_remove("LISTEN_PID");
        let crun = self.program.file_name().is_some_and(|n| n.to_string_lossy().starts_with("crun"));
        if crun && Mode::host() == Mode::Hybrid {
            hybrid::without_unified(&mut command);
        }
        signal::unblocked(&mut command);
        command
    }
}

/// A file that goes with the value.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// An executable by path or on the PATH.
pub fn find(name: &str) -> Option<PathBuf> {
    let runs = |path: &PathBuf| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(runs);
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(runs)
}

/// The last error line of a runtime's JSON log.
fn logged(path: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(default)]
        level: String,
        #[serde(default)]
        msg: String,
    }
    let text = fs::read_to_string(path).ok()?;
    let mut lines = text.lines().filter_map(|l| serde_json::from_str::<Line>(l).ok());
    // crun writes its errors with level "error", runc its last one with "error" or "fatal".
    lines.rfind(|l| matches!(&*l.level, "error" | "fatal")).map(|l| l.msg)
}

/// The kind by the words that both runtimes use.
fn kind_of(said: &str) -> Kind {
    let has = |text: &str| said.contains(text);
    if has("does not exist") && has("container") {
        Kind::NotFound
    } else if has("already exists") || has("given id already in use") {
        Kind::AlreadyExists
    } else if has("no space left on device") {
        Kind::ResourceExhausted
    } else {
        Kind::Internal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_runtime_is_named() {
        let mut options = Options::new();
        options.binary_name = "no-such-runtime".into();
        let error = Runtime::new(&options, "k8s.io").unwrap_err();
        assert!(error.kind() == Kind::NotFound && error.chain().contains("no-such-runtime"));
        options.binary_name = "/bin/sh".into();
        options.root = "/state/runc".into();
        assert_eq!(Runtime::new(&options, "k8s.io").unwrap().root, Path::new("/state/runc/k8s.io"));
    }

    #[test]
    fn the_last_error_of_the_log_counts() {
        let path = std::env::temp_dir().join(format!("cradle-shim-runtime-{}", std::process::id()));
        fs::write(
            &path,
            "{\"level\":\"error\",\"msg\":\"one\"}\n{\"level\":\"warning\",\"msg\":\"x\"}\nnoise\n{\"level\":\"error\",\"msg\":\"two\"}\n",
        )
        .unwrap();
        assert_eq!(logged(&path).as_deref(), Some("two"));
        fs::remove_file(&path).unwrap();
    }
}
