//! Shim: one small process per pod, that outlives the daemon: it holds exits, streams and logs of the pod's containers.
//!
//! ```text
//! main     exits of children (signalfd), kills for want of memory, the end
//! ttrpc    the socket; what blocks goes on to work:N
//! work:N   OCI runtime commands; end when idle
//! streams  FIFOs, terminals, attached clients
//! log:ID   a container's log file and everything else of its streams
//! events   the queue to the daemon (ttrpc-mux reads its answers)
//! ```
mod args;
mod bootstrap;
mod clock;
mod console;
mod container;
mod create;
mod cri_logger;
mod delete;
mod events;
mod exec;
mod flow;
mod hash;
mod info;
mod log;
mod logger;
mod metrics;
mod oom;
mod process;
mod reaper;
mod runtime;
mod serve;
mod service;
mod spec;
mod start;
mod stdio;
mod streams;
mod task;
#[cfg(test)]
mod tests;

use args::Action;
use std::process::ExitCode;

/// The program: the words after its name decide what it is.
pub fn main() -> ExitCode {
    if let Some(wish) = cri_logger::wish(std::env::args().skip(1)) {
        return cri_logger::run(&wish);
    }
    let done = args::parse(std::env::args().skip(1)).and_then(|args| match args.action {
        Action::Start => start::start(&args),
        Action::Delete => delete::delete(&args),
        Action::Serve => serve::serve(&args),
        Action::Info => info::info(),
        Action::Version => {
            info::version();
            Ok(())
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("containerd-shim-cradle-v2: {}", e.chain());
            ::log::error!("{}", e.chain());
            ExitCode::FAILURE
        }
    }
}
