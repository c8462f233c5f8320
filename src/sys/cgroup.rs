//! sys::cgroup
