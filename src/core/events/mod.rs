//! core::events
