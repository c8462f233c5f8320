//! Serve: the long-lived part. The main thread waits for exits, kills for want of memory and the end; `ttrpc` serves the socket.
use super::args::Args;
use super::container::Shim;
use super::events::Events;
use super::logger;
use super::service::Calls;
use crate::error::{Context, Result};
use crate::rpc::ttrpc::Server;
use crate::sys::{memory, pidfd, signal};
use crate::thread::Threads;
use log::{info, warn};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the last events may take to reach the daemon.
const SETTLE: Duration = Duration::from_secs(2);
/// How long the end may take in all.
const ENDING: Duration = Duration::from_secs(10);

/// Serves until the last container is gone and the daemon says so. The listening socket is standard input.
pub fn serve(args: &Args) -> Result<()> {
    memory::stay_small();
    let listener = listener()?;
    // Not in the daemon's session: its terminal and its signals are not ours. Fails only for a leader, which needs it not.
    let _ = rustix::process::setsid();
    logger::init(&args.id, Path::new("."), args.debug);
    let own = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(own)).during(|| "become the reaper of the containers' processes")?;
    let signals = signal::watch(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT]).during(|| "watch signals")?;

    let threads = Arc::new(Threads::new()?);
    let ttrpc_address = std::env::var("TTRPC_ADDRESS").unwrap_or_default();
    let events = Events::new(&threads, &args.namespace, &ttrpc_address)?;
    let shim = Arc::new(Shim::new(args.namespace.clone(), events, threads.clone())?);
    let end = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).during(|| "create an eventfd")?);
    let told = end.clone();
    let shutdown = Box::new(move || {
        let _ = rustix::io::write(&*told, &1u64.to_ne_bytes());
    });
    let calls = Calls { shim: shim.clone(), shutdown, stop: threads.stop() };
    let server = Server::new(listener, Arc::new(calls))?;
    threads.spawn("ttrpc", move |stop| server.serve(stop))?;
    info!("serving namespace {}", args.namespace);

    watch(&shim, &signals, &end, None);

    if let Some(socket) = &args.socket {
        let _ = std::fs::remove_file(socket);
    }
    // Whoever still runs an OCI runtime waits for its exit, which only this thread reaps.
    let done = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).during(|| "create an eventfd")?);
    let (last, told) = (shim.clone(), done.clone());
    threads.spawn("ending", move |_| {
        last.events.settle(SETTLE);
        last.pool.close();
        let _ = rustix::io::write(&*told, &1u64.to_ne_bytes());
    })?;
    if watch(&shim, &signals, &done, Some(ENDING)) == Watched::TooLong {
        warn!("ending with work under way");
        std::process::exit(1);
    }
    threads.shutdown();
    Ok(())
}

/// Why the main loop ended.
#[derive(PartialEq, Eq)]
enum Watched {
    Told,
    TooLong,
}

/// The main loop.
fn watch(shim: &Shim, signals: &OwnedFd, end: &OwnedFd, limit: Option<Duration>) -> Watched {
    let until = limit.map(|l| Instant::now() + l);
    loop {
        let left = until.map(|u| u.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Watched::TooLong;
        }
        let left = left.map(|l| Timespec { tv_sec: l.as_secs() as i64, tv_nsec: l.subsec_nanos().into() });
        let oom = shim.oom.fd();
        let mut fds = [PollFd::from_borrowed_fd(oom, PollFlags::IN), PollFd::new(signals, PollFlags::IN), PollFd::new(end, PollFlags::IN)];
        let _ = poll(&mut fds, left.as_ref());
        let ready = fds.map(|f| !f.revents().is_empty());
        // Memory first: a kill for want of it must be told before the exit that it caused.
        if ready[0] {
            shim.oom.check_all(&shim.events);
        }
        if ready[1] {
            let came = signal::pending(signals);
            reap(shim);
            if came.iter().any(|s| *s != libc::SIGCHLD) {
                if shim.is_empty() {
                    return Watched::Told;
                }
                // Without us the containers would go on with nobody to tell of their end.
                warn!("told to end by a signal: staying, there are containers");
            }
        }
        if ready[2] {
            return Watched::Told;
        }
    }
}

fn reap(shim: &Shim) {
    loop {
        match pidfd::ended_child() {
            Ok(Some(ended)) => {
                if let Some(process) = shim.reaper.ended(ended) {
                    shim.ended(&process, ended);
                }
                pidfd::reap(ended.pid);
            }
            Ok(None) => return,
            Err(e) => return warn!("ended children are not known: {e}"),
        }
    }
}

/// Takes the socket off standard input, which no child shall inherit.
fn listener() -> Result<UnixListener> {
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).during(|| "take the socket from standard input")?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).during(|| "open /dev/null")?;
    rustix::stdio::dup2_stdin(null.as_fd()).during(|| "put /dev/null in the socket's place")?;
    rustix::net::sockopt::socket_acceptconn(&socket)
        .during(|| "standard input must be a listening socket; did you mean start or delete")?;
    Ok(UnixListener::from(socket))
}
