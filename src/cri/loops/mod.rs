//! Loops: what CRI does by itself, each an owned thread with a name.
pub mod event_monitor;
pub mod network_care;
pub mod snapshots_syncer;
