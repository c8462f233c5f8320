//! core::content
