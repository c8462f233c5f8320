//! Binary: finds a shim's program and runs its two commands, `start` and `delete`.
use super::bootstrap::Bootstrap;
use super::bundle::Bundle;
use super::{Exit, Runtime};
use crate::error::{Context, Error, Kind, Result};
use crate::proto::bootstrap::{BootstrapParams, Extension};
use crate::proto::task_v2::DeleteResponse;
use crate::sys::spawn::{self, Output};
use log::{debug, info};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

/// The shim that is built with this daemon.
pub const OWN: &str = "containerd-shim-cradle-v2";
/// More is no answer but a flood.
const MAX_OUTPUT: usize = 64 << 10;

/// What every shim is told.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// The daemon's TTRPC socket, where events go.
    pub ttrpc_address: PathBuf,
    /// The daemon's gRPC socket.
    pub grpc_address: PathBuf,
    /// Directories searched before the PATH; the daemon's own comes first.
    pub search: Vec<PathBuf>,
}

/// How `start` wants its parameters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// BootstrapParams on standard input.
    Bootstrap,
    /// Flags alone, and the bare runtime options on standard input.
    Flags,
}

/// Runs shim programs.
pub struct Binaries {
    launch: Launch,
    dialects: Mutex<HashMap<PathBuf, Dialect>>,
}

impl Binaries {
    /// Nothing is looked up yet.
    pub fn new(launch: Launch) -> Binaries {
        Binaries { launch, dialects: Mutex::default() }
    }
    /// The program of a runtime: its absolute path, or by name on the search path.
    pub fn locate(&self, runtime: &Runtime) -> Result<PathBuf> {
        if let Some(path) = &runtime.path {
            return if path.is_absolute() && path.is_file() {
                Ok(path.clone())
            } else {
                Err(Error::invalid(format!("runtime path {}: must be an absolute path of a shim that is there", path.display())))
            };
        }
        if runtime.name.starts_with('/') {
            return self.locate(&Runtime { path: Some(PathBuf::from(&runtime.name)), ..runtime.clone() });
        }
        let name = program_name(&runtime.name)?;
        let own = std::env::current_exe().ok().and_then(|p| p.parent().map(Path::to_path_buf));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs = self.launch.search.iter().cloned().chain(own).chain(std::env::split_paths(&path));
        dirs.map(|d| d.join(&name)).find(|p| p.is_file()).ok_or_else(|| {
            let what =
                format!("runtime \"{}\": no {name} beside the daemon or on the PATH; install it or set the runtime's path", runtime.name);
            Error::new(Kind::NotFound, what)
        })
    }
    /// Runs `start`; the shim that it leaves behind listens at the answer's address.
    pub fn start(&self, program: &Path, bundle: &Bundle, options: Option<&Any>, limit: Duration) -> Result<Bootstrap> {
        let known = crate::thread::lock(&self.dialects).get(program).copied();
        let first = known.unwrap_or(Dialect::Bootstrap);
        let (output, dialect) = match self.start_as(first, program, bundle, options, limit)? {
            // Shims before 2.3 take standard input for runtime options and refuse what they do not know.
            output if !output.status.success() && known.is_none() => {
                debug!("shim {}: start refused bootstrap parameters, trying flags: {}", program.display(), said(&output));
                let flags = self.start_as(Dialect::Flags, program, bundle, options, limit)?;
                if flags.status.success() { (flags, Dialect::Flags) } else { (output, first) }
            }
            output => (output, first),
        };
        if !output.status.success() {
            return Err(Error::internal(format!("shim {} start: {}: {}", program.display(), output.status, said(&output))));
        }
        crate::thread::lock(&self.dialects).insert(program.to_path_buf(), dialect);
        Bootstrap::parse(&output.stdout).during(|| format!("shim {} start", program.display()))
    }
    fn start_as(&self, dialect: Dialect, program: &Path, bundle: &Bundle, options: Option<&Any>, limit: Duration) -> Result<Output> {
        let input = match dialect {
            Dialect::Bootstrap => self.parameters(bundle, options).write_to_bytes(),
            Dialect::Flags => options.map(Message::write_to_bytes).transpose().map(Option::unwrap_or_default),
        }
        .during(|| "encode the shim's parameters")?;
        self.run(self.command(program, bundle, "start"), &input, limit)
    }
    fn parameters(&self, bundle: &Bundle, options: Option<&Any>) -> BootstrapParams {
        let mut params = BootstrapParams::new();
        params.instance_id = bundle.id.clone();
        params.namespace = bundle.namespace.clone();
        params.containerd_version = env!("CARGO_PKG_VERSION").into();
        params.containerd_ttrpc_address = self.launch.ttrpc_address.to_string_lossy().into();
        params.containerd_grpc_address = self.launch.grpc_address.to_string_lossy().into();
        params.containerd_binary = executable().to_string_lossy().into();
        params.extensions.extend(options.map(|o| Extension { value: Some(o.clone()).into(), ..Extension::new() }));
        params
    }
    /// Runs `delete` for a container whose shim is dead: kills and removes what the OCI runtime knows of it.
    pub fn delete(&self, program: &Path, bundle: &Bundle, limit: Duration) -> Result<(u32, Exit)> {
        let output = self.run(self.command(program, bundle, "delete"), &[], limit)?;
        if !output.status.success() {
            return Err(Error::internal(format!("shim {} delete: {}: {}", program.display(), output.status, said(&output))));
        }
        if !output.stderr.is_empty() {
            info!("shim delete {}/{}: {}", bundle.namespace, bundle.id, said(&output));
        }
        let answer = DeleteResponse::parse_from_bytes(&output.stdout).during(|| format!("shim {} delete", program.display()))?;
        Ok((answer.pid, Exit::of(answer.exit_status, answer.exited_at.as_ref())))
    }
    fn command(&self, program: &Path, bundle: &Bundle, action: &str) -> Command {
        let mut command = Command::new(program);
        let flag = |name: &str, value: OsString| [OsString::from(name), value];
        command
            .args(flag("-namespace", bundle.namespace.clone().into()))
            .args(flag("-address", self.launch.grpc_address.clone().into()))
            .args(flag("-publish-binary", executable().into()))
            .args(flag("-id", bundle.id.clone().into()))
            .args(flag("-bundle", bundle.path.clone().into()))
            .arg(action)
            .current_dir(&bundle.path)
            .env("GOMAXPROCS", "2")
            .env("MAX_SHIM_VERSION", "3")
            .env("TTRPC_ADDRESS", &self.launch.ttrpc_address)
            .env("GRPC_ADDRESS", &self.launch.grpc_address)
            .env("NAMESPACE", &bundle.namespace)
            // The shim outlives us: systemd must not take its word for the daemon's.
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LISTEN_FDS");
        command
    }
    fn run(&self, mut command: Command, input: &[u8], limit: Duration) -> Result<Output> {
        let shown =
            format!("run {} {}", command.get_program().to_string_lossy(), command.get_args().last().unwrap_or_default().to_string_lossy());
        spawn::run(&mut command, input, limit, MAX_OUTPUT).map_err(|e| {
            let kind = if e.kind() == std::io::ErrorKind::TimedOut { Kind::DeadlineExceeded } else { Kind::Internal };
            Error::new(kind, shown).because(e)
        })
    }
}

fn executable() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into())
}

fn said(output: &Output) -> String {
    let text = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    String::from_utf8_lossy(text).trim().replace('\n', "; ")
}

/// `io.containerd.NAME.VERSION` → `containerd-shim-NAME-VERSION`; runc's name is served by our own shim.
fn program_name(runtime: &str) -> Result<String> {
    if matches!(runtime, "io.containerd.runc.v2" | "io.containerd.cradle.v2") {
        return Ok(OWN.into());
    }
    let parts: Vec<&str> = runtime.split('.').collect();
    match parts.as_slice() {
        [.., name, version] if parts.iter().all(|p| !p.is_empty()) && !runtime.contains('/') => {
            Ok(format!("containerd-shim-{name}-{version}"))
        }
        _ => Err(Error::invalid(format!("runtime \"{runtime}\" must look like io.containerd.runc.v2 or be the absolute path of a shim"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_map_to_programs() {
        assert_eq!(program_name("io.containerd.runc.v2").unwrap(), OWN);
        assert_eq!(program_name("io.containerd.kata.v2").unwrap(), "containerd-shim-kata-v2");
        assert_eq!(program_name("a.v1").unwrap(), "containerd-shim-a-v1");
        for bad in ["", "runc", "a/b.v2", ".v2", "a..v2", "../x.v2"] {
            program_name(bad).unwrap_err();
        }
    }

    #[test]
    fn a_runtime_path_must_be_absolute_and_there() {
        let binaries = Binaries::new(Launch::default());
        let at = |path: &str| binaries.locate(&Runtime { path: Some(path.into()), ..Runtime::default() });
        assert_eq!(at("/bin/true").unwrap(), PathBuf::from("/bin/true"));
        at("bin/true").unwrap_err();
        at("/nonexistent/shim").unwrap_err();
    }
}
