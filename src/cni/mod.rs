//! CNI: pod networks by the real plugins. What an ADD was asked for is on disk before any plugin runs, so that its DEL works
//! after a crash, a reboot, and without the conf that it came from.
mod attach;
mod cache;
mod conf;
mod network;
mod plugins;
mod result;
mod syncer;
pub mod template;

pub use attach::{Attach, Bandwidth, Dns, Pod, PortMapping};
pub use conf::List;
pub use network::{Network, Outcome};
pub use plugins::{LIMIT, Order, Plugins, Settings};
pub use result::{Interface, IpPreference, Reported};
pub use syncer::Syncer;

/// Where CNI confs are found by default.
pub const CONF_DIR: &str = "/etc/cni/net.d";
/// What the kubelet shows while no network is configured.
pub const NOT_INITIALIZED: &str = "cni plugin not initialized";

/// Compares CNI versions such as `0.3.1`; what is no number counts as 0.
fn version(text: &str) -> (u32, u32, u32) {
    let mut parts = text.split('.').map(|p| p.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}

#[cfg(test)]
mod tests;
