//! sys::fs
