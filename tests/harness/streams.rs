//! A client of the streaming server that shares no code with it: HTTP upgrades, SPDY frames, WebSocket channels and tunnels.
use flate2::{Compress, Compression, FlushCompress};
use openssl::ssl::SslConnector;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

/// How long the server may be silent when something is waited for.
const SILENCE: Duration = Duration::from_secs(20);
const SPDY: &str = "SPDY/3.1";

/// What bytes go over.
pub trait Carrier: Read + Write + Send {}
impl<T: Read + Write + Send> Carrier for T {}

/// A connection that was upgraded, and the head of the answer.
pub struct Upgraded {
    pub carrier: Box<dyn Carrier>,
    pub tcp: TcpStream,
    pub head: String,
}

/// Connects to an URL and asks for an upgrade; else the status line and the text of the answer.
pub fn upgrade(url: &str, fields: &[(&str, &str)], tls: Option<&SslConnector>) -> Result<Upgraded, String> {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let tcp = TcpStream::connect(host).unwrap();
    tcp.set_read_timeout(Some(SILENCE)).unwrap();
    tcp.set_nodelay(true).unwrap();
    let own = tcp.try_clone().unwrap();
    let mut carrier: Box<dyn Carrier> = match (scheme, tls) {
        ("https", Some(tls)) => Box::new(tls.connect("localhost", own).map_err(|e| e.to_string())?),
        _ => Box::new(own),
    };
    let mut request = format!("POST /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\n");
    if fields.iter().any(|(_, value)| *value == "websocket") {
        request = request.replace("POST", "GET");
    }
    for (name, value) in fields {
        request += &format!("{name}: {value}\r\n");
    }
    carrier.write_all((request + "\r\n").as_bytes()).map_err(|e| e.to_string())?;
    let (mut head, mut byte) = (vec![], [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match carrier.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            Ok(_) => return Err("the server has closed".into()),
            Err(e) => return Err(e.to_string()),
        }
    }
    let head = String::from_utf8(head).unwrap();
    if head.starts_with("HTTP/1.1 101 ") {
        return Ok(Upgraded { carrier, tcp, head });
    }
    let mut text = String::new();
    let _ = carrier.read_to_string(&mut text);
    Err(format!("{}: {text}", head.lines().next().unwrap()))
}

fn websocket(url: &str, protocol: &str, tls: Option<&SslConnector>) -> Result<(WebSocket<Box<dyn Carrier>>, TcpStream), String> {
    let mut fields = vec![("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")];
    if !protocol.is_empty() {
        fields.push(("Sec-WebSocket-Protocol", protocol));
    }
    let upgraded = upgrade(url, &fields, tls)?;
    assert!(protocol.is_empty() || upgraded.head.contains(protocol), "{}", upgraded.head);
    Ok((WebSocket::from_raw_socket(upgraded.carrier, Role::Client, None), upgraded.tcp))
}

/// Bytes in WebSocket messages.
struct TunnelIo(WebSocket<Box<dyn Carrier>>, Vec<u8>);

impl Read for TunnelIo {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.1.is_empty() {
            match self.0.read().map_err(io::Error::other)? {
                Message::Binary(bytes) => self.1.extend(bytes),
                Message::Close(_) => return Ok(0),
                _ => {}
            }
        }
        let n = into.len().min(self.1.len());
        into[..n].copy_from_slice(&self.1[..n]);
        self.1.drain(..n);
        Ok(n)
    }
}
impl Write for TunnelIo {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(Message::binary(bytes.to_vec())).map_err(io::Error::other)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// SPDY over anything. Without windows, as Go's library, until [`Spdy::windows`].
pub struct Spdy {
    carrier: Box<dyn Carrier>,
    pub tcp: TcpStream,
    zlib: Compress,
    next: u32,
    /// What came on each stream.
    pub inbox: BTreeMap<u32, Vec<u8>>,
    /// Streams that the server has ended.
    pub ended: BTreeSet<u32>,
    /// Streams that the server has given up.
    pub reset: BTreeSet<u32>,
    pub replied: BTreeSet<u32>,
    /// Credits that the server gave, by stream.
    pub credits: BTreeMap<u32, u32>,
    pub pongs: Vec<u32>,
    pub gone: bool,
}

impl Spdy {
    pub fn connect(url: &str, version: &str, tls: Option<&SslConnector>) -> Result<Spdy, String> {
        let mut fields = vec![("Upgrade", SPDY)];
        if !version.is_empty() {
            fields.push(("X-Stream-Protocol-Version", version));
        }
        let Upgraded { carrier, tcp, head } = upgrade(url, &fields, tls)?;
        assert!(head.contains(version), "{head}");
        Ok(Spdy::over(carrier, tcp))
    }
    pub fn tunnel(url: &str) -> Spdy {
        let (socket, tcp) = websocket(url, "SPDY/3.1+portforward.k8s.io", None).unwrap();
        Spdy::over(Box::new(TunnelIo(socket, vec![])), tcp)
    }
    fn over(carrier: Box<dyn Carrier>, tcp: TcpStream) -> Spdy {
        Spdy {
            carrier,
            tcp,
            zlib: Compress::new(Compression::fast(), true),
            next: 1,
            inbox: BTreeMap::new(),
            ended: BTreeSet::new(),
            reset: BTreeSet::new(),
            replied: BTreeSet::new(),
            credits: BTreeMap::new(),
            pongs: vec![],
            gone: false,
        }
    }
    fn control(&mut self, kind: u32, body: &[u8]) {
        let frame = [&(0x8003_0000 | kind).to_be_bytes(), &(body.len() as u32).to_be_bytes(), body].concat();
        self.carrier.write_all(&frame).unwrap();
    }
    /// Opens a stream.
    pub fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for (name, value) in headers {
            for text in [name.to_lowercase().as_str(), value] {
                plain.extend((text.len() as u32).to_be_bytes());
                plain.extend(text.as_bytes());
            }
        }
        let mut block = Vec::with_capacity(plain.len() + 256);
        self.zlib.compress_vec(&plain, &mut block, FlushCompress::Sync).unwrap();
        let stream = self.next;
        self.next += 2;
        self.control(1, &[&stream.to_be_bytes()[..], &[0; 6], &block].concat());
        stream
    }
    pub fn send(&mut self, stream: u32, bytes: &[u8], fin: bool) -> io::Result<()> {
        let head = (u32::from(fin) << 24 | bytes.len() as u32).to_be_bytes();
        self.carrier.write_all(&[&stream.to_be_bytes()[..], &head, bytes].concat())
    }
    /// Says that windows are known: this much a stream to begin with.
    pub fn windows(&mut self, initial: u32) {
        self.control(4, &[1u32, 7, initial].map(u32::to_be_bytes).concat());
    }
    /// Allows more.
    pub fn allow(&mut self, stream: u32, delta: u32) {
        self.control(9, &[stream, delta].map(u32::to_be_bytes).concat());
    }
    pub fn give_up(&mut self, stream: u32) {
        self.control(3, &[stream, 5].map(u32::to_be_bytes).concat());
    }
    pub fn ping(&mut self, id: u32) {
        self.control(6, &id.to_be_bytes());
    }
    /// Reads one frame; `false` at the end.
    pub fn step(&mut self) -> bool {
        let mut head = [0; 8];
        if self.carrier.read_exact(&mut head).is_err() {
            self.gone = true;
            return false;
        }
        let word = |b: &[u8]| u32::from_be_bytes(b[..4].try_into().unwrap());
        let mut body = vec![0; (word(&head[4..]) & 0xff_ffff) as usize];
        self.carrier.read_exact(&mut body).unwrap();
        let first = word(&head);
        if first >> 31 == 0 {
            self.inbox.entry(first).or_default().extend(body);
            if head[4] & 1 == 1 {
                self.ended.insert(first);
            }
            return true;
        }
        match first & 0xffff {
            2 => drop(self.replied.insert(word(&body))),
            3 => drop(self.reset.insert(word(&body))),
            6 => self.pongs.push(word(&body)),
            7 => {}
            9 => *self.credits.entry(word(&body)).or_default() += word(&body[4..]),
            other => panic!("frame of kind {other}"),
        }
        true
    }
    /// Reads until it is so, or the server ends.
    pub fn until(&mut self, mut so: impl FnMut(&Spdy) -> bool) {
        while !so(self) && self.step() {}
    }
    pub fn text(&self, stream: u32) -> String {
        String::from_utf8_lossy(self.inbox.get(&stream).map_or(&[][..], |b| b)).into_owned()
    }
    /// Whether nothing more comes on a stream.
    pub fn over_with(&self, stream: u32) -> bool {
        self.gone || self.ended.contains(&stream) || self.reset.contains(&stream)
    }
}

/// What a command said.
#[derive(Default, Debug, PartialEq)]
pub struct Said {
    pub out: String,
    pub err: String,
    pub status: String,
}

impl Said {
    /// The exit code in a version 4 status.
    pub fn code(&self) -> i32 {
        let status: serde_json::Value = serde_json::from_str(&self.status).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        match status["status"].as_str().unwrap() {
            "Success" => 0,
            _ => {
                assert_eq!(status["reason"], "NonZeroExitCode", "{status}");
                status["details"]["causes"][0]["message"].as_str().unwrap().parse().unwrap()
            }
        }
    }
}

/// A session with a command or container, whatever the protocol.
pub enum Remote {
    Spdy { spdy: Box<Spdy>, stdin: u32, stdout: u32, stderr: u32, error: u32, resize: u32 },
    Channels { socket: Box<WebSocket<Box<dyn Carrier>>>, tcp: TcpStream, base64: bool, said: [Vec<u8>; 5] },
}

impl Remote {
    /// `protocol` is `spdy:` or `ws:` and a version; `streams` are those of the request: i, o, e, t as in `-it`.
    pub fn connect(url: &str, protocol: &str, streams: &str, tls: Option<&SslConnector>) -> Result<Remote, String> {
        if let Some(version) = protocol.strip_prefix("spdy:") {
            let mut spdy = Spdy::connect(url, version, tls)?;
            let resize = streams.contains('t') && !["channel.k8s.io", "v2.channel.k8s.io", ""].contains(&version);
            let mut open = |wanted: bool, kind: &str| if wanted { spdy.open(&[("streamType", kind)]) } else { 0 };
            let (error, stdin) = (open(true, "error"), open(streams.contains('i'), "stdin"));
            let (stdout, stderr) = (open(streams.contains('o'), "stdout"), open(streams.contains('e'), "stderr"));
            let resize = open(resize, "resize");
            return Ok(Remote::Spdy { spdy: Box::new(spdy), stdin, stdout, stderr, error, resize });
        }
        let protocol = protocol.strip_prefix("ws:").unwrap();
        let (socket, tcp) = websocket(url, protocol, tls)?;
        Ok(Remote::Channels { socket: Box::new(socket), tcp, base64: protocol.contains("base64"), said: Default::default() })
    }
    fn channel(&mut self, channel: u8, bytes: &[u8]) {
        use base64::Engine;
        let Remote::Channels { socket, base64, .. } = self else { panic!() };
        let message = match base64 {
            true => Message::text(format!("{channel}{}", base64::engine::general_purpose::STANDARD.encode(bytes))),
            false => Message::binary([&[channel], bytes].concat()),
        };
        socket.send(message).unwrap();
    }
    pub fn input(&mut self, bytes: &[u8]) {
        match self {
            Remote::Spdy { spdy, stdin, .. } => spdy.send(*stdin, bytes, false).unwrap(),
            Remote::Channels { .. } => self.channel(0, bytes),
        }
    }
    /// Ends the input; only SPDY and version 5 can.
    pub fn end_input(&mut self) {
        match self {
            Remote::Spdy { spdy, stdin, .. } => spdy.send(*stdin, &[], true).unwrap(),
            Remote::Channels { socket, .. } => socket.send(Message::binary(vec![255, 0])).unwrap(),
        }
    }
    pub fn resize(&mut self, width: u16, height: u16) {
        let text = format!("{{\"Width\":{width},\"Height\":{height}}}\n");
        match self {
            Remote::Spdy { spdy, resize, .. } => spdy.send(*resize, text.as_bytes(), false).unwrap(),
            Remote::Channels { .. } => self.channel(4, text.as_bytes()),
        }
    }
    /// Reads something; `false` at the end.
    pub fn step(&mut self) -> bool {
        use base64::Engine;
        match self {
            Remote::Spdy { spdy, .. } => spdy.step(),
            Remote::Channels { socket, base64, said, .. } => {
                let bytes = match socket.read() {
                    Ok(Message::Binary(bytes)) => bytes.to_vec(),
                    Ok(Message::Text(text)) => {
                        assert!(*base64);
                        let (channel, rest) = text.split_at(1);
                        let rest = base64::engine::general_purpose::STANDARD.decode(rest).unwrap();
                        [&[channel.as_bytes()[0] - b'0'][..], &rest].concat()
                    }
                    Ok(Message::Close(frame)) => {
                        assert_eq!(u16::from(frame.unwrap().code), 1000);
                        return false;
                    }
                    Ok(_) => return true,
                    Err(_) => return false,
                };
                said[usize::from(bytes[0])].extend(&bytes[1..]);
                true
            }
        }
    }
    /// How long a WebSocket client waits for the next message.
    pub fn patience(&self, limit: Duration) {
        let Remote::Channels { tcp, .. } = self else { panic!("half a SPDY frame would be lost") };
        tcp.set_read_timeout(Some(limit)).unwrap();
    }
    pub fn said(&self) -> Said {
        match self {
            Remote::Spdy { spdy, stdout, stderr, error, .. } => {
                Said { out: spdy.text(*stdout), err: spdy.text(*stderr), status: spdy.text(*error) }
            }
            Remote::Channels { said, .. } => {
                let text = |n: usize| String::from_utf8_lossy(&said[n]).into_owned();
                Said { out: text(1), err: text(2), status: text(3) }
            }
        }
    }
    /// Waits until the output has this text.
    #[track_caller]
    pub fn hears(&mut self, text: &str) {
        while !self.said().out.contains(text) {
            assert!(self.step(), "\"{text}\" never came: {:?}", self.said());
        }
    }
    /// Reads to the end.
    pub fn finish(mut self) -> Said {
        while self.step() {}
        self.said()
    }
    /// The client is gone, without a word.
    pub fn vanish(self) {
        let tcp = match &self {
            Remote::Spdy { spdy, .. } => &spdy.tcp,
            Remote::Channels { tcp, .. } => tcp,
        };
        let _ = tcp.shutdown(Shutdown::Both);
    }
}
