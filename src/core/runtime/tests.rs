//! Life with a real shim: Debian's Go `containerd-shim-runc-v2`, runc and busybox in a scratch directory.
use super::*;
use crate::call::Call;
use crate::core::events::Bus;
use crate::rpc::ttrpc::Server;
use crate::thread::Threads;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

const NAMESPACE: &str = "cradle-test";

/// Each test runs against this one shim: `CRADLE_TEST_SHIM`, or Debian's.
fn shim_program() -> Option<PathBuf> {
    let named = std::env::var_os("CRADLE_TEST_SHIM").map(PathBuf::from);
    // The first is where tests/setup.sh unpacks it.
    let places = [
        concat!(env!("CARGO_MANIFEST_DIR"), "/target/debian-containerd/usr/bin/containerd-shim-runc-v2"),
        "/opt/clients/containerd/usr/bin/containerd-shim-runc-v2",
        "/usr/bin/containerd-shim-runc-v2",
    ];
    let found = named.into_iter().chain(places.iter().map(PathBuf::from)).find(|p| p.is_file());
    let ready = found
        .filter(|_| rustix::process::geteuid().is_root() && Path::new("/usr/sbin/runc").exists() && Path::new("/bin/busybox").exists());
    if ready.is_none() {
        eprintln!("skipped: needs root, runc, busybox and Go's containerd-shim-runc-v2");
    }
    ready
}

/// A state directory and the containers made in it.
struct Node {
    dir: PathBuf,
    program: PathBuf,
    bus: Arc<Bus>,
}

/// A daemon's part of it: it goes, the node stays.
struct Daemon {
    tasks: Tasks,
    _serving: Threads,
}

impl Node {
    fn new(program: PathBuf) -> Node {
        static N: AtomicU32 = AtomicU32::new(0);
        let dir = std::env::temp_dir().join(format!("cradle-runtime-{}-{}", std::process::id(), N.fetch_add(1, Ordering::SeqCst)));
        fs::create_dir_all(&dir).unwrap();
        Node { dir, program, bus: Arc::new(Bus::default()) }
    }
    fn daemon(&self) -> Daemon {
        let socket = self.dir.join("ttrpc.sock");
        let _ = fs::remove_file(&socket);
        let launch = Launch { ttrpc_address: socket.clone(), grpc_address: self.dir.join("grpc.sock"), search: vec![] };
        let config = Config { state: self.dir.join("state"), root: self.dir.join("root"), launch, ..Config::default() };
        let tasks = Tasks::open(config, self.bus.clone()).unwrap();
        let server = Server::new(UnixListener::bind(&socket).unwrap(), Arc::new(tasks.forward())).unwrap();
        let serving = Threads::new().unwrap();
        serving.spawn("ttrpc", move |stop| server.serve(stop)).unwrap();
        Daemon { tasks, _serving: serving }
    }
    fn create(&self, daemon: &Daemon, id: &str, sandbox: Option<&str>, script: &str) -> crate::error::Result<Arc<Task>> {
        let root = self.dir.join(format!("image-{id}"));
        for d in ["bin", "proc", "dev"] {
            fs::create_dir_all(root.join(d)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/sh")).unwrap();
        fs::copy("/bin/busybox", root.join("bin/sleep")).unwrap();
        let spec = serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"]},
            "root": {"path": "rootfs"},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {
                "cgroupsPath": format!("/{}/{id}", self.cgroup()),
                "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}],
            },
        });
        let rootfs =
            vec![Mount { kind: "bind".into(), source: root.to_string_lossy().into(), target: None, options: vec!["rbind".into()] }];
        daemon.tasks.create(
            &call(),
            Create {
                id: id.into(),
                sandbox_id: sandbox.map(str::to_owned),
                spec: spec.to_string().into_bytes(),
                rootfs,
                runtime: Runtime { name: "io.containerd.runc.v2".into(), path: Some(self.program.clone()), options: None },
                ..Create::default()
            },
        )
    }
    /// Its own, so that tests side by side do not remove each other's.
    fn cgroup(&self) -> String {
        self.dir.file_name().unwrap().to_string_lossy().into_owned()
    }
    fn bundle(&self, id: &str) -> PathBuf {
        self.dir.join("state").join(DIRECTORY).join(NAMESPACE).join(id)
    }
    /// Processes of shims that were started for bundles of this node.
    fn shims(&self) -> Vec<i32> {
        let mine = |p: &PathBuf| fs::read_link(p.join("cwd")).is_ok_and(|c| c.starts_with(&self.dir)) && is_shim(p);
        let all = fs::read_dir("/proc").unwrap().flatten().map(|e| e.path()).filter(mine);
        all.filter_map(|p| p.file_name()?.to_str()?.parse().ok()).collect()
    }
    fn signal_shims(&self, signal: rustix::process::Signal) {
        for pid in self.shims() {
            let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal);
        }
    }
    /// Nothing of the node is left but its images and events.
    fn check_clean(&self) {
        eventually("shims are gone", || self.shims().is_empty());
        eventually("bundles are gone", || fs::read_dir(self.bundle("x").parent().unwrap()).map_or(0, Iterator::count) == 0);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&*self.dir.to_string_lossy()), "mounts are left");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.signal_shims(rustix::process::Signal::KILL);
        let _ = crate::sys::mount::unmount_tree(&self.dir, rustix::mount::UnmountFlags::DETACH);
        let _ = fs::remove_dir_all(&self.dir);
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let parent = hierarchy.path().join(self.cgroup());
            for child in fs::read_dir(&parent).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(child.path());
            }
            let _ = fs::remove_dir(parent);
        }
    }
}

fn is_shim(proc: &Path) -> bool {
    fs::read(proc.join("cmdline")).is_ok_and(|c| c.windows(15).any(|w| w == b"containerd-shim"))
}

fn call() -> Call {
    Call::background(NAMESPACE)
}

fn eventually(what: &str, test: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(8);
    while !test() {
        assert!(Instant::now() < until, "not within 8 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_container_lives_and_ends_and_leaves_nothing() {
    let Some(program) = shim_program() else { return };
    let node = Node::new(program);
    let daemon = node.daemon();
    let events = node.bus.subscribe(&["/tasks/"]);
    let pod = node.create(&daemon, "pod", Some("pod"), "exec sleep 100").unwrap();
    assert_eq!(pod.state(&call()).unwrap().status, Status::Created);
    assert_eq!(pod.start(&call()).unwrap(), pod.pid());
    let app = node.create(&daemon, "app", Some("pod"), "sleep 0.2; exit 7").unwrap();
    assert_eq!(node.shims().len(), 1);
    let exit = app.wait(None).unwrap();
    app.start(&call()).unwrap();
    assert_eq!(exit.recv_timeout(LIMIT).unwrap().code, 7);
    assert_eq!(node.create(&daemon, "app", None, "").unwrap_err().kind(), crate::error::Kind::AlreadyExists);
    assert_eq!(app.delete(&call()).unwrap().code, 7);
    assert_eq!(app.delete(&call()).unwrap().code, 7);

    let process = serde_json::json!({"user": {"uid": 0, "gid": 0}, "args": ["/bin/sh", "-c", "exit 5"], "cwd": "/"});
    pod.exec(&call(), Exec { id: "e1".into(), process: process.to_string().into_bytes(), ..Exec::default() }).unwrap();
    let exit = pod.wait(Some("e1")).unwrap();
    pod.start_exec(&call(), "e1").unwrap();
    assert_eq!(exit.recv_timeout(LIMIT).unwrap().code, 5);
    assert_eq!(pod.delete_exec(&call(), "e1").unwrap().code, 5);
    assert!(pod.pids(&call()).unwrap().contains(&pod.pid()));
    assert!(pod.stats(&call()).unwrap().type_url.contains("Metrics"));

    let exit = pod.wait(None).unwrap();
    pod.kill(&call(), None, 9, false).unwrap();
    assert_eq!(exit.recv_timeout(LIMIT).unwrap().code, 137);
    pod.delete(&call()).unwrap();
    node.check_clean();
    std::thread::sleep(Duration::from_millis(1500));
    let topics: Vec<String> = events.channel().try_iter().map(|e| e.topic.clone()).collect();
    let count = |t: &str| topics.iter().filter(|x| *x == t).count();
    assert_eq!((count("/tasks/exit"), count("/tasks/delete"), count("/tasks/create")), (3, 2, 2), "{topics:?}");
}

#[test]
fn a_killed_shim_ends_its_containers_once_within_5_seconds() {
    let Some(program) = shim_program() else { return };
    let node = Node::new(program);
    let daemon = node.daemon();
    let events = node.bus.subscribe(&["/tasks/"]);
    let pod = node.create(&daemon, "kpod", Some("kpod"), "exec sleep 100").unwrap();
    let app = node.create(&daemon, "kapp", Some("kpod"), "exec sleep 100").unwrap();
    pod.start(&call()).unwrap();
    app.start(&call()).unwrap();
    let begin = Instant::now();
    node.signal_shims(rustix::process::Signal::KILL);
    for task in [&pod, &app] {
        assert_eq!(task.wait(None).unwrap().recv_timeout(LIMIT).unwrap().code, 137);
    }
    assert!(begin.elapsed() < Duration::from_secs(5));
    eventually("tasks are forgotten", || daemon.tasks.list(NAMESPACE).is_empty());
    eventually("processes are gone", || [&pod, &app].iter().all(|t| !Path::new(&format!("/proc/{}", t.pid())).exists()));
    assert_eq!(app.delete(&call()).unwrap().code, 137);
    node.check_clean();
    std::thread::sleep(Duration::from_millis(1200));
    let topics: Vec<String> = events.channel().try_iter().map(|e| e.topic.clone()).collect();
    let count = |t: &str| topics.iter().filter(|x| *x == t).count();
    assert_eq!((count("/tasks/exit"), count("/tasks/delete")), (2, 2), "{topics:?}");
}

#[test]
fn a_new_daemon_finds_running_ended_silent_dead_and_half_made() {
    let Some(program) = shim_program() else { return };
    let node = Node::new(program);
    let daemon = node.daemon();
    let frozen = node.create(&daemon, "frozen", None, "exec sleep 100").unwrap();
    frozen.start(&call()).unwrap();
    node.signal_shims(rustix::process::Signal::STOP);
    let frozen_shims = node.shims();
    let runs = node.create(&daemon, "runs", None, "exec sleep 100").unwrap();
    runs.start(&call()).unwrap();
    let before: Vec<i32> = node.shims();
    let dies = node.create(&daemon, "dies", None, "exec sleep 100").unwrap();
    dies.start(&call()).unwrap();
    let doomed = node.shims().into_iter().find(|p| !before.contains(p)).unwrap();
    let ends = node.create(&daemon, "ends", None, "sleep 0.5; exit 4").unwrap();
    ends.start(&call()).unwrap();
    let begin = Instant::now();
    frozen.state(&call()).unwrap_err();
    frozen.state(&call()).unwrap_err();
    assert!(begin.elapsed() < Duration::from_millis(2500), "a silent shim is not waited for twice");
    drop(daemon);
    assert_eq!(node.shims().len(), 4, "shims outlive the daemon");

    rustix::process::kill_process(rustix::process::Pid::from_raw(doomed).unwrap(), rustix::process::Signal::KILL).unwrap();
    fs::create_dir_all(node.bundle("half").join("rootfs")).unwrap();
    std::thread::sleep(Duration::from_millis(800));
    let daemon = node.daemon();
    let begin = Instant::now();
    let found = daemon.tasks.recover().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5), "recovery took {:?}", begin.elapsed());
    let mut names: Vec<&str> = found.iter().map(|t| t.id()).collect();
    names.sort_unstable();
    assert_eq!(names, ["dies", "ends", "frozen", "runs"]);
    let of = |id: &str| found.iter().find(|t| t.id() == id).unwrap();
    assert_eq!(of("dies").exited().unwrap().code, 137);
    assert_eq!(of("ends").wait(None).unwrap().recv_timeout(LIMIT).unwrap().code, 4);
    assert_eq!(of("runs").state(&call()).unwrap().status, Status::Running);
    assert_eq!((of("runs").pid(), of("frozen").pid()), (runs.pid(), frozen.pid()));
    assert!(!node.bundle("half").exists() && !node.bundle("dies").exists());

    for pid in frozen_shims {
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::CONT).unwrap();
    }
    eventually("the frozen shim answers", || of("frozen").state(&call()).is_ok());
    for id in ["runs", "frozen"] {
        let exit = of(id).wait(None).unwrap();
        of(id).kill(&call(), None, 9, true).unwrap();
        assert_eq!(exit.recv_timeout(LIMIT).unwrap().code, 137);
        of(id).delete(&call()).unwrap();
    }
    of("ends").delete(&call()).unwrap();
    node.check_clean();
}

#[test]
fn ten_stopped_shims_cost_one_deadline() {
    let Some(program) = shim_program() else { return };
    let node = Node::new(program);
    let daemon = node.daemon();
    for i in 0..10 {
        node.create(&daemon, &format!("stop{i}"), None, "exec sleep 100").unwrap();
    }
    node.signal_shims(rustix::process::Signal::STOP);
    drop(daemon);
    let daemon = node.daemon();
    let begin = Instant::now();
    let found = daemon.tasks.recover().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(4), "recovery took {:?}", begin.elapsed());
    assert!(found.iter().all(|t| t.pid() != 0), "{found:?}");
    let begin = Instant::now();
    for task in &found {
        task.state(&call()).unwrap_err();
        task.stats(&call()).unwrap_err();
    }
    assert!(begin.elapsed() < Duration::from_secs(20), "stats took {:?}", begin.elapsed());
    node.signal_shims(rustix::process::Signal::CONT);
    node.signal_shims(rustix::process::Signal::KILL);
    eventually("all are buried", || daemon.tasks.list(NAMESPACE).is_empty());
    node.check_clean();
}

#[test]
fn the_built_in_pause_runs_without_an_image() {
    let Some(program) = shim_program() else { return };
    if crate::sys::pause::BYTES.is_empty() {
        eprintln!("skipped: no built-in pause in this build");
        return;
    }
    let node = Node::new(program);
    let daemon = node.daemon();
    let spec = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/pause"], "cwd": "/"},
        "root": {"path": "rootfs", "readonly": true},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "cgroupsPath": format!("/{}/pause", node.cgroup()),
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network"}],
        },
    });
    let runtime = Runtime { path: Some(node.program.clone()), ..Runtime::default() };
    let create = Create { id: "pause".into(), spec: spec.to_string().into_bytes(), pause: true, runtime, ..Create::default() };
    let task = daemon.tasks.create(&call(), create).unwrap();
    task.start(&call()).unwrap();
    assert_eq!(task.state(&call()).unwrap().status, Status::Running);
    let exit = task.wait(None).unwrap();
    task.kill(&call(), None, 9, true).unwrap();
    exit.recv_timeout(LIMIT).unwrap();
    task.delete(&call()).unwrap();
    node.check_clean();
}

#[test]
fn a_failed_create_leaves_nothing() {
    // Without a mount namespace the runtime would make our own mounts private.
    let Some(program) = shim_program() else { return };
    let node = Node::new(program);
    let daemon = node.daemon();
    let create = Create {
        id: "bad".into(),
        spec: br#"{"ociVersion":"1.0.2","process":{"args":["/no"],"cwd":"/"},"root":{"path":"rootfs"},"linux":{"namespaces":[{"type":"mount"}]}}"#
            .to_vec(),
        runtime: Runtime { path: Some(node.program.clone()), ..Runtime::default() },
        ..Create::default()
    };
    let error = daemon.tasks.create(&call(), create).unwrap_err();
    assert!(error.chain().contains("bad"), "{}", error.chain());
    node.check_clean();
}
