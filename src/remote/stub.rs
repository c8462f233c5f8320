//! A scriptable HTTP/1.1 registry for tests: what it says, and how it breaks, is up to the test's function.
use crate::core::content::Digest;
use crate::thread::{Threads, lock};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(String::as_str).unwrap_or_default()
    }
}

/// How an answer ends.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub enum End {
    #[default]
    Whole,
    /// After so many bytes of the body.
    CutAt(usize),
    /// After so many bytes nothing more comes, but the connection stays.
    StallAt(usize),
    /// Zeros without end, without a length.
    Endless,
}

/// An answer.
#[derive(Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub end: End,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, body: body.into(), ..Reply::default() }
    }
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }
    pub fn ending(mut self, end: End) -> Reply {
        self.end = end;
        self
    }
}

/// The server; dropping it ends all its threads.
pub struct Stub {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    threads: Arc<Threads>,
}

impl Stub {
    pub fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, threads, answer) = (Arc::new(Mutex::new(vec![])), Arc::new(Threads::new().unwrap()), Arc::new(answer));
        let (log, workers) = (seen.clone(), Arc::downgrade(&threads));
        threads
            .spawn("stub", move |stop| {
                for stream in listener.incoming() {
                    if stop.stopped() {
                        return;
                    }
                    let (Ok(stream), Some(workers)) = (stream, workers.upgrade()) else { return };
                    let (log, answer) = (log.clone(), answer.clone());
                    workers
                        .spawn("stub-conn", move |stop| {
                            let Some(request) = read(&stream) else { return };
                            let reply = answer(&request);
                            lock(&log).push(request.clone());
                            write(stream, &request, &reply, &|| stop.sleep(Duration::from_millis(20)));
                        })
                        .unwrap();
                }
            })
            .unwrap();
        Stub { address, seen, threads }
    }
    pub fn host(&self) -> String {
        self.address.to_string()
    }
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).clone()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        // The accept loop sees the stop when it is woken.
        let (threads, address) = (self.threads.clone(), self.address);
        let waker = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            let _ = TcpStream::connect(address);
        });
        threads.shutdown();
        waker.join().unwrap();
    }
}

fn read(stream: &TcpStream) -> Option<Seen> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_string(), words.next()?.to_string());
    let mut headers = HashMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_string());
    }
    let mut body = vec![0; headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(Seen { method, path, headers, body: String::from_utf8(body).ok()? })
}

fn write(mut stream: TcpStream, request: &Seen, reply: &Reply, pause: &dyn Fn() -> bool) {
    let mut head = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if reply.end != End::Endless && !reply.headers.iter().any(|(n, _)| n == "content-length") {
        head.push_str(&format!("content-length: {}\r\n", reply.body.len()));
    }
    let _ = stream.write_all((head + "\r\n").as_bytes());
    if request.method == "HEAD" {
        return;
    }
    match reply.end {
        End::Whole => drop(stream.write_all(&reply.body)),
        End::CutAt(n) => drop(stream.write_all(&reply.body[..n])),
        End::StallAt(n) => {
            let _ = stream.write_all(&reply.body[..n]);
            while !pause() {}
        }
        End::Endless => {
            let _ = stream.write_all(&reply.body);
            while stream.write_all(&[0; 65536]).is_ok() {}
        }
    }
}

/// Blobs and tags, served as a registry does.
#[derive(Clone, Default)]
pub struct Shelf {
    pub blobs: HashMap<String, Vec<u8>>,
    /// Tag or digest to (media type, bytes).
    pub manifests: HashMap<String, (String, Vec<u8>)>,
}

impl Shelf {
    pub fn blob(&mut self, bytes: &[u8]) -> String {
        let digest = Digest::of(bytes).to_string();
        self.blobs.insert(digest.clone(), bytes.to_vec());
        digest
    }
    pub fn manifest(&mut self, tag: &str, media_type: &str, bytes: &[u8]) -> String {
        let digest = Digest::of(bytes).to_string();
        for name in [tag, &digest] {
            self.manifests.insert(name.to_string(), (media_type.to_string(), bytes.to_vec()));
        }
        digest
    }
    pub fn answer(&self, seen: &Seen) -> Reply {
        let path = seen.path.split('?').next().unwrap();
        let last = path.rsplit('/').next().unwrap();
        let missing = || Reply::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#);
        if path.contains("/manifests/") {
            let Some((media_type, bytes)) = self.manifests.get(last) else { return missing() };
            return Reply::new(200, bytes.clone())
                .with("content-type", media_type)
                .with("docker-content-digest", Digest::of(bytes).to_string());
        }
        let Some(bytes) = self.blobs.get(last) else { return missing() };
        let from = seen.header("range").strip_prefix("bytes=").and_then(|r| r.trim_end_matches('-').parse::<usize>().ok());
        match from {
            Some(from) => {
                Reply::new(206, &bytes[from..]).with("content-range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()))
            }
            None => Reply::new(200, bytes.clone()),
        }
    }
}
