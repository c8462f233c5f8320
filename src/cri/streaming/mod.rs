//! Streaming: Exec, Attach and PortForward answer with an URL; here is the server behind it, for kubelets and crictl.
//!
//! One thread, `stream-loop`, owns all connections and moves all bytes, without ever blocking: sockets, FIFOs and TLS are
//! polled together, and what only waits costs no thread. What blocks, starting a command or dialling a port, is a short job in
//! the pool `stream-job`, which never has more than 64 threads. So 200 open commands are 200 sockets and their FIFOs, one thread, and buffers that are let go when idle.
//!
//! ```text
//! client ── Socket (tcp, tls) ── Wire (spdy, websocket: no I/O) ── session (remote, forward) ── pipes ── FIFOs, pod's socket
//! ```
//! Memory a connection is bounded: each direction of a stream stops reading its source once some 32 or 64 KiB wait. A client that is
//! gone takes everything along: descriptors, the command's stdin, and a terminal's command gets SIGHUP.
mod attach;
mod connection;
mod exec;
mod forward;
mod http;
mod job;
mod pipes;
mod poll;
mod remote;
mod server;
mod spdy;
mod status;
mod tls;
mod token;
mod websocket;
mod wire;

pub use exec::running;
pub use server::Server;

use crate::config::CriServer;
use crate::error::{Context, Error, Result};
use http::Service;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use token::Tokens;

/// What a client may come for.
pub enum Request {
    /// A command.
    Exec(Exec),
    /// A running container.
    Attach(Attach),
    /// Ports of a pod.
    Forward(Forward),
}

/// Which streams the client will use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Streams {
    /// Input.
    pub stdin: bool,
    /// Output.
    pub stdout: bool,
    /// Error output.
    pub stderr: bool,
    /// Whether they are a terminal.
    pub tty: bool,
}

impl Streams {
    /// What can never work is refused before a client comes.
    pub fn check(self) -> Result<()> {
        if self.tty && self.stderr {
            return Err(Error::invalid("tty and stderr cannot both be true: a terminal has one output"));
        }
        if !self.stdin && !self.stdout && !self.stderr {
            return Err(Error::invalid("one of stdin, stdout and stderr must be true"));
        }
        Ok(())
    }
}

/// A command to run in a container.
pub struct Exec {
    /// Container ID.
    pub container: String,
    /// The command.
    pub cmd: Vec<String>,
    /// Its streams.
    pub streams: Streams,
}

/// A container to attach to.
pub struct Attach {
    /// Container ID.
    pub container: String,
    /// Its streams.
    pub streams: Streams,
}

/// Ports to forward.
pub struct Forward {
    /// Sandbox ID.
    pub sandbox: String,
    /// Ports, for clients that cannot name them later.
    pub ports: Vec<u16>,
}

impl Request {
    fn service(&self) -> Service {
        match self {
            Request::Exec(_) => Service::Exec,
            Request::Attach(_) => Service::Attach,
            Request::Forward(_) => Service::Forward,
        }
    }
}

/// Where granted requests wait, and what their URLs begin with.
pub struct Front {
    tokens: Tokens,
    base: String,
}

impl Front {
    /// Grants a request; the URL for its client, good once and for a minute.
    pub fn grant(&self, request: Request) -> Result<String> {
        let service = request.service().name();
        Ok(format!("{}/{service}/{}", self.base, self.tokens.grant(request)?))
    }
}

/// Listens where the config says; "" is the address with which this host goes out.
pub fn bind(config: &CriServer) -> Result<(Front, Server)> {
    let address = &config.stream_server_address;
    let ip = if address.is_empty() { own_address().to_string() } else { address.clone() };
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip };
    let at = format!("{host}:{}", config.stream_server_port);
    let what = || format!("listen for streams at stream_server_address:stream_server_port {at}");
    let listener = TcpListener::bind(&at).during(what)?;
    listener.set_nonblocking(true).during(what)?;
    let local = listener.local_addr().during(what)?;
    let acceptor = tls::acceptor(config, local.ip())?;
    let scheme = if acceptor.is_some() { "https" } else { "http" };
    let front = Front { tokens: Tokens::default(), base: format!("{scheme}://{local}") };
    Ok((front, Server::new(listener, acceptor, config.stream_idle_timeout.limit())?))
}

/// Nothing is sent: connecting a UDP socket only chooses a route.
fn own_address() -> IpAddr {
    let chosen = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|s| s.connect(("192.0.2.1", 9)).and_then(|()| s.local_addr()));
    chosen.map_or(Ipv4Addr::LOCALHOST.into(), |a| a.ip())
}
