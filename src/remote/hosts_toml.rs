//! Reads one `hosts.toml`: pure text in, hosts in the file's order out. Paths are relative to the file's directory.
use super::hosts::{Capabilities, Host, Scheme, Tls};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml_edit::{Item, TableLike, Value};

/// What a file says.
pub struct Parsed {
    /// `[host."…"]` sections.
    pub hosts: Vec<Host>,
    /// `server`, with the root's settings.
    pub server: Option<Host>,
    /// The root's settings, for the registry itself when there is no `server`.
    pub root: Settings,
}

/// The fields that a host section and the file's root have in common.
#[derive(Default)]
pub struct Settings {
    can: Option<Capabilities>,
    tls: Tls,
    headers: Vec<(String, String)>,
    override_path: bool,
    dial_timeout: Option<Duration>,
    credential_domain: Option<String>,
}

impl Settings {
    /// `host` with what is set here.
    pub fn over(self, mut host: Host) -> Host {
        host.can = self.can.unwrap_or(host.can);
        if self.tls.is_set() {
            host.tls = self.tls;
        }
        host.headers = self.headers;
        host.dial_timeout = self.dial_timeout;
        host.credential_domain = self.credential_domain;
        host
    }
}

/// Parses the file's text; the error names the field.
pub fn parse(text: &str, dir: &Path) -> Result<Parsed> {
    let document: toml_edit::DocumentMut = text.parse().map_err(|e: toml_edit::TomlError| Error::invalid(e.to_string()))?;
    let root = settings(document.as_table(), dir)?;
    let mut hosts = vec![];
    if let Some(item) = document.get("host") {
        let table = item.as_table_like().ok_or_else(|| Error::invalid("\"host\" must be a table"))?;
        let mut sections: Vec<(&str, &dyn TableLike)> = vec![];
        for (url, item) in table.iter() {
            sections.push((url, item.as_table_like().ok_or_else(|| Error::invalid(format!("host \"{url}\" must be a table")))?));
        }
        for (url, section) in sections {
            let own = settings(section, dir)?;
            let host = host_of_url(url, own.override_path)?;
            hosts.push(own.over(host));
        }
    }
    let server = match document.get("server") {
        Some(item) => {
            let url = item.as_str().ok_or_else(|| Error::invalid("\"server\" must be a string"))?;
            if url.is_empty() { None } else { Some(host_of_url(url, root.override_path)?) }
        }
        None => None,
    };
    Ok(match server {
        Some(server) => Parsed { hosts, server: Some(root.over(server)), root: Settings::default() },
        None => Parsed { hosts, server: None, root },
    })
}

/// `https://name:port/path`, or without scheme for TLS.
pub fn host_of_url(url: &str, override_path: bool) -> Result<Host> {
    let bad = |why: &str| Error::invalid(format!("host \"{}\": {why}", url.split('?').next().unwrap_or_default()));
    let (scheme, rest) = match url.split_once("://") {
        Some(("https", rest)) => (Scheme::Https, rest),
        Some(("http", rest)) => (Scheme::Http, rest),
        Some(_) => return Err(bad("the scheme must be http or https")),
        None => (Scheme::Https, url),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.is_empty() || authority.contains(['@', '?', '#', ' ']) || path.contains(['?', '#', ' ']) {
        return Err(bad("it must be scheme://name[:port][/path], without user, query or fragment"));
    }
    let mut path = path.split('/').filter(|p| !p.is_empty()).fold(String::new(), |all, part| all + "/" + part);
    if !override_path && !path.ends_with("/v2") {
        path.push_str("/v2");
    }
    Ok(Host {
        schemes: vec![scheme],
        authority: authority.to_string(),
        path,
        can: Capabilities { pull: true, resolve: true },
        tls: Tls::default(),
        headers: vec![],
        dial_timeout: None,
        credential_domain: None,
    })
}

fn settings(table: &dyn TableLike, dir: &Path) -> Result<Settings> {
    let flag = |key: &str| match table.get(key) {
        None => Ok(None),
        Some(item) => item.as_bool().map(Some).ok_or_else(|| Error::invalid(format!("\"{key}\" must be true or false"))),
    };
    Ok(Settings {
        can: capabilities(table)?,
        tls: Tls {
            ca: strings(table.get("ca"), "ca")?.iter().map(|p| dir.join(p)).collect(),
            client: clients(table.get("client"), dir)?,
            skip_verify: flag("skip_verify")?,
        },
        headers: headers(table)?,
        override_path: flag("override_path")?.unwrap_or(false),
        credential_domain: credential_domain(table.get("credential_domain"))?,
        dial_timeout: match table.get("dial_timeout").map(Item::as_str) {
            None => None,
            Some(Some("")) => None,
            Some(text) => Some(
                text.and_then(|t| humantime::parse_duration(t).ok())
                    .ok_or_else(|| Error::invalid("\"dial_timeout\" must be a time as \"1s\""))?,
            ),
        },
    })
}

fn capabilities(table: &dyn TableLike) -> Result<Option<Capabilities>> {
    let list = strings(table.get("capabilities"), "capabilities")?;
    if list.is_empty() {
        return Ok(None);
    }
    let mut can = Capabilities { pull: false, resolve: false };
    for word in list {
        match word.to_lowercase().as_str() {
            "pull" => can.pull = true,
            "resolve" => can.resolve = true,
            "push" | "referrers" => {}
            other => return Err(Error::invalid(format!("unknown capability \"{other}\"; known: pull, resolve, push, referrers"))),
        }
    }
    Ok(Some(can))
}

fn headers(table: &dyn TableLike) -> Result<Vec<(String, String)>> {
    let mut all = vec![];
    if let Some(item) = table.get("header") {
        let table = item.as_table_like().ok_or_else(|| Error::invalid("\"header\" must be a table"))?;
        for (key, value) in table.iter() {
            for value in strings(Some(value), key)? {
                all.push(self::header(key, &value)?);
            }
        }
    }
    Ok(all)
}

/// A header that can be sent.
pub fn header(name: &str, value: &str) -> Result<(String, String)> {
    let bad = || Error::invalid(format!("header \"{name}\" is not a header name with a plain value"));
    ureq::http::HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
    ureq::http::HeaderValue::from_str(value).map_err(|_| bad())?;
    Ok((name.to_string(), value.to_string()))
}

/// A bare host: whoever writes a URL there means something that is not done.
fn credential_domain(item: Option<&Item>) -> Result<Option<String>> {
    let Some(item) = item else { return Ok(None) };
    match item.as_str().filter(|name| !name.is_empty() && !name.contains(['/', '@', ' '])) {
        Some(name) => Ok(Some(name.to_string())),
        None => Err(Error::invalid("\"credential_domain\" must be the name of a host, as \"docker.io\"")),
    }
}

fn clients(item: Option<&Item>, dir: &Path) -> Result<Vec<(PathBuf, Option<PathBuf>)>> {
    let bad = || Error::invalid("\"client\" must be a path, a list of paths or a list of [certificate, key] pairs");
    let Some(value) = item.and_then(Item::as_value) else {
        return if item.is_some() { Err(bad()) } else { Ok(vec![]) };
    };
    let one = |v: &Value| -> Result<(PathBuf, Option<PathBuf>)> {
        match v {
            Value::String(s) => Ok((dir.join(s.value()), None)),
            Value::Array(pair) => {
                let words: Vec<&str> = pair.iter().filter_map(Value::as_str).collect();
                let &[cert, key] = words.as_slice() else { return Err(bad()) };
                Ok((dir.join(cert), (!key.is_empty()).then(|| dir.join(key))))
            }
            _ => Err(bad()),
        }
    };
    match value {
        Value::Array(list) => list.iter().map(one).collect(),
        single => Ok(vec![one(single)?]),
    }
}

fn strings(item: Option<&Item>, key: &str) -> Result<Vec<String>> {
    let bad = || Error::invalid(format!("\"{key}\" must be a string or a list of strings"));
    match item.map(|i| i.as_value().ok_or_else(bad)).transpose()? {
        None => Ok(vec![]),
        Some(Value::String(s)) => Ok(vec![s.value().clone()]),
        Some(Value::Array(list)) => list.iter().map(|v| v.as_str().map(str::to_string).ok_or_else(bad)).collect(),
        Some(_) => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_the_documentation_is_read() {
        let text = r#"
server = "https://docker.io"
[host."https://one/v2/up"]
override_path = true
ca = ["a.pem", "/abs/b.pem"]
client = [["c.cert", "c.key"], ["d.pem", ""]]
dial_timeout = "1s"
credential_domain = "docker.io"
skip_verify = false
[host."https://two"]
client = "e.pem"
[host."three:5000"]
client = ["f.pem", "g.pem"]
capabilities = ["Pull", "push"]
"#;
        let got = parse(text, Path::new("/d")).unwrap();
        let one = &got.hosts[0];
        assert_eq!((one.path.as_str(), one.dial_timeout), ("/v2/up", Some(Duration::from_secs(1))));
        assert_eq!(one.credential_domain.as_deref(), Some("docker.io"));
        assert_eq!(one.tls.ca, [PathBuf::from("/d/a.pem"), "/abs/b.pem".into()]);
        assert_eq!(one.tls.client, [("/d/c.cert".into(), Some("/d/c.key".into())), ("/d/d.pem".into(), None)]);
        assert_eq!(got.hosts[1].tls.client, [("/d/e.pem".into(), None)]);
        assert_eq!(got.hosts[2].tls.client.len(), 2);
        assert_eq!(got.hosts[2].authority, "three:5000");
        assert_eq!(got.server.unwrap().path, "/v2");
    }

    #[test]
    fn wrong_fields_are_named() {
        for (text, word) in [
            ("capabilities=['fly']", "fly"),
            ("ca=3", "ca"),
            ("client=[['a','b','c']]", "client"),
            ("[header]\n\"a b\"='x'", "a b"),
            ("skip_verify='yes'", "skip_verify"),
            ("[host.'ftp://x']", "ftp"),
            ("dial_timeout='soon'", "dial_timeout"),
            ("credential_domain='https://docker.io'", "credential_domain"),
        ] {
            let e = parse(text, Path::new("/d")).err().unwrap();
            assert!(e.chain().contains(word), "{}", e.chain());
        }
    }
}
