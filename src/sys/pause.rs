//! Pause: the static program that holds a sandbox's namespaces.

/// The program's file; empty as long as the build makes none.
pub const BYTES: &[u8] = &[];
