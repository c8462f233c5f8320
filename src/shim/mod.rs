//! Shim: one small process per pod, that outlives the daemon.
