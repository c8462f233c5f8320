//! The shim for real: its own program, busybox, and every OCI runtime that is here. Skipped without root, busybox or the program.
use super::spec::Spec;
use crate::call::Call;
use crate::error::{Kind, Result};
use crate::proto::cradle::{AttachRequest, LogStatusRequest, LogStatusResponse, ReopenLogRequest};
use crate::proto::forward::ForwardRequest;
use crate::proto::runc_options::Options;
use crate::proto::task_types::Status;
use crate::proto::{cradle_names, task_v2 as t, task_v3_names};
use crate::rpc::ttrpc::{Client, Method, Mux, Reply, Request, Server, Service};
use crate::sys::fifo::{self, End};
use crate::thread::Threads;
use crossbeam_channel::{Receiver, Sender, unbounded};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::empty::Empty;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

/// A scratch daemon: state directory, event socket, one shim at a time.
struct Rig {
    dir: PathBuf,
    oci: PathBuf,
    events: Receiver<(String, Any)>,
    mux: Arc<Mux>,
    _threads: Threads,
    client: Option<Client>,
}

struct Forward(Sender<(String, Any)>);

impl Service for Forward {
    fn call(&self, request: Request, reply: Reply) {
        let envelope = request.decode::<ForwardRequest>().unwrap().envelope.unwrap();
        let _ = self.0.send((envelope.topic, envelope.event.unwrap()));
        reply.send(Ok(Empty::new()));
    }
}

fn program() -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.parent()?.parent()?.join("containerd-shim-cradle-v2");
    let here = path.is_file() && rustix::process::geteuid().is_root() && Path::new("/usr/bin/busybox").exists();
    if !here {
        eprintln!("skipped: needs root, busybox and {}", path.display());
    }
    here.then_some(path)
}

/// A rig for each OCI runtime.
fn rigs(name: &str) -> Vec<Rig> {
    if program().is_none() {
        return vec![];
    }
    ["crun", "runc"].iter().filter_map(|oci| super::runtime::find(oci)).map(|oci| Rig::new(name, oci)).collect()
}

impl Rig {
    fn new(name: &str, oci: PathBuf) -> Rig {
        static N: AtomicU32 = AtomicU32::new(0);
        let dir = format!("cradle-shim-{name}-{}-{}", std::process::id(), N.fetch_add(1, Ordering::SeqCst));
        let dir = std::env::temp_dir().join(dir);
        let bin = dir.join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        for sub in ["proc", "dev", "tmp", "sys"] {
            fs::create_dir_all(dir.join("rootfs").join(sub)).unwrap();
        }
        fs::copy("/usr/bin/busybox", bin.join("busybox")).unwrap();
        for applet in ["sh", "cat", "sleep", "true", "tail", "seq", "stty"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
        let threads = Threads::new().unwrap();
        let (tx, events) = unbounded();
        let server = Server::new(UnixListener::bind(dir.join("t")).unwrap(), Arc::new(Forward(tx))).unwrap();
        threads.spawn("daemon", move |stop| server.serve(stop)).unwrap();
        let mux = Mux::new(&threads).unwrap();
        Rig { dir, oci, events, mux, _threads: threads, client: None }
    }
    fn bundle(&self, id: &str) -> PathBuf {
        self.dir.join("state/io.containerd.runtime.v2.task/test").join(id)
    }
    fn make_bundle(&self, id: &str, script: &str, terminal: bool) {
        let bundle = self.bundle(id);
        fs::create_dir_all(&bundle).unwrap();
        let spec = serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {"terminal": terminal, "user": {"uid": 0, "gid": 0}, "args": ["/bin/sh", "-c", script], "env": ["PATH=/bin"], "cwd": "/"},
            "root": {"path": self.dir.join("rootfs")},
            "hostname": "t",
            "annotations": {"io.kubernetes.cri.sandbox-id": "pod"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
            ],
            "linux": {
                "cgroupsPath": format!("/cradle-shim-{}/{id}", self.dir.file_name().unwrap().to_str().unwrap()),
                "resources": {"memory": {"limit": 64 << 20}},
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}],
            },
        });
        fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        assert_eq!(Spec::read(&bundle).unwrap().group(), Some("pod"));
    }
    fn shim(&self, id: &str, action: &str) -> std::process::Output {
        let mut command = Command::new(program().unwrap());
        command.args(["-namespace", "test", "-id", id, "-address", "/none", action]).current_dir(self.bundle(id));
        command.env("TTRPC_ADDRESS", self.dir.join("t")).env("MAX_SHIM_VERSION", "3").stdin(Stdio::null());
        command.output().unwrap()
    }
    /// Bundle, shim, create.
    fn create(&mut self, id: &str, script: &str, set: impl FnOnce(&mut t::CreateTaskRequest)) -> Result<t::CreateTaskResponse> {
        let mut q = t::CreateTaskRequest::new();
        set(&mut q);
        self.make_bundle(id, script, q.terminal);
        let started = self.shim(id, "start");
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        let answer: serde_json::Value = serde_json::from_slice(&started.stdout).unwrap();
        assert_eq!((answer["version"].as_i64(), answer["protocol"].as_str()), (Some(3), Some("ttrpc")));
        self.client = Some(self.mux.connect(answer["address"].as_str().unwrap()).unwrap());
        (q.id, q.bundle) = (id.into(), self.bundle(id).to_string_lossy().into());
        let mut options = Options::new();
        (options.binary_name, options.root) = (self.oci.to_string_lossy().into(), self.dir.join("oci").to_string_lossy().into());
        let mut any = Any::new();
        (any.type_url, any.value) = ("containerd.runc.v1.Options".into(), options.write_to_bytes().unwrap());
        q.options = Some(any).into();
        self.task("Create", &q)
    }
    fn run(&mut self, id: &str, script: &str, set: impl FnOnce(&mut t::CreateTaskRequest)) {
        self.create(id, script, set).unwrap();
        self.start(id, "").unwrap();
    }
    fn task<Q: Message, P: Message>(&self, method: &str, q: &Q) -> Result<P> {
        self.ask(task_v3_names::task::SERVICE, method, q)
    }
    fn cradle<Q: Message, P: Message>(&self, method: &str, q: &Q) -> Result<P> {
        self.ask(cradle_names::cradle::SERVICE, method, q)
    }
    fn ask<Q: Message, P: Message>(&self, service: &str, method: &str, q: &Q) -> Result<P> {
        self.client.as_ref().unwrap().call(Method { service, method }, &Call::background("test"), LIMIT, q)
    }
    fn start(&self, id: &str, exec: &str) -> Result<t::StartResponse> {
        let mut q = t::StartRequest::new();
        (q.id, q.exec_id) = (id.into(), exec.into());
        self.task("Start", &q)
    }
    fn wait(&self, id: &str, exec: &str) -> u32 {
        let mut q = t::WaitRequest::new();
        (q.id, q.exec_id) = (id.into(), exec.into());
        self.task::<_, t::WaitResponse>("Wait", &q).unwrap().exit_status
    }
    fn kill(&self, id: &str, signal: i32) -> Result<Empty> {
        let mut q = t::KillRequest::new();
        (q.id, q.signal) = (id.into(), signal as u32);
        self.task("Kill", &q)
    }
    fn delete(&self, id: &str, exec: &str) -> Result<t::DeleteResponse> {
        let mut q = t::DeleteRequest::new();
        (q.id, q.exec_id) = (id.into(), exec.into());
        self.task("Delete", &q)
    }
    fn exec(&self, id: &str, exec: &str, script: &str, set: impl FnOnce(&mut t::ExecProcessRequest)) {
        let mut q = t::ExecProcessRequest::new();
        (q.id, q.exec_id) = (id.into(), exec.into());
        set(&mut q);
        let process =
            serde_json::json!({"user": {"uid": 0, "gid": 0}, "args": ["/bin/sh", "-c", script], "env": ["PATH=/bin"], "cwd": "/"});
        let mut any = Any::new();
        any.value = process.to_string().into_bytes();
        q.spec = Some(any).into();
        self.task::<_, Empty>("Exec", &q).unwrap();
    }
    fn topics(&self, until: &str) -> Vec<String> {
        let mut seen = vec![];
        while seen.last().is_none_or(|t| t != until) {
            seen.push(self.events.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("no {until} after {seen:?}")).0);
        }
        seen
    }
    fn fifo(&self, name: &str) -> String {
        let path = self.dir.join(name);
        fifo::make(&path).unwrap();
        path.to_string_lossy().into()
    }
    fn log(&self) -> String {
        format!("cri-log://{}/logs/0.log?max_line=100", self.dir.display())
    }
    fn logged(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join("logs/0.log")).unwrap_or_default();
        text.lines().map(|l| l.split_once(' ').unwrap().1.to_string()).collect()
    }
    fn status(&self) -> LogStatusResponse {
        self.cradle("LogStatus", &LogStatusRequest { id: "c".into(), ..LogStatusRequest::new() }).unwrap()
    }
    fn shim_pid(&self) -> i32 {
        self.task::<_, t::ConnectResponse>("Connect", &t::ConnectRequest::new()).unwrap().shim_pid as i32
    }
    /// After it, nothing of the shim is left.
    fn end(mut self) {
        let pid = self.shim_pid();
        self.task::<_, Empty>("Shutdown", &t::ShutdownRequest::new()).unwrap();
        self.client = None;
        until("the shim ends", || !Path::new(&format!("/proc/{pid}/exe")).exists() || zombie(pid));
        assert_eq!(fs::read_dir(self.dir.join("state/s")).unwrap().count(), 0);
        let group = format!("/cradle-shim-{}", self.dir.file_name().unwrap().to_str().unwrap());
        if let Ok(made) = crate::sys::cgroup::Cgroup::at(&group) {
            assert!(made.procs().unwrap().is_empty());
            made.remove().unwrap();
        }
        // runc makes it in a hybrid host's cgroup2 as well.
        let _ = fs::remove_dir(format!("/sys/fs/cgroup/unified{group}"));
        fs::remove_dir_all(&self.dir).unwrap();
    }
}

fn zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| s.contains(") Z "))
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < limit, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Reads a FIFO until its end, or as long as `more` wants.
fn reader(path: &str) -> Receiver<String> {
    let (tx, rx) = unbounded();
    let mut file = fs::File::from(fifo::open(path.as_ref(), End::Read).unwrap());
    std::thread::spawn(move || {
        let (mut text, mut buffer, mut seen) = (String::new(), [0; 4096], false);
        let limit = Instant::now() + LIMIT;
        while Instant::now() < limit {
            match file.read(&mut buffer) {
                Ok(0) if seen => break,
                Ok(n) if n > 0 => {
                    seen = true;
                    text.push_str(&String::from_utf8_lossy(&buffer[..n]));
                }
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        let _ = tx.send(text);
    });
    rx
}

#[test]
fn a_container_logs_is_rotated_and_ends() {
    for mut rig in rigs("life") {
        let log = rig.log();
        rig.run("c", "echo one; echo two >&2; sleep 0.5; echo three; seq -s, 1 60; printf four; exit 3", |q| q.stdout = log);
        until("the first lines", || rig.logged().len() == 2);
        fs::rename(rig.dir.join("logs/0.log"), rig.dir.join("logs/0.log.1")).unwrap();
        rig.cradle::<_, Empty>("ReopenLog", &ReopenLogRequest { id: "c".into(), ..ReopenLogRequest::new() }).unwrap();
        assert_eq!(rig.wait("c", ""), 3);
        assert_eq!(rig.topics("/tasks/exit"), ["/tasks/create", "/tasks/start", "/tasks/exit"]);
        assert_eq!(rig.kill("c", 9).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(rig.start("c", "").unwrap_err().kind(), Kind::FailedPrecondition);
        let status = rig.status();
        assert_eq!((status.lines, status.lost_lines), (6, 0));
        let deleted = rig.delete("c", "").unwrap();
        assert_eq!(deleted.exit_status, 3);
        let numbers = (1..=60).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        let (cut, rest) = numbers.split_at(100);
        let expected = ["stdout F three".to_string(), format!("stdout P {cut}"), format!("stdout F {rest}"), "stdout P four".to_string()];
        assert_eq!(rig.logged(), expected);
        let rotated = fs::read_to_string(rig.dir.join("logs/0.log.1")).unwrap();
        assert!(rotated.contains(" stdout F one\n") && rotated.contains(" stderr F two\n"));
        assert_eq!(rig.topics("/tasks/delete"), ["/tasks/delete"]);
        rig.end();
    }
}

#[test]
fn fast_exits_are_told_after_their_start() {
    for mut rig in rigs("fast") {
        rig.run("c", "sleep 60", |_| {});
        assert_eq!(rig.topics("/tasks/start").len(), 2);
        for n in 0..10 {
            let exec = format!("e{n}");
            rig.exec("c", &exec, "exit 7", |_| {});
            rig.start("c", &exec).unwrap();
            assert_eq!(rig.wait("c", &exec), 7);
            assert_eq!(rig.topics("/tasks/exit"), ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"]);
            rig.delete("c", &exec).unwrap();
        }
        for n in 0..5 {
            let id = format!("d{n}");
            rig.run(&id, "exit 5", |_| {});
            assert_eq!(rig.wait(&id, ""), 5);
            assert_eq!(rig.topics("/tasks/exit"), ["/tasks/create", "/tasks/start", "/tasks/exit"]);
            rig.delete(&id, "").unwrap();
            rig.topics("/tasks/delete");
        }
        rig.kill("c", 9).unwrap();
        assert_eq!(rig.wait("c", ""), 137);
        rig.delete("c", "").unwrap();
        rig.end();
    }
}

#[test]
fn a_full_disk_does_not_stop_the_container() {
    for mut rig in rigs("full") {
        rig.run("c", "seq 1 20000", |q| q.stdout = "cri-log:///dev/full".into());
        assert_eq!(rig.wait("c", ""), 0);
        until("all lines are counted", || rig.status().lost_lines == 20000);
        assert_eq!(rig.status().lines, 0);
        rig.delete("c", "").unwrap();
        rig.end();
    }
}

#[test]
fn clients_attach_leave_and_come_back() {
    for mut rig in rigs("attach") {
        let (log, stdin) = (rig.log(), rig.fifo("in"));
        rig.run("c", "while read line; do echo got $line; done; echo end", |q| (q.stdout, q.stdin) = (log, stdin.clone()));
        for client in ["a", "b"] {
            let (input, output) = (rig.fifo(&format!("{client}-in")), rig.fifo(&format!("{client}-out")));
            let read = fifo::open(output.as_ref(), End::Kept).unwrap();
            let mut write = fs::File::from(fifo::open(input.as_ref(), End::Kept).unwrap());
            let mut q = AttachRequest::new();
            (q.id, q.stdin, q.stdout) = ("c".into(), input, output);
            rig.cradle::<_, Empty>("Attach", &q).unwrap();
            writeln!(write, "{client}").unwrap();
            let mut buffer = [0; 64];
            let mut got = String::new();
            until("the answer comes", || {
                if let Ok(n) = rustix::io::read(&read, &mut buffer) {
                    got.push_str(&String::from_utf8_lossy(&buffer[..n]));
                }
                got == format!("got {client}\n")
            });
        }
        let mut q = t::CloseIORequest::new();
        (q.id, q.stdin) = ("c".into(), true);
        rig.task::<_, Empty>("CloseIO", &q).unwrap();
        assert_eq!(rig.wait("c", ""), 0);
        rig.delete("c", "").unwrap();
        assert_eq!(rig.logged(), ["stdout F got a", "stdout F got b", "stdout F end"]);
        rig.end();
    }
}

#[test]
fn execs_by_fifo_with_a_terminal_and_with_a_straggler() {
    for mut rig in rigs("exec") {
        rig.run("c", "sleep 60", |_| {});
        let out = rig.fifo("out");
        let read = reader(&out);
        rig.exec("c", "plain", "seq 1 5000", |q| q.stdout = out.clone());
        rig.start("c", "plain").unwrap();
        assert_eq!(rig.wait("c", "plain"), 0);
        rig.delete("c", "plain").unwrap();
        assert_eq!(read.recv_timeout(LIMIT).unwrap().lines().count(), 5000);

        let read = reader(&out);
        rig.exec("c", "tty", "sleep 0.3; stty size", |q| (q.stdout, q.terminal) = (out.clone(), true));
        rig.start("c", "tty").unwrap();
        let mut q = t::ResizePtyRequest::new();
        (q.id, q.exec_id, q.width, q.height) = ("c".into(), "tty".into(), 120, 40);
        rig.task::<_, Empty>("ResizePty", &q).unwrap();
        assert_eq!(rig.wait("c", "tty"), 0);
        rig.delete("c", "tty").unwrap();
        assert_eq!(read.recv_timeout(LIMIT).unwrap().trim(), "40 120");

        let read = reader(&out);
        rig.exec("c", "bg", "sleep 30 & echo started", |q| q.stdout = out.clone());
        rig.start("c", "bg").unwrap();
        assert_eq!(rig.wait("c", "bg"), 0);
        let began = Instant::now();
        rig.delete("c", "bg").unwrap();
        assert!(began.elapsed() < Duration::from_secs(1));
        assert_eq!(read.recv_timeout(LIMIT).unwrap(), "started\n");
        let mut q = t::PidsRequest::new();
        q.id = "c".into();
        assert_eq!(rig.task::<_, t::PidsResponse>("Pids", &q).unwrap().processes.len(), 2);
        rig.kill("c", 9).unwrap();
        rig.wait("c", "");
        rig.delete("c", "").unwrap();
        rig.end();
    }
}

#[test]
fn pods_share_a_shim_and_failures_leave_nothing() {
    for mut rig in rigs("pod") {
        rig.run("a", "sleep 60", |_| {});
        let shim = rig.shim_pid();
        assert_eq!(rig.create("b", "sleep 60", |q| q.stdout = "/no/such/dir/fifo".into()).unwrap_err().kind(), Kind::Internal);
        rig.create("b", "sleep 60", |_| {}).unwrap();
        assert_eq!(rig.shim_pid(), shim);
        assert_eq!(rig.create("b", "sleep 60", |_| {}).unwrap_err().kind(), Kind::AlreadyExists);
        rig.task::<_, Empty>("Shutdown", &t::ShutdownRequest::new()).unwrap();
        assert_eq!(rig.shim_pid(), shim);
        // A container that was never started is deleted by a kill.
        assert_eq!(rig.delete("b", "").unwrap().exit_status, 137);
        assert_eq!(rig.start("b", "").unwrap_err().kind(), Kind::NotFound);
        let mut q = t::StateRequest::new();
        q.id = "a".into();
        assert_eq!(rig.task::<_, t::StateResponse>("State", &q).unwrap().status.enum_value(), Ok(Status::RUNNING));
        rig.task::<_, Empty>("Pause", &t::PauseRequest { id: "a".into(), ..Default::default() }).unwrap();
        assert_eq!(rig.task::<_, t::StateResponse>("State", &q).unwrap().status.enum_value(), Ok(Status::PAUSED));
        let mut resources = Any::new();
        resources.value = br#"{"memory":{"limit":33554432}}"#.to_vec();
        let mut update = t::UpdateTaskRequest::new();
        (update.id, update.resources) = ("a".into(), Some(resources).into());
        rig.task::<_, Empty>("Update", &update).unwrap();
        let mut stats = t::StatsRequest::new();
        stats.id = "a".into();
        let metrics = rig.task::<_, t::StatsResponse>("Stats", &stats).unwrap().stats.unwrap();
        if metrics.type_url.contains("v1") {
            let metrics = crate::proto::cgroups1::Metrics::parse_from_bytes(&metrics.value).unwrap();
            assert_eq!(metrics.memory.usage.limit, 32 << 20);
        }
        // A frozen container can be killed.
        rig.kill("a", 9).unwrap();
        assert_eq!(rig.wait("a", ""), 137);
        rig.delete("a", "").unwrap();
        rig.end();
    }
}

#[test]
fn want_of_memory_is_told_before_the_exit() {
    for mut rig in rigs("oom") {
        rig.run("c", "exec tail /dev/zero", |_| {});
        assert_eq!(rig.wait("c", ""), 137);
        let topics = rig.topics("/tasks/exit");
        assert!(topics.contains(&"/tasks/oom".to_string()), "{topics:?}");
        rig.delete("c", "").unwrap();
        rig.end();
    }
}

#[test]
fn what_a_killed_shim_leaves_is_deleted() {
    for mut rig in rigs("dead") {
        let pid = rig.create("c", "sleep 60", |_| {}).unwrap().pid as i32;
        rig.start("c", "").unwrap();
        let shim = rig.shim_pid();
        crate::sys::signal::kill(shim, libc::SIGKILL).unwrap();
        until("the shim ends", || !Path::new(&format!("/proc/{shim}/exe")).exists());
        let out = rig.shim("c", "delete");
        assert!(out.status.success());
        let answer = t::DeleteResponse::parse_from_bytes(&out.stdout).unwrap();
        assert_eq!((answer.pid as i32, answer.exit_status), (pid, 137));
        until("the container ends", || !Path::new(&format!("/proc/{pid}/exe")).exists());
        // Its socket is taken over.
        rig.run("c", "exit 0", |_| {});
        assert_eq!(rig.wait("c", ""), 0);
        rig.delete("c", "").unwrap();
        rig.end();
    }
}

#[test]
fn memory_stays_small() {
    for mut rig in rigs("small") {
        let log = rig.log();
        rig.run("c", "seq 1 100000; sleep 60", |q| q.stdout = log);
        until("all is logged", || rig.status().lines == 100_000);
        let pid = rig.shim_pid();
        // A burst's buffers go back a moment later.
        until("Private_Dirty is below 1 MB", || {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
            let dirty = text.lines().find_map(|l| l.strip_prefix("Private_Dirty:")).unwrap();
            dirty.trim().trim_end_matches(" kB").parse::<u64>().unwrap() <= 1024
        });
        rig.kill("c", 9).unwrap();
        rig.wait("c", "");
        rig.delete("c", "").unwrap();
        rig.end();
    }
}
