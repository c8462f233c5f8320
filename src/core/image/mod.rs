//! core::image
