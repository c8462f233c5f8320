//! Config, plugins, and the command line.
use crate::harness::{Daemon, Registry, Setup};
use std::time::Duration;

fn text(output: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn an_unknown_key_is_a_warning_with_its_line() {
    let d = Setup::new().config("[debug2]\nlevle = 3").start();
    let line = std::fs::read_to_string(d.path("config.toml")).unwrap().lines().position(|l| l.starts_with("[debug2]")).unwrap() + 1;
    let log = d.log();
    let place = format!("config.toml:{line}");
    let warning = log.lines().find(|l| l.contains("WARN") && l.contains("debug2"));
    assert!(warning.is_some_and(|w| w.contains(&place)), "no warning with {place} in: {log}");
    let check = d.cli(&["config", "check"]);
    assert!(check.status.success() && text(&check).contains("debug2"), "{}", text(&check));
}

#[test]
fn a_wrong_type_is_an_error_with_its_line() {
    let mut d = Setup::new().config("[metrics]\naddress = 7").prepare();
    let line = std::fs::read_to_string(d.path("config.toml")).unwrap().lines().position(|l| l == "address = 7").unwrap() + 1;
    d.spawn();
    assert!(!d.wait_end(Duration::from_secs(5)).success());
    assert!(d.log().contains(&format!("config.toml:{line}")), "{}", d.log());
    assert!(!d.cli(&["config", "check"]).status.success());
}

#[test]
fn default_and_dump_are_configs_themselves() {
    let d = Setup::new().prepare();
    let default = d.cli(&["config", "default"]);
    assert!(default.status.success());
    let shipped = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/config.toml")).unwrap();
    assert!(shipped == default.stdout, "conf/config.toml is not what `cradled config default` prints");
    let dump = d.cli(&["config", "dump"]);
    assert!(dump.status.success());
    std::fs::write(d.path("config.toml"), &dump.stdout).unwrap();
    let again = d.cli(&["config", "dump"]);
    assert_eq!(text(&again), text(&dump));
}

#[test]
fn plugins_says_what_runs_and_why_some_do_not() {
    let d = Setup::new().start();
    let list = text(&d.cli(&["plugins"]));
    for id in ["overlayfs", "native", "content", "cri", "task"] {
        assert!(list.lines().any(|l| l.contains(id) && l.contains(" ok ")), "{id} in\n{list}");
    }
    let without = Setup::new().config("").prepare();
    let config = std::fs::read_to_string(without.path("config.toml")).unwrap();
    let config = config.replacen("version = 2\n", "version = 2\ndisabled_plugins = [\"io.containerd.snapshotter.v1.native\"]\n", 1);
    std::fs::write(without.path("config.toml"), config).unwrap();
    let mut without = without;
    without.start_again();
    let list = text(&without.cli(&["plugins"]));
    assert!(!list.lines().any(|l| l.contains(" native ") && l.contains(" ok ")), "{list}");
}

#[test]
fn a_required_plugin_that_cannot_start_ends_the_daemon() {
    let mut d = Setup::new().prepare();
    let config = std::fs::read_to_string(d.path("config.toml")).unwrap();
    let lines = "version = 2\nrequired_plugins = [\"io.containerd.snapshotter.v1.native\"]\ndisabled_plugins = [\"io.containerd.snapshotter.v1.native\"]\n";
    std::fs::write(d.path("config.toml"), config.replacen("version = 2\n", lines, 1)).unwrap();
    d.spawn();
    assert!(!d.wait_end(Duration::from_secs(10)).success());
    assert!(d.log().contains("io.containerd.snapshotter.v1.native"), "{}", d.log());
}

#[test]
fn the_socket_is_roots_alone_from_the_start() {
    use std::os::unix::fs::PermissionsExt;
    let d = Daemon::start();
    for socket in [d.socket(), d.path("cradled.sock.ttrpc")] {
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o660, "{}", socket.display());
    }
}

#[test]
fn cradled_run_shows_the_output_and_passes_the_code_on() {
    let d = Daemon::start();
    let reference = Registry::shared().reference("busybox", "1");
    crate::harness::Image::busybox().push(&Registry::shared().repository("busybox"), "1");
    let socket = d.socket().display().to_string();
    let done = d.cli(&["--address", &socket, "run", &reference, "--", "sh", "-c", "echo out; echo err >&2; exit 5"]);
    assert_eq!(done.status.code(), Some(5), "{}", text(&done));
    assert_eq!(String::from_utf8_lossy(&done.stdout), "out\n");
    assert!(String::from_utf8_lossy(&done.stderr).lines().any(|l| l == "err"));
    assert!(d.pod_ids().is_empty());
}
