//! cradle: a container node runtime. This list of rooms is the map; both programs are thin callers of it.
//!
//! Imports point down: `server` → `cri`, `services`, `nri` → `remote`, `cni` → `core` → `sys` → the ground floor
//! (`error`, `call`, `thread`, `undo`, `proto`, `config`, `plugin`, `rpc`). `shim` imports only `sys` and the ground floor.
//! `tests/layers.rs` holds the house to it.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]
pub mod call;
pub mod cli;
pub mod cni;
pub mod config;
pub mod core;
pub mod cri;
pub mod error;
pub mod failpoint;
pub mod plugin;
pub mod proto;
pub mod remote;
pub mod rpc;
pub mod server;
pub mod services;
pub mod shim;
pub mod sys;
pub mod thread;
pub mod undo;
