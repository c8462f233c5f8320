//! Remote: registries, and pulling images from them.
//!
//! [`Reference`] says which image, [`hosts`] whom to ask, [`auth`] what to show, a [`Session`] asks, and `pull` makes an image
//! of the answers: resolve, fetch and unpack as one pipeline.
pub mod auth;
pub mod blob;
mod fault;
pub mod hosts;
mod hosts_toml;
mod http;
mod proxy;
pub mod pull;
pub mod reference;
pub mod resolve;
mod session;
#[cfg(test)]
mod stub;
pub mod tables;
#[cfg(test)]
mod tests;
mod tls;
#[cfg(test)]
mod tls_tests;

pub use reference::Reference;
pub use session::{Client, Config, Need, Retry, Session};
