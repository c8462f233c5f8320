//! The shim's own log: a line into the bundle's `log` FIFO for the daemon to pass on; it never waits and never fails anybody.
use crate::sys::fifo::{self, End};
use crate::sys::signal;
use log::{LevelFilter, Log, Metadata, Record};
use std::fs::File;
use std::io::Write;
use std::path::Path;

struct Lines {
    to: File,
    id: String,
}

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &Record<'_>) {
        let line = format!(
            "level={} shim={} pid={} {}\n",
            record.level().as_str().to_ascii_lowercase(),
            self.id,
            std::process::id(),
            record.args()
        );
        // A daemon that is down does not read: then the FIFO is full and the line is lost, not the container.
        let _ = (&self.to).write(line.as_bytes());
    }
    fn flush(&self) {}
}

/// Logs to the FIFO `log` in `bundle`, or to standard error where there is none.
pub fn init(id: &str, bundle: &Path, debug: bool) {
    let fifo = fifo::open(&bundle.join("log"), End::Kept).map(File::from);
    let to = fifo.or_else(|_| rustix::io::dup(rustix::stdio::stderr()).map(File::from));
    let Ok(to) = to else { return };
    if log::set_boxed_logger(Box::new(Lines { to, id: id.into() })).is_ok() {
        log::set_max_level(if debug { LevelFilter::Debug } else { LevelFilter::Info });
    }
    signal::ignore_sigpipe();
}
