//! sys::pidfd
