//! containerd's services, a file a service.
pub mod content;
mod filter;
pub mod introspection;

use crate::call::Call;
use crate::error::{Error, Result};

/// The namespace that a call names; containerd's services need one.
fn namespace(call: &Call) -> Result<&str> {
    match call.namespace.as_str() {
        "" => Err(Error::precondition("namespace is required: send the header containerd-namespace")),
        ns => Ok(ns),
    }
}
