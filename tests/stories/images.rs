//! Images beyond a plain pull: progress, credentials, mirrors, names, pinning, file systems, what is refused.
use crate::harness::{Compression, Daemon, Gate, Image, Layer, Meta, Registry, wait_for};
use cradle::error::Kind;
use cradle::proto::content::{ListStatusesRequest, Status, StatusRequest};
use cradle::proto::content_methods::content;
use std::process::Stdio;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// Bytes that no packing makes smaller.
fn noise(size: u32) -> Vec<u8> {
    (0..size).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// An image with one layer of 4 MB above busybox's.
fn big() -> Image {
    Image::busybox().layer(Layer::new().file("noise", Meta::mode(0o644), &noise(4_000_000)), Compression::Plain)
}

/// What the daemon tells of pulls on their way.
fn on_the_way(d: &Daemon, filters: &[&str]) -> Vec<Status> {
    let request = ListStatusesRequest { filters: filters.iter().map(ToString::to_string).collect(), ..Default::default() };
    d.client().in_namespace("k8s.io").call(&content::LIST_STATUSES, &request, SOON).unwrap().statuses
}

#[test]
fn how_far_a_pull_is_can_be_seen_from_outside() {
    let d = Daemon::start();
    let registry = Registry::shared();
    big().push(&registry.repository("progress"), "1");
    let gate = Gate::before(&registry.host, 2_000_000);
    let reference = format!("{}/progress:1", gate.host);
    std::thread::scope(|s| {
        let pull = s.spawn(|| d.pull(&reference).unwrap());
        gate.wait_held();
        let big = |s: &Status| s.total > 4_000_000 && s.offset > 500_000;
        let seen = wait_for("a layer on its way", SOON, || on_the_way(&d, &[]).into_iter().find(big));
        assert!(seen.ref_ == format!("layer-{}", seen.expected) && seen.offset < seen.total, "{seen:?}");
        assert!(seen.started_at.seconds > 1_600_000_000 && seen.updated_at.seconds >= seen.started_at.seconds);
        assert_eq!(on_the_way(&d, &[&format!("ref==\"{}\"", seen.ref_)]).len(), 1);
        assert_eq!(on_the_way(&d, &["ref==other"]).len(), 0);
        let one = StatusRequest { ref_: seen.ref_.clone(), ..Default::default() };
        let asked = d.client().in_namespace("k8s.io").call(&content::STATUS, &one, SOON).unwrap();
        assert_eq!(asked.status.expected, seen.expected);
        // Another namespace has another store, and without one there is none.
        assert_eq!(d.client().in_namespace("other").call(&content::STATUS, &one, SOON).unwrap_err().kind(), Kind::NotFound);
        let error = d.client().call(&content::STATUS, &one, SOON).unwrap_err();
        assert!(error.kind() == Kind::FailedPrecondition && error.chain().contains("namespace is required"), "{}", error.chain());
        gate.open();
        pull.join().unwrap();
    });
    assert!(on_the_way(&d, &[]).is_empty());
}

#[test]
fn run_shows_a_bar_on_a_terminal_and_lines_elsewhere() {
    let d = Daemon::start();
    let registry = Registry::shared();
    let pushed = big().push(&registry.repository("bar"), "1");
    let digest = pushed.digest.to_string();
    for terminal in [true, false] {
        let gate = Gate::before(&registry.host, 2_000_000);
        let reference = format!("{}/bar:1", gate.host);
        let config = d.path("config.toml").display().to_string();
        let line = format!("{} --config {config} run {reference} -- sh -c 'echo out; exit 5'", crate::harness::daemon::CRADLED);
        let args = if terminal { vec!["script", "-qefc", &line, "/dev/null"] } else { vec!["sh", "-c", &line] };
        let mut command = std::process::Command::new(args[0]);
        let child = command.args(&args[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        gate.wait_held();
        wait_for("a layer on its way", SOON, || on_the_way(&d, &[]).into_iter().find(|s| s.total > 4_000_000));
        std::thread::sleep(Duration::from_millis(500));
        gate.open();
        let done = child.wait_with_output().unwrap();
        assert_eq!(done.status.code(), Some(5), "{done:?}");
        let text = String::from_utf8_lossy(if terminal { &done.stdout } else { &done.stderr }).into_owned();
        assert_eq!(text.contains("[==") && text.contains(" MiB/s") && text.contains("\x1b["), terminal, "{text}");
        assert!(text.contains(": 3.8 MiB") && text.contains(&format!("{reference}: sha256:")), "{digest}: {text}");
        assert!(String::from_utf8_lossy(&done.stdout).contains("out"));
        d.remove_image(&reference).unwrap();
    }
}
