//! Args: the command line's grammar.
use crate::config::Overrides;
use crate::error::{Error, Result};
use lexopt::prelude::*;
use std::ffi::OsString;
use std::path::PathBuf;

/// What `--help` prints.
pub const USAGE: &str = "\
cradled - a container node runtime: containerd's daemon and CRI plugin, small and synchronous

usage: cradled [options]                        run the daemon
       cradled [options] config default         print every key with its default and meaning
       cradled [options] config dump            print the effective config
       cradled [options] config check           check the config file
       cradled [options] plugins                list the running daemon's plugins and why some do not run
       cradled [options] run IMAGE [-- CMD...]  pull an image, run a pod of it, show its output, remove it
       cradled version

options: -c, --config FILE     config file (default /etc/cradled/config.toml, if it is there)
         --root DIR            what survives a reboot (default /var/lib/cradled)
         --state DIR           what does not (default /run/cradled)
         -a, --address SOCKET  gRPC socket (default /run/cradled/cradled.sock)
         -l, --log-level L     trace, debug, info, warn or error
         --log-format F        text or json
";

/// Options that every command takes.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Config file.
    pub config: Option<PathBuf>,
    /// Root directory.
    pub root: Option<PathBuf>,
    /// State directory.
    pub state: Option<PathBuf>,
    /// gRPC socket.
    pub address: Option<String>,
    /// Log level.
    pub log_level: Option<String>,
    /// Log format.
    pub log_format: Option<String>,
}

impl Options {
    /// What they change in the config.
    pub fn overrides(&self) -> Overrides {
        Overrides {
            root: self.root.clone(),
            state: self.state.clone(),
            address: self.address.clone(),
            log_level: self.log_level.clone(),
            log_format: self.log_format.clone(),
        }
    }
}

/// What `config` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigAction {
    /// Print the defaults.
    Default,
    /// Print the effective config.
    Dump,
    /// Check the file.
    Check,
}

/// What `run` runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// Image reference.
    pub image: String,
    /// Command instead of the image's.
    pub command: Vec<String>,
}

/// A command.
#[derive(Clone, Debug)]
pub enum Command {
    /// The daemon.
    Serve(Options),
    /// `config`.
    Config(ConfigAction, Options),
    /// `plugins`.
    Plugins(Options),
    /// `run`.
    Run(Run, Options),
    /// `version`.
    Version,
    /// `--help`.
    Help,
}

/// Parses a command line, program name first.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command> {
    parsed(args).map_err(|e| Error::invalid(format!("{e}; see cradled --help")))
}

fn parsed(args: impl IntoIterator<Item = OsString>) -> std::result::Result<Command, lexopt::Error> {
    let mut parser = lexopt::Parser::from_iter(args);
    let mut options = Options::default();
    let mut words: Vec<String> = vec![];
    while let Some(arg) = parser.next()? {
        match arg {
            Short('c') | Long("config") => options.config = Some(parser.value()?.into()),
            Long("root") => options.root = Some(parser.value()?.into()),
            Long("state") => options.state = Some(parser.value()?.into()),
            Short('a') | Long("address") => options.address = Some(parser.value()?.string()?),
            Short('l') | Long("log-level") => options.log_level = Some(parser.value()?.string()?),
            Long("log-format") => options.log_format = Some(parser.value()?.string()?),
            Short('h') | Long("help") => return Ok(Command::Help),
            Short('v') | Short('V') | Long("version") => return Ok(Command::Version),
            Value(word) => {
                words.push(word.string()?);
                // What follows an image is the container's.
                if words[0] == "run" && words.len() == 2 {
                    for rest in parser.raw_args()? {
                        words.push(rest.string()?);
                    }
                }
            }
            other => return Err(other.unexpected()),
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Ok(match words.as_slice() {
        [] => Command::Serve(options),
        ["config", "default"] => Command::Config(ConfigAction::Default, options),
        ["config", "dump"] => Command::Config(ConfigAction::Dump, options),
        ["config", "check"] => Command::Config(ConfigAction::Check, options),
        ["plugins"] => Command::Plugins(options),
        ["version"] => Command::Version,
        ["run", image, rest @ ..] => {
            let rest = if rest.first() == Some(&"--") { &rest[1..] } else { rest };
            Command::Run(Run { image: image.to_string(), command: rest.iter().map(ToString::to_string).collect() }, options)
        }
        ["run"] => return Err("run: name an image".into()),
        other => return Err(format!("unknown command \"{}\"", other.join(" ")).into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Command> {
        parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn options_stand_before_or_behind_the_command() {
        assert!(matches!(of("cradled --root /r").unwrap(), Command::Serve(o) if o.root == Some("/r".into())));
        assert!(
            matches!(of("cradled config dump -c /x").unwrap(), Command::Config(ConfigAction::Dump, o) if o.config == Some("/x".into()))
        );
    }

    #[test]
    fn what_follows_the_image_is_the_containers() {
        let Command::Run(run, options) = of("cradled -a /s run busybox -- ls -l").unwrap() else { panic!() };
        assert_eq!(run, Run { image: "busybox".into(), command: vec!["ls".into(), "-l".into()] });
        assert_eq!(options.address.as_deref(), Some("/s"));
    }

    #[test]
    fn mistakes_say_where_help_is() {
        assert!(of("cradled frobnicate").err().unwrap().chain().contains("--help"));
        assert!(of("cradled --frob").is_err());
        assert!(of("cradled run").is_err());
    }
}
