//! sys::netns
