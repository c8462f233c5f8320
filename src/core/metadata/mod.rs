//! core::metadata
