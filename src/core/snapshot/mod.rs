//! core::snapshot
