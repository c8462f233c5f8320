//! The asking end: one thread reads all connections of the daemon; callers block on a channel of their own.
use super::NAMESPACE;
use super::wire::{Inbox, Peer, Wake, Wire};
use crate::call::Call;
use crate::error::{Context, Error, Kind, Result};
use crate::rpc::status;
use crate::sys::socket;
use crate::thread::{Stop, Threads, lock};
use crossbeam_channel::{bounded, select};
use protobuf::Message;
use rustix::event::{PollFd, PollFlags, poll};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use ttrpc::proto::{KeyValue, MESSAGE_TYPE_RESPONSE, MessageHeader};

/// What to call.
#[derive(Clone, Copy, Debug)]
pub struct Method<'a> {
    /// Full service name.
    pub service: &'a str,
    /// Method name.
    pub method: &'a str,
}

type OnReply = Box<dyn FnOnce(Result<Vec<u8>>) + Send>;
type OnClose = Box<dyn FnOnce() + Send>;

/// The poll loop over all connections.
pub struct Mux {
    wake: Wake,
    fresh: Mutex<Vec<Arc<Connection>>>,
}

struct Connection {
    wire: Wire,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u32,
    waiting: HashMap<u32, OnReply>,
    on_close: Vec<OnClose>,
    closed: bool,
}

/// One connection to a shim. Clones share it; when the last is dropped, it closes.
#[derive(Clone)]
pub struct Client(Arc<Handle>);

struct Handle {
    connection: Arc<Connection>,
    mux: Weak<Mux>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.connection.wire.close();
        if let Some(mux) = self.mux.upgrade() {
            mux.wake.wake();
        }
    }
}

impl Mux {
    /// Starts the loop `ttrpc-mux`.
    pub fn new(threads: &Threads) -> Result<Arc<Mux>> {
        let mux = Arc::new(Mux { wake: Wake::new()?, fresh: Mutex::default() });
        let own = mux.clone();
        threads.spawn("ttrpc-mux", move |stop| own.run(stop))?;
        Ok(mux)
    }
    /// Connects to `unix:///path` or `/path`, without waiting: a listener whose backlog is full, since it is frozen, is
    /// `ResourceExhausted`; one that is not there, `Unavailable`.
    pub fn connect(self: &Arc<Self>, address: &str) -> Result<Client> {
        let path = address.strip_prefix("unix://").unwrap_or(address);
        let stream = socket::connect(path).map_err(|e| {
            let full = e.kind() == std::io::ErrorKind::WouldBlock;
            Error::new(if full { Kind::ResourceExhausted } else { Kind::Unavailable }, format!("connect to {path}")).because(e)
        })?;
        let connection =
            Arc::new(Connection { wire: Wire::new(stream, self.wake.clone())?, state: Mutex::new(State { next: 1, ..State::default() }) });
        lock(&self.fresh).push(connection.clone());
        self.wake.wake();
        Ok(Client(Arc::new(Handle { connection, mux: Arc::downgrade(self) })))
    }
    fn run(&self, stop: &Stop) {
        let mut connections: Vec<(Arc<Connection>, Inbox)> = vec![];
        while !stop.stopped() {
            let ready = self.wait(stop, &connections);
            self.wake.clear();
            let mut kept = Vec::with_capacity(connections.len());
            for ((connection, mut inbox), events) in connections.drain(..).zip(ready) {
                match connection.turn(&mut inbox, events) {
                    Peer::Open => kept.push((connection, inbox)),
                    Peer::Gone => connection.close(),
                }
            }
            connections = kept;
            connections.extend(lock(&self.fresh).drain(..).map(|c| (c, Inbox::default())));
        }
        for (connection, _) in connections {
            connection.close();
        }
    }
    fn wait(&self, stop: &Stop, connections: &[(Arc<Connection>, Inbox)]) -> Vec<PollFlags> {
        let (stop_fd, wake_fd) = (stop.fd(), self.wake.fd());
        let mut fds = vec![PollFd::from_borrowed_fd(stop_fd, PollFlags::IN), PollFd::from_borrowed_fd(wake_fd, PollFlags::IN)];
        for (connection, _) in connections {
            let out = if connection.wire.pending() { PollFlags::OUT } else { PollFlags::empty() };
            fds.push(PollFd::from_borrowed_fd(connection.wire.fd(), PollFlags::IN | out));
        }
        let _ = poll(&mut fds, None);
        fds[2..].iter().map(|f| f.revents()).collect()
    }
}

impl Connection {
    fn turn(&self, inbox: &mut Inbox, events: PollFlags) -> Peer {
        if events.contains(PollFlags::OUT) && self.wire.flush().is_err() {
            return Peer::Gone;
        }
        if !events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return Peer::Open;
        }
        inbox.receive(&self.wire, |header, body| {
            if header.type_ != MESSAGE_TYPE_RESPONSE {
                return;
            }
            let waiter = lock(&self.state).waiting.remove(&header.stream_id);
            if let Some(waiter) = waiter {
                waiter(unpack(body));
            }
        })
    }
    fn close(&self) {
        self.wire.close();
        let (waiting, on_close) = {
            let mut state = lock(&self.state);
            state.closed = true;
            (std::mem::take(&mut state.waiting), std::mem::take(&mut state.on_close))
        };
        for waiter in waiting.into_values() {
            waiter(Err(gone()));
        }
        for f in on_close {
            f();
        }
    }
    /// Registers the waiter, then sends; a failed send takes the waiter back.
    fn request(&self, body: Vec<u8>, on_reply: OnReply) -> Result<u32> {
        let id = {
            let mut state = lock(&self.state);
            if state.closed {
                return Err(gone());
            }
            let id = state.next;
            // Clients use odd stream IDs.
            state.next = state.next.wrapping_add(2);
            state.waiting.insert(id, on_reply);
            id
        };
        if let Err(e) = self.wire.send(MessageHeader::new_request(id, body.len() as u32), &body) {
            lock(&self.state).waiting.remove(&id);
            return Err(e);
        }
        Ok(id)
    }
}

fn gone() -> Error {
    Error::new(Kind::Unavailable, "the shim's ttrpc connection is closed")
}

fn unpack(body: &[u8]) -> Result<Vec<u8>> {
    let response = ttrpc::proto::Response::parse_from_bytes(body).during(|| "decode a ttrpc reply")?;
    match response.status.as_ref().filter(|s| s.code.value() != 0) {
        Some(s) => Err(status::error(s.code.value(), s.message.clone())),
        None => Ok(response.payload),
    }
}

fn pack(to: Method<'_>, namespace: &str, limit: Option<Duration>, request: &impl Message) -> Result<Vec<u8>> {
    let mut envelope = ttrpc::proto::Request::new();
    envelope.service = to.service.into();
    envelope.method = to.method.into();
    envelope.payload = request.write_to_bytes().during(|| format!("encode request of {}", to.method))?;
    envelope.timeout_nano = limit.map_or(0, |l| i64::try_from(l.as_nanos()).unwrap_or(i64::MAX));
    let mut key = KeyValue::new();
    key.key = NAMESPACE.into();
    key.value = namespace.into();
    envelope.metadata.push(key);
    envelope.write_to_bytes().during(|| "encode a ttrpc request")
}

impl Client {
    /// Asks and waits: at most `limit`, and only as long as the call wants the answer.
    pub fn call<Q: Message, P: Message>(&self, to: Method<'_>, call: &Call, limit: Duration, request: &Q) -> Result<P> {
        let limit = call.remaining(limit)?;
        let body = pack(to, &call.namespace, Some(limit), request)?;
        let (tx, rx) = bounded(1);
        let id = self.0.connection.request(body, Box::new(move |reply| drop(tx.send(reply))))?;
        let reply = select! {
            recv(rx) -> reply => reply.unwrap_or_else(|_| Err(gone())),
            recv(call.done()) -> _ => Err(Error::new(Kind::Cancelled, format!("{}: the caller went away", to.method))),
            default(limit) => Err(Error::new(Kind::DeadlineExceeded, format!("{}: no answer from the shim within {limit:?}", to.method))),
        };
        if reply.is_err() {
            lock(&self.0.connection.state).waiting.remove(&id);
        }
        P::parse_from_bytes(&reply?).during(|| format!("decode reply of {}", to.method))
    }
    /// Asks without waiting; `on_reply` runs on the loop's thread and must not block. For Wait.
    pub fn start<Q: Message, P: Message>(
        &self,
        to: Method<'_>,
        namespace: &str,
        request: &Q,
        on_reply: impl FnOnce(Result<P>) + Send + 'static,
    ) -> Result<()> {
        let body = pack(to, namespace, None, request)?;
        let decode = move |reply: Result<Vec<u8>>| on_reply(reply.and_then(|b| P::parse_from_bytes(&b).during(|| "decode a ttrpc reply")));
        self.0.connection.request(body, Box::new(decode)).map(drop)
    }
    /// Runs once the connection is gone, on the loop's thread; at once if it is gone already.
    pub fn on_close(&self, f: impl FnOnce() + Send + 'static) {
        let mut state = lock(&self.0.connection.state);
        if state.closed {
            drop(state);
            return f();
        }
        state.on_close.push(Box::new(f));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Reply, Request, Server, Service};
    use super::*;
    use crate::proto::task_v2::{ConnectRequest, ConnectResponse};
    use std::os::unix::net::UnixListener;

    const CONNECT: Method<'static> = Method { service: "t.Task", method: "Connect" };

    /// Answers Connect with the namespace, parks `park`, fails `fail`, drops `drop`.
    #[derive(Default)]
    struct Echo(Mutex<Vec<Reply>>);
    impl Service for Echo {
        fn call(&self, request: Request, reply: Reply) {
            let q: ConnectRequest = request.decode().unwrap();
            match q.id.as_str() {
                "park" => lock(&self.0).push(reply),
                "fail" => reply.send::<ConnectResponse>(Err(Error::not_found("task", "fail"))),
                "drop" => drop(reply),
                _ => {
                    let mut p = ConnectResponse::new();
                    p.version = format!("{} {}", request.namespace, q.id.len());
                    reply.send(Ok(p))
                }
            }
        }
    }

    fn pair() -> (Threads, Threads, Client, tempdir::Dir) {
        let dir = tempdir::Dir::new();
        let path = dir.0.join("s");
        let server = Server::new(UnixListener::bind(&path).unwrap(), Arc::<Echo>::default()).unwrap();
        let (serving, asking) = (Threads::new().unwrap(), Threads::new().unwrap());
        serving.spawn("server", move |stop| server.serve(stop)).unwrap();
        let client = Mux::new(&asking).unwrap().connect(path.to_str().unwrap()).unwrap();
        (serving, asking, client, dir)
    }

    mod tempdir {
        pub struct Dir(pub std::path::PathBuf);
        impl Dir {
            pub fn new() -> Dir {
                use std::sync::atomic::{AtomicU32, Ordering};
                static N: AtomicU32 = AtomicU32::new(0);
                let d = std::env::temp_dir().join(format!("cradle-ttrpc-{}-{}", std::process::id(), N.fetch_add(1, Ordering::SeqCst)));
                std::fs::create_dir_all(&d).unwrap();
                Dir(d)
            }
        }
        impl Drop for Dir {
            fn drop(&mut self) {
                let _ = std::fs::remove_dir_all(&self.0);
            }
        }
    }

    fn ask(client: &Client, id: &str, limit: u64) -> Result<String> {
        let mut q = ConnectRequest::new();
        q.id = id.into();
        client.call::<_, ConnectResponse>(CONNECT, &Call::background("k8s.io"), Duration::from_millis(limit), &q).map(|p| p.version)
    }

    #[test]
    fn calls_errors_big_messages_and_timeouts() {
        let (_serving, _asking, client, _dir) = pair();
        assert_eq!(ask(&client, "x", 5000).unwrap(), "k8s.io 1");
        assert_eq!(ask(&client, &"y".repeat(3 << 20), 5000).unwrap(), format!("k8s.io {}", 3 << 20));
        assert_eq!(ask(&client, &"y".repeat(5 << 20), 5000).unwrap_err().kind(), Kind::ResourceExhausted);
        assert_eq!(ask(&client, "fail", 5000).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(ask(&client, "drop", 5000).unwrap_err().kind(), Kind::Internal);
        assert_eq!(ask(&client, "park", 50).unwrap_err().kind(), Kind::DeadlineExceeded);
        assert_eq!(ask(&client, "x", 5000).unwrap(), "k8s.io 1");
    }

    #[test]
    fn a_full_backlog_blocks_nobody() {
        let dir = tempdir::Dir::new();
        let path = dir.0.join("s");
        let listener = UnixListener::bind(&path).unwrap();
        // Listening again changes the length of the backlog.
        rustix::net::listen(&listener, 0).unwrap();
        let threads = Threads::new().unwrap();
        let mux = Mux::new(&threads).unwrap();
        let mut held = vec![];
        let full = loop {
            match mux.connect(path.to_str().unwrap()) {
                Ok(client) => held.push(client),
                Err(e) => break e,
            }
        };
        assert_eq!((full.kind(), held.len()), (Kind::ResourceExhausted, 1));
        assert_eq!(mux.connect(dir.0.join("none").to_str().unwrap()).err().unwrap().kind(), Kind::Unavailable);
    }

    #[test]
    fn a_dead_peer_fails_pending_and_later_calls() {
        let (serving, _asking, client, _dir) = pair();
        let (tx, rx) = bounded(2);
        let (closed, mut q) = (tx.clone(), ConnectRequest::new());
        q.id = "park".into();
        client.start::<_, ConnectResponse>(CONNECT, "k8s.io", &q, move |r| tx.send(r.unwrap_err().kind()).unwrap()).unwrap();
        client.on_close(move || closed.send(Kind::Aborted).unwrap());
        assert_eq!(ask(&client, "x", 5000).unwrap(), "k8s.io 1");
        drop(serving);
        assert_eq!(rx.recv_timeout(Duration::from_secs(5)), Ok(Kind::Unavailable));
        assert_eq!(rx.recv_timeout(Duration::from_secs(5)), Ok(Kind::Aborted));
        assert_eq!(ask(&client, "x", 5000).unwrap_err().kind(), Kind::Unavailable);
    }
}
