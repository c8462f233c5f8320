//! containerd's services.
