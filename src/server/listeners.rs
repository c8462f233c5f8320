//! Listeners: the sockets. A path with a living listener is an error and never unlinked; a dead one is replaced.
use crate::config::Grpc;
use crate::error::{Context, Error, Kind, Result};
use crate::rpc::grpc::Server;
use rustix::fs::Mode;
use std::io::ErrorKind;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Nobody but owner and group may connect, from the moment the socket exists.
const UMASK: Mode = Mode::from_raw_mode(0o117);

/// Serves a table of calls on a unix socket.
pub fn grpc(config: &Grpc, service: Vec<grpcio::Service>) -> Result<Server> {
    let path = Path::new(&config.address);
    clear(path)?;
    let server = with_umask(|| Server::listen(path, service, config.max_recv_message_size, config.max_send_message_size))?;
    own(path, config.uid, config.gid)?;
    Ok(server)
}

/// Binds a unix socket of the given owner.
pub fn unix(path: &Path, uid: u32, gid: u32) -> Result<UnixListener> {
    clear(path)?;
    let listener = with_umask(|| UnixListener::bind(path).during(|| format!("listen on {}", path.display())))?;
    own(path, uid, gid)?;
    Ok(listener)
}

fn with_umask<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = rustix::process::umask(UMASK);
    let result = f();
    rustix::process::umask(before);
    result
}

fn own(path: &Path, uid: u32, gid: u32) -> Result<()> {
    std::os::unix::fs::chown(path, Some(uid), Some(gid)).during(|| format!("give {} to {uid}:{gid}", path.display()))
}

/// Makes room for a socket.
fn clear(path: &Path) -> Result<()> {
    if let Some(dir) = path.parent() {
        let made = std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o711).create(dir);
        made.during(|| format!("create {}", dir.display()))?;
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(Error::new(
            Kind::AlreadyExists,
            format!("{}: somebody listens there already; stop it or choose another address", path.display()),
        )),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).during(|| format!("remove the dead socket {}", path.display()))
        }
        Err(e) => Err(e).during(|| format!("look whether somebody listens on {}", path.display())),
    }
}
