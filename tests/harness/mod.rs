//! What stories are told with: a daemon of one's own, a registry, images, pods. All of it lives in the namespaces that
//! `tests/namespaces.sh` makes, and each daemon checks at its end that nothing of it is left.
#![allow(dead_code, missing_docs, reason = "a toolbox: not every story needs every tool")]
pub mod client;
pub mod cni;
pub mod cri_json;
pub mod daemon;
pub mod gate;
pub mod image;
pub mod layer;
pub mod leftovers;
pub mod registry;
pub mod streams;

pub use client::{Container, Pod};
pub use daemon::{Daemon, Setup};
pub use gate::Gate;
pub use image::{Compression, Format, Image};
pub use layer::{Layer, Meta};
pub use registry::Registry;

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Both OCI runtimes, as handlers of every test daemon.
pub const RUNTIMES: [&str; 2] = ["runc", "crun"];

/// Name of the cgroup below which the run keeps all of its own; also says that we are in namespaces of our own.
pub fn cgroup() -> String {
    std::env::var("CRADLE_CGROUP").expect("stories run as root in namespaces of their own: use `make test` or tests/namespaces.sh")
}

/// A directory that nobody else has; on a tmpfs, so that overlay works wherever the tree is.
pub fn scratch(name: &str) -> PathBuf {
    let dir = PathBuf::from(format!("/run/cradle-story/{name}-{}", next()));
    cgroup();
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// A number that is given once.
pub fn next() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A loopback port that is free now and that we give once.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(20_000);
    loop {
        let port = u16::try_from(NEXT.fetch_add(1, Ordering::Relaxed)).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits until `f` gives something; the test fails after `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut f: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = f() {
            return found;
        }
        assert!(begun.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until `f` is true.
pub fn wait_until(what: &str, limit: Duration, mut f: impl FnMut() -> bool) {
    wait_for(what, limit, || f().then_some(()));
}

/// Runs a program and gives its output, whatever its exit code.
pub fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"))
}

/// Runs a program that must succeed; what it printed.
pub fn run_ok(program: &str, args: &[&str]) -> String {
    let output = run(program, args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    text
}

/// A runtime handler `go`: runc under Go's shim.
pub fn go_handler() -> String {
    let shim = go_containerd().join("containerd-shim-runc-v2");
    let table = "plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.go";
    format!(
        "[{table}]\nruntime_type = \"io.containerd.runc.v2\"\nruntime_path = \"{}\"\n[{table}.options]\nBinaryName = \"runc\"",
        shim.display()
    )
}

/// Where the programs of Debian's containerd package are: unpacked, never installed.
pub fn go_containerd() -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        // Where tests/setup.sh unpacks it: beside the build.
        let target = PathBuf::from(daemon::CRADLED).ancestors().nth(2).unwrap().to_path_buf();
        let named = std::env::var("CRADLE_CONTAINERD").unwrap_or_default();
        let places = [named.into(), target.join("debian-containerd/usr/bin"), "/opt/clients/containerd/usr/bin".into()];
        let found = places.into_iter().find(|p: &PathBuf| p.join("containerd-shim-runc-v2").exists());
        found.expect("no Go shim here: tests/setup.sh --tests unpacks Debian's containerd package")
    };
    DIR.get_or_init(find).clone()
}
