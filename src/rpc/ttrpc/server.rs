//! The serving end: one loop accepts, reads and dispatches; anybody answers, at any time.
use super::NAMESPACE;
use super::wire::{Inbox, Peer, Wake, Wire};
use crate::error::{Context, Error, Result};
use crate::rpc::status;
use crate::thread::Stop;
use log::debug;
use protobuf::{EnumOrUnknown, Message};
use rustix::event::{PollFd, PollFlags, poll};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;
use ttrpc::proto::{MESSAGE_TYPE_REQUEST, MessageHeader};

/// What a client asks.
pub struct Request {
    /// Full service name, `containerd.task.v2.Task`.
    pub service: String,
    /// Method name, `Create`.
    pub method: String,
    /// The encoded request message.
    pub payload: Vec<u8>,
    /// containerd namespace from the metadata; empty where none was sent.
    pub namespace: String,
    /// How long the client waits.
    pub timeout: Option<Duration>,
}

impl Request {
    /// Decodes the request message.
    pub fn decode<M: Message>(&self) -> Result<M> {
        M::parse_from_bytes(&self.payload).during(|| format!("decode request of {}/{}", self.service, self.method))
    }
}

/// Where calls arrive.
pub trait Service: Send + Sync {
    /// Runs on the loop's thread and must not block: long work goes to a pool, which answers through `reply`.
    fn call(&self, request: Request, reply: Reply);
}

/// The right to answer one call, once; dropped unanswered, the client gets INTERNAL.
pub struct Reply {
    wire: Arc<Wire>,
    stream_id: u32,
    answered: bool,
}

impl Reply {
    /// Answers.
    pub fn send<M: Message>(mut self, answer: Result<M>) {
        let encoded = answer.and_then(|m| m.write_to_bytes().during(|| "encode a ttrpc reply"));
        self.answer(encoded);
    }
    /// Whether the client is still connected is learned only by sending: an answer to nobody is dropped.
    fn answer(&mut self, answer: Result<Vec<u8>>) {
        self.answered = true;
        let mut response = ttrpc::proto::Response::new();
        match answer {
            Ok(payload) => response.payload = payload,
            Err(e) => {
                let status = response.status.mut_or_insert_default();
                status.code = EnumOrUnknown::from_i32(status::code(e.kind()));
                status.message = e.chain();
            }
        }
        let sent = response.write_to_bytes().during(|| "encode a ttrpc reply").and_then(|body| {
            let header = MessageHeader::new_response(self.stream_id, body.len() as u32);
            self.wire.send(header, &body)
        });
        if let Err(e) = sent {
            debug!("ttrpc reply not sent: {}", e.chain());
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.answered {
            self.answer(Err(Error::internal("the handler ended without an answer")));
        }
    }
}

/// A listening socket and what serves it.
pub struct Server {
    listener: UnixListener,
    service: Arc<dyn Service>,
    wake: Wake,
}

struct Connection {
    wire: Arc<Wire>,
    inbox: Inbox,
}

impl Server {
    /// Takes over a bound socket.
    pub fn new(listener: UnixListener, service: Arc<dyn Service>) -> Result<Server> {
        listener.set_nonblocking(true).during(|| "make a ttrpc listener non-blocking")?;
        Ok(Server { listener, service, wake: Wake::new()? })
    }
    /// Serves until told to stop.
    pub fn serve(&self, stop: &Stop) {
        let mut connections: Vec<Connection> = vec![];
        while !stop.stopped() {
            let ready = self.wait(stop, &connections);
            self.wake.clear();
            let mut kept = Vec::with_capacity(connections.len());
            for (mut connection, events) in connections.drain(..).zip(ready) {
                match self.turn(&mut connection, events) {
                    Peer::Open => kept.push(connection),
                    Peer::Gone => connection.wire.close(),
                }
            }
            connections = kept;
            while let Ok((stream, _)) = self.listener.accept() {
                match Wire::new(stream, self.wake.clone()) {
                    Ok(wire) => connections.push(Connection { wire: Arc::new(wire), inbox: Inbox::default() }),
                    Err(e) => debug!("ttrpc connection refused: {}", e.chain()),
                }
            }
        }
        for connection in connections {
            connection.wire.close();
        }
    }
    fn wait(&self, stop: &Stop, connections: &[Connection]) -> Vec<PollFlags> {
        let (stop_fd, wake_fd, listen_fd) = (stop.fd(), self.wake.fd(), self.listener.as_fd());
        let mut fds = vec![
            PollFd::from_borrowed_fd(stop_fd, PollFlags::IN),
            PollFd::from_borrowed_fd(wake_fd, PollFlags::IN),
            PollFd::from_borrowed_fd(listen_fd, PollFlags::IN),
        ];
        for connection in connections {
            let out = if connection.wire.pending() { PollFlags::OUT } else { PollFlags::empty() };
            fds.push(PollFd::from_borrowed_fd(connection.wire.fd(), PollFlags::IN | out));
        }
        let _ = poll(&mut fds, None);
        fds[3..].iter().map(|f| f.revents()).collect()
    }
    fn turn(&self, connection: &mut Connection, events: PollFlags) -> Peer {
        if events.is_empty() {
            return Peer::Open;
        }
        if events.contains(PollFlags::OUT) && connection.wire.flush().is_err() {
            return Peer::Gone;
        }
        if !events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return Peer::Open;
        }
        let (wire, service) = (&connection.wire, &self.service);
        connection.inbox.receive(wire, |header, body| {
            if header.type_ != MESSAGE_TYPE_REQUEST {
                return;
            }
            let reply = Reply { wire: wire.clone(), stream_id: header.stream_id, answered: false };
            match ttrpc::proto::Request::parse_from_bytes(body) {
                Ok(request) => service.call(open(request), reply),
                Err(e) => reply.send::<ttrpc::proto::Response>(Err(Error::invalid("request is not a ttrpc request").because(e))),
            }
        })
    }
}

fn open(request: ttrpc::proto::Request) -> Request {
    let namespace = request.metadata.into_iter().find(|kv| kv.key == NAMESPACE).map(|kv| kv.value).unwrap_or_default();
    Request {
        service: request.service,
        method: request.method,
        payload: request.payload,
        namespace,
        timeout: u64::try_from(request.timeout_nano).ok().filter(|n| *n > 0).map(Duration::from_nanos),
    }
}
