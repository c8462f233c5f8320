//! HTTP: the head of a request, and what its client and we agree to speak from there on. Nothing but upgrades is served.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use openssl::sha::sha1;

/// Longest head.
pub const HEAD_MAX: usize = 16 << 10;
/// Most header fields.
const FIELDS_MAX: usize = 64;
/// Fixed in RFC 6455.
const WEBSOCKET_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// What a tunnel's WebSocket protocol begins with; the tunnelled one follows.
const TUNNEL: &str = "SPDY/3.1+";
/// The only protocol of port forwarding over SPDY.
const PORT_FORWARD: &str = "portforward.k8s.io";
const SPDY_VERSIONS: &str = "X-Stream-Protocol-Version";

/// What a path asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    /// `/exec/`
    Exec,
    /// `/attach/`
    Attach,
    /// `/portforward/`
    Forward,
}

impl Service {
    /// Its part of a path.
    pub fn name(self) -> &'static str {
        match self {
            Service::Exec => "exec",
            Service::Attach => "attach",
            Service::Forward => "portforward",
        }
    }
    fn named(name: &str) -> Option<Service> {
        [Service::Exec, Service::Attach, Service::Forward].into_iter().find(|s| s.name() == name)
    }
}

/// A request's head.
#[derive(Debug)]
pub struct Head {
    /// What is asked for.
    pub service: Service,
    /// The right to it.
    pub token: String,
    fields: Vec<(String, String)>,
}

/// An answer that ends the connection.
#[derive(PartialEq, Eq, Debug)]
pub struct Refusal {
    status: &'static str,
    text: String,
    fields: Vec<(&'static str, String)>,
}

/// What is spoken after the upgrade.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speech {
    /// SPDY/3.1.
    Spdy(Version),
    /// WebSocket messages that begin with a channel's number.
    Channels(Version, Codec),
    /// SPDY/3.1 inside of WebSocket messages.
    Tunnel,
}

/// Version of the streams' own protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Version {
    /// Text on the error stream.
    V1,
    /// As 1, with stdin's end told.
    V2,
    /// As 2, with a stream for sizes.
    V3,
    /// As 3, with a status as JSON on the error stream.
    V4,
    /// As 4, with the end of single channels told.
    V5,
}

/// How channels look on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Codec {
    /// As they are.
    Binary,
    /// As base64 text.
    Base64,
}

impl Refusal {
    /// An answer of this status, with a text for people.
    pub fn new(status: &'static str, text: impl Into<String>) -> Refusal {
        Refusal { status, text: text.into(), fields: vec![] }
    }
    /// The whole answer.
    pub fn bytes(&self) -> Vec<u8> {
        let mut answer = format!("HTTP/1.1 {}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n", self.status);
        for (name, value) in &self.fields {
            answer += &format!("{name}: {value}\r\n");
        }
        answer += &format!("Content-Length: {}\r\n\r\n{}\n", self.text.len() + 1, self.text);
        answer.into_bytes()
    }
}

impl Head {
    /// Reads a head, once it is there as a whole; with it, how long it is.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, Refusal> {
        let bad = |text: String| Refusal::new("400 Bad Request", text);
        let mut space = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut space);
        let len = match request.parse(bytes).map_err(|e| bad(format!("HTTP head: {e}")))? {
            httparse::Status::Complete(len) => len,
            httparse::Status::Partial if bytes.len() >= HEAD_MAX => {
                return Err(Refusal::new("431 Request Header Fields Too Large", format!("HTTP head of more than {HEAD_MAX} bytes")));
            }
            httparse::Status::Partial => return Ok(None),
        };
        let (method, path) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let fields: Vec<_> = request.headers.iter().map(|h| (h.name.to_owned(), text(h.value))).collect();
        let not_found = || Refusal::new("404 Not Found", "404 page not found");
        let path = path.split('?').next().unwrap_or_default();
        let (service, token) = path.strip_prefix('/').and_then(|p| p.split_once('/')).ok_or_else(not_found)?;
        let service = Service::named(service).ok_or_else(not_found)?;
        if !["GET", "POST"].contains(&method) {
            return Err(Refusal::new("405 Method Not Allowed", format!("method {method}: must be GET or POST")));
        }
        let head = Head { service, token: token.to_owned(), fields };
        let lengths = head.values("Content-Length").all(|l| l == "0");
        if !lengths || head.values("Transfer-Encoding").next().is_some() {
            return Err(bad("a request with a body cannot be upgraded".into()));
        }
        Ok(Some((head, len)))
    }
    /// All values of a field, with lists taken apart.
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.fields.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name));
        named.flat_map(|(_, v)| v.split(',')).map(str::trim).filter(|v| !v.is_empty())
    }
    fn has(&self, name: &str, value: &str) -> bool {
        self.values(name).any(|v| v.eq_ignore_ascii_case(value))
    }
    /// Agrees on what to speak; with it, the answer.
    pub fn upgrade(&self) -> Result<(Speech, Vec<u8>), Refusal> {
        let upgrade = self.has("Connection", "upgrade");
        if upgrade && self.has("Upgrade", "websocket") {
            return self.websocket();
        }
        if upgrade && self.has("Upgrade", "SPDY/3.1") {
            return self.spdy();
        }
        let text = "unable to upgrade: the request must have the fields Connection: Upgrade and Upgrade: SPDY/3.1 or websocket";
        Err(Refusal::new("400 Bad Request", text))
    }
    fn spdy(&self) -> Result<(Speech, Vec<u8>), Refusal> {
        let known: &[(&str, Version)] = match self.service {
            Service::Forward => &[(PORT_FORWARD, Version::V1)],
            _ => &[
                ("v4.channel.k8s.io", Version::V4),
                ("v3.channel.k8s.io", Version::V3),
                ("v2.channel.k8s.io", Version::V2),
                ("channel.k8s.io", Version::V1),
            ],
        };
        let mut answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n".to_owned();
        let asked: Vec<&str> = self.values(SPDY_VERSIONS).collect();
        let version = if asked.is_empty() {
            Version::V1
        } else {
            let found = asked.iter().find_map(|a| known.iter().find(|(name, _)| name == a));
            let Some((name, version)) = found else {
                let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                let text = format!("unable to upgrade: client supports {}, server supports {}", asked.join(", "), names.join(", "));
                let mut refusal = Refusal::new("403 Forbidden", text);
                refusal.fields = names.iter().map(|n| ("X-Accepted-Stream-Protocol-Versions", n.to_string())).collect();
                return Err(refusal);
            };
            answer += &format!("{SPDY_VERSIONS}: {name}\r\n");
            *version
        };
        answer += "\r\n";
        Ok((Speech::Spdy(version), answer.into_bytes()))
    }
    fn websocket(&self) -> Result<(Speech, Vec<u8>), Refusal> {
        let key = self.values("Sec-WebSocket-Key").next().unwrap_or_default();
        if STANDARD.decode(key).map_or(0, |k| k.len()) != 16 {
            return Err(Refusal::new("400 Bad Request", "Sec-WebSocket-Key: must be 16 bytes in base64"));
        }
        if !self.has("Sec-WebSocket-Version", "13") {
            let mut refusal = Refusal::new("426 Upgrade Required", "Sec-WebSocket-Version: must be 13");
            refusal.fields = vec![("Sec-WebSocket-Version", "13".into())];
            return Err(refusal);
        }
        let asked: Vec<&str> = self.values("Sec-WebSocket-Protocol").collect();
        let chosen = match asked.as_slice() {
            [] => Some(("", Speech::Channels(Version::V1, Codec::Binary))),
            asked => asked.iter().find_map(|name| Some((*name, self.channels(name)?))),
        };
        let Some((name, speech)) = chosen else {
            return Err(Refusal::new("403 Forbidden", format!("Sec-WebSocket-Protocol: none of {} is supported here", asked.join(", "))));
        };
        let accept = STANDARD.encode(sha1(format!("{key}{WEBSOCKET_GUID}").as_bytes()));
        let mut answer =
            format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n");
        if !name.is_empty() {
            answer += &format!("Sec-WebSocket-Protocol: {name}\r\n");
        }
        answer += "\r\n";
        Ok((speech, answer.into_bytes()))
    }
    fn channels(&self, protocol: &str) -> Option<Speech> {
        let forward = self.service == Service::Forward;
        if forward && protocol.strip_prefix(TUNNEL) == Some(PORT_FORWARD) {
            return Some(Speech::Tunnel);
        }
        let (version, codec) = match protocol {
            "channel.k8s.io" => (Version::V1, Codec::Binary),
            "base64.channel.k8s.io" => (Version::V1, Codec::Base64),
            "v4.channel.k8s.io" => (Version::V4, Codec::Binary),
            "v4.base64.channel.k8s.io" => (Version::V4, Codec::Base64),
            "v5.channel.k8s.io" => (Version::V5, Codec::Binary),
            "v5.base64.channel.k8s.io" => (Version::V5, Codec::Base64),
            _ => return None,
        };
        // Port forwarding has version 4 alone.
        (!forward || version == Version::V4).then_some(Speech::Channels(version, codec))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Head, Refusal> {
        Head::parse(text.as_bytes()).map(|h| h.expect("a whole head").0)
    }
    fn upgraded(path: &str, fields: &str) -> Result<(Speech, String), Refusal> {
        let head = head(&format!("POST {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n"))?;
        head.upgrade().map(|(speech, answer)| (speech, String::from_utf8(answer).unwrap()))
    }

    #[test]
    fn heads_come_in_pieces_and_name_service_and_token() {
        let text = "GET /attach/abc?x=1 HTTP/1.1\r\nHost: x\r\n\r\nmore";
        for cut in 0..text.len() - 4 {
            assert!(Head::parse(&text.as_bytes()[..cut]).unwrap().is_none());
        }
        let (head, len) = Head::parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!((head.service, head.token.as_str(), &text[len..]), (Service::Attach, "abc", "more"));
    }

    #[test]
    fn what_is_refused() {
        let long = format!("GET /exec/{}", "x".repeat(HEAD_MAX));
        let cases = [
            ("GET / HTTP/1.1\r\n\r\n", "404 Not Found"),
            ("GET /cri/a HTTP/1.1\r\n\r\n", "404 Not Found"),
            ("PUT /exec/a HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
            ("POST /exec/a HTTP/1.1\r\nContent-Length: 5\r\n\r\n", "400 Bad Request"),
            ("\x16\x03\x01 hello", "400 Bad Request"),
            (&long, "431 Request Header Fields Too Large"),
        ];
        for (text, status) in cases {
            assert_eq!(Head::parse(text.as_bytes()).unwrap_err().status, status, "{text}");
        }
        assert_eq!(upgraded("/exec/a", "").unwrap_err().status, "400 Bad Request");
        let answer = String::from_utf8(Refusal::new("404 Not Found", "no").bytes()).unwrap();
        assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n") && answer.ends_with("Content-Length: 3\r\n\r\nno\n"), "{answer}");
    }

    #[test]
    fn spdy_takes_the_clients_first_choice_that_is_known() {
        let fields = "Connection: keep-alive, Upgrade\r\nUpgrade: spdy/3.1\r\n";
        let (speech, answer) = upgraded(
            "/exec/a",
            &format!("{fields}X-Stream-Protocol-Version: v9, v3.channel.k8s.io\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n"),
        )
        .unwrap();
        assert_eq!(speech, Speech::Spdy(Version::V3));
        assert!(answer.contains("\r\nX-Stream-Protocol-Version: v3.channel.k8s.io\r\n"), "{answer}");
        assert_eq!(upgraded("/exec/a", fields).unwrap().0, Speech::Spdy(Version::V1));
        let refused = upgraded("/portforward/a", &format!("{fields}X-Stream-Protocol-Version: v4.channel.k8s.io\r\n")).unwrap_err();
        assert_eq!((refused.status, refused.fields[0].1.as_str()), ("403 Forbidden", PORT_FORWARD));
    }

    #[test]
    fn websockets() {
        let fields =
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let with = |path, protocol: &str| upgraded(path, &format!("{fields}Sec-WebSocket-Protocol: {protocol}\r\n"));
        let (speech, answer) = with("/exec/a", "v5.channel.k8s.io").unwrap();
        assert_eq!(speech, Speech::Channels(Version::V5, Codec::Binary));
        assert!(
            answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"),
            "{answer}"
        );
        assert_eq!(with("/exec/a", "x, v4.base64.channel.k8s.io").unwrap().0, Speech::Channels(Version::V4, Codec::Base64));
        assert_eq!(with("/portforward/a", "SPDY/3.1+portforward.k8s.io").unwrap().0, Speech::Tunnel);
        assert_eq!(upgraded("/exec/a", fields).unwrap().0, Speech::Channels(Version::V1, Codec::Binary));
        for (path, protocol) in [("/exec/a", "SPDY/3.1+portforward.k8s.io"), ("/portforward/a", "v5.channel.k8s.io")] {
            assert_eq!(with(path, protocol).unwrap_err().status, "403 Forbidden");
        }
        let short = fields.replace("dGhlIHNhbXBsZSBub25jZQ==", "YQ==");
        assert_eq!(upgraded("/exec/a", &short).unwrap_err().status, "400 Bad Request");
    }
}
