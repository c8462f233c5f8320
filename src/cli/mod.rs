//! Command line: thin callers of the daemon's rooms, and of a running daemon over its socket.
mod args;
mod progress;
mod run;

pub use args::{Command, ConfigAction, Options, Run, parse};
pub use run::run;

use crate::config;
use crate::error::{Context, Result};
use crate::proto::introspect::PluginsRequest;
use crate::proto::introspect_methods::introspection;
use crate::rpc::grpc::Client;
use crate::server;
use log::warn;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Largest message, as the kubelet has it: 16 MiB.
const MAX_MESSAGE: i32 = 16 << 20;
/// For calls that only look.
const LOOK: Duration = Duration::from_secs(10);

/// Runs the daemon until it is told to stop.
pub fn serve(options: Options) -> Result<ExitCode> {
    let (loaded, warnings) = config::load(options.config.as_deref(), &options.overrides())?;
    server::logger::init(&loaded.log.level, &loaded.log.format)?;
    for warning in warnings {
        warn!("{warning}");
    }
    server::run(loaded)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints or checks the config.
pub fn config(action: ConfigAction, options: Options) -> Result<ExitCode> {
    match action {
        ConfigAction::Default => print(&config::default_toml())?,
        ConfigAction::Dump => print(&config::load(options.config.as_deref(), &options.overrides())?.0.dump())?,
        ConfigAction::Check => {
            let warnings = config::check(options.config.as_deref())?;
            for warning in &warnings {
                eprintln!("warning: {warning}");
            }
            print(&format!("the config is usable; {} warnings\n", warnings.len()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Lists the plugins of the running daemon.
pub fn plugins(options: Options) -> Result<ExitCode> {
    let client = client(&options)?;
    let answer = client.call(&introspection::PLUGINS, &PluginsRequest::default(), LOOK)?;
    let mut text = format!("{:<32} {:<18} {:<7} {}\n", "TYPE", "ID", "STATUS", "WHY");
    for plugin in answer.plugins {
        let (status, why) = match plugin.init_err.as_ref() {
            None => ("ok", ""),
            Some(e) if e.message.starts_with("skip plugin") => ("skip", e.message.trim_start_matches("skip plugin: ")),
            Some(e) => ("error", e.message.as_str()),
        };
        text += &format!("{:<32} {:<18} {status:<7} {why}\n", plugin.type_, plugin.id);
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints our version.
pub fn version() -> Result<ExitCode> {
    print(&format!("cradled {}\n", env!("CARGO_PKG_VERSION")))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints how the command line is used.
pub fn help() -> Result<ExitCode> {
    print(args::USAGE)?;
    Ok(ExitCode::SUCCESS)
}

/// A client of the daemon that the options name.
fn client(options: &Options) -> Result<Client> {
    let address = match &options.address {
        Some(address) => address.clone(),
        None => config::load(options.config.as_deref(), &options.overrides())?.0.grpc.address,
    };
    Ok(Client::new(Path::new(&address), MAX_MESSAGE))
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).during(|| "write to standard output")
}
