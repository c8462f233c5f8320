//! core::gc
