//! sys::signal
