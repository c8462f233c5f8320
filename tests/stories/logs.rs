//! Logs: written by the shim in CRI format; no container waits for the daemon or for a full disk.
use crate::harness::client::container_config;
use crate::harness::{Daemon, Pod, RUNTIMES, run_ok, wait_until};
use cradle::proto::cri::ReopenContainerLogRequest;
use cradle::proto::cri_methods::runtime_service as rt;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

fn reopen(d: &Daemon, id: &str) {
    d.get(&rt::REOPEN_CONTAINER_LOG, &ReopenContainerLogRequest { container_id: id.into(), ..Default::default() });
}

#[test]
fn long_lines_are_split_and_the_last_one_may_lack_its_newline() {
    let d = Daemon::start();
    let image = d.busybox();
    for handler in RUNTIMES {
        let pod = d.pod("lines", handler);
        let main = pod.shell("main", &image, "head -c 40000 /dev/zero | tr '\\0' x; echo; printf tail");
        main.ended(SOON);
        main.logged("tail", SOON);
        let log = main.log();
        let whole: String = log[..log.len() - 1].iter().map(|l| l.text.as_str()).collect();
        assert_eq!(whole, "x".repeat(40_000), "{handler}");
        let tags: Vec<bool> = log.iter().map(|l| l.whole).collect();
        assert_eq!(tags[..3], [false, false, true]);
        assert!(log.iter().all(|l| l.text.len() <= 16_384));
        pod.remove();
    }
}

#[test]
fn rotation_loses_no_line() {
    let d = Daemon::start();
    let image = d.busybox();
    let pod = d.pod("rotate", "runc");
    let main = pod.shell(
        "main",
        &image,
        "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); [ $((i%500)) != 0 ] || sleep 0.2; done; echo end; sleep 1000",
    );
    let old = main.log_file.with_extension("log.1");
    main.logged("line 10", SOON);
    std::fs::rename(&main.log_file, &old).unwrap();
    reopen(&d, &main.id);
    main.logged("end", SOON);
    let text = std::fs::read_to_string(&old).unwrap() + &std::fs::read_to_string(&main.log_file).unwrap();
    let numbers: Vec<usize> = text.lines().filter_map(|l| l.rsplit_once(" line ")?.1.parse().ok()).collect();
    assert_eq!(numbers, (0..5000).collect::<Vec<_>>());
}

#[test]
fn a_full_log_disk_stops_nobody() {
    let d = Daemon::start();
    let image = d.busybox();
    let small = d.path("small");
    std::fs::create_dir(&small).unwrap();
    run_ok("mount", &["-t", "tmpfs", "-o", "size=256k", "small", small.to_str().unwrap()]);
    let mut config = d.pod_config("full");
    config.log_directory = small.display().to_string();
    let pod = d.run_pod(config, "runc");
    let loud = pod.shell(
        "loud",
        &image,
        "i=0; while [ $i -lt 20000 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done; touch /tmp/done; sleep 1000",
    );
    wait_until("the loud container to be through", Duration::from_secs(30), || loud.exec("test -e /tmp/done").code == 0);
    let calm = d.pod("calm", "runc");
    calm.shell("main", &image, "echo fine; sleep 1000").logged("fine", SOON);
    pod.remove();
    run_ok("umount", &[small.to_str().unwrap()]);
}

#[test]
fn stdin_and_a_terminal_are_no_obstacle() {
    let d = Daemon::start();
    let image = d.busybox();
    for handler in RUNTIMES {
        let pod: Pod<'_> = d.pod("tty", handler);
        let mut config = container_config("main", &image, &["sh", "-c", "tty; stty size >/dev/null && echo a terminal; sleep 1000"]);
        config.tty = true;
        config.stdin = true;
        let main = pod.start(config);
        main.logged("a terminal", SOON);
        pod.remove();
    }
}
