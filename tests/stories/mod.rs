//! The stories, one file a subject.
mod bad_input;
mod config;
mod crash;
mod exec;
mod go;
mod layers;
mod logs;
mod neighbours;
mod network;
mod parity;
mod pod;
mod pull;
mod retry;
mod shim;
