//! The real plugins, in a node's network namespace of the test's own: bridges and firewall rules cannot outlive it.
use super::*;
use crate::call::Call;
use crate::error::Kind;
use crate::error::Result;
use crate::sys::netns::{self, NsKind};
use crate::thread::Threads;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A node with a conf directory, plugins and pods; dropping it leaves nothing.
struct Node {
    dir: PathBuf,
    pods: Vec<PathBuf>,
}

impl Node {
    fn new(name: &str) -> Node {
        let dir = PathBuf::from(format!("/tmp/cradle-cni-{name}-{}", std::process::id()));
        let node = Node { dir, pods: vec![] };
        for sub in ["net.d", "bin"] {
            fs::create_dir_all(node.dir.join(sub)).unwrap();
        }
        netns::pin(&[(NsKind::Net, node.host())], None).unwrap();
        node
    }
    fn host(&self) -> PathBuf {
        self.dir.join("ns/host")
    }
    fn ipam(&self) -> PathBuf {
        self.dir.join("ipam")
    }
    fn conf(&self, file: &str, text: &str) {
        let text = text.replace("IPAM", self.ipam().to_str().unwrap());
        fs::write(self.dir.join("net.d").join(file), text).unwrap();
    }
    fn script(&self, name: &str, text: &str) {
        let path = self.dir.join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\nDIR={}\n{text}\n", self.dir.display())).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fn plugins(&self) -> Arc<Plugins> {
        self.plugins_within(LIMIT)
    }
    fn plugins_within(&self, limit: Duration) -> Arc<Plugins> {
        let bin_dirs = vec![self.dir.join("bin"), "/usr/lib/cni".into()];
        Plugins::open(Settings {
            bin_dirs,
            cache_dir: self.dir.join("cache"),
            limit,
            ip_preference: IpPreference::Ipv4,
            order: Order::InTurn,
        })
        .unwrap()
    }
    fn network(&self, plugins: &Arc<Plugins>, max: usize) -> Network {
        Network::load(plugins, &self.dir.join("net.d"), max).unwrap()
    }
    fn pod(&mut self, id: &str) -> Attach {
        let netns = self.dir.join("ns").join(id);
        netns::pin(&[(NsKind::Net, netns.clone())], None).unwrap();
        self.pods.push(netns.clone());
        let pod = Pod { namespace: "test".into(), name: id.into(), uid: "uid-1".into() };
        Attach { sandbox_id: id.into(), netns, pod, ..Attach::default() }
    }
    /// Plugins are children of the calling thread and so run in its network namespace.
    fn on_node<T: Send + 'static>(&self, f: impl FnOnce(&Call) -> Result<T> + Send + 'static) -> Result<T> {
        netns::in_namespace(&self.host(), move || f(&Call::background("k8s.io")))
    }
    fn run(&self, at: &Path, program: &str) -> String {
        let words: Vec<String> = program.split(' ').map(str::to_owned).collect();
        netns::in_namespace(at, move || {
            let out = std::process::Command::new(&words[0]).args(&words[1..]).output().unwrap();
            Ok(String::from_utf8_lossy(&out.stdout).into_owned())
        })
        .unwrap()
    }
    fn leases(&self) -> usize {
        let Ok(networks) = fs::read_dir(self.ipam()) else { return 0 };
        let all = networks.flat_map(|n| fs::read_dir(n.unwrap().path()).unwrap());
        // Beside the leases there are `lock` and `last_reserved_ip.N`.
        all.filter(|e| !e.as_ref().unwrap().file_name().to_str().unwrap().starts_with('l')).count()
    }
    fn cached(&self) -> usize {
        fs::read_dir(self.dir.join("cache")).unwrap().count()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for path in self.pods.iter().chain([&self.host()]) {
            let _ = netns::unpin(path);
        }
        let _ = rustix::mount::unmount(self.dir.join("ns"), rustix::mount::UnmountFlags::DETACH);
        fs::remove_dir_all(&self.dir).unwrap();
    }
}

const PODNET: &str = r#"{"cniVersion":"0.4.0","name":"podnet","plugins":[
    {"type":"bridge","bridge":"crdl0","isGateway":true,"ipMasq":true,
     "ipam":{"type":"host-local","dataDir":"IPAM","ranges":[[{"subnet":"10.190.7.0/24"}],[{"subnet":"fd00:190:7::/64"}]]}},
    {"type":"portmap","capabilities":{"portMappings":true}}]}"#;
const SECOND: &str = r#"{"cniVersion":"1.0.0","name":"second","plugins":[
    {"type":"bridge","bridge":"crdl1","ipam":{"type":"host-local","dataDir":"IPAM","subnet":"10.190.8.0/24"}}]}"#;

#[test]
fn a_pod_gets_two_networks_and_a_port_and_leaves_nothing() {
    let mut node = Node::new("real");
    node.conf("10-podnet.conflist", PODNET);
    node.conf("20-second.conflist", SECOND);
    let plugins = node.plugins();
    let network = Arc::new(node.network(&plugins, 2));
    let mut attach = node.pod("p1");
    attach.port_mappings = vec![PortMapping { host_port: 18190, container_port: 80, protocol: "tcp".into(), host_ip: String::new() }];
    let (add, asked) = (network.clone(), attach.clone());
    let outcome = node.on_node(move |call| add.add(call, &asked)).unwrap();
    assert_eq!(outcome.ips.iter().map(|i| i.to_string()).collect::<Vec<_>>(), ["10.190.7.2", "fd00:190:7::2"]);
    assert_eq!(outcome.results.len(), 2);
    let links = node.run(&attach.netns, "cat /proc/thread-self/net/dev");
    assert!(["lo:", "eth0:", "eth1:"].iter().all(|l| links.contains(l)), "{links}");
    assert!(node.run(&node.host(), "iptables-save -t nat").contains("18190"));
    assert_eq!((node.leases(), node.cached()), (3, 4));

    let (del, asked) = (network.clone(), attach.clone());
    node.on_node(move |call| del.del(call, &asked)).unwrap();
    assert_eq!((node.leases(), node.cached()), (0, 0));
    assert!(!node.run(&node.host(), "iptables-save -t nat").contains("18190"));
    assert!(!node.run(&attach.netns, "cat /proc/thread-self/net/dev").contains("eth"));
    let asked = attach.clone();
    node.on_node(move |call| network.del(call, &asked)).unwrap();
}

#[test]
fn teardown_works_without_the_conf_and_without_the_namespace() {
    let mut node = Node::new("orphan");
    node.conf("10-podnet.conflist", PODNET);
    let plugins = node.plugins();
    let network = node.network(&plugins, 1);
    let attach = node.pod("p2");
    let asked = attach.clone();
    // No port is mapped here: CHECK of Debian's portmap looks for IPv4 rules in the IPv6 table.
    node.on_node(move |call| network.add(call, &asked).and_then(|_| network.check(call, "p2"))).unwrap();
    fs::remove_file(node.dir.join("net.d/10-podnet.conflist")).unwrap();
    // As after a reboot: the file is there, the namespace is not.
    netns::unpin(&attach.netns).unwrap();
    fs::write(&attach.netns, "").unwrap();
    let again = node.plugins();
    assert_eq!(node.on_node(move |call| again.del(call, "p2")).unwrap(), 1);
    assert_eq!((node.leases(), node.cached()), (0, 0));
}

#[test]
fn what_a_crash_left_is_collected_and_what_is_valid_stays() {
    let mut node = Node::new("gc");
    node.conf("10-podnet.conflist", PODNET);
    let plugins = node.plugins();
    for id in ["gone", "kept"] {
        let (network, attach) = (node.network(&plugins, 1), node.pod(id));
        node.on_node(move |call| network.add(call, &attach)).unwrap();
    }
    // As if killed between ADD and its result.
    fs::remove_file(node.dir.join("cache/gone:eth0.result.json")).unwrap();
    let network = node.network(&node.plugins(), 1);
    let stale = plugins.stale(&BTreeSet::from(["kept".to_owned()])).unwrap();
    assert_eq!(stale.into_iter().collect::<Vec<_>>(), ["gone"]);
    node.on_node(move |call| plugins.del(call, "gone").and(network.gc(call))).unwrap();
    assert_eq!((node.leases(), node.cached()), (2, 2));
}

#[test]
fn a_hanging_plugin_is_killed_and_what_came_before_it_is_taken_down() {
    let mut node = Node::new("hang");
    node.conf("10.conflist", &PODNET.replace("\"portmap\"", "\"hang\""));
    node.script("hang", "[ $CNI_COMMAND = ADD ] && sleep 600\nexit 0");
    let network = node.network(&node.plugins_within(Duration::from_secs(3)), 1);
    let attach = node.pod("p3");
    let start = Instant::now();
    let error = node.on_node(move |call| network.add(call, &attach)).unwrap_err();
    assert_eq!(error.kind(), Kind::DeadlineExceeded);
    assert!(error.chain().contains("hang") && error.chain().contains("killed"), "{}", error.chain());
    assert!(start.elapsed() < Duration::from_secs(30));
    assert_eq!((node.leases(), node.cached()), (0, 0));
}

#[test]
fn plugins_are_told_what_they_ask_for_in_the_order_of_the_spec() {
    let mut node = Node::new("told");
    let plugin = |name: &str| format!(r#"{{"type":"{name}","capabilities":{{"dns":true,"bandwidth":false,"cgroupPath":true}}}}"#);
    node.conf("1.conflist", &format!(r#"{{"cniVersion":"1.1.0","name":"told","plugins":[{},{}]}}"#, plugin("a"), plugin("b")));
    let script = r#"echo "$CNI_COMMAND ${0##*/} $CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS $(cat)" >> $DIR/log
[ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.1.0","ips":[{"address":"10.190.9.9/24"}]}'; exit 0"#;
    node.script("a", script);
    node.script("b", script);
    let mut attach = node.pod("p4");
    attach.dns = Some(Dns { servers: vec!["10.0.0.10".into()], ..Dns::default() });
    attach.bandwidth = Some(Bandwidth::default());
    let network = node.network(&node.plugins(), 1);
    node.on_node(move |call| {
        network.status(call)?;
        network.add(call, &attach)?;
        network.check(call, "p4")?;
        network.gc(call)?;
        network.del(call, &attach)
    })
    .unwrap();
    let log = fs::read_to_string(node.dir.join("log")).unwrap();
    let order: Vec<_> = log.lines().map(|l| l.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(order, ["STATUS a", "STATUS b", "ADD a", "ADD b", "CHECK a", "CHECK b", "GC a", "GC b", "DEL b", "DEL a"]);
    let line = |start: &str| log.lines().find(|l| l.starts_with(start)).unwrap().to_owned();
    let first = line("ADD a");
    assert!(first.contains("p4 eth0 IgnoreUnknown=1;K8S_POD_NAMESPACE=test;K8S_POD_NAME=p4;"), "{first}");
    assert!(first.contains(r#""runtimeConfig":{"dns":{"options":[],"searches":[],"servers":["10.0.0.10"]}}"#), "{first}");
    assert!(!first.contains("prevResult") && first.contains(r#""name":"told""#));
    for later in ["ADD b", "CHECK a", "DEL a"] {
        assert!(line(later).contains(r#""prevResult":{"cniVersion":"1.1.0","ips""#), "{later}");
    }
    assert!(line("GC a").contains(r#""cni.dev/valid-attachments":[{"containerID":"p4","ifname":"eth0"}]"#));
}

#[test]
fn a_plugins_own_words_reach_the_caller() {
    let mut node = Node::new("words");
    node.conf("1.conf", r#"{"cniVersion":"0.3.1","name":"words","type":"bad"}"#);
    let plugins = node.plugins();
    let mut fail = |id: &str, script: &str| {
        node.script("bad", &format!("[ $CNI_COMMAND = DEL ] && exit 0\n{script}"));
        let (network, attach) = (node.network(&plugins, 1), node.pod(id));
        node.on_node(move |call| network.add(call, &attach)).unwrap_err()
    };
    let told = fail("a", r#"echo '{"code":11,"msg":"no address left","details":"range full"}'; exit 1"#);
    assert_eq!(told.chain(), "CNI plugin bad, network words, ADD: no address left; range full (code 11)");
    assert_eq!(told.kind(), Kind::Unavailable);
    assert!(fail("b", "echo panic: oh >&2; exit 2").chain().ends_with("exit status: 2; it said: panic: oh"));
    assert!(fail("c", "exit 0").chain().contains("gave no result"));
    assert!(fail("d", "echo '{}'").chain().contains("gave the pod no address"));
    fs::remove_file(node.dir.join("bin/bad")).unwrap();
    let (network, attach) = (node.network(&plugins, 1), node.pod("e"));
    let missing = node.on_node(move |call| network.add(call, &attach)).unwrap_err().chain();
    assert!(missing.contains("failed to find plugin \"bad\" in") && missing.contains("/usr/lib/cni"), "{missing}");
}

fn until(what: &str, f: impl Fn() -> bool) {
    let start = Instant::now();
    while !f() {
        assert!(start.elapsed() < Duration::from_secs(5), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_syncer_follows_files_and_the_directory_itself() {
    let node = Node::new("sync");
    let dir = node.dir.join("late/net.d");
    let threads = Threads::new().unwrap();
    let syncer = Syncer::spawn(&threads, node.plugins(), &dir, 1, 0).unwrap();
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    let reason = syncer.last_error().unwrap();
    assert_eq!(reason, format!("cni plugin not initialized: no network config found in {}", dir.display()));
    let name = || syncer.current().map(|n| n.lists()[0].name.clone()).unwrap_or_default();
    fs::write(dir.join("10-a.conflist"), PODNET).unwrap();
    until("load", || name() == "podnet");
    fs::write(dir.join("10-a.conflist"), SECOND).unwrap();
    until("change", || name() == "second");
    fs::write(dir.join("00-bad.conf"), "{").unwrap();
    until("bad conf", || syncer.last_error().is_some_and(|e| e.contains("00-bad.conf")));
    fs::remove_file(dir.join("00-bad.conf")).unwrap();
    until("recovery", || name() == "second");
    fs::remove_dir_all(node.dir.join("late")).unwrap();
    until("loss", || syncer.last_error().is_some_and(|e| e.contains("no network config found")));
    fs::create_dir_all(&dir).unwrap();
    fs::write(node.dir.join("elsewhere.json"), PODNET).unwrap();
    std::os::unix::fs::symlink(node.dir.join("elsewhere.json"), dir.join("1.conflist")).unwrap();
    until("return", || name() == "podnet");
    fs::rename(&dir, node.dir.join("late/aside")).unwrap();
    until("moved away", || syncer.current().is_err());
    fs::rename(node.dir.join("late/aside"), &dir).unwrap();
    until("moved back", || name() == "podnet");
    threads.shutdown();
}

#[test]
fn what_runs_on_after_its_daemon_is_waited_for() {
    let mut node = Node::new("settle");
    // Its output is closed, so that nobody waits for it; the descriptor of the lock is not.
    node.script("lingers", r#"sleep 1 </dev/null >/dev/null 2>&1 & echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.8.7/24"}]}'"#);
    node.conf("10.conflist", r#"{"cniVersion":"1.0.0","name":"lingers","plugins":[{"type":"lingers"}]}"#);
    let plugins = node.plugins();
    plugins.settle(Duration::ZERO).unwrap();
    let (network, attach) = (node.network(&plugins, 1), node.pod("a"));
    let begun = Instant::now();
    node.on_node(move |call| network.add(call, &attach)).unwrap();
    assert!(plugins.settle(Duration::ZERO).is_err());
    plugins.settle(Duration::from_secs(10)).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
}
