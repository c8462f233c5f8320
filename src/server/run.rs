//! Run: listen, load the plugins, be ready, wait for the end, close in order. Containers stay.
use super::{builtins, foreign, listeners, notify::notify};
use crate::config::Config;
use crate::cri::routes::{self, Lanes, Slot};
use crate::error::{Context, Error, Result};
use crate::plugin;
use crate::rpc::grpc::Routes;
use crate::services;
use crate::sys::signal;
use log::{info, warn};
use rustix::event::{PollFd, PollFlags, poll};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

/// Serves until SIGTERM or SIGINT.
pub fn run(mut config: Config) -> Result<()> {
    let begun = Instant::now();
    // First of all: threads inherit the mask, and a signal must find nobody but the main thread.
    let signals = signal::watch(&[SIGTERM, SIGINT]).during(|| "block signals")?;
    foreign::keep_apart(&mut config);
    directories(&config)?;
    let config = Arc::new(config);
    let lanes = Lanes::new()?;
    let (cri, plugins, content) = (Slot::default(), services::introspection::Slot::default(), services::content::Slot::default());
    let kubelets = routes::add(Routes::new(Some(crate::cri::NAMESPACE)), &lanes, &cri);
    let containerds = services::introspection::add(Routes::new(None), &lanes.quick, &plugins);
    let containerds = services::content::add(containerds, &lanes.quick, &content);
    let server = listeners::grpc(&config.grpc, vec![kubelets.build(), containerds.build()])?;
    info!("listening on {}", config.grpc.address);
    let mut loaded = plugin::load(builtins::BUILTINS, &config)?;
    fill(&plugins, services::introspection::describe(&loaded.plugins));
    if let Some(store) = builtins::content_of(&loaded) {
        fill(&content, store);
    }
    match builtins::cri_of(&loaded) {
        Ok(service) => fill(&cri, service),
        Err(e) => warn!("CRI is not served: {}", e.chain()),
    }
    notify("READY=1");
    info!("ready in {} ms", begun.elapsed().as_millis());
    let signal = wait(&signals)?;
    info!("signal {signal}: stopping; containers go on");
    notify("STOPPING=1");
    server.close();
    lanes.close();
    drop((cri, plugins, content));
    loaded.close();
    info!("stopped");
    Ok(())
}

/// Waits for a signal that ends the daemon.
fn wait(signals: &OwnedFd) -> Result<i32> {
    loop {
        let _ = poll(&mut [PollFd::new(signals, PollFlags::IN)], None);
        if let Some(signal) = signal::pending(signals).first() {
            return Ok(*signal);
        }
    }
}

fn fill<T>(slot: &OnceLock<T>, value: T) {
    // Filled once, here.
    let _ = slot.set(value);
}

fn directories(config: &Config) -> Result<()> {
    if config.root == config.state {
        return Err(Error::invalid(format!("root and state must be different paths, and both are {}", config.root.display())));
    }
    for (dir, mode) in [(&config.root, 0o700), (&config.state, 0o711)] {
        std::fs::DirBuilder::new().recursive(true).mode(mode).create(dir).during(|| format!("create {}", dir.display()))?;
    }
    Ok(())
}
