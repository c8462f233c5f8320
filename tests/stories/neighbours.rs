//! Others on the node: a living listener, a containerd's root.
use crate::harness::{Daemon, Setup, go_containerd, run_ok, wait_until};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn a_living_listener_is_refused_and_left_alone() {
    let mut d = Setup::new().prepare();
    let listener = UnixListener::bind(d.socket()).unwrap();
    d.spawn();
    assert!(!d.wait_end(Duration::from_secs(10)).success());
    assert!(d.log().contains("cradled.sock"), "{}", d.log());
    assert!(d.socket().exists());
    // A dead one's socket is no obstacle.
    drop(listener);
    d.start_again();
}

#[test]
fn two_daemons_on_one_socket_do_not_mix() {
    let d = Daemon::start();
    let second = d.cli(&["--root", &d.path("r2").display().to_string(), "--state", &d.path("s2").display().to_string()]);
    assert!(!second.status.success());
    assert!(d.pod_ids().is_empty());
}

#[test]
fn a_containerds_root_is_the_same_before_and_after() {
    let d = Setup::new().prepare();
    let (root, state) = (d.path("root"), d.path("state"));
    let theirs = d.path("theirs.toml");
    let socket = d.path("containerd.sock");
    let config = format!(
        "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{}\"\n",
        root.display(),
        state.display(),
        socket.display()
    );
    std::fs::write(&theirs, config).unwrap();
    let bin = go_containerd();
    let mut containerd = Command::new(bin.join("containerd"))
        .args(["--config", theirs.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("Debian's containerd", Duration::from_secs(20), || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    let ctr = |args: &[&str]| run_ok(bin.join("ctr").to_str().unwrap(), &[&["--address", socket.to_str().unwrap()], args].concat());
    ctr(&["namespaces", "create", "keep"]);
    crate::harness::daemon::signal(containerd.id(), "TERM");
    containerd.wait().unwrap();
    let find = "find . -path ./cradled -prune -o -printf '%p %m %U %G %T@ ' -type f -exec sha256sum {} \\; -o -printf '\\n' | sort";
    let tree = || run_ok("sh", &["-c", &format!("cd {} && touch -d @0 . && {find}", root.display())]);
    let before = tree();
    assert!(before.contains("meta.db"), "{before}");

    let mut d = d;
    d.start_again();
    d.busybox();
    d.pod("beside", "runc").remove();
    d.stop();
    assert_eq!(tree(), before);
    assert!(d.log().contains("belongs to a containerd"), "{}", d.log());
    assert!(root.join("cradled").exists() && state.join("cradled").exists());
}
