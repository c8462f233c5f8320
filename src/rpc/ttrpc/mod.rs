//! TTRPC for both ends of a shim's socket, with one poll loop each side.
//!
//! The ttrpc crate's own sync server and client spend several threads a connection, which a shim of 1 MB and a daemon with
//! hundreds of shims cannot; so its codec and message types are used here, and the loops are ours.
mod client;
mod server;
mod wire;

pub use client::{Client, Method, Mux};
pub use server::{Reply, Request, Server, Service};

/// Metadata key of the namespace in each request.
pub const NAMESPACE: &str = "containerd-namespace-ttrpc";
