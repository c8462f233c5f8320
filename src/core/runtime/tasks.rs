//! Tasks: all containers that run, by namespace and ID; makes new ones.
use super::api::Api;
use super::binary::Binaries;
use super::bootstrap::Bootstrap;
use super::bundle::{self, Bundle};
use super::care::Care;
use super::logs::Logs;
use super::process::Process;
use super::published::{Published, timestamp};
use super::shim::{Left, Shim};
use super::task::Task;
use super::{Config, Create, Exit, Runtime, forward, leftovers};
use crate::call::Call;
use crate::core::events::Bus;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::mount::Mount as WireMount;
use crate::proto::runc_options::Options;
use crate::proto::task_events::TaskExit;
use crate::proto::task_v2::{CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse, WaitRequest, WaitResponse};
use crate::proto::task_v2_names::task as method;
use crate::rpc::ttrpc::Mux;
use crate::sys::mount::Mount;
use crate::sys::pause;
use crate::thread::{Stop, Threads, read, write};
use crate::undo::Undo;
use log::{debug, warn};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

/// How long an exit learned from Wait waits for the shim's own event, so that it does not overtake the shim's start event.
const EVENT_GRACE: Duration = Duration::from_secs(1);
/// How long a fresh shim may refuse connections.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Name of runc's options in an Any.
const RUNC_OPTIONS: &str = "containerd.runc.v1.Options";

/// Every task of the node.
pub struct Tasks {
    pub(super) shared: Arc<Shared>,
    threads: Arc<Threads>,
}

type Key = (String, String);

/// What tasks and their clean-ups share.
pub(super) struct Shared {
    pub config: Config,
    pub binaries: Binaries,
    pub published: Published,
    pub mux: Arc<Mux>,
    pub logs: Arc<Logs>,
    pub care: Care,
    pub stop: Stop,
    tasks: RwLock<BTreeMap<Key, Arc<Task>>>,
}

impl Tasks {
    /// Its loops.
    pub fn threads(&self) -> &Arc<Threads> {
        &self.threads
    }
    /// Starts the loops; [`Tasks::recover`] must run before the first `create`.
    pub fn open(config: Config, events: Arc<Bus>) -> Result<Tasks> {
        let threads = Arc::new(Threads::new()?);
        let shared = Shared {
            binaries: Binaries::new(config.launch.clone()),
            config,
            published: Published::new(events),
            mux: Mux::new(&threads)?,
            logs: Logs::new(&threads)?,
            care: Care::new(&threads)?,
            stop: threads.stop(),
            tasks: RwLock::default(),
        };
        Ok(Tasks { shared: Arc::new(shared), threads })
    }
    /// Finds the tasks of the bundles on disk, cleans up after dead ones, removes half-made ones.
    ///
    /// Shims that do not answer are in the list with their last known PID, and are taken over once they do; containers
    /// whose shim is dead are in it with [`Task::exited`] set.
    pub fn recover(&self) -> Result<Vec<Arc<Task>>> {
        self.shared.recover()
    }
    /// Makes the bundle, gets a shim, creates the container. On error nothing is left.
    pub fn create(&self, call: &Call, create: Create) -> Result<Arc<Task>> {
        self.shared.create(call, create)
    }
    /// The program of our own shim.
    pub fn own_shim(&self) -> Result<PathBuf> {
        self.shared.binaries.locate(&Runtime { name: "io.containerd.cradle.v2".into(), ..Runtime::default() })
    }
    /// A task.
    pub fn get(&self, namespace: &str, id: &str) -> Result<Arc<Task>> {
        self.shared.get(namespace, id).ok_or_else(|| Error::not_found("task", id))
    }
    /// All tasks of a namespace.
    pub fn list(&self, namespace: &str) -> Vec<Arc<Task>> {
        read(&self.shared.tasks).iter().filter(|((n, _), _)| n == namespace).map(|(_, t)| t.clone()).collect()
    }
    /// What serves `containerd.services.events.ttrpc.v1.Events` on the daemon's TTRPC socket.
    pub fn forward(&self) -> forward::Service {
        forward::Service::new(Arc::downgrade(&self.shared))
    }
    /// Names of loops that ended by a panic.
    pub fn panicked(&self) -> Vec<String> {
        self.threads.panicked()
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        // The stop token is up before the connections go, so that their end is not taken for dead shims.
        self.threads.shutdown();
        self.shared.care.close();
        write(&self.shared.tasks).clear();
    }
}

impl Shared {
    pub fn get(&self, namespace: &str, id: &str) -> Option<Arc<Task>> {
        read(&self.tasks).get(&(namespace.to_owned(), id.to_owned())).cloned()
    }
    pub fn insert(&self, task: &Arc<Task>) {
        write(&self.tasks).insert((task.namespace().into(), task.id().into()), task.clone());
    }
    pub fn forget(&self, task: &Task) {
        write(&self.tasks).remove(&(task.namespace().into(), task.id().into()));
    }

    fn create(self: &Arc<Self>, call: &Call, mut create: Create) -> Result<Arc<Task>> {
        let bundle = Bundle::at(&self.config.state, &self.config.root, &call.namespace, &create.id)?;
        let runtime = self.with_default_binary(create.runtime.clone())?;
        let program = self.binaries.locate(&runtime)?;
        bundle.create(&create.spec)?;
        let mut undo = Undo::new();
        let made = bundle.clone();
        undo.push("remove bundle", move || made.remove());
        if create.pause {
            create.rootfs.push(bundle.root_of_program("pause", pause::BYTES)?);
        }
        let shim = match self.shim_of_sandbox(call, &create, &program) {
            Some(shim) => self.share(&bundle, shim)?,
            None => self.start_shim(call, &bundle, program, &runtime)?,
        };
        shim.join(&create.id)?;
        let (own, aborted, at) = (self.clone(), shim.clone(), bundle.clone());
        undo.push("abort container", move || own.abort(&aborted, &at));
        let request = request(&create, &bundle, &runtime);
        let answer: CreateTaskResponse = shim
            .api
            .act(method::CREATE, call, self.config.timeouts.act, &request)
            .during(|| format!("create container \"{}\"", create.id))?;
        undo.keep();
        let init = Process::new("", create.stdio, answer.pid);
        let task = Task::new(Arc::downgrade(self), bundle, shim.program.clone(), Some(shim.clone()), init);
        self.insert(&task);
        self.watch(&task, &task.init());
        // Died in between: its end was told before the task was known.
        if shim.dead() {
            let (own, task) = (self.clone(), task.clone());
            self.care.now(move || own.bury(&task));
        }
        Ok(task)
    }
    /// Runc's options get the OCI runtime that works here, if they name none.
    fn with_default_binary(&self, mut runtime: Runtime) -> Result<Runtime> {
        let Some(binary) = &self.config.default_binary else { return Ok(runtime) };
        let ours = runtime.path.is_none() && matches!(runtime.name.as_str(), "io.containerd.runc.v2" | "io.containerd.cradle.v2");
        if !ours || runtime.options.as_ref().is_some_and(|o| !o.type_url.ends_with(RUNC_OPTIONS)) {
            return Ok(runtime);
        }
        let mut options = match &runtime.options {
            Some(any) => Options::parse_from_bytes(&any.value).during(|| format!("runtime \"{}\": decode options", runtime.name))?,
            None => Options::new(),
        };
        if options.binary_name.is_empty() {
            options.binary_name = binary.to_string_lossy().into();
            let value = options.write_to_bytes().during(|| "encode runc options")?;
            runtime.options = Some(Any { type_url: RUNC_OPTIONS.into(), value, ..Any::new() });
        }
        Ok(runtime)
    }
    fn shim_of_sandbox(&self, call: &Call, create: &Create, program: &Path) -> Option<Arc<Shim>> {
        let sandbox = create.sandbox_id.as_ref().filter(|s| **s != create.id)?;
        let shim = self.get(&call.namespace, sandbox)?.shim()?;
        (shim.serves() && shim.program == *program).then_some(shim)
    }
    /// Containers of a pod go straight to its shim; asking its program would only tell the same address.
    fn share(&self, bundle: &Bundle, shim: Arc<Shim>) -> Result<Arc<Shim>> {
        bundle.write("shim-binary-path", shim.program.as_os_str().as_encoded_bytes())?;
        self.keep_address(bundle, &shim.bootstrap)?;
        Ok(shim)
    }
    fn keep_address(&self, bundle: &Bundle, bootstrap: &Bootstrap) -> Result<()> {
        if bundle.read("address").is_none() {
            bundle.write("address", bootstrap.address.as_bytes())?;
        }
        bundle.write("bootstrap.json", &bootstrap.to_json()?)
    }
    fn start_shim(self: &Arc<Self>, call: &Call, bundle: &Bundle, program: PathBuf, runtime: &Runtime) -> Result<Arc<Shim>> {
        // Before the start, so that a restart knows whom to ask for the clean-up.
        bundle.write("shim-binary-path", program.as_os_str().as_encoded_bytes())?;
        self.logs.add(bundle)?;
        let started = (|| {
            let limit = call.remaining(self.config.timeouts.start)?;
            let bootstrap = self.binaries.start(&program, bundle, runtime.options.as_ref(), limit)?;
            let shim = self.connect(&bundle.namespace, program, bootstrap, CONNECT_LIMIT)?;
            shim.join(&bundle.id)?;
            // Connected first: a shim whose address can't be kept, on a full disk, can still be told to go.
            if let Err(e) = self.keep_address(bundle, &shim.bootstrap) {
                self.leave(&shim, bundle);
                return Err(e);
            }
            Ok(shim)
        })();
        if started.is_err() {
            self.logs.remove(bundle);
        }
        started
    }
    /// Connects; a fresh shim gets a moment to listen.
    pub fn connect(self: &Arc<Self>, namespace: &str, program: PathBuf, bootstrap: Bootstrap, limit: Duration) -> Result<Arc<Shim>> {
        let until = Instant::now() + limit;
        let mut pause = Duration::from_millis(2);
        let client = loop {
            match self.mux.connect(&bootstrap.address) {
                Ok(client) => break client,
                Err(e) if Instant::now() + pause >= until => return Err(e),
                Err(_) if self.stop.sleep(pause) => return Err(Error::new(Kind::Unavailable, "the daemon is stopping")),
                Err(_) => pause = (pause * 2).min(Duration::from_millis(200)),
            }
        };
        let shim = Arc::new(Shim::new(program, bootstrap.clone(), Api::new(client, bootstrap.version)));
        let (shared, dying, own) = (Arc::downgrade(self), Arc::downgrade(&shim), namespace.to_owned());
        shim.api.client().on_close(move || {
            if let (Some(shared), Some(shim)) = (shared.upgrade(), dying.upgrade()) {
                shared.lost(&own, &shim);
            }
        });
        self.identify(namespace, &shim);
        Ok(shim)
    }
    /// Takes back a failed create. The shim's program cleans up too: Go's 1.6 shim leaves a container behind when create fails.
    fn abort(self: &Arc<Self>, shim: &Arc<Shim>, bundle: &Bundle) -> Result<()> {
        let limit = self.config.timeouts.cleanup;
        let call = Call::background(&bundle.namespace).within(limit);
        let mut request = DeleteRequest::new();
        request.id = bundle.id.clone();
        let _ = shim.api.act::<_, DeleteResponse>(method::DELETE, &call, limit, &request);
        if let Err(e) = self.binaries.delete(&shim.program, bundle, limit) {
            debug!("container {}: clean up after a failed create: {}", bundle.id, e.chain());
        }
        leftovers::clear(bundle, &self.stop);
        self.leave(shim, bundle);
        Ok(())
    }
    /// Takes a container out of its shim, which ends with its last one.
    pub fn leave(self: &Arc<Self>, shim: &Shim, bundle: &Bundle) {
        if shim.leave(&bundle.id) == Left::Nobody {
            self.dismiss(shim, bundle);
        }
        self.logs.remove(bundle);
    }
    /// Asks the shim to tell the exit.
    pub fn watch(self: &Arc<Self>, task: &Arc<Task>, process: &Arc<Process>) {
        let Some(shim) = task.shim() else { return };
        let mut request = WaitRequest::new();
        request.id = task.id().into();
        request.exec_id = process.exec_id.clone();
        let (shared, waiting, ended) = (Arc::downgrade(self), Arc::downgrade(task), process.clone());
        let asked = shim.api.start(method::WAIT, task.namespace(), &request, move |answer: Result<WaitResponse>| {
            let (Some(shared), Some(task)) = (shared.upgrade(), waiting.upgrade()) else { return };
            match answer {
                Ok(answer) => shared.ended(&task, &ended, Exit::of(answer.exit_status, answer.exited_at.as_ref())),
                // A shim that is gone tells its end by its connection.
                Err(e) => debug!("task {}: wait: {}", task.id(), e.chain()),
            }
        });
        if let Err(e) = asked {
            debug!("task {}: wait: {}", task.id(), e.chain());
        }
    }
    /// An exit learned from the shim's answer: waiters are told now, subscribers unless the shim's own event comes first.
    fn ended(self: &Arc<Self>, task: &Arc<Task>, process: &Arc<Process>, exit: Exit) {
        let exit = process.exited(exit);
        let (shared, task, process) = (Arc::downgrade(self), task.clone(), process.clone());
        self.care.after(EVENT_GRACE, move || {
            if let Some(shared) = shared.upgrade() {
                shared.publish_exit(&task, &process, exit);
            }
        });
    }
    pub fn publish_exit(&self, task: &Task, process: &Process, exit: Exit) {
        let mut event = TaskExit::new();
        event.container_id = task.id().into();
        event.id = if process.exec_id.is_empty() { task.id().into() } else { process.exec_id.clone() };
        event.pid = process.pid();
        event.exit_status = exit.code;
        event.exited_at = timestamp(exit.at);
        self.published.exit(task.namespace(), &event);
    }
    /// Removes a bundle; a mount that is busy gets some time.
    pub fn remove_bundle(self: &Arc<Self>, bundle: &Bundle, tries: u32) {
        let Err(e) = bundle.remove() else { return };
        warn!("bundle {}/{}: {}", bundle.namespace, bundle.id, e.chain());
        let (shared, bundle) = (Arc::downgrade(self), bundle.clone());
        if tries > 0 {
            self.care.after(Duration::from_secs(2), move || {
                if let Some(shared) = shared.upgrade() {
                    shared.remove_bundle(&bundle, tries - 1);
                }
            });
        }
    }
}

fn request(create: &Create, bundle: &Bundle, runtime: &Runtime) -> CreateTaskRequest {
    let mut request = CreateTaskRequest::new();
    request.id = create.id.clone();
    request.bundle = bundle.path.to_string_lossy().into();
    request.rootfs = create.rootfs.iter().map(wire_mount).collect();
    request.terminal = create.stdio.terminal;
    request.stdin = create.stdio.stdin.clone();
    request.stdout = create.stdio.stdout.clone();
    request.stderr = create.stdio.stderr.clone();
    request.options = runtime.options.clone().into();
    request
}

fn wire_mount(mount: &Mount) -> WireMount {
    let mut wire = WireMount::new();
    wire.type_ = mount.kind.clone();
    wire.source = mount.source.clone();
    wire.target = mount.target.clone().unwrap_or_default();
    wire.options = mount.options.clone();
    wire
}

/// Orphaned work directories go once, at recovery.
pub(super) fn remove_orphans(config: &Config) {
    if let Err(e) = bundle::remove_orphaned_work(&config.state, &config.root) {
        warn!("work directories: {}", e.chain());
    }
}
