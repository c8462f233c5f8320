//! The stories, one file a subject.
mod bad_input;
mod cgroup2;
mod config;
mod crash;
mod exec;
mod go;
mod images;
mod layers;
mod logs;
mod neighbours;
mod network;
mod parity;
mod pod;
mod pull;
mod retry;
mod sandbox_image;
mod shim;
