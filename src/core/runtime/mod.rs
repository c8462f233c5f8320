//! core::runtime
