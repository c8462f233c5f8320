//! core::sandbox
