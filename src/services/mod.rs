//! containerd's services, a file a service.
pub mod introspection;
