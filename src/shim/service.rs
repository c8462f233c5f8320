//! Service: the table of calls. What cannot block is answered here on the loop; the rest goes to the pool.
use super::container::Shim;
use super::{create, exec, flow, task};
use crate::error::{Error, Kind, Result};
use crate::proto::task_v2 as t;
use crate::proto::{cradle, cradle_names, task_v2_names, task_v3_names};
use crate::rpc::ttrpc::{Reply, Request, Service};
use crate::thread::Stop;
use protobuf::Message;
use protobuf::well_known_types::empty::Empty;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The shim's two services on one socket.
pub struct Calls {
    /// What they work on.
    pub shim: Arc<Shim>,
    /// Ends the shim.
    pub shutdown: Box<dyn Fn() + Send + Sync>,
    /// Whether it is ending.
    pub stop: Stop,
}

impl Service for Calls {
    fn call(&self, request: Request, reply: Reply) {
        // Versions 2 and 3 of Task have the same messages, field by field.
        match request.service.as_str() {
            task_v2_names::task::SERVICE | task_v3_names::task::SERVICE => self.task(request, reply),
            cradle_names::cradle::SERVICE => self.cradle(request, reply),
            other => reply.send::<Empty>(Err(Error::new(Kind::Unimplemented, format!("service {other}")))),
        }
    }
}

impl Calls {
    fn task(&self, request: Request, reply: Reply) {
        use task_v2_names::task as name;
        match request.method.as_str() {
            name::STATE => self.now(request, reply, task::state),
            name::CREATE => self.later(request, reply, create::create),
            name::START => self.later(request, reply, task::start),
            name::DELETE => self.later(request, reply, task::delete),
            name::PIDS => self.later(request, reply, task::pids),
            name::PAUSE => self.later(request, reply, task::pause),
            name::RESUME => self.later(request, reply, task::resume),
            name::CHECKPOINT => self.later(request, reply, task::checkpoint),
            name::KILL => self.later_if(|q: &t::KillRequest| q.all, request, reply, task::kill),
            name::EXEC => self.now(request, reply, exec::exec),
            name::RESIZE_PTY => self.now(request, reply, task::resize),
            name::CLOSE_IO => self.now(request, reply, task::close_io),
            name::UPDATE => self.later(request, reply, task::update),
            name::WAIT => self.wait(request, reply),
            name::STATS => self.later(request, reply, task::stats),
            name::CONNECT => self.now(request, reply, task::connect),
            name::SHUTDOWN => self.end(request, reply),
            other => reply.send::<Empty>(Err(Error::new(Kind::Unimplemented, format!("method Task.{other}")))),
        }
    }
    fn cradle(&self, request: Request, reply: Reply) {
        use cradle_names::cradle as name;
        match request.method.as_str() {
            name::REOPEN_LOG => self.reopen_log(request, reply),
            name::LOG_STATUS => self.now(request, reply, log_status),
            name::ATTACH => self.attach(request, reply),
            other => reply.send::<Empty>(Err(Error::new(Kind::Unimplemented, format!("method Cradle.{other}")))),
        }
    }
    fn now<Q: Message, P: Message>(&self, request: Request, reply: Reply, f: fn(&Arc<Shim>, Q) -> Result<P>) {
        reply.send(request.decode().and_then(|q| f(&self.shim, q)));
    }
    fn later<Q: Message, P: Message>(&self, request: Request, reply: Reply, f: fn(&Arc<Shim>, Q) -> Result<P>) {
        let shim = self.shim.clone();
        match request.decode::<Q>() {
            Ok(q) => self.shim.pool.run(move || reply.send(f(&shim, q))),
            Err(e) => reply.send::<P>(Err(e)),
        }
    }
    fn later_if<Q: Message, P: Message>(&self, blocks: fn(&Q) -> bool, request: Request, reply: Reply, f: fn(&Arc<Shim>, Q) -> Result<P>) {
        if request.decode().is_ok_and(|q| blocks(&q)) { self.later(request, reply, f) } else { self.now(request, reply, f) }
    }
    /// The answer is parked with the process.
    fn wait(&self, request: Request, reply: Reply) {
        let process = request.decode::<t::WaitRequest>().and_then(|q| self.shim.process(&q.id, &q.exec_id));
        match process {
            Ok(process) => process.wait(Box::new(move |exit| {
                let mut answer = t::WaitResponse::new();
                answer.exit_status = exit.code;
                answer.exited_at = Some(super::clock::timestamp(exit.at)).into();
                reply.send(Ok(answer));
            })),
            Err(e) => reply.send::<t::WaitResponse>(Err(e)),
        }
    }
    /// A shim with containers stays, as containerd's own does.
    fn end(&self, request: Request, reply: Reply) {
        if let Err(e) = request.decode::<t::ShutdownRequest>() {
            return reply.send::<Empty>(Err(e));
        }
        reply.send(Ok(Empty::new()));
        if self.shim.is_empty() && !self.stop.stopped() {
            (self.shutdown)();
        }
    }
    fn reopen_log(&self, request: Request, reply: Reply) {
        let streams = request.decode::<cradle::ReopenLogRequest>().and_then(|q| self.shim.process(&q.id, "")?.streams());
        match streams {
            Ok(streams) => streams.reopen(Box::new(move |done| reply.send(done.map(|()| Empty::new())))),
            Err(e) => reply.send::<Empty>(Err(e)),
        }
    }
    fn attach(&self, request: Request, reply: Reply) {
        let found = request.decode::<cradle::AttachRequest>().and_then(|q| {
            let streams = self.shim.process(&q.id, &q.exec_id)?.streams()?;
            Ok((streams, flow::open_attached(&q.stdin, &q.stdout, &q.stderr)?))
        });
        match found {
            Ok((streams, attach)) => streams.attach(attach, Box::new(move |done| reply.send(done.map(|()| Empty::new())))),
            Err(e) => reply.send::<Empty>(Err(e)),
        }
    }
}

fn log_status(shim: &Arc<Shim>, q: cradle::LogStatusRequest) -> Result<cradle::LogStatusResponse> {
    let streams = shim.process(&q.id, "")?.streams()?;
    let (path, counts) = streams.log.ok_or_else(|| Error::precondition(format!("container {}: has no log file", q.id)))?;
    let mut answer = cradle::LogStatusResponse::new();
    answer.path = path.to_string_lossy().into_owned();
    answer.lines = counts.lines.load(Ordering::Relaxed);
    answer.lost_lines = counts.lost_lines.load(Ordering::Relaxed);
    answer.lost_bytes = counts.lost_bytes.load(Ordering::Relaxed);
    Ok(answer)
}
