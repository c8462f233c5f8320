//! Bad requests, a table a subject: each is refused with the code and the field that the table names, and leaves the node as it
//! was: stores, mounts, namespaces, cgroups, processes, network.
mod containers;
mod ids;
mod images;
mod pods;
mod streams;

use crate::harness::client::{container_config, remove_pod};
use crate::harness::{Container, Daemon, Pod, leftovers, wait_for};
use cradle::error::{Kind, Result};
use cradle::proto::cri::{Container as Listed, ContainerConfig, ListPodSandboxRequest, PodSandboxConfig};
use cradle::proto::cri_methods::runtime_service as rt;
use std::time::{Duration, Instant};

/// Longer is no message for a person, nor for a log.
const LONGEST_MESSAGE: usize = 4000;

/// A node with what requests may be about.
pub struct World<'a> {
    pub daemon: &'a Daemon,
    pub image: String,
    /// Has the containers below.
    pub pod: Pod<'a>,
    pub running: Container<'a>,
    pub created: Container<'a>,
    pub ended: Container<'a>,
    /// Has a running container too.
    pub other: Pod<'a>,
    pub beside: Container<'a>,
}

/// Sends a request, and says how that went.
type Ask = Box<dyn Fn(&World<'_>) -> Result<()>>;

/// A bad request.
pub struct Case {
    call: &'static str,
    what: &'static str,
    kind: Kind,
    says: &'static str,
    ask: Ask,
}

/// A line of a table: which call, what is wrong, the code, what the message must say, the request.
pub fn bad<Q: 'static, P: Unpin + 'static>(
    (method, what): (&'static grpcio::Method<Q, P>, &'static str),
    kind: Kind,
    says: &'static str,
    request: impl Fn(&World<'_>) -> Q + 'static,
) -> Case {
    let ask = Box::new(move |w: &World<'_>| w.daemon.ask(method, &request(w)).map(drop));
    Case { call: method.name, what, kind, says, ask }
}

/// Sends a table's requests, and tells all that is wrong at once.
pub fn refuse(cases: &[Case]) {
    let daemon = Daemon::start();
    let world = World::new(&daemon);
    let mut wrong = vec![];
    let mut before = at_rest(&world);
    for case in cases {
        let name = format!("{}: {}", case.call.rsplit('/').next().unwrap_or_default(), case.what);
        match (case.ask)(&world) {
            Ok(()) => {
                wrong.push(format!("{name}: was done"));
                world.sweep();
            }
            Err(e) => {
                let text = e.chain();
                println!("{name}: {:?}: {}", e.kind(), &text.chars().take(300).collect::<String>());
                if e.kind() != case.kind || !text.contains(case.says) || text.len() > LONGEST_MESSAGE {
                    wrong.push(format!(
                        "{name}: {:?} of {} bytes, not {:?} with \"{}\": {:.200}",
                        e.kind(),
                        text.len(),
                        case.kind,
                        case.says,
                        text
                    ));
                }
            }
        }
        let after = settled(&world, &before);
        if after != before {
            let gone = before.iter().filter(|l| !after.contains(l)).map(|l| format!("-{l}"));
            let new = after.iter().filter(|l| !before.contains(l)).map(|l| format!("+{l}"));
            wrong.push(format!("{name}: the node has changed:\n    {}", gone.chain(new).take(6).collect::<Vec<_>>().join("\n    ")));
            before = after;
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// The state once it does not change any more: the end of a container is on record before all of it is gone.
fn at_rest(world: &World<'_>) -> Vec<String> {
    let mut last = state(world);
    wait_for("a node at rest", Duration::from_secs(20), || {
        std::thread::sleep(Duration::from_millis(500));
        let before = std::mem::replace(&mut last, state(world));
        (before == last).then(|| last.clone())
    })
}

/// The state once it is as before, or after a while.
fn settled(world: &World<'_>, before: &[String]) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let now = state(world);
        if now == before || begun.elapsed() > Duration::from_secs(3) {
            return now;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// All that a request may change, a line each.
fn state(world: &World<'_>) -> Vec<String> {
    let d = world.daemon;
    let mut all = leftovers::of(d);
    let pods = d.get(&rt::LIST_POD_SANDBOX, &ListPodSandboxRequest::default()).items;
    all.extend(pods.iter().map(|p| format!("pod {} {:?}", p.id, p.state)));
    all.extend(d.containers().iter().map(|c: &Listed| format!("container {} {:?}", c.id, c.state)));
    all.extend(d.images().iter().map(|i| format!("image {} {:?} {:?}", i.id, i.repo_tags, i.repo_digests)));
    for sub in ["root/io.containerd.snapshotter.v1.overlayfs/snapshots", "root/io.containerd.content.v1.content/ingest", "logs"] {
        let entries = std::fs::read_dir(d.path(sub)).into_iter().flatten().flatten();
        all.extend(entries.map(|e| format!("file {}", e.path().display())));
    }
    all.sort();
    all
}

impl<'a> World<'a> {
    fn new(daemon: &'a Daemon) -> World<'a> {
        let image = daemon.busybox();
        let (pod, other) = (daemon.pod("pod", "crun"), daemon.pod("other", "crun"));
        let ended = pod.shell("ended", &image, "exit 0");
        let running = pod.shell("running", &image, "exec sleep 1000");
        let created = pod.create(container_config("created", &image, &["sleep", "1000"]));
        let beside = other.shell("beside", &image, "exec sleep 1000");
        ended.ended(Duration::from_secs(20));
        World { daemon, image, pod, running, created, ended, other, beside }
    }
    /// Removes what a request made that should have been refused.
    fn sweep(&self) {
        let known = [&self.running.id, &self.created.id, &self.ended.id, &self.beside.id, &self.pod.id, &self.other.id];
        for container in self.daemon.containers().iter().filter(|c| !known.contains(&&c.id)) {
            let _ = self.daemon.remove_container(&container.id);
        }
        for pod in self.daemon.pod_ids().iter().filter(|id| !known.contains(id)) {
            let _ = self.daemon.stop_pod(pod).and_then(|()| remove_pod(self.daemon, pod));
        }
    }
    /// A pod that could be run.
    pub fn good_pod(&self) -> PodSandboxConfig {
        let config = self.daemon.pod_config("bad");
        PodSandboxConfig { log_directory: self.daemon.logs().join("bad").display().to_string(), ..config }
    }
    /// A container that could be created.
    pub fn good_container(&self) -> ContainerConfig {
        container_config("bad", &self.image, &["sleep", "1000"])
    }
}
