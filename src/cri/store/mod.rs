//! Stores: what CRI knows, one struct and one lock for all indexes of an object. Values are immutable, an update swaps the `Arc`.
pub mod container;
pub mod creations;
pub mod image;
mod index;
pub mod message;
pub mod pins;
pub mod sandbox;
pub mod turn;

pub use index::Index;
