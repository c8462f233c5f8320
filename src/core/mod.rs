//! Core: what a node keeps and runs. It never names a CRI type.
pub mod container;
pub mod content;
pub mod diff;
pub mod events;
pub mod gc;
pub mod image;
pub mod lease;
pub mod metadata;
pub mod runtime;
pub mod sandbox;
pub mod snapshot;
