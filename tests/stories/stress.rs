//! Thirty pods with commands and logs, and two hands that make and remove pods, while the daemon is killed and stopped three
//! times: no line is lost, no command hangs, and afterwards nothing is left: not in the daemon, nor on the node.
use crate::harness::client::{container_config, remove_pod};
use crate::harness::daemon::signal;
use crate::harness::{Container, Daemon, wait_for};
use cradle::core::lease::Leases;
use cradle::core::metadata::Db;
use cradle::error::{Kind, Result};
use cradle::proto::cri::*;
use cradle::proto::cri_methods::runtime_service as rt;
use cradle::rpc::grpc::Client;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PODS: usize = 30;
/// Clients that run commands, each in its share of the containers.
const TALKERS: usize = 6;
const COUNT: &str = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.05; done";
const SOON: Duration = Duration::from_secs(30);

/// What the clients do, shared by them.
struct Traffic {
    socket: PathBuf,
    over: AtomicBool,
    /// Commands that were answered.
    done: AtomicUsize,
    /// Answers that no restart explains.
    wrong: Mutex<Vec<String>>,
}

#[test]
fn thirty_pods_and_three_restarts_leave_nothing() {
    let mut d = Daemon::start();
    let image = d.busybox();
    // Whatever a daemon makes once is there before the count.
    let first = d.pod("first", "runc");
    assert_eq!(first.shell("main", &image, "sleep 1000").says("echo x"), "x");
    first.remove();
    d.restart();
    let before = Idle::of(&d);

    let begun = Instant::now();
    let running = run_all(&d, &image);
    println!("{PODS} pods after {:?}", begun.elapsed());
    let traffic = Traffic::new(&d);
    let churn: Vec<_> = (0..2).map(|n| (d.pod_config(&format!("churn-{n}")), n)).collect();
    std::thread::scope(|s| {
        for n in 0..TALKERS {
            let (traffic, mine) = (&traffic, running.iter().skip(n).step_by(TALKERS).map(|(_, id, _)| id.clone()).collect::<Vec<_>>());
            s.spawn(move || traffic.talk(&mine));
        }
        for (config, n) in churn {
            let (traffic, image) = (&traffic, image.as_str());
            s.spawn(move || traffic.churn(&config, image, ["runc", "crun"][n % 2]));
        }
        for how in ["KILL", "TERM", "KILL"] {
            traffic.progress(TALKERS * 2);
            signal(d.pid(), how);
            d.wait_end(SOON);
            let took = d.start_again();
            println!("up again after {how} in {took:?}");
        }
        traffic.progress(TALKERS * 3);
        traffic.over.store(true, Ordering::SeqCst);
    });
    assert!(traffic.wrong.lock().unwrap().is_empty(), "{:#?}", traffic.wrong.lock().unwrap());
    for (_, id, log) in &running {
        whole(&d.container(id, log.clone()));
    }
    println!("{} commands answered, {:?}", traffic.done.load(Ordering::SeqCst), begun.elapsed());
    remove_all(&d);
    before.again(&d);
    println!("all removed after {:?}", begun.elapsed());
    d.stop();
    let db = Db::open(&d.path("root/io.containerd.metadata.v1.redb")).unwrap();
    let leases = Leases::new(Arc::new(db)).list("k8s.io").unwrap();
    assert!(leases.is_empty(), "leases are left: {leases:?}");
}

/// Pod, container and log file of each.
fn run_all(d: &Daemon, image: &str) -> Vec<(String, String, PathBuf)> {
    let next = AtomicUsize::new(0);
    let made = Mutex::new(vec![]);
    std::thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| {
                while let n @ 0..PODS = next.fetch_add(1, Ordering::SeqCst) {
                    let pod = d.pod(&format!("p{n}"), ["runc", "crun"][n % 2]);
                    let main = pod.shell("main", image, COUNT);
                    made.lock().unwrap().push((pod.id.clone(), main.id.clone(), main.log_file.clone()));
                }
            });
        }
    });
    made.into_inner().unwrap()
}

/// Removes all that is listed, eight at a time.
fn remove_all(d: &Daemon) {
    let ids = Mutex::new(d.pod_ids());
    std::thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| {
                while let Some(id) = { ids.lock().unwrap().pop() } {
                    d.stop_pod(&id).unwrap();
                    remove_pod(d, &id).unwrap();
                }
            });
        }
    });
    assert!(d.pod_ids().is_empty() && d.containers().is_empty());
}

/// Every line of the log is there, once and in order, and it has no process but those of its script.
fn whole(container: &Container<'_>) {
    assert!(container.running(), "{} does not run any more", container.id);
    let lines = container.log();
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(line.text, format!("line {at}"), "{}", container.log_file.display());
    }
    assert!(lines.len() > 40, "{} lines in {}", lines.len(), container.log_file.display());
    let processes = container.says("ps -o comm | grep -cv -e COMMAND -e ps -e grep");
    assert!(processes.parse::<usize>().unwrap() <= 5, "{processes} processes: {}", container.says("ps"));
}

impl Traffic {
    fn new(d: &Daemon) -> Traffic {
        Traffic { socket: d.socket(), over: AtomicBool::new(false), done: AtomicUsize::new(0), wrong: Mutex::default() }
    }
    fn client(&self) -> Client {
        Client::new(&self.socket, 32 << 20)
    }
    fn over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
    /// Waits for so many more answers.
    fn progress(&self, more: usize) {
        let until = self.done.load(Ordering::SeqCst) + more;
        wait_for("answers", SOON, || (self.done.load(Ordering::SeqCst) >= until).then_some(()));
    }
    /// Runs commands in turn in these containers.
    fn talk(&self, containers: &[String]) {
        let mut client = self.client();
        for (n, id) in containers.iter().cycle().enumerate() {
            if self.over() {
                return;
            }
            let cmd = ["sh", "-c", &format!("echo {n}; echo {n} >&2; exit {}", n % 7)].map(String::from).to_vec();
            let request = ExecSyncRequest { container_id: id.clone(), cmd, timeout: 20, ..Default::default() };
            match client.call(&rt::EXEC_SYNC, &request, SOON) {
                Ok(answer) => {
                    let expected = (n as i32 % 7, format!("{n}\n").into_bytes());
                    if (answer.exit_code, &answer.stdout) != (expected.0, &expected.1) || answer.stderr != answer.stdout {
                        self.wrong.lock().unwrap().push(format!("{id}: {n}: {answer:?}"));
                    }
                    self.done.fetch_add(1, Ordering::SeqCst);
                }
                Err(e) => {
                    self.judge(&format!("exec in {id}"), &e);
                    client = self.client();
                }
            }
        }
    }
    /// Makes and removes pods; of what a restart interrupts, the end's removal takes care.
    fn churn(&self, config: &PodSandboxConfig, image: &str, handler: &str) {
        for n in 0.. {
            if self.over() {
                return;
            }
            let mut config = config.clone();
            config.metadata.mut_or_insert_default().uid.push_str(&format!("-{n}"));
            if let Err(e) = self.one_pod(&self.client(), &config, image, handler) {
                self.judge("make and remove a pod", &e);
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    fn one_pod(&self, client: &Client, config: &PodSandboxConfig, image: &str, handler: &str) -> Result<()> {
        let run = RunPodSandboxRequest { config: Some(config.clone()).into(), runtime_handler: handler.into(), ..Default::default() };
        let pod_sandbox_id = client.call(&rt::RUN_POD_SANDBOX, &run, SOON)?.pod_sandbox_id;
        let create = CreateContainerRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
            config: Some(container_config("c", image, &["sleep", "1000"])).into(),
            sandbox_config: run.config.clone(),
            ..Default::default()
        };
        let container_id = client.call(&rt::CREATE_CONTAINER, &create, SOON)?.container_id;
        client.call(&rt::START_CONTAINER, &StartContainerRequest { container_id, ..Default::default() }, SOON)?;
        let stop = StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone(), ..Default::default() };
        client.call(&rt::STOP_POD_SANDBOX, &stop, SOON)?;
        client.call(&rt::REMOVE_POD_SANDBOX, &RemovePodSandboxRequest { pod_sandbox_id, ..Default::default() }, SOON).map(drop)
    }
    /// A daemon that goes ends its calls with one of these.
    fn judge(&self, what: &str, error: &cradle::error::Error) {
        if !matches!(error.kind(), Kind::Unavailable | Kind::Cancelled) {
            self.wrong.lock().unwrap().push(format!("{what}: {:?}: {}", error.kind(), error.chain()));
        }
    }
}

/// What an idle daemon holds.
struct Idle {
    descriptors: usize,
    threads: usize,
    files: BTreeSet<PathBuf>,
}

impl Idle {
    fn of(d: &Daemon) -> Idle {
        let count = |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", d.pid())).unwrap().count();
        let mut files = BTreeSet::new();
        for dir in ["state", "root/io.containerd.snapshotter.v1.overlayfs", "root/io.containerd.runtime.v2.task", "ipam"] {
            walk(&d.path(dir), &mut files);
        }
        Idle { descriptors: count("fd"), threads: count("task"), files }
    }
    /// The daemon holds no more than this. Idle threads go after ten seconds, and clients' connections with the clients.
    fn again(&self, d: &Daemon) {
        let begun = Instant::now();
        loop {
            let now = Idle::of(d);
            let new: Vec<_> = now.files.difference(&self.files).take(10).collect();
            if now.descriptors <= self.descriptors + 2 && now.threads <= self.threads + 2 && new.is_empty() {
                return;
            }
            let what = format!(
                "descriptors: {} before, {} after; threads: {} before, {} after; new files: {new:?}",
                self.descriptors, now.descriptors, self.threads, now.threads
            );
            assert!(begun.elapsed() < SOON, "{what}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// All files below, but not what is in a layer.
fn walk(dir: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let layer = path.ends_with("fs") && path.parent().and_then(Path::parent).is_some_and(|p| p.ends_with("snapshots"));
        if entry.file_type().is_ok_and(|t| t.is_dir()) && !layer {
            walk(&path, found);
        }
        found.insert(path);
    }
}
