//! CNI: pod networks by the real plugins.
