//! The stories, one file a subject.
mod bad_input;
mod config;
mod crash;
mod exec;
mod go;
mod image_volumes;
mod layers;
mod logs;
mod neighbours;
mod network;
mod pod;
mod pull;
mod retry;
mod shim;
mod userns;
