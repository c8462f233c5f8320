//! SPDY/3.1, the server's side, as kubelets and crictl speak it after an HTTP upgrade.
//!
//! No crate has it, so it is written here, without I/O: [`frame`] knows the frames, [`headers`] their compressed blocks, and
//! [`Spdy`] the streams of a connection. The shared dictionary and the numbers are facts of the SPDY/3 and 3.1 drafts.
mod frame;
mod headers;
mod session;

pub use session::Spdy;
