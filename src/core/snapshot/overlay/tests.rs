//! Overlay snapshots: the suite, mounts, and layers committed onto a parent.
use super::*;
