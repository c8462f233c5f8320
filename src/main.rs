//! cradled: the daemon and its command line.
use cradle::cli::{self, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    let done = cli::parse(std::env::args_os()).and_then(|command| match command {
        Command::Serve(options) => cli::serve(options),
        Command::Config(action, options) => cli::config(action, options),
        Command::Plugins(options) => cli::plugins(options),
        Command::Run(run, options) => cli::run(run, options),
        Command::Version => cli::version(),
        Command::Help => cli::help(),
    });
    done.unwrap_or_else(|e| {
        eprintln!("cradled: {}", e.chain());
        ExitCode::FAILURE
    })
}
