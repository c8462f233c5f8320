//! gRPC bridge: bytes on grpcio's completion queue become `fn(&Call, Request) -> Result<Response>` on our own threads.
//!
//! A handler never runs on the completion-queue thread. Unary methods are registered as server-streaming ones: the wire is the
//! same, and only that sink tells of a client's cancel, deadline or death, which ends the [`Call`]. The few futures of the
//! program live here, driven by grpcio's queue.
use crate::call::Call;
use crate::error::{Error, Kind, Result};
use crate::rpc::status;
use crate::thread::Pool;
use futures_channel::{mpsc, oneshot};
use futures_executor::block_on;
use futures_util::{Sink, SinkExt, Stream, future::poll_fn};
use grpcio::{
    CallOption, ChannelBuilder, Environment, MetadataBuilder, Method, RpcContext, RpcStatus, RpcStatusCode, ServerStreamingSink,
    ServiceBuilder, WriteFlags,
};
use log::debug;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// Header that names the containerd namespace.
const NAMESPACE: &str = "containerd-namespace";

/// Collects methods into one gRPC service table.
pub struct Routes {
    builder: ServiceBuilder,
    namespace: Option<&'static str>,
    registered: Vec<String>,
    /// Older names of the methods, all by their full path.
    aliases: &'static [(&'static str, &'static str)],
}

fn marshaller<T>(of: &grpcio::Marshaller<T>) -> grpcio::Marshaller<T> {
    grpcio::Marshaller { ser: of.ser, de: of.de }
}

/// What answers the next messages of a stream.
pub struct Out<T>(mpsc::Sender<T>);

impl<T> Out<T> {
    /// Blocks for flow control; an error when the client is gone.
    pub fn send(&mut self, message: T) -> Result<()> {
        block_on(self.0.send(message)).map_err(|_| Error::new(Kind::Cancelled, "the client has left the stream"))
    }
}

impl Routes {
    /// An empty table; `namespace` is what calls without the header get (CRI's is fixed).
    pub fn new(namespace: Option<&'static str>) -> Routes {
        Routes { builder: ServiceBuilder::new(), namespace, registered: vec![], aliases: &[] }
    }
    /// Unary methods that come from now on are served under their older names too, as pairs of new and old path: for versions of
    /// an API whose messages have the same bytes.
    pub fn also_as(mut self, aliases: &'static [(&'static str, &'static str)]) -> Routes {
        self.aliases = aliases;
        self
    }
    /// Adds a unary method; its handler runs in `lane`.
    pub fn unary<Q: Send + 'static, P: Send + 'static>(
        mut self,
        method: &Method<Q, P>,
        lane: &Pool,
        handler: impl Fn(&Call, Q) -> Result<P> + Send + Sync + 'static,
    ) -> Routes {
        self.registered.push(method.name.to_string());
        let handler = Arc::new(handler);
        let older = self.aliases.iter().filter(|(new, _)| *new == method.name).map(|(_, old)| *old);
        for name in std::iter::once(method.name).chain(older) {
            let (lane, handler, namespace) = (lane.clone(), handler.clone(), self.namespace);
            let method = Method { ty: method.ty, name, req_mar: marshaller(&method.req_mar), resp_mar: marshaller(&method.resp_mar) };
            self.builder = self.builder.add_server_streaming_handler(&method, move |ctx, request, sink| {
                let (call, alive) = call_of(&ctx, namespace);
                let (tx, rx) = oneshot::channel();
                let handler = handler.clone();
                lane.run(move || {
                    let answer = guarded(name, || handler(&call, request));
                    let _ = tx.send(answer);
                });
                ctx.spawn(async move {
                    let _alive = alive;
                    answer_one(sink, rx, name).await;
                });
            });
        }
        self
    }
    /// Adds a server-streaming method.
    pub fn stream<Q: Send + 'static, P: Send + 'static>(
        self,
        method: &Method<Q, P>,
        lane: &Pool,
        handler: impl Fn(&Call, Q, &mut Out<P>) -> Result<()> + Send + Sync + 'static,
    ) -> Routes {
        self.watch(method, lane, |_, request| Ok(request), handler)
    }
    /// Adds a server-streaming method of two steps. `open` runs at once, before any call that the client makes later: what it
    /// subscribes to misses nothing that those calls tell. It must not wait.
    pub fn watch<Q: Send + 'static, S: Send + 'static, P: Send + 'static>(
        mut self,
        method: &Method<Q, P>,
        lane: &Pool,
        open: impl Fn(&Call, Q) -> Result<S> + Send + Sync + 'static,
        handler: impl Fn(&Call, S, &mut Out<P>) -> Result<()> + Send + Sync + 'static,
    ) -> Routes {
        self.registered.push(method.name.to_string());
        let (lane, namespace, name) = (lane.clone(), self.namespace, method.name);
        let (open, handler) = (Arc::new(open), Arc::new(handler));
        self.builder = self.builder.add_server_streaming_handler(method, move |ctx, request, sink| {
            let (call, alive) = call_of(&ctx, namespace);
            // Few: a client that does not read shall hold few messages here.
            let (messages, inbox) = mpsc::channel::<P>(1);
            let (tx, end) = oneshot::channel();
            let handler = handler.clone();
            let opened = guarded(name, || open(&call, request));
            lane.run(move || {
                let mut out = Out(messages);
                let answer = opened.and_then(|opened| guarded(name, || handler(&call, opened, &mut out)));
                drop(out);
                let _ = tx.send(answer);
            });
            ctx.spawn(async move {
                let _alive = alive;
                pump(sink, inbox, end, name).await;
            });
        });
        self
    }
    /// Paths of all methods so far.
    pub fn registered(&self) -> &[String] {
        &self.registered
    }
    /// The table as grpcio wants it.
    pub fn build(self) -> grpcio::Service {
        self.builder.build()
    }
}

/// The owned context of a call, and the guard whose drop cancels it.
fn call_of(ctx: &RpcContext<'_>, namespace: Option<&'static str>) -> (Call, crate::call::Alive) {
    let header =
        ctx.request_headers().iter().find(|(k, _)| k.eq_ignore_ascii_case(NAMESPACE)).map(|(_, v)| String::from_utf8_lossy(v).into_owned());
    // The C core ends the call at its deadline by itself, which cancels it here; grpcio tells no remaining time.
    Call::new(namespace.map(String::from).or(header).unwrap_or_default(), ctx.peer(), None)
}

/// A panic becomes INTERNAL, and the daemon lives.
fn guarded<T>(name: &str, f: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(f))
        .unwrap_or_else(|_| Err(Error::internal(format!("{name}: the handler panicked; see the daemon's log"))))
}

fn rpc_status(name: &str, error: &Error) -> RpcStatus {
    let text = error.chain();
    match error.kind() {
        Kind::NotFound | Kind::Cancelled => debug!("{name}: {text}"),
        kind => log::warn!("{name}: {kind:?}: {text}"),
    }
    RpcStatus::with_message(RpcStatusCode::from(status::code(error.kind())), status::message(&text))
}

async fn answer_one<P>(mut sink: ServerStreamingSink<P>, mut answer: oneshot::Receiver<Result<P>>, name: &'static str) {
    let got = poll_fn(|cx| {
        if let Poll::Ready(answer) = Pin::new(&mut answer).poll(cx) {
            return Poll::Ready(Some(answer));
        }
        match Pin::new(&mut sink).poll_ready(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(None),
            _ => Poll::Pending,
        }
    })
    .await;
    let sent = match got {
        None => return debug!("{name}: cancelled by the client"),
        Some(Ok(Ok(message))) => match sink.feed((message, WriteFlags::default().buffer_hint(true))).await {
            Ok(()) => sink.close().await,
            failed => failed,
        },
        Some(Ok(Err(e))) => sink.fail(rpc_status(name, &e)).await,
        // The lane was closed: the daemon is going down.
        Some(Err(_)) => sink.fail(RpcStatus::with_message(RpcStatusCode::UNAVAILABLE, "the daemon is shutting down".into())).await,
    };
    if let Err(e) = sent {
        debug!("{name}: reply not sent: {e}");
    }
}

async fn pump<P>(mut sink: ServerStreamingSink<P>, mut inbox: mpsc::Receiver<P>, end: oneshot::Receiver<Result<()>>, name: &'static str) {
    loop {
        // The next message or the end of the call, whichever is first.
        let next = poll_fn(|cx| match Pin::new(&mut sink).poll_flush(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(Err(())),
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => Pin::new(&mut inbox).poll_next(cx).map(Ok),
        })
        .await;
        match next {
            Err(()) => return debug!("{name}: the client left the stream"),
            Ok(None) => break,
            Ok(Some(message)) => {
                if sink.feed((message, WriteFlags::default())).await.is_err() {
                    return;
                }
            }
        }
    }
    let sent = match end.await {
        Ok(Ok(())) => sink.close().await,
        Ok(Err(e)) => sink.fail(rpc_status(name, &e)).await,
        Err(_) => sink.fail(RpcStatus::with_message(RpcStatusCode::UNAVAILABLE, "the daemon is shutting down".into())).await,
    };
    if let Err(e) = sent {
        debug!("{name}: stream end not sent: {e}");
    }
}

/// Asks a daemon over its unix socket: for `cradled run` and the tests.
#[derive(Clone)]
pub struct Client {
    channel: grpcio::Client,
    namespace: Option<&'static str>,
}

impl Client {
    /// Connects lazily to a socket path.
    pub fn new(socket: &std::path::Path, max_message: i32) -> Client {
        let environment = Arc::new(Environment::new(1));
        let channel = ChannelBuilder::new(environment)
            .max_receive_message_len(max_message)
            .max_send_message_len(max_message)
            .connect(&format!("unix://{}", socket.display()));
        Client { channel: grpcio::Client::new(channel), namespace: None }
    }
    /// The same connection, with the header that containerd's own services want.
    pub fn in_namespace(&self, namespace: &'static str) -> Client {
        Client { channel: self.channel.clone(), namespace: Some(namespace) }
    }
    /// A unary call, with a time limit.
    pub fn call<Q, P: Unpin>(&self, method: &Method<Q, P>, request: &Q, limit: Duration) -> Result<P> {
        self.channel.unary_call(method, request, self.options(limit)?).map_err(|e| error_of(method.name, e))
    }
    /// A unary call; until its answer is here, `between` runs at each tick.
    pub fn call_while<Q, P: Unpin>(
        &self,
        method: &Method<Q, P>,
        request: &Q,
        limit: Duration,
        (tick, mut between): (Duration, impl FnMut()),
    ) -> Result<P> {
        let answer = self.channel.unary_call_async(method, request, self.options(limit)?);
        let mut answer = answer.map_err(|e| error_of(method.name, e))?;
        // No thread waits for the answer: the completion queue's rings when it is there.
        let (bell, rung) = crossbeam_channel::bounded(1);
        let waker = Waker::from(Arc::new(Bell(bell)));
        loop {
            if let Poll::Ready(answer) = Pin::new(&mut answer).poll(&mut Context::from_waker(&waker)) {
                return answer.map_err(|e| error_of(method.name, e));
            }
            if rung.recv_timeout(tick).is_err() {
                between();
            }
        }
    }
    /// A call that is answered by a stream, with a time limit for all of it.
    pub fn stream<Q, P: Unpin>(&self, method: &Method<Q, P>, request: &Q, limit: Duration) -> Result<Incoming<P>> {
        let messages = self.channel.server_streaming(method, request, self.options(limit)?);
        Ok(Incoming { messages: messages.map_err(|e| error_of(method.name, e))?, name: method.name })
    }
    fn options(&self, limit: Duration) -> Result<CallOption> {
        let options = CallOption::default().timeout(limit);
        let Some(namespace) = self.namespace else { return Ok(options) };
        let mut headers = MetadataBuilder::new();
        let added = headers.add_str(NAMESPACE, namespace).map(drop);
        added.map_err(|e| Error::invalid(format!("namespace \"{namespace}\": cannot be sent")).because(e.to_string()))?;
        Ok(options.headers(headers.build()))
    }
}

/// Wakes whoever waits for a call's answer.
struct Bell(crossbeam_channel::Sender<()>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        // Full = it rings already.
        let _ = self.0.try_send(());
    }
}

/// Messages of a server's stream as they come; dropping it ends the call.
pub struct Incoming<P> {
    messages: grpcio::ClientSStreamReceiver<P>,
    name: &'static str,
}

impl<P> Iterator for Incoming<P> {
    type Item = Result<P>;

    fn next(&mut self) -> Option<Result<P>> {
        let next = block_on(poll_fn(|cx| Pin::new(&mut self.messages).poll_next(cx)));
        next.map(|message| message.map_err(|e| error_of(self.name, e)))
    }
}

fn error_of(name: &str, e: grpcio::Error) -> Error {
    match e {
        grpcio::Error::RpcFailure(s) => status::error(s.code().into(), s.message().to_string()),
        other => Error::new(Kind::Unavailable, format!("call {name}")).because(other.to_string()),
    }
}

/// A listening gRPC server. Dropping it, or [`Server::close`], ends all calls.
pub struct Server(grpcio::Server);

impl Server {
    /// Listens on a unix socket.
    pub fn listen(path: &std::path::Path, services: Vec<grpcio::Service>, max_receive: u32, max_send: u32) -> Result<Server> {
        let environment = Arc::new(grpcio::EnvBuilder::new().cq_count(1).name_prefix("grpc").build());
        let limit = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        let args = ChannelBuilder::new(environment.clone())
            .max_receive_message_len(limit(max_receive))
            .max_send_message_len(limit(max_send))
            .build_args();
        let mut builder = grpcio::ServerBuilder::new(environment).channel_args(args);
        for service in services {
            builder = builder.register_service(service);
        }
        let failed = |e: grpcio::Error| Error::new(Kind::Unavailable, format!("listen on {}", path.display())).because(e.to_string());
        let mut server = builder.build().map_err(failed)?;
        server.add_listening_port(format!("unix:{}", path.display()), grpcio::ServerCredentials::insecure()).map_err(failed)?;
        server.start();
        Ok(Server(server))
    }
    /// Takes no more calls and ends those that run.
    pub fn close(mut self) {
        let ended = self.0.shutdown();
        self.0.cancel_all_calls();
        if let Err(e) = block_on(ended) {
            debug!("gRPC server: {e}");
        }
    }
}
