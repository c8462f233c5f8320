//! ExecSync: output, code, limits, and what a deadline does.
use crate::harness::{Daemon, RUNTIMES, wait_until};
use cradle::error::Kind;
use std::time::{Duration, Instant};

#[test]
fn a_timeout_kills_the_program_and_says_so() {
    let d = Daemon::start();
    let image = d.busybox();
    for handler in RUNTIMES {
        let pod = d.pod("slow", handler);
        let main = pod.shell("main", &image, "sleep 1000");
        let begun = Instant::now();
        let error = main.try_exec(&["sleep", "777"], 1).unwrap_err();
        assert_eq!(error.kind(), Kind::DeadlineExceeded, "{}", error.chain());
        assert!(begun.elapsed() < Duration::from_secs(5));
        wait_until("the program to be gone", Duration::from_secs(5), || !main.says("ps -o args").contains("sleep 777"));
        pod.remove();
    }
}

#[test]
fn output_is_whole_and_bounded_at_16_mib() {
    let d = Daemon::start();
    let image = d.busybox();
    let pod = d.pod("loud", "runc");
    let main = pod.shell("main", &image, "sleep 1000");
    let some = main.exec("head -c 3000000 /dev/zero | tr '\\0' x; echo to err >&2");
    assert_eq!((some.code, some.out.len(), some.err.as_str()), (0, 3_000_000, "to err\n"));
    let much = main.exec("head -c 40000000 /dev/zero | tr '\\0' x");
    assert!(much.out.len() <= 16 << 20 && much.out.len() > 15 << 20, "{}", much.out.len());
}

#[test]
fn errors_name_what_was_wrong() {
    let d = Daemon::start();
    let image = d.busybox();
    for handler in RUNTIMES {
        let pod = d.pod("errors", handler);
        let main = pod.shell("main", &image, "sleep 1000");
        let error = main.try_exec(&["/no/such"], 5).unwrap_err();
        assert!(error.chain().contains("/no/such"), "{}", error.chain());
        assert_eq!(main.try_exec(&[], 5).unwrap_err().kind(), Kind::InvalidArgument);
        d.stop_container(&main.id, 0).unwrap();
        let error = main.try_exec(&["true"], 5).unwrap_err();
        assert!(error.chain().contains(&main.id), "{}", error.chain());
        pod.remove();
    }
    let gone = d.container("0123456789abcdef", d.path("none"));
    assert_eq!(gone.try_exec(&["true"], 5).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn many_at_once_do_not_wait_for_each_other() {
    let d = Daemon::start();
    let image = d.busybox();
    let pod = d.pod("busy", "crun");
    let main = pod.shell("main", &image, "sleep 1000");
    let begun = Instant::now();
    std::thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| assert_eq!(main.says("sleep 2; echo done"), "done"));
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}
