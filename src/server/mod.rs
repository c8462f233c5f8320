//! Server: the daemon from its config to its end. The only room that knows all plugins.
mod builtins;
mod foreign;
mod listeners;
pub mod logger;
mod notify;
mod run;

pub use run::run;
