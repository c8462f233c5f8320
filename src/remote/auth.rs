//! Credentials and what they become: a challenge is answered with a token or a password, for the host that asked and no other.
use crate::error::{Error, Result};
use crate::thread::lock;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a token lives when its server does not say (the token specification's default).
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// Tokens are renewed this long before their end, so that none dies on its way.
const TOKEN_MARGIN: Duration = Duration::from_secs(5);
/// Tokens kept at most; the oldest ends first.
const TOKENS_MAX: usize = 1000;

/// What a client has to show.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub enum Credentials {
    /// Nothing.
    #[default]
    Anonymous,
    /// User and password.
    Basic {
        /// User name.
        user: String,
        /// Password.
        password: String,
    },
    /// A refresh token for the registry's token server.
    IdentityToken(String),
    /// A bearer token for the registry itself.
    RegistryToken(String),
}

impl Credentials {
    /// What must never be repeated.
    pub fn secret(&self) -> Option<&str> {
        match self {
            Credentials::Anonymous => None,
            Credentials::Basic { password, .. } => Some(password),
            Credentials::IdentityToken(token) | Credentials::RegistryToken(token) => Some(token),
        }
    }
}

impl fmt::Debug for Credentials {
    /// Names the sort, never the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credentials::Anonymous => "Anonymous",
            Credentials::Basic { .. } => "Basic",
            Credentials::IdentityToken(_) => "IdentityToken",
            Credentials::RegistryToken(_) => "RegistryToken",
        })
    }
}

/// Credentials and the only host that may see them, if they are bound to one.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Login {
    /// What to show.
    pub credentials: Credentials,
    /// Host (`name[:port]`) that they are for; none = whichever host is configured for the registry.
    pub server: Option<String>,
}

/// The fields of CRI's AuthConfig, as they came.
#[derive(Clone, Copy, Default)]
pub struct AuthFields<'a> {
    /// User name.
    pub username: &'a str,
    /// Password.
    pub password: &'a str,
    /// base64 of `user:password`.
    pub auth: &'a str,
    /// URL or host that the credentials are for.
    pub server_address: &'a str,
    /// Refresh token.
    pub identity_token: &'a str,
    /// Bearer token.
    pub registry_token: &'a str,
}

impl Login {
    /// Reads CRI's fields; the first that is set counts: registry token, identity token, user name, `auth`.
    pub fn from_fields(fields: AuthFields<'_>) -> Result<Login> {
        let credentials = if !fields.registry_token.is_empty() {
            Credentials::RegistryToken(fields.registry_token.to_string())
        } else if !fields.identity_token.is_empty() {
            Credentials::IdentityToken(fields.identity_token.to_string())
        } else if !fields.username.is_empty() {
            Credentials::Basic { user: fields.username.to_string(), password: fields.password.to_string() }
        } else if !fields.auth.is_empty() {
            let bad = || Error::invalid("auth config: \"auth\" must be base64 of user:password");
            let text = BASE64_STANDARD.decode(fields.auth.trim()).ok().and_then(|b| String::from_utf8(b).ok()).ok_or_else(bad)?;
            let (user, password) = text.split_once(':').ok_or_else(bad)?;
            Credentials::Basic { user: user.to_string(), password: password.trim_matches('\0').to_string() }
        } else {
            Credentials::Anonymous
        };
        Ok(Login { credentials, server: server_host(fields.server_address) })
    }

    /// What `authority` may see.
    pub fn for_host(&self, authority: &str) -> &Credentials {
        let same = |server: &str| server == authority || (is_docker(server) && is_docker(authority));
        if self.server.as_deref().is_none_or(same) { &self.credentials } else { &Credentials::Anonymous }
    }
}

impl From<Credentials> for Login {
    fn from(credentials: Credentials) -> Login {
        Login { credentials, server: None }
    }
}

/// The host of `https://host:port/v1/`, or of a bare `host:port`.
pub fn server_host(address: &str) -> Option<String> {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    (!host.is_empty()).then(|| host.to_lowercase())
}

/// What the daemon's own table has for a host, under any of its names.
pub fn of_host<'a>(auths: &'a HashMap<String, Credentials>, name: &str) -> Option<&'a Credentials> {
    let alias = || auths.iter().find(|(host, _)| is_docker(host) && is_docker(name)).map(|(_, found)| found);
    auths.get(name).or_else(alias)
}

/// docker.io's names are one registry; its credentials are written for `index.docker.io`.
fn is_docker(host: &str) -> bool {
    matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

/// One way to authenticate, out of a WWW-Authenticate header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Challenge {
    /// A token is to be fetched from `realm`.
    Bearer {
        /// URL of the token server.
        realm: String,
        /// Name that the token server knows the registry by.
        service: String,
        /// What is asked for; several words.
        scope: String,
    },
    /// User and password.
    Basic,
}

/// Reads the challenges of one header value; what is not understood is left out.
pub fn challenges(header: &str) -> Vec<Challenge> {
    let mut found = vec![];
    let mut rest = header.trim();
    while !rest.is_empty() {
        let end = rest.find([' ', ',']).unwrap_or(rest.len());
        let scheme = rest[..end].to_lowercase();
        let (parameters, next) = parameters(rest[end..].trim_start());
        let get = |key: &str| parameters.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone()).unwrap_or_default();
        match scheme.as_str() {
            "bearer" if !get("realm").is_empty() => {
                found.push(Challenge::Bearer { realm: get("realm"), service: get("service"), scope: get("scope") });
            }
            "basic" => found.push(Challenge::Basic),
            _ => {}
        }
        rest = next.trim_start_matches([',', ' ']);
    }
    found
}

/// `k=v, k="quoted", …` up to the next scheme word.
fn parameters(mut rest: &str) -> (Vec<(String, String)>, &str) {
    let mut list = vec![];
    loop {
        rest = rest.trim_start_matches([',', ' ', '\t']);
        let Some(eq) = rest.find('=') else { return (list, if list_is_word(rest) { rest } else { "" }) };
        let key = rest[..eq].trim();
        if key.contains([' ', ',']) || key.is_empty() {
            return (list, rest);
        }
        let after = rest[eq + 1..].trim_start();
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = after.find([',', ' ']).unwrap_or(after.len());
                (after[..end].to_string(), &after[end..])
            }
        };
        list.push((key.to_lowercase(), value));
        rest = next;
    }
}

/// A scheme without parameters, as `Basic` at the end.
fn list_is_word(rest: &str) -> bool {
    !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

/// The header value for user and password.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

/// What a token was given for. The credentials are part of it: nobody gets another's token.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TokenKey {
    /// Host that asked for it.
    pub authority: String,
    /// URL of the token server.
    pub realm: String,
    /// Registry's name there.
    pub service: String,
    /// What it permits.
    pub scope: String,
    /// Who got it.
    pub credentials: Credentials,
}

/// Tokens that are still good. In memory only.
#[derive(Default)]
pub struct Tokens(Mutex<HashMap<TokenKey, (String, Instant)>>);

impl Tokens {
    /// A token that has not ended.
    pub fn get(&self, key: &TokenKey) -> Option<String> {
        lock(&self.0).get(key).filter(|(_, end)| *end > Instant::now()).map(|(token, _)| token.clone())
    }
    /// Keeps a token until shortly before its end.
    pub fn put(&self, key: TokenKey, token: String, life: Option<u64>) {
        let life = life.filter(|s| *s > 0).map_or(TOKEN_LIFE, |s| Duration::from_secs(s.min(86_400)));
        let now = Instant::now();
        let mut tokens = lock(&self.0);
        tokens.retain(|_, (_, end)| *end > now);
        if tokens.len() >= TOKENS_MAX {
            let oldest = tokens.iter().min_by_key(|(_, (_, end))| *end).map(|(k, _)| k.clone());
            oldest.and_then(|k| tokens.remove(&k));
        }
        tokens.insert(key, (token, now + life.saturating_sub(TOKEN_MARGIN)));
    }
    /// Forgets a token that was refused.
    pub fn forget(&self, key: &TokenKey) {
        lock(&self.0).remove(key);
    }
}

/// A token server's answer, in either of its two forms.
#[derive(Deserialize)]
pub struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    /// Seconds that it is good for.
    pub expires_in: Option<u64>,
}

impl TokenAnswer {
    /// The token, if there is one that can go into a header.
    pub fn token(self) -> Option<String> {
        let token = if self.access_token.is_empty() { self.token } else { self.access_token };
        (!token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic())).then_some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_of_all_forms_are_read() {
        let bearer = |realm: &str, service: &str, scope: &str| Challenge::Bearer {
            realm: realm.into(),
            service: service.into(),
            scope: scope.into(),
        };
        for (header, want) in [
            (
                r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull,push""#,
                vec![bearer("https://a/t", "s", "repository:x:pull,push")],
            ),
            (r#"Basic realm="a, b""#, vec![Challenge::Basic]),
            ("Basic", vec![Challenge::Basic]),
            (r#"Bearer realm=https://a/t, Basic realm="x""#, vec![bearer("https://a/t", "", ""), Challenge::Basic]),
            (r#"Negotiate, Basic"#, vec![Challenge::Basic]),
            ("Bearer", vec![]),
            (r#"bearer realm="a\"b"#, vec![bearer("a\"b", "", "")]),
        ] {
            assert_eq!(challenges(header), want, "{header}");
        }
    }

    #[test]
    fn cri_fields_become_credentials_in_their_order() {
        let of = |f: AuthFields| Login::from_fields(f).unwrap().credentials;
        let basic = Credentials::Basic { user: "u".into(), password: "p:q".into() };
        assert_eq!(of(AuthFields { username: "u", password: "p:q", ..Default::default() }), basic);
        assert_eq!(of(AuthFields { auth: "dTpwOnE=", ..Default::default() }), basic);
        assert_eq!(of(AuthFields { registry_token: "t", username: "u", ..Default::default() }), Credentials::RegistryToken("t".into()));
        assert_eq!(of(AuthFields { identity_token: "i", ..Default::default() }), Credentials::IdentityToken("i".into()));
        assert!(Login::from_fields(AuthFields { auth: "!", ..Default::default() }).is_err());
    }

    #[test]
    fn a_server_address_binds_the_credentials_to_its_host() {
        let at =
            |server| Login::from_fields(AuthFields { username: "u", password: "p", server_address: server, ..Default::default() }).unwrap();
        assert_eq!(*at("https://r.io:5000/v2/").for_host("evil.io"), Credentials::Anonymous);
        assert_ne!(*at("https://r.io:5000/v2/").for_host("r.io:5000"), Credentials::Anonymous);
        assert_eq!(*at("r.io").for_host("r.io:5000"), Credentials::Anonymous);
        assert_ne!(*at("https://index.docker.io/v1/").for_host("registry-1.docker.io"), Credentials::Anonymous);
        assert_ne!(*at("").for_host("any.io"), Credentials::Anonymous);
        assert_eq!(format!("{:?}", at("")), "Login { credentials: Basic, server: None }");
    }
}
