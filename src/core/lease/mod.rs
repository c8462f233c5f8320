//! core::lease
