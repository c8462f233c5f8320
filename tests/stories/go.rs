//! The shim protocol is the field's own: Go's shim under our daemon, our shim under Debian's containerd.
use crate::harness::{Image, Registry, Setup, go_containerd, go_handler, run_ok, scratch, wait_until};
use std::process::{Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

#[test]
fn pods_run_on_gos_shim() {
    let mut d = Setup::new().config(&go_handler()).start();
    let image = d.busybox();
    let pod = d.pod("go", "go");
    let main = pod.shell("main", &image, "echo hello; trap 'exit 4' TERM; while :; do sleep 0.1; done");
    main.logged("hello", SOON);
    assert_eq!(main.says("echo there"), "there");
    assert_eq!(main.exec("exit 6").code, 6);
    let (pod_id, id, log) = (pod.id.clone(), main.id.clone(), main.log_file.clone());
    d.restart();
    let main = d.container(&id, log);
    assert_eq!(main.says("echo again"), "again");
    d.stop_container(&id, 10).unwrap();
    assert_eq!(main.status().exit_code, 4);
    d.stop_pod(&pod_id).unwrap();
    crate::harness::client::remove_pod(&d, &pod_id).unwrap();
}

#[test]
fn debians_containerd_runs_a_container_on_our_shim() {
    let dir = scratch("containerd");
    let (config, socket) = (dir.join("config.toml"), dir.join("containerd.sock"));
    let text = format!(
        "version = 2\nroot = \"{d}/root\"\nstate = \"{d}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{d}/containerd.sock\"\n",
        d = dir.display()
    );
    std::fs::write(&config, text).unwrap();
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let mut containerd = Command::new(go_containerd().join("containerd"))
        .args(["--config", config.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    wait_until("Debian's containerd", Duration::from_secs(20), || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    let registry = Registry::shared();
    Image::busybox().push(&registry.repository("busybox"), "1");
    let reference = registry.reference("busybox", "1");
    let ctr = go_containerd().join("ctr").display().to_string();
    let ctr = |args: &[&str]| run_ok(&ctr, &[&["--address", socket.to_str().unwrap()], args].concat());
    ctr(&["images", "pull", "--plain-http", &reference]);
    let shim = env!("CARGO_BIN_EXE_containerd-shim-cradle-v2");
    let cgroup = format!("/{}/ctr", crate::harness::cgroup());
    let run = ["run", "--rm", "--runtime", shim, "--cgroup", &cgroup, &reference, "one", "sh", "-c", "echo from ours; hostname"];
    let said = ctr(&run);
    assert!(said.contains("from ours"), "{said}");
    // Detached, with exec, kill and delete.
    ctr(&["run", "-d", "--runtime", shim, "--cgroup", &cgroup, &reference, "two", "sleep", "1000"]);
    assert!(ctr(&["tasks", "exec", "--exec-id", "x", "two", "echo", "inside"]).contains("inside"));
    assert!(ctr(&["tasks", "ls"]).contains("RUNNING"));
    ctr(&["tasks", "kill", "--signal", "SIGKILL", "two"]);
    wait_until("the task to stop", SOON, || ctr(&["tasks", "ls"]).contains("STOPPED"));
    ctr(&["tasks", "delete", "two"]);
    ctr(&["containers", "delete", "two"]);
    crate::harness::daemon::signal(containerd.id(), "TERM");
    containerd.wait().unwrap();
    let left: Vec<_> = crate::harness::leftovers::mounts(&dir).into_iter().filter(|m| *m != dir).collect();
    assert!(left.is_empty(), "{left:?}");
}
