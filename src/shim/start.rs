//! Start: answers the address of the group's shim; if none serves it yet, one is left running behind.
use super::args::Args;
use super::bootstrap::Bootstrap;
use super::hash::sha256;
use super::spec::Spec;
use crate::error::{Context, Error, Result};
use crate::sys::cgroup::Cgroup;
use crate::sys::fifo::{self, End};
use crate::sys::{signal, socket};
use std::fs::{self, DirBuilder, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where containerd's shims have their sockets.
const SOCKETS: &str = "/run/containerd/s";
/// Directory of bundles in a daemon's state directory.
const BUNDLES: &str = "io.containerd.runtime.v2.task";
/// Most of standard input that is read.
const INPUT_MAX: u64 = 10 << 20;
/// Longest path of a socket (sockaddr_un.sun_path with its final zero).
const PATH_MAX: usize = 107;

/// Finds or starts the shim, and prints its address in the form that the daemon expects.
pub fn start(args: &Args) -> Result<()> {
    let mut input = vec![];
    std::io::stdin().take(INPUT_MAX).read_to_end(&mut input).during(|| "read the bootstrap parameters from stdin")?;
    let bootstrap = Bootstrap::read(&input, args, |name| std::env::var(name).ok().filter(|v| !v.is_empty()))?;
    let bundle = bundle(args)?;
    let spec = Spec::read(&bundle)?;
    let group = spec.group().unwrap_or(&args.id);
    let socket = socket(&bootstrap, &bundle, &args.namespace, group);
    let address = format!("unix://{}", socket.display());
    let listener = listen(&socket)?;
    // Before the server is there: a daemon that dies now must find it. And one that has come back and found nothing has removed the
    // bundle, so that this fails.
    let told = fs::write(bundle.join("address"), &address).during(|| format!("write the address into {}", bundle.display()));
    if let Some(listener) = listener {
        let started = told.and_then(|()| spawn(args, &bootstrap, &bundle, &socket, listener));
        if let Err(e) = started {
            let _ = fs::remove_file(&socket);
            return Err(e);
        }
    } else {
        told?;
    }
    let answer = bootstrap.answer(&address)?;
    let mut out = std::io::stdout();
    out.write_all(&answer).and_then(|()| out.flush()).during(|| "print the address")
}

/// The bundle by flag, or the working directory.
pub fn bundle(args: &Args) -> Result<PathBuf> {
    match &args.bundle {
        Some(bundle) => Ok(bundle.clone()),
        None => std::env::current_dir().during(|| "find the bundle, which should be the working directory"),
    }
}

/// One socket a group, named by a digest, since a path may be 107 bytes long and IDs alone fill that.
fn socket(bootstrap: &Bootstrap, bundle: &Path, namespace: &str, group: &str) -> PathBuf {
    let name = sha256(format!("{}/{namespace}/{group}", bootstrap.grpc_address).as_bytes());
    // A bundle of a daemon is three levels below its state directory, so a daemon elsewhere has its sockets there.
    let state = bundle.ancestors().nth(3).filter(|_| bundle.ancestors().nth(2).is_some_and(|d| d.ends_with(BUNDLES)));
    let told = bootstrap.socket_dir.as_ref().map(PathBuf::from).or_else(|| state.map(|s| s.join("s")));
    let fits = |dir: &PathBuf| dir.is_absolute() && dir.as_os_str().len() + 1 + name.len() <= PATH_MAX;
    told.filter(fits).unwrap_or_else(|| SOCKETS.into()).join(&name)
}

/// Listens, or None if somebody serves there. A socket that nobody serves is left from a shim that was killed.
fn listen(path: &Path) -> Result<Option<UnixListener>> {
    let during = || format!("listen at {}", path.display());
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o711).create(dir).during(during)?;
    }
    for _ in 0..3 {
        match UnixListener::bind(path) {
            Ok(listener) => {
                fs::set_permissions(path, Permissions::from_mode(0o600)).during(during)?;
                return Ok(Some(listener));
            }
            Err(e) if e.kind() == ErrorKind::AddrInUse => match socket::connect(&path.to_string_lossy()) {
                Ok(_) => return Ok(None),
                // So many wait for it that it must be there.
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => drop(fs::remove_file(path)),
                Err(e) => return Err(e).during(during),
            },
            Err(e) => return Err(e).during(during),
        }
    }
    Err(Error::internal(format!("{}: taken again and again by somebody who does not serve it", path.display())))
}

/// Leaves the server running: the socket is its standard input.
fn spawn(args: &Args, bootstrap: &Bootstrap, bundle: &Path, socket: &Path, listener: UnixListener) -> Result<()> {
    let own = std::env::current_exe().during(|| "find the shim's own program")?;
    let mut command = Command::new(own);
    command.args(["-namespace", &args.namespace, "-id", &args.id, "-address", &bootstrap.grpc_address]);
    command.arg("-socket").arg(socket);
    if bootstrap.debug {
        command.arg("-debug");
    }
    let errors = fifo::open(&bundle.join("log"), End::Kept).map_or_else(|_| Stdio::null(), Stdio::from);
    command.current_dir(bundle).env("TTRPC_ADDRESS", &bootstrap.ttrpc_address);
    command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(errors);
    let mut child = signal::unblocked(&mut command).spawn().during(|| "start the shim's server")?;
    let gone = || Error::internal(format!("bundle {}: removed while its shim started", bundle.display()));
    let placed = place(child.id() as i32, bootstrap).and_then(|()| if bundle.exists() { Ok(()) } else { Err(gone()) });
    if placed.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    placed
}

/// Moves the server into its cgroup and lets the kernel prefer it to the daemon when memory is short.
fn place(pid: i32, bootstrap: &Bootstrap) -> Result<()> {
    if let Some(path) = bootstrap.options.as_ref().map(|o| o.shim_cgroup.as_str()).filter(|p| !p.is_empty()) {
        let group = Cgroup::at(path).or_else(|_| Cgroup::create(path)).during(|| format!("shim cgroup {path}"))?;
        group.add(pid).during(|| format!("enter shim cgroup {path}"))?;
    }
    let score = |pid: &str| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).ok()?.trim().parse::<i32>().ok();
    let parent = rustix::process::getppid().map_or("self".into(), |p| p.as_raw_nonzero().to_string());
    let Some(daemon) = score(&parent) else { return Ok(()) };
    if let Err(e) = fs::write(format!("/proc/{pid}/oom_score_adj"), (daemon + 1).min(1000).to_string()) {
        // Lowering needs CAP_SYS_RESOURCE; the score that it inherited stays.
        eprintln!("warning: oom_score_adj of the shim stays as inherited: {e}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bootstrap(dir: Option<&str>) -> Bootstrap {
        let args = super::super::args::parse("-namespace n -id a -address /run/c.sock start".split(' ').map(String::from)).unwrap();
        Bootstrap { socket_dir: dir.map(String::from), ..Bootstrap::read(&[], &args, |_| None).unwrap() }
    }

    #[test]
    fn the_socket_is_below_the_daemons_state() {
        let at = |dir: Option<&str>, bundle: &str| socket(&bootstrap(dir), Path::new(bundle), "n", "a").parent().unwrap().to_path_buf();
        assert_eq!(at(None, "/state/io.containerd.runtime.v2.task/n/a"), Path::new("/state/s"));
        assert_eq!(at(None, "/tmp/bundle"), Path::new(SOCKETS));
        assert_eq!(at(Some("/d"), "/state/io.containerd.runtime.v2.task/n/a"), Path::new("/d"));
        assert_eq!(at(Some(&format!("/{}", "d".repeat(60))), "/b"), Path::new(SOCKETS));
        let name = socket(&bootstrap(None), Path::new("/b"), "n", "a");
        assert_eq!(name.file_name().unwrap().to_str().unwrap(), sha256(b"/run/c.sock/n/a"));
    }

    #[test]
    fn a_dead_socket_is_taken_over_and_a_live_one_is_not() {
        let dir = std::env::temp_dir().join(format!("cradle-shim-start-{}", std::process::id()));
        let path = dir.join("s");
        let first = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(listen(&path).unwrap().is_none());
        drop(first);
        assert!(listen(&path).unwrap().is_some());
        fs::remove_dir_all(&dir).unwrap();
    }
}
