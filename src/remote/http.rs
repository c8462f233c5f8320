//! One request and its answer over ureq: redirects are followed here, so that what is for one host is never sent to another.
//!
//! ureq fits the synchronous house: [`ureq::Agent::shutdown`] ends reads that block, which is how a pull is cancelled at once;
//! its own name look-up would start an unnamed thread when a time limit is set, hence [`Names`].
use super::fault::{Cure, Fault, clean};
use super::hosts::{self, Host};
use super::{proxy, tls};
use crate::error::{Error, Kind, Result};
use std::time::Duration;
use ureq::http::{HeaderMap, Method, Request, StatusCode, Uri};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout, time};
use ureq::{Agent, BodyReader, Proxy};

/// Time limit of a connection attempt, TLS included, as containerd's.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
/// Redirects followed for one request.
const REDIRECTS_MAX: usize = 10;

/// A request for one host.
pub struct Ask {
    /// GET, HEAD or POST.
    pub method: Method,
    /// Full URL.
    pub url: String,
    /// Headers for the host and for where it redirects to.
    pub headers: Vec<(&'static str, String)>,
    /// Headers for the host alone: authorization and what the configuration adds.
    pub private: Vec<(String, String)>,
    /// A form to post.
    pub form: Option<String>,
}

/// What came.
pub struct Answer {
    /// Name and port of the host that sent it.
    pub host: String,
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The body, not read so far.
    pub body: BodyReader<'static>,
    /// Whether it comes from where the request was sent, not from where a redirect led.
    pub own: bool,
}

impl Answer {
    /// A header as text; absent is empty.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
    /// Content-Length, if it is there.
    pub fn length(&self) -> Option<u64> {
        self.header("content-length").parse().ok()
    }
}

/// Looks names up on the calling thread, whatever the time limit.
#[derive(Debug)]
struct Names(DefaultResolver);

impl Resolver for Names {
    fn resolve(&self, uri: &Uri, config: &ureq::config::Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut patient = timeout;
        patient.after = time::Duration::NotHappening;
        self.0.resolve(uri, config, patient)
    }
}

/// What an agent is made for: they are kept apart so that TLS settings and connections never mix.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct AgentKey {
    /// Index of the host whose settings count.
    pub host: usize,
    /// Whether its client certificate is shown.
    pub client: tls::Client,
    /// Proxy URL.
    pub proxy: Option<String>,
}

impl AgentKey {
    /// The key for a URL, with the proxy that the environment wants for it.
    pub fn of(host: usize, client: tls::Client, uri: &Uri) -> AgentKey {
        let scheme = uri.scheme_str().unwrap_or("https");
        let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        let proxy = proxy::for_host(scheme, uri.host().unwrap_or_default(), port, |k| std::env::var(k).ok());
        AgentKey { host, client, proxy }
    }
}

/// An agent with the host's TLS settings and the time limits.
pub fn agent(host: &Host, key: &AgentKey, progress: Option<Duration>) -> Result<Agent> {
    let proxy = match &key.proxy {
        // The URL may hold a password, so neither it nor the library's error is repeated.
        Some(url) => Some(Proxy::new(url).map_err(|_| Error::invalid("the proxy URL in the environment is not usable"))?),
        None => None,
    };
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(proxy)
        .tls_config(tls::config(&host.tls, key.client)?)
        .user_agent(concat!("cradled/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(host.dial_timeout.unwrap_or(DIAL_TIMEOUT)))
        .timeout_per_read(progress)
        .timeout_per_write(progress)
        .build();
    Ok(Agent::with_parts(config, DefaultConnector::default(), Names(DefaultResolver::default())))
}

/// Sends a request and follows its redirects; `agent_for` gives the agent for a URL.
pub fn send(ask: &Ask, agent_for: &dyn Fn(&Uri, bool) -> Result<Agent>) -> Result<Answer, Fault> {
    let broken = |host: &str, why: &str| Fault::new(Cure::OtherHost, Error::new(Kind::Unknown, format!("{host}: {why}")));
    let mut uri: Uri = ask.url.parse().map_err(|_| broken("request", "the URL cannot be parsed"))?;
    let first = origin(&uri);
    // Once a redirect has left the host, nothing private is sent any more, not even back home.
    let mut own = true;
    for _ in 0..=REDIRECTS_MAX {
        let host = uri.authority().map(|a| a.as_str().to_string()).unwrap_or_default();
        let agent = agent_for(&uri, own).map_err(|e| Fault::new(Cure::Nothing, e))?;
        let mut request = Request::builder().method(ask.method.clone()).uri(uri.clone());
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        for (name, value) in ask.private.iter().filter(|_| own) {
            request = request.header(name, value);
        }
        let bad = |_| broken(&host, "a header value cannot be sent");
        let response = match &ask.form {
            Some(form) => agent.run(request.body(form.as_str()).map_err(bad)?),
            None => agent.run(request.body(()).map_err(bad)?),
        };
        let (parts, body) = response.map_err(|e| Fault::of_http(&host, e))?.into_parts();
        let location = parts.headers.get("location").and_then(|v| v.to_str().ok());
        let (true, Some(location)) = (matches!(parts.status.as_u16(), 301 | 302 | 303 | 307 | 308), location) else {
            let body = body.into_with_config().limit(u64::MAX).reader();
            return Ok(Answer { host, status: parts.status, headers: parts.headers, body, own });
        };
        if ask.form.is_some() {
            return Err(broken(&host, "the token server redirects a request that holds credentials; refused"));
        }
        let next = join(&uri, location).ok_or_else(|| broken(&host, "redirects to an address that cannot be parsed"))?;
        if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
            return Err(broken(&host, &format!("redirects from https to plain http at {}; refused", next.host().unwrap_or_default())));
        }
        own = own && origin(&next) == first;
        uri = next;
    }
    Err(broken(uri.host().unwrap_or_default(), &format!("more than {REDIRECTS_MAX} redirects")))
}

/// Scheme, host and port: what credentials are bound to.
fn origin(uri: &Uri) -> (String, String, u16) {
    let scheme = uri.scheme_str().unwrap_or_default().to_string();
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    (scheme, uri.host().unwrap_or_default().to_lowercase(), port)
}

/// A Location header's address; one with a user in it is refused.
fn join(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let text = if location.contains("://") {
        location.to_string()
    } else if location.starts_with("//") {
        format!("{}:{location}", base.scheme_str()?)
    } else if location.starts_with('/') {
        format!("{}://{}{location}", base.scheme_str()?, base.authority()?)
    } else {
        let dir = base.path().rsplit_once('/').map_or("", |(dir, _)| dir);
        format!("{}://{}{dir}/{location}", base.scheme_str()?, base.authority()?)
    };
    let uri: Uri = text.parse().ok()?;
    let plain = !uri.authority()?.as_str().contains('@') && matches!(uri.scheme_str(), Some("https" | "http"));
    plain.then_some(uri)
}

/// A layer's own download address: TLS, or plain on loopback; no user in it.
pub fn foreign(url: &str) -> Result<Uri> {
    let bad = || Error::invalid(format!("layer address \"{}\": only https addresses without a user are fetched", clean(url, &[])));
    let uri: Uri = url.parse().map_err(|_| bad())?;
    let host = uri.authority().filter(|a| !a.as_str().contains('@')).map(|a| a.host()).ok_or_else(bad)?;
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if hosts::is_loopback(hosts::name_of(host)) => Ok(uri),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_joined_as_urls_are() {
        let base: Uri = "https://a.io:5/v2/x/blobs/d?q=1".parse().unwrap();
        for (location, want) in [
            ("https://b.io/z?s=1#f", Some("https://b.io/z?s=1")),
            ("//b.io/z", Some("https://b.io/z")),
            ("/z", Some("https://a.io:5/z")),
            ("z", Some("https://a.io:5/v2/x/blobs/z")),
            ("https://user:pw@b.io/z", None),
            ("file:///etc/passwd", None),
        ] {
            assert_eq!(join(&base, location).map(|u| u.to_string()).as_deref(), want, "{location}");
        }
    }

    #[test]
    fn foreign_addresses_are_tls_or_loopback() {
        assert!(foreign("https://x/y").is_ok() && foreign("http://127.0.0.1:3/y").is_ok());
        assert!(foreign("http://x/y").is_err() && foreign("https://u:p@x/y").is_err() && foreign("file:///x").is_err());
    }
}
