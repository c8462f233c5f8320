//! sys::fifo
