//! Task: one container in its shim. Every call has a limit; its exit is known once.
//!
//! ```text
//! Live ── delete, or its shim died ──> Ending ──> Ended(exit)
//!   ^───────── the delete failed ─────────┘
//! ```
use super::api::{Api, Health};
use super::bundle::{Bundle, check_id};
use super::process::Process;
use super::published::timestamp;
use super::shim::Shim;
use super::tasks::Shared;
use super::{Exec, Exit, State, Stdio};
use crate::call::Call;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::cradle::{AttachRequest, LogStatusRequest, LogStatusResponse, ReopenLogRequest};
use crate::proto::cradle_names::cradle;
use crate::proto::runc_options::CheckpointOptions;
use crate::proto::task_events::TaskDelete;
use crate::proto::task_v2::{
    CheckpointTaskRequest, CloseIORequest, DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest,
    PidsResponse, ResizePtyRequest, ResumeRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
    UpdateTaskRequest,
};
use crate::proto::task_v2_names::task as method;
use crate::rpc::ttrpc::Method;
use crate::thread::lock;
use crossbeam_channel::Receiver;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::empty::Empty;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long a deletion waits for another one of the same task.
const DELETE_JOIN: Duration = Duration::from_secs(30);

/// Type of an exec's spec, as containerd's clients name it.
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// Type of an update's resources.
const RESOURCES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
/// Type of a checkpoint's options.
const CHECKPOINT_TYPE: &str = "containerd.runc.v1.CheckpointOptions";
/// How long the shim's own delete event is waited for.
const EVENT_GRACE: Duration = Duration::from_secs(1);

/// Where a checkpoint goes; two directories that are there.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint<'a> {
    /// CRIU's images.
    pub images: &'a Path,
    /// CRIU's log.
    pub work: &'a Path,
}

/// A container that was created.
pub struct Task {
    bundle: Bundle,
    program: PathBuf,
    shim: Option<Arc<Shim>>,
    init: Arc<Process>,
    execs: Mutex<BTreeMap<String, Arc<Process>>>,
    stage: Mutex<Stage>,
    /// Told when the stage changes.
    staged: Condvar,
    owner: Weak<Shared>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Live,
    Ending,
    Ended(Exit),
}

/// Whether the end of a task is ours to make.
pub(super) enum Turn {
    Ours,
    Taken,
    Done(Exit),
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "task {}/{} (pid {})", self.namespace(), self.id(), self.pid())
    }
}

impl Task {
    pub(super) fn new(owner: Weak<Shared>, bundle: Bundle, program: PathBuf, shim: Option<Arc<Shim>>, init: Process) -> Arc<Task> {
        let (init, execs) = (Arc::new(init), Mutex::default());
        Arc::new(Task { bundle, program, shim, init, execs, stage: Mutex::new(Stage::Live), staged: Condvar::new(), owner })
    }
    /// containerd namespace.
    pub fn namespace(&self) -> &str {
        &self.bundle.namespace
    }
    /// Container ID.
    pub fn id(&self) -> &str {
        &self.bundle.id
    }
    /// Its directory.
    pub fn bundle(&self) -> &Path {
        &self.bundle.path
    }
    /// PID of its first process on the host; 0 where it is not known.
    pub fn pid(&self) -> u32 {
        self.init.pid()
    }
    /// Streams of its first process.
    pub fn stdio(&self) -> &Stdio {
        &self.init.stdio
    }
    /// How its first process ended, if it is known to have.
    pub fn exited(&self) -> Option<Exit> {
        self.init.exit()
    }
    /// Whether its shim answered last time.
    pub fn health(&self) -> Health {
        self.shim.as_ref().map_or(Health::Silent, |s| s.api.health())
    }
    pub(super) fn directory(&self) -> &Bundle {
        &self.bundle
    }
    pub(super) fn program(&self) -> &Path {
        &self.program
    }
    pub(super) fn shim(&self) -> Option<Arc<Shim>> {
        self.shim.clone()
    }
    pub(super) fn init(&self) -> Arc<Process> {
        self.init.clone()
    }
    pub(super) fn execs(&self) -> Vec<Arc<Process>> {
        lock(&self.execs).values().cloned().collect()
    }
    pub(super) fn process(&self, exec: &str) -> Option<Arc<Process>> {
        if exec.is_empty() { Some(self.init()) } else { lock(&self.execs).get(exec).cloned() }
    }
    pub(super) fn begin_end(&self) -> Turn {
        let mut stage = lock(&self.stage);
        match *stage {
            Stage::Live => {
                *stage = Stage::Ending;
                Turn::Ours
            }
            Stage::Ending => Turn::Taken,
            Stage::Ended(exit) => Turn::Done(exit),
        }
    }
    /// As [`Task::begin_end`], but waits for a deletion that is under way and gives its result.
    fn join_end(&self, call: &Call) -> Result<Turn> {
        let until = Instant::now() + call.remaining(DELETE_JOIN)?;
        let mut stage = lock(&self.stage);
        while *stage == Stage::Ending {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Turn::Taken);
            }
            stage = self.staged.wait_timeout(stage, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(stage);
        Ok(self.begin_end())
    }
    pub(super) fn end(&self, exit: Exit) {
        *lock(&self.stage) = Stage::Ended(exit);
        self.staged.notify_all();
    }
    fn back_to_live(&self) {
        *lock(&self.stage) = Stage::Live;
        self.staged.notify_all();
    }

    fn api(&self) -> Result<&Api> {
        let gone = || Error::new(Kind::Unavailable, format!("task \"{}\": its shim is gone", self.id()));
        self.shim.as_ref().map(|s| &s.api).ok_or_else(gone)
    }
    fn owner(&self) -> Result<Arc<Shared>> {
        self.owner.upgrade().ok_or_else(|| Error::new(Kind::Unavailable, "the daemon is stopping"))
    }
    /// The same call in the task's own namespace.
    fn own(&self, call: &Call) -> Call {
        let mut own = call.clone();
        own.namespace = self.namespace().into();
        own
    }
    fn act<Q: Message, P: Message>(&self, name: &str, call: &Call, request: &Q) -> Result<P> {
        let limit = self.owner()?.config.timeouts.act;
        self.named(name, self.api()?.act(name, &self.own(call), limit, request))
    }
    fn look<Q: Message, P: Message>(&self, name: &str, call: &Call, limit: Duration, request: &Q) -> Result<P> {
        self.named(name, self.api()?.look(name, &self.own(call), limit, request))
    }
    /// Shims rarely say whom their errors are about.
    fn named<P>(&self, what: &str, answer: Result<P>) -> Result<P> {
        answer.map_err(|e| Error::new(e.kind(), format!("task \"{}\": {}", self.id(), what.to_lowercase())).because(e))
    }

    /// Starts its first process and returns the PID.
    pub fn start(&self, call: &Call) -> Result<u32> {
        let request = StartRequest { id: self.id().into(), ..StartRequest::new() };
        let answer: StartResponse = self.act(method::START, call, &request)?;
        self.init.set_pid(answer.pid);
        Ok(answer.pid)
    }
    /// Sends a signal, with `all` to every process of the container.
    pub fn kill(&self, call: &Call, exec: Option<&str>, signal: u32, all: bool) -> Result<()> {
        let exec_id = exec.unwrap_or_default().into();
        let request = KillRequest { id: self.id().into(), exec_id, signal, all, ..KillRequest::new() };
        self.act::<_, Empty>(method::KILL, call, &request).map(drop)
    }
    /// What its first process does.
    pub fn state(&self, call: &Call) -> Result<State> {
        self.state_of(call, "")
    }
    /// What an exec's process does.
    pub fn state_of(&self, call: &Call, exec: &str) -> Result<State> {
        let request = StateRequest { id: self.id().into(), exec_id: exec.into(), ..StateRequest::new() };
        let answer: StateResponse = self.look(method::STATE, call, self.owner()?.config.timeouts.state, &request)?;
        Ok(State::of(&answer))
    }
    /// PIDs of all its processes.
    pub fn pids(&self, call: &Call) -> Result<Vec<u32>> {
        let request = PidsRequest { id: self.id().into(), ..PidsRequest::new() };
        let answer: PidsResponse = self.look(method::PIDS, call, self.owner()?.config.timeouts.state, &request)?;
        Ok(answer.processes.iter().map(|p| p.pid).collect())
    }
    /// Its cgroup's figures, of the type that the Any names.
    pub fn stats(&self, call: &Call) -> Result<Any> {
        let request = StatsRequest { id: self.id().into(), ..StatsRequest::new() };
        let answer: StatsResponse = self.look(method::STATS, call, self.owner()?.config.timeouts.stats, &request)?;
        answer.stats.into_option().ok_or_else(|| Error::internal(format!("task \"{}\": stats: the shim's answer is empty", self.id())))
    }
    /// Writes its processes' state below `images`, and lets them run on. The call's deadline is the limit.
    pub fn checkpoint(&self, call: &Call, how: Checkpoint<'_>) -> Result<()> {
        let path = |p: &Path| p.to_string_lossy().into_owned();
        let options = CheckpointOptions {
            open_tcp: true,
            external_unix_sockets: true,
            file_locks: true,
            terminal: self.stdio().terminal,
            image_path: path(how.images),
            work_path: path(how.work),
            ..CheckpointOptions::default()
        };
        let value = options.write_to_bytes().during(|| "encode the checkpoint's options")?;
        let mut request = CheckpointTaskRequest { id: self.id().into(), path: path(how.images), ..CheckpointTaskRequest::new() };
        request.options = Some(Any { type_url: CHECKPOINT_TYPE.into(), value, ..Any::new() }).into();
        let limit = call.remaining(Duration::MAX)?;
        self.named("checkpoint", self.api()?.act::<_, Empty>(method::CHECKPOINT, &self.own(call), limit, &request)).map(drop)
    }
    /// Changes its limits; `resources` is an OCI LinuxResources as JSON. Annotations are for shims that know some.
    pub fn update(&self, call: &Call, resources: Vec<u8>, annotations: HashMap<String, String>) -> Result<()> {
        let mut request = UpdateTaskRequest { id: self.id().into(), annotations, ..UpdateTaskRequest::new() };
        request.resources = Some(Any { type_url: RESOURCES_TYPE.into(), value: resources, ..Any::new() }).into();
        self.act::<_, Empty>(method::UPDATE, call, &request).map(drop)
    }
    /// Freezes it.
    pub fn pause(&self, call: &Call) -> Result<()> {
        let request = PauseRequest { id: self.id().into(), ..PauseRequest::new() };
        self.act::<_, Empty>(method::PAUSE, call, &request).map(drop)
    }
    /// Thaws it.
    pub fn resume(&self, call: &Call) -> Result<()> {
        let request = ResumeRequest { id: self.id().into(), ..ResumeRequest::new() };
        self.act::<_, Empty>(method::RESUME, call, &request).map(drop)
    }
    /// Adds a process, not yet started.
    pub fn exec(&self, call: &Call, exec: Exec) -> Result<()> {
        check_id("exec ID", &exec.id)?;
        let mut request = ExecProcessRequest { id: self.id().into(), exec_id: exec.id.clone(), ..ExecProcessRequest::new() };
        request.terminal = exec.stdio.terminal;
        request.stdin = exec.stdio.stdin.clone();
        request.stdout = exec.stdio.stdout.clone();
        request.stderr = exec.stdio.stderr.clone();
        request.spec = Some(Any { type_url: PROCESS_TYPE.into(), value: exec.process, ..Any::new() }).into();
        self.act::<_, Empty>(method::EXEC, call, &request)?;
        lock(&self.execs).insert(exec.id.clone(), Arc::new(Process::new(&exec.id, exec.stdio, 0)));
        Ok(())
    }
    /// Starts an added process and returns its PID.
    pub fn start_exec(self: &Arc<Self>, call: &Call, exec: &str) -> Result<u32> {
        let process = self.known(exec)?;
        let request = StartRequest { id: self.id().into(), exec_id: exec.into(), ..StartRequest::new() };
        let answer: StartResponse = self.act(method::START, call, &request)?;
        process.set_pid(answer.pid);
        self.owner()?.watch(self, &process);
        Ok(answer.pid)
    }
    /// Removes an ended exec.
    pub fn delete_exec(&self, call: &Call, exec: &str) -> Result<Exit> {
        let request = DeleteRequest { id: self.id().into(), exec_id: exec.into(), ..DeleteRequest::new() };
        let answer: DeleteResponse = self.act(method::DELETE, call, &request)?;
        let exit = Exit::of(answer.exit_status, answer.exited_at.as_ref());
        let process = lock(&self.execs).remove(exec);
        Ok(process.map_or(exit, |p| p.exited(exit)))
    }
    /// Sets the size of a pty.
    pub fn resize(&self, call: &Call, exec: Option<&str>, width: u32, height: u32) -> Result<()> {
        let exec_id = exec.unwrap_or_default().into();
        let request = ResizePtyRequest { id: self.id().into(), exec_id, width, height, ..ResizePtyRequest::new() };
        self.act::<_, Empty>(method::RESIZE_PTY, call, &request).map(drop)
    }
    /// Closes a process's input.
    pub fn close_io(&self, call: &Call, exec: Option<&str>) -> Result<()> {
        let exec_id = exec.unwrap_or_default().into();
        let request = CloseIORequest { id: self.id().into(), exec_id, stdin: true, ..CloseIORequest::new() };
        self.act::<_, Empty>(method::CLOSE_IO, call, &request).map(drop)
    }
    /// Gets the exit of the first process, or of an exec, once; also when the shim dies.
    pub fn wait(&self, exec: Option<&str>) -> Result<Receiver<Exit>> {
        Ok(self.known(exec.unwrap_or_default())?.wait())
    }
    /// Calls back with the exit of the first process, or of an exec, once; also when the shim dies. The callback must not block.
    pub fn on_exit(&self, exec: Option<&str>, told: impl FnOnce(Exit) + Send + 'static) -> Result<()> {
        self.known(exec.unwrap_or_default())?.tell(Box::new(told));
        Ok(())
    }
    fn known(&self, exec: &str) -> Result<Arc<Process>> {
        self.process(exec).ok_or_else(|| Error::not_found("exec", exec))
    }

    /// Our shim opens the container's log file afresh. `Unimplemented` on others.
    pub fn reopen_log(&self, call: &Call) -> Result<()> {
        self.cradle::<_, Empty>(cradle::REOPEN_LOG, call, &ReopenLogRequest { id: self.id().into(), ..ReopenLogRequest::new() }).map(drop)
    }
    /// What our shim wrote, and what a full disk cost.
    pub fn log_status(&self, call: &Call) -> Result<LogStatusResponse> {
        self.cradle(cradle::LOG_STATUS, call, &LogStatusRequest { id: self.id().into(), ..LogStatusRequest::new() })
    }
    /// Our shim copies output from now on into these FIFOs, and input from one; an empty path is a stream not wanted.
    pub fn attach(&self, call: &Call, exec: Option<&str>, stdio: &Stdio) -> Result<()> {
        let mut request = AttachRequest { id: self.id().into(), exec_id: exec.unwrap_or_default().into(), ..AttachRequest::new() };
        request.stdin = stdio.stdin.clone();
        request.stdout = stdio.stdout.clone();
        request.stderr = stdio.stderr.clone();
        self.cradle::<_, Empty>(cradle::ATTACH, call, &request).map(drop)
    }
    fn cradle<Q: Message, P: Message>(&self, name: &str, call: &Call, request: &Q) -> Result<P> {
        let limit = self.owner()?.config.timeouts.state;
        let to = Method { service: cradle::SERVICE, method: name };
        self.named(name, self.api()?.client().call(to, &self.own(call), limit, request))
    }

    /// Removes an ended container: from its shim, which goes with its last one, and its bundle. Repeating it gives the same exit,
    /// and so does a call that comes meanwhile.
    pub fn delete(self: &Arc<Self>, call: &Call) -> Result<Exit> {
        let shared = self.owner()?;
        match self.join_end(call)? {
            Turn::Ours => {}
            Turn::Done(exit) => return Ok(exit),
            Turn::Taken => return Err(Error::new(Kind::Aborted, format!("task \"{}\": is being deleted", self.id()))),
        }
        let request = DeleteRequest { id: self.id().into(), ..DeleteRequest::new() };
        let answer: Result<DeleteResponse> = self.act(method::DELETE, call, &request);
        let (pid, exit) = match answer {
            Ok(answer) => (answer.pid, Exit::of(answer.exit_status, answer.exited_at.as_ref())),
            // An earlier delete got that far and no further.
            Err(e) if e.is_not_found() => (self.pid(), self.exited().unwrap_or_else(Exit::killed)),
            Err(e) => {
                self.back_to_live();
                let dead = self.shim.as_ref().is_none_or(|s| s.dead());
                if !dead && e.kind() != Kind::Unavailable {
                    return Err(e);
                }
                shared.bury(self);
                return self.exited().ok_or(e);
            }
        };
        Ok(self.finish(&shared, pid, exit))
    }
    fn finish(self: &Arc<Self>, shared: &Arc<Shared>, pid: u32, exit: Exit) -> Exit {
        let known = self.init.exit();
        let exit = self.init.exited(exit);
        if known.is_none() {
            shared.publish_exit_later(self);
        }
        if let Some(shim) = &self.shim {
            shared.leave(shim, &self.bundle);
        }
        shared.remove_bundle(&self.bundle, 5);
        shared.forget(self);
        self.end(exit);
        shared.publish_delete_later(self, pid, exit);
        exit
    }
}

impl Shared {
    fn publish_exit_later(self: &Arc<Self>, task: &Arc<Task>) {
        let (shared, task) = (Arc::downgrade(self), task.clone());
        self.care.after(EVENT_GRACE, move || {
            if let (Some(shared), Some(exit)) = (shared.upgrade(), task.exited()) {
                shared.publish_exit(&task, &task.init, exit);
            }
        });
    }
    fn publish_delete_later(self: &Arc<Self>, task: &Arc<Task>, pid: u32, exit: Exit) {
        let (shared, task) = (Arc::downgrade(self), task.clone());
        self.care.after(EVENT_GRACE, move || {
            if let Some(shared) = shared.upgrade() {
                shared.publish_delete(&task, pid, exit);
            }
        });
    }
    pub(super) fn publish_delete(&self, task: &Task, pid: u32, exit: Exit) {
        let mut event = TaskDelete::new();
        event.container_id = task.id().into();
        event.pid = pid;
        event.exit_status = exit.code;
        event.exited_at = timestamp(exit.at);
        self.published.delete(task.namespace(), &event);
    }
}
