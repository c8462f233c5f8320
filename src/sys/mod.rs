//! sys: the only room with `unsafe` and raw system calls; it hands out owned descriptors and `io::Error`.
#![allow(unsafe_code)]
pub mod cgroup;
pub mod fifo;
pub mod filter;
pub mod fs;
pub mod hybrid;
pub mod inherit;
pub mod memory;
pub mod mount;
pub mod netns;
pub mod pause;
pub mod pidfd;
pub mod procfs;
pub mod pty;
pub mod run;
pub mod signal;
pub mod socket;
pub mod spawn;
pub mod userns;
