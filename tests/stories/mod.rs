//! The stories, one file a subject.
mod bad_input;
mod cgroup2;
mod checkpoint;
mod cni;
mod config;
mod crash;
mod exec;
#[cfg(feature = "failpoints")]
mod failpoints;
mod go;
mod images;
mod layers;
mod life;
mod logs;
mod neighbours;
mod network;
mod parity;
mod pod;
mod pull;
mod resources;
mod retry;
mod sandbox_image;
mod shim;
mod v1alpha2;
