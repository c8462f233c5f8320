//! sys::pty
