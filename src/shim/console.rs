//! Console: the socket over which the OCI runtime hands out a terminal's master end.
use crate::error::{Context, Error, Result};
use crate::sys::pty;
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// A listening socket in a bundle, removed with the value.
pub struct Console {
    listener: UnixListener,
    path: PathBuf,
    /// Its name, relative to the bundle: a bundle's path alone may be longer than a socket's address can be.
    pub name: String,
}

impl Console {
    /// Listens as `name` in `bundle`.
    pub fn listen(bundle: &Path, name: String) -> Result<Console> {
        let path = bundle.join(&name);
        let _ = std::fs::remove_file(&path);
        let during = || format!("listen for a terminal at {}", path.display());
        let dir = rustix::fs::open(bundle, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).during(during)?;
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())).during(during)?;
        listener.set_nonblocking(true).during(during)?;
        Ok(Console { listener, path, name })
    }
    /// The master end. The runtime sends it before it ends, so it is there once the runtime has.
    pub fn master(&self) -> Result<OwnedFd> {
        let (stream, _) = self.listener.accept().map_err(|e| Error::internal("the OCI runtime sent no terminal").because(e))?;
        stream.set_nonblocking(true).during(|| "receive a terminal")?;
        let master = pty::receive(&stream).during(|| "receive a terminal from the OCI runtime")?;
        crate::sys::fifo::set_nonblocking(&master).during(|| "make a terminal non-blocking")?;
        Ok(master)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
