//! Stories: what a node's owner may rely on, told with a real daemon, real runtimes, real plugins and a real registry.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod harness;
mod layers;
mod stories;
