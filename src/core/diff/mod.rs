//! core::diff
