//! Command line as containerd gives it: Go's flags (`-id x`, `--id=x`), then an action.
use crate::error::{Error, Result};
use std::path::PathBuf;

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Find or start the server of a group and print its address.
    Start,
    /// Remove what a dead shim left behind.
    Delete,
    /// Be the server: the listening socket is standard input.
    Serve,
    /// Print the version.
    Version,
    /// Print what the OCI runtime can do.
    Info,
}

/// The parsed line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Args {
    /// What to do.
    pub action: Action,
    /// containerd namespace.
    pub namespace: String,
    /// Container, or the first one of the group.
    pub id: String,
    /// The daemon's gRPC socket.
    pub address: String,
    /// Bundle, when it is not the working directory.
    pub bundle: Option<PathBuf>,
    /// The server's own socket, to remove at the end.
    pub socket: Option<PathBuf>,
    /// Whether debug lines are logged.
    pub debug: bool,
}

/// Reads the line without the program's name.
pub fn parse(line: impl IntoIterator<Item = String>) -> Result<Args> {
    let mut args = Args {
        action: Action::Serve,
        namespace: String::new(),
        id: String::new(),
        address: String::new(),
        bundle: None,
        socket: None,
        debug: false,
    };
    let mut line = line.into_iter();
    while let Some(word) = line.next() {
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
            args.action = match word.as_str() {
                "start" => Action::Start,
                "delete" => Action::Delete,
                other => return Err(Error::invalid(format!("action \"{other}\": must be start or delete"))),
            };
            continue;
        };
        let (name, inline) = flag.split_once('=').map_or((flag, None), |(n, v)| (n, Some(v.to_string())));
        match name {
            "debug" => args.debug = inline.as_deref() != Some("false"),
            "v" => args.action = Action::Version,
            "info" => args.action = Action::Info,
            _ => {
                let value = inline.or_else(|| line.next()).ok_or_else(|| Error::invalid(format!("flag -{name}: needs a value")))?;
                match name {
                    "namespace" => args.namespace = value,
                    "id" => args.id = value,
                    "address" => args.address = value,
                    "bundle" => args.bundle = Some(value.into()),
                    "socket" => args.socket = Some(value.into()),
                    // Events go by TTRPC, whose address every containerd since 1.3 gives; the socket for profiles is not offered.
                    "publish-binary" | "debug-socket" => {}
                    other => return Err(Error::invalid(format!("flag -{other}: not known"))),
                }
            }
        }
    }
    if matches!(args.action, Action::Start | Action::Delete | Action::Serve) {
        name_of("namespace", &args.namespace)?;
        name_of("id", &args.id)?;
    }
    Ok(args)
}

/// An identifier that becomes part of a path: letters, digits and `._-`, as containerd has it.
pub fn name_of(what: &str, name: &str) -> Result<()> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if plain && !name.is_empty() && name.len() <= 128 && !name.starts_with('.') {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{what} \"{name}\": must be 1 to 128 letters, digits, dots, dashes or underscores, and not begin with a dot"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<Args> {
        parse(text.split(' ').map(String::from))
    }

    #[test]
    fn containerds_line() {
        let args =
            line("-namespace k8s.io --address=/run/c.sock -publish-binary /usr/bin/containerd -id ab -bundle /b -debug start").unwrap();
        assert_eq!((args.action, &*args.namespace, &*args.id, &*args.address), (Action::Start, "k8s.io", "ab", "/run/c.sock"));
        assert!(args.debug && args.bundle == Some("/b".into()));
        assert_eq!(line("-v").unwrap().action, Action::Version);
    }

    #[test]
    fn bad_lines() {
        for bad in ["start", "-id a start", "-id ../x -namespace n start", "-namespace n -id", "-nope x", "stop"] {
            assert!(line(bad).is_err(), "{bad}");
        }
    }
}
