//! A cradled of the story's own: scratch directories, sockets, config, network, cgroup parent. Dropping it removes the pods,
//! stops it, and fails the test if anything is left.
use super::cni::Net;
use super::{Registry, cgroup, leftovers, next, scratch};
use cradle::error::Result;
use cradle::proto::cri::{ListPodSandboxRequest, StopPodSandboxRequest, VersionRequest};
use cradle::proto::cri_methods::runtime_service as rt;
use cradle::rpc::grpc::Client;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The program under test.
pub const CRADLED: &str = env!("CARGO_BIN_EXE_cradled");
/// For calls that build or tear down.
pub const LIMIT: Duration = Duration::from_secs(60);

/// How a daemon shall be.
pub struct Setup {
    /// Added to the end of the config.
    pub extra: String,
    /// The config's registry section; none = `config_path` alone.
    pub registry: Option<String>,
    /// Whether there is a CNI conf.
    pub network: bool,
    /// More arguments.
    pub args: Vec<String>,
}

/// A daemon and all that belongs to it.
pub struct Daemon {
    pub dir: PathBuf,
    pub net: Net,
    /// Cgroup parent of its pods, as CRI wants it: `/cradle-test-1/5`.
    pub cgroup_parent: String,
    args: Vec<String>,
    /// Environment of the next start.
    pub env: Vec<(String, String)>,
    process: Option<Child>,
    client: Option<Client>,
}

impl Setup {
    /// As most stories want it.
    pub fn new() -> Setup {
        Setup { extra: String::new(), registry: None, network: true, args: vec![] }
    }
    /// Adds lines to the config.
    pub fn config(mut self, lines: &str) -> Setup {
        self.extra.push_str(lines);
        self.extra.push('\n');
        self
    }
    /// Lines of the registry section, instead of `config_path`.
    pub fn registry(mut self, lines: &str) -> Setup {
        self.registry = Some(lines.into());
        self
    }
    /// Without a CNI conf.
    pub fn no_network(mut self) -> Setup {
        self.network = false;
        self
    }
    /// Writes the config, starts nothing.
    pub fn prepare(self) -> Daemon {
        let number = next();
        let dir = scratch("daemon");
        let net = Net::numbered(number);
        for sub in ["net.d", "cni-bin", "certs.d", "logs", "ipam"] {
            std::fs::create_dir_all(dir.join(sub)).unwrap();
        }
        for plugin in std::fs::read_dir("/usr/lib/cni").expect("no CNI plugins here: apt-get install containernetworking-plugins") {
            let plugin = plugin.unwrap();
            std::os::unix::fs::symlink(plugin.path(), dir.join("cni-bin").join(plugin.file_name())).unwrap();
        }
        if self.network {
            net.write(&dir.join("net.d"), &dir.join("ipam"));
        }
        std::fs::write(dir.join("config.toml"), config(&dir, self.registry.as_deref()) + &self.extra).unwrap();
        let cgroup_parent = format!("/{}/{number}", cgroup());
        Daemon { dir, net, cgroup_parent, args: self.args, env: vec![], process: None, client: None }
    }
    /// Writes the config, starts the daemon, waits until it is ready.
    pub fn start(self) -> Daemon {
        let mut daemon = self.prepare();
        daemon.start_again();
        daemon
    }
}

/// A version 2 config, as containerd's users have it.
fn config(dir: &Path, registry: Option<&str>) -> String {
    let d = dir.display();
    let registry = registry.map_or_else(|| format!("config_path = \"{d}/certs.d\""), str::to_string);
    let runtime = |name: &str| {
        format!(
            "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{name}]\nruntime_type = \"io.containerd.runc.v2\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{name}.options]\nBinaryName = \"{name}\"\n"
        )
    };
    format!(
        "version = 2\nroot = \"{d}/root\"\nstate = \"{d}/state\"\n[grpc]\naddress = \"{d}/cradled.sock\"\n[debug]\nlevel = \"debug\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\nnetns_mounts_under_state_dir = true\nstream_server_port = \"0\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".registry]\n{registry}\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"{d}/cni-bin\"\nconf_dir = \"{d}/net.d\"\n{}{}",
        runtime("runc"),
        runtime("crun"),
    )
}

impl Daemon {
    /// A daemon as most stories want it.
    pub fn start() -> Daemon {
        Setup::new().start()
    }
    /// A path in its scratch directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
    /// Its gRPC socket.
    pub fn socket(&self) -> PathBuf {
        self.path("cradled.sock")
    }
    /// Where pod logs go.
    pub fn logs(&self) -> PathBuf {
        self.path("logs")
    }
    /// A command of the program with this daemon's config.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(CRADLED);
        command.arg("--config").arg(self.path("config.toml")).args(args).envs(self.env.iter().cloned());
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(name);
        }
        command
    }
    /// Runs `cradled ARGS` to its end.
    pub fn cli(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }
    /// Starts it, without waiting.
    pub fn spawn(&mut self) {
        assert!(self.process.is_none(), "the daemon runs already");
        let log = File::options().create(true).append(true).open(self.path("daemon.log")).unwrap();
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let mut command = self.command(&args);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(command.spawn().unwrap());
        self.client = Some(Client::new(&self.socket(), 32 << 20));
    }
    /// Starts it and waits until CRI answers; how long that took.
    pub fn start_again(&mut self) -> Duration {
        let begun = Instant::now();
        self.spawn();
        while let Err(e) = self.client().call(&rt::VERSION, &VersionRequest::default(), Duration::from_secs(2)) {
            if let Some(status) = self.process.as_mut().and_then(|p| p.try_wait().unwrap()) {
                panic!("the daemon did not start: {status}");
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "the daemon does not get ready: {}", e.chain());
            std::thread::sleep(Duration::from_millis(20));
        }
        begun.elapsed()
    }
    /// Waits for its end by itself.
    pub fn wait_end(&mut self, limit: Duration) -> std::process::ExitStatus {
        let mut process = self.process.take().expect("the daemon does not run");
        super::wait_for("the daemon's end", limit, || process.try_wait().unwrap())
    }
    /// kill -9.
    pub fn kill9(&mut self) {
        let mut process = self.process.take().expect("the daemon does not run");
        process.kill().unwrap();
        assert_eq!(process.wait().unwrap().signal(), Some(9));
    }
    /// SIGTERM; containers go on. It must end by itself, with success.
    pub fn stop(&mut self) {
        let id = self.pid();
        signal(id, "TERM");
        let status = self.wait_end(Duration::from_secs(10));
        assert!(status.success(), "the daemon ended with {status}");
    }
    /// Stop and start.
    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the daemon does not run").id()
    }
    /// The CRI client.
    pub fn client(&self) -> &Client {
        self.client.as_ref().expect("the daemon was not started")
    }
    /// A CRI call.
    pub fn ask<Q, P: Unpin>(&self, method: &grpcio::Method<Q, P>, request: &Q) -> Result<P> {
        self.client().call(method, request, LIMIT)
    }
    /// A CRI call that must succeed.
    #[track_caller]
    pub fn get<Q, P: Unpin>(&self, method: &grpcio::Method<Q, P>, request: &Q) -> P {
        self.ask(method, request).unwrap_or_else(|e| panic!("{}: {}", method.name, e.chain()))
    }
    /// Its log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }
    /// Pushes an image to the shared registry and pulls it; its reference.
    pub fn image(&self, name: &str, image: &super::Image) -> String {
        let registry = Registry::shared();
        image.push(&registry.repository(name), "1");
        let reference = registry.reference(name, "1");
        self.pull(&reference).unwrap_or_else(|e| panic!("pull {reference}: {}", e.chain()));
        reference
    }
    /// The image that most stories run.
    pub fn busybox(&self) -> String {
        self.image("busybox", &super::Image::busybox())
    }
    fn remove_pods(&self) {
        let Ok(pods) = self.ask(&rt::LIST_POD_SANDBOX, &ListPodSandboxRequest::default()) else { return };
        for pod in pods.items {
            let stop = StopPodSandboxRequest { pod_sandbox_id: pod.id.clone(), ..Default::default() };
            let _ = self.ask(&rt::STOP_POD_SANDBOX, &stop);
            super::client::remove_pod(self, &pod.id).unwrap_or_else(|e| panic!("remove pod {}: {}", pod.id, e.chain()));
        }
    }
    fn end(&mut self) {
        if self.process.is_none() && self.path("daemon.log").exists() && leftovers::any_shim(&self.dir) {
            self.start_again();
        }
        if self.process.is_some() {
            self.remove_pods();
            self.stop();
        }
        let mut left = vec![];
        wait_until_empty(Duration::from_secs(3), || {
            left = leftovers::of(self);
            left.is_empty()
        });
        assert!(left.is_empty(), "left behind by {}:\n  {}", self.dir.display(), left.join("\n  "));
    }
}

/// As `wait_until`, but it is the caller who complains.
fn wait_until_empty(limit: Duration, mut f: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !f() && begun.elapsed() < limit {
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.end()));
        if failed || ended.is_err() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- end of {}:\n{}", self.path("daemon.log").display(), lines[lines.len().saturating_sub(200)..].join("\n"));
            if let Some(mut process) = self.process.take() {
                let _ = process.kill();
                let _ = process.wait();
            }
            leftovers::sweep(self);
        } else {
            leftovers::forget(self);
        }
        if let (Err(why), false) = (ended, failed) {
            std::panic::resume_unwind(why);
        }
    }
}

/// Sends a signal to a process.
pub fn signal(pid: u32, name: &str) {
    let done = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap();
    assert!(done.success(), "kill -{name} {pid}");
}
