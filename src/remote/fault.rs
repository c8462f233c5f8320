//! What can go wrong between us and a registry, sorted by what helps: another host, another attempt, or nothing.
//!
//! Texts name host and reason. They hold no credentials, no query strings and no control characters.
use crate::error::{Error, Kind};
use serde::Deserialize;
use std::io;
use std::time::Duration;

/// Longest reason taken from a registry's answer.
const REASON_MAX: usize = 300;

/// What helps against a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cure {
    /// The host could not be spoken to: another host, or later.
    Reach,
    /// The host cannot answer now: later.
    Later,
    /// Another host may do better; this one will not.
    OtherHost,
    /// Nothing: the pull has ended.
    Nothing,
}

/// A failed attempt.
#[derive(Debug)]
pub struct Fault {
    /// What helps.
    pub cure: Cure,
    /// What happened.
    pub error: Error,
    /// What the host asked us to wait.
    pub wait: Option<Duration>,
}

impl Fault {
    /// A fault without a wish of the host's.
    pub fn new(cure: Cure, error: Error) -> Fault {
        Fault { cure, error, wait: None }
    }

    /// Sorts an error of the HTTP library.
    pub fn of_http(host: &str, error: ureq::Error) -> Fault {
        use io::ErrorKind as E;
        let said = |cure, kind, text: String| Fault::new(cure, Error::new(kind, format!("{host}: {}", clean(&text, &[]))));
        match error {
            ureq::Error::HostNotFound => said(Cure::Reach, Kind::Unavailable, "the host name is not known".into()),
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                said(Cure::Reach, Kind::Unavailable, "no connection within the time limit".into())
            }
            ureq::Error::Timeout(_) => said(Cure::Nothing, Kind::DeadlineExceeded, "no bytes within the progress time limit".into()),
            ureq::Error::NativeTls(e) => said(Cure::Reach, Kind::Unavailable, format!("TLS: {e}")),
            ureq::Error::Io(e) => match e.kind() {
                E::ConnectionReset | E::UnexpectedEof | E::BrokenPipe | E::ConnectionAborted => {
                    said(Cure::Later, Kind::Unavailable, format!("the connection broke: {e}"))
                }
                _ => said(Cure::Reach, Kind::Unavailable, format!("{e}")),
            },
            e @ ureq::Error::ConnectProxyFailed(_) => said(Cure::Reach, Kind::Unavailable, format!("proxy: {e}")),
            ureq::Error::Protocol(e) => said(Cure::Later, Kind::Unavailable, format!("not an HTTP answer: {e}")),
            e => said(Cure::Reach, Kind::Unavailable, e.to_string()),
        }
    }

    /// Sorts an error met while a body was read.
    pub fn of_body(host: &str, error: io::Error) -> Fault {
        Fault::of_http(host, ureq::Error::from(error))
    }

    /// Sorts an answer that is not what was asked for.
    pub fn of_status(host: &str, object: &str, status: u16, reason: &str) -> Fault {
        let text = |what: &str| {
            let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            format!("{host}: {object}: {what} (HTTP {status}){reason}")
        };
        let (cure, kind, what) = match status {
            401 => (Cure::OtherHost, Kind::Unauthenticated, "credentials are missing or wrong"),
            403 => (Cure::OtherHost, Kind::PermissionDenied, "access denied"),
            404 => (Cure::OtherHost, Kind::NotFound, "not found"),
            408 | 429 => (Cure::Later, Kind::Unavailable, "too many requests"),
            500..=599 => (Cure::Later, Kind::Unavailable, "the registry failed"),
            _ => (Cure::OtherHost, Kind::Unknown, "unexpected answer"),
        };
        Fault::new(cure, Error::new(kind, text(what)))
    }
}

/// The reason in an error body: the registry's first error, an HTML page's title, or nothing.
pub fn reason(content_type: &str, body: &[u8], secrets: &[&str]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: serde_json::Value,
        #[serde(default)]
        message: String,
    }
    if let Ok(Errors { errors }) = serde_json::from_slice(body)
        && let Some(first) = errors.first()
    {
        let code = first.code.as_str().map(str::to_string).unwrap_or_else(|| first.code.to_string());
        return clean(&format!("{code}: {}", first.message), secrets);
    }
    let text = String::from_utf8_lossy(body);
    if is_html(content_type, &text) {
        let lower = text.to_ascii_lowercase();
        let title = lower.find("<title>").and_then(|at| text[at + 7..].split('<').next()).unwrap_or_default();
        return format!("an HTML page came instead of a registry's answer (title \"{}\")", clean(title.trim(), secrets));
    }
    clean(text.lines().next().unwrap_or_default(), secrets)
}

/// Whether a body is a web page.
pub fn is_html(content_type: &str, text: &str) -> bool {
    let start = text.trim_start().get(..14).unwrap_or(text.trim_start()).to_ascii_lowercase();
    content_type.starts_with("text/html") || start.starts_with("<!doctype html") || start.starts_with("<html")
}

/// Foreign text made safe to repeat.
pub fn clean(text: &str, secrets: &[&str]) -> String {
    let mut text = text.to_string();
    for secret in secrets.iter().filter(|s| s.len() > 3) {
        text = text.replace(secret, "***");
    }
    let mut out = String::new();
    let mut in_query = false;
    for c in text.chars().take(REASON_MAX) {
        if c == '?' && out.rsplit([' ', '"']).next().is_some_and(|word| word.contains("://") || word.starts_with('/')) {
            in_query = true;
        } else if c.is_whitespace() || c == '"' {
            in_query = false;
        }
        if !in_query {
            out.push(if c.is_control() { ' ' } else { c });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_found_and_hold_no_secrets() {
        let json = br#"{"errors":[{"code":"DENIED","message":"no token s3cret at https://x/y?sig=abc now\n"}]}"#;
        assert_eq!(reason("application/json", json, &["s3cret"]), "DENIED: no token *** at https://x/y now ");
        assert!(
            reason("", b"  <!DOCTYPE html><TITLE>Login</TITLE>", &[])
                .contains("HTML page came instead of a registry's answer (title \"Login\")")
        );
        assert_eq!(
            reason("text/plain", b"Client sent an HTTP request to an HTTPS server.\n", &[]),
            "Client sent an HTTP request to an HTTPS server."
        );
        assert_eq!(reason("", b"", &[]), "");
    }
}
