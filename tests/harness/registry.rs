//! Debian's docker-registry on a loopback port with storage of its own.
use super::image::Remote;
use super::{free_port, scratch, wait_until};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

/// Who may pull from a locked registry.
pub const USER: &str = "puller";
/// Its password.
pub const PASSWORD: &str = "pa55-word";
/// The two as htpasswd has them (bcrypt).
const HTPASSWD: &str = "puller:$2y$05$abcdefghijklmnopqrstuujh9PDMrNlID7EOhE4sltp3nqIzxR/SS\n";

/// A running registry; dropping it ends it.
pub struct Registry {
    /// `127.0.0.1:<port>`.
    pub host: String,
    /// Its storage, to break things in.
    pub storage: PathBuf,
    process: Child,
}

impl Registry {
    /// One for all stories that do not break it. It ends with our PID namespace.
    pub fn shared() -> &'static Registry {
        static SHARED: OnceLock<Registry> = OnceLock::new();
        SHARED.get_or_init(Registry::start)
    }
    /// One of the story's own.
    pub fn start() -> Registry {
        Registry::with(scratch("registry").join("storage"), "")
    }
    /// The same storage behind a lock: only [`USER`] with [`PASSWORD`] may pull.
    pub fn locked(&self) -> Registry {
        let users = scratch("htpasswd").join("users");
        std::fs::write(&users, HTPASSWD).unwrap();
        Registry::with(self.storage.clone(), &format!("auth:\n  htpasswd:\n    realm: stories\n    path: {}\n", users.display()))
    }
    fn with(storage: PathBuf, extra: &str) -> Registry {
        let dir = scratch("registry");
        let host = format!("127.0.0.1:{}", free_port());
        let config = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {host}\n{extra}",
            storage.display()
        );
        std::fs::write(dir.join("config.yml"), config).unwrap();
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.join("config.yml"))
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("no docker-registry here: apt-get install docker-registry");
        wait_until("the registry to listen", Duration::from_secs(20), || TcpStream::connect(&host).is_ok());
        Registry { host, storage, process }
    }
    /// A repository to push to.
    pub fn repository(&self, name: &str) -> Remote {
        Remote::new(&self.host, name)
    }
    /// The reference of a tag here.
    pub fn reference(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.host)
    }
    /// Where a blob's bytes are.
    pub fn blob_file(&self, digest: &cradle::core::content::Digest) -> PathBuf {
        let hex = digest.hex();
        self.storage.join("docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
