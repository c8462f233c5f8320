//! core::container
