//! Dismiss: a shim without containers is told to go; one that stays is killed after a while.
use super::bundle::Bundle;
use super::shim::Shim;
use super::tasks::Shared;
use crate::call::Call;
use crate::error::Kind;
use crate::proto::task_v2::{ConnectRequest, ConnectResponse, ShutdownRequest};
use crate::proto::task_v2_names::task as method;
use crate::sys::pidfd::{self, Identity};
use log::{debug, warn};
use protobuf::well_known_types::empty::Empty;
use std::sync::Arc;

impl Shared {
    /// Asks a shim for its process, without waiting: a frozen shim could not say it when it matters.
    pub fn identify(&self, namespace: &str, shim: &Arc<Shim>) {
        let asked = Arc::downgrade(shim);
        let sent = shim.api.start(method::CONNECT, namespace, &ConnectRequest::new(), move |answer| {
            if let (Some(shim), Some(process)) = (asked.upgrade(), answer.ok().and_then(|a: ConnectResponse| Identity::of(a.shim_pid))) {
                let _ = shim.process.set(process);
            }
        });
        if let Err(e) = sent {
            debug!("shim {}: {}", shim.bootstrap.address, e.chain());
        }
    }
    /// Tells a shim to go, and sees to it that it does. The answer of a shim that hangs is waited for at most twice.
    pub fn dismiss(self: &Arc<Self>, shim: &Shim, bundle: &Bundle) {
        let (call, limit) = (Call::background(&bundle.namespace), self.config.timeouts.shutdown);
        if shim.process.get().is_none() {
            // It spoke the other version than it said, or has only just begun.
            let answer = shim.api.act::<_, ConnectResponse>(method::CONNECT, &call, self.config.timeouts.state, &ConnectRequest::new());
            if let Some(process) = answer.ok().and_then(|a| Identity::of(a.shim_pid)) {
                let _ = shim.process.set(process);
            }
        }
        let request = ShutdownRequest { id: bundle.id.clone(), ..ShutdownRequest::new() };
        if let Err(e) = shim.api.act::<_, Empty>(method::SHUTDOWN, &call, limit, &request) {
            // A shim may be gone before its answer is out.
            if e.kind() == Kind::Unavailable {
                return;
            }
            debug!("container {}: shutdown of its shim: {}", bundle.id, e.chain());
        }
        match shim.process.get().copied() {
            Some(process) => {
                let id = bundle.id.clone();
                self.care.after(self.config.timeouts.linger, move || kill(&id, process));
            }
            None => warn!("container {}: its shim did not say which process it is, and may be left running", bundle.id),
        }
    }
}

/// Kills the shim if it is still there.
fn kill(id: &str, process: Identity) {
    let Some(pidfd) = process.open() else { return };
    warn!("container {id}: its shim (pid {}) was told to go and did not, it is killed", process.pid);
    if let Err(e) = pidfd::send_signal(&pidfd, libc::SIGKILL) {
        warn!("container {id}: its shim (pid {}) is not killed: {e}", process.pid);
    }
}

#[cfg(test)]
mod tests {
    use super::super::bootstrap::Bootstrap;
    use super::super::{Config, DIRECTORY, Tasks, Timeouts};
    use super::*;
    use crate::core::events::Bus;
    use crate::rpc::ttrpc::{Reply, Request, Server, Service};
    use crate::thread::Threads;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};

    /// Says yes to everything and does nothing. Its process is another one.
    struct Deaf(u32);
    impl Service for Deaf {
        fn call(&self, _: Request, reply: Reply) {
            let mut answer = ConnectResponse::new();
            answer.shim_pid = self.0;
            reply.send(Ok(answer));
        }
    }

    struct Scratch(PathBuf);
    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn scratch(name: &str) -> (Scratch, Tasks) {
        let dir = std::env::temp_dir().join(format!("cradle-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let timeouts = Timeouts { linger: Duration::from_millis(200), ..Timeouts::default() };
        let config = Config { state: dir.join("state"), root: dir.join("root"), timeouts, ..Config::default() };
        (Scratch(dir), Tasks::open(config, Arc::new(Bus::default())).unwrap())
    }

    fn bootstrap(path: &std::path::Path) -> Bootstrap {
        Bootstrap::parse(format!("unix://{}", path.display()).as_bytes()).unwrap()
    }

    #[test]
    fn a_shim_that_stays_is_killed() {
        let (dir, tasks) = scratch("dismiss");
        let path = dir.0.join("s");
        let mut stays: Child = Command::new("sleep").arg("60").spawn().unwrap();
        let serving = Threads::new().unwrap();
        let server = Server::new(UnixListener::bind(&path).unwrap(), Arc::new(Deaf(stays.id()))).unwrap();
        serving.spawn("server", move |stop| server.serve(stop)).unwrap();
        let bundle = Bundle::at(&dir.0, &dir.0, "n", "c").unwrap();
        let shim = tasks.shared.connect("n", "/bin/false".into(), bootstrap(&path), Duration::ZERO).unwrap();
        shim.join("c").unwrap();
        assert!(stays.try_wait().unwrap().is_none());
        let begun = Instant::now();
        tasks.shared.leave(&shim, &bundle);
        while stays.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(10), "not killed");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(begun.elapsed() >= Duration::from_millis(200));
    }

    #[test]
    fn a_shim_that_takes_no_connection_is_not_taken_for_dead() {
        let (dir, tasks) = scratch("busy");
        let path = dir.0.join("s");
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let _first = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let bundle = dir.0.join("state").join(DIRECTORY).join("n/c");
        std::fs::create_dir_all(bundle.join("rootfs")).unwrap();
        std::fs::write(bundle.join("address"), format!("unix://{}", path.display())).unwrap();
        let begun = Instant::now();
        let found = tasks.recover().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(2));
        assert_eq!(found.iter().map(|t| (t.id(), t.exited())).collect::<Vec<_>>(), [("c", None)]);
        assert!(bundle.exists());
    }
}
