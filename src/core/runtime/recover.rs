//! Recover: finds the tasks of the bundles on disk. All shims are asked at once, and one deadline holds for all of them.
use super::Stdio;
use super::bootstrap::Bootstrap;
use super::bundle::{self, Bundle};
use super::process::Process;
use super::shim::Shim;
use super::task::Task;
use super::tasks::{Shared, remove_orphans};
use super::{State, Status, leftovers};
use crate::call::Call;
use crate::error::{Error, Kind, Result};
use crate::proto::task_v2::{DeleteRequest, DeleteResponse, StateRequest, StateResponse};
use crate::proto::task_v2_names::task as method;
use crossbeam_channel::{Receiver, Sender, unbounded};
use log::{debug, info, warn};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an OCI runtime may still be at a create that a dead daemon asked for.
const CREATE_LIMIT: Duration = Duration::from_secs(60);
/// How often a shim is tried whose backlog is full: it is frozen, and nothing tells when it goes on.
const BUSY_TICK: Duration = Duration::from_secs(5);
/// How often the shim is asked whether it is through.
const CREATE_TICK: Duration = Duration::from_millis(50);

type Answer = (usize, Result<StateResponse>);

/// A bundle whose shim may live.
struct Candidate {
    bundle: Bundle,
    program: PathBuf,
    shim: Result<Arc<Shim>>,
    answer: Option<Result<StateResponse>>,
}

impl Shared {
    pub(super) fn recover(self: &Arc<Self>) -> Result<Vec<Arc<Task>>> {
        let begin = Instant::now();
        let mut candidates = vec![];
        let mut shims = HashMap::new();
        for bundle in bundle::list(&self.config.state, &self.config.root)? {
            match bootstrap_of(&bundle) {
                Some(bootstrap) => candidates.push(self.candidate(bundle, bootstrap, &mut shims)),
                None => {
                    info!("bundle {}/{}: half-made, removed", bundle.namespace, bundle.id);
                    self.remove_bundle(&bundle, 0);
                }
            }
        }
        remove_orphans(&self.config);
        let answers = self.ask(&candidates);
        let until = Instant::now() + self.config.timeouts.state.min(self.config.timeouts.load);
        self.collect(&mut candidates, &answers, until);
        let count = candidates.len();
        let tasks = self.sort_out(candidates);
        info!("tasks: {} of {count} bundles recovered in {} ms", tasks.len(), begin.elapsed().as_millis());
        Ok(tasks)
    }
    fn candidate(self: &Arc<Self>, bundle: Bundle, bootstrap: Bootstrap, shims: &mut HashMap<String, Arc<Shim>>) -> Candidate {
        let program = bundle.read("shim-binary-path").map_or_else(|| PathBuf::from(super::binary::OWN), PathBuf::from);
        let shim = match shims.get(&bootstrap.address) {
            Some(shim) => Ok(shim.clone()),
            // No second try: a live shim listens.
            None => self.connect(&bundle.namespace, program.clone(), bootstrap.clone(), Duration::ZERO),
        };
        let shim = shim.and_then(|s| s.join(&bundle.id).map(|()| s));
        if let Ok(shim) = &shim {
            let fresh = shims.insert(bootstrap.address, shim.clone()).is_none();
            // The log FIFO is that of the container that the shim was started for.
            if (fresh || bundle.path.join("log").exists())
                && let Err(e) = self.logs.add(&bundle)
            {
                warn!("bundle {}/{}: {}", bundle.namespace, bundle.id, e.chain());
            }
        }
        Candidate { bundle, program, shim, answer: None }
    }
    fn ask(self: &Arc<Self>, candidates: &[Candidate]) -> Receiver<Answer> {
        let (tell, answers) = unbounded();
        for (number, candidate) in candidates.iter().enumerate() {
            let Ok(shim) = &candidate.shim else { continue };
            let request = StateRequest { id: candidate.bundle.id.clone(), ..StateRequest::new() };
            let tell_later: Sender<Answer> = tell.clone();
            let asked = shim.api.start(method::STATE, &candidate.bundle.namespace, &request, move |answer| {
                let _ = tell_later.send((number, answer));
            });
            if let Err(e) = asked {
                let _ = tell.send((number, Err(e)));
            }
        }
        answers
    }
    fn collect(&self, candidates: &mut [Candidate], answers: &Receiver<Answer>, until: Instant) {
        let mut open = candidates.iter().filter(|c| c.shim.is_ok()).count();
        while open > 0 {
            let Ok((number, answer)) = answers.recv_deadline(until) else { return };
            open -= 1;
            let candidate = &mut candidates[number];
            // It spoke the other version than it said: the blocking way tries both.
            let answer = match (answer, &candidate.shim) {
                (Err(e), Ok(shim)) if e.kind() == Kind::Unimplemented => self.ask_again(shim, &candidate.bundle),
                (answer, _) => answer,
            };
            candidate.answer = Some(answer);
        }
    }
    fn ask_again(&self, shim: &Shim, bundle: &Bundle) -> Result<StateResponse> {
        let request = StateRequest { id: bundle.id.clone(), ..StateRequest::new() };
        shim.api.act(method::STATE, &Call::background(&bundle.namespace), self.config.timeouts.state, &request)
    }
    fn sort_out(self: &Arc<Self>, candidates: Vec<Candidate>) -> Vec<Arc<Task>> {
        let mut tasks = vec![];
        let (buried, graves) = unbounded::<Arc<Task>>();
        for Candidate { bundle, program, shim, answer } in candidates {
            let pid = pid_hint(&bundle);
            let busy = shim.as_ref().is_err_and(|e| e.kind() == Kind::ResourceExhausted);
            let shim = shim.ok();
            let stdio = answer.as_ref().and_then(|a| a.as_ref().ok()).map_or_else(Stdio::default, |a| State::of(a).stdio);
            let task = Task::new(Arc::downgrade(self), bundle, program, shim.clone(), Process::new("", stdio, pid));
            match (answer, &shim) {
                (Some(Ok(state)), _) => {
                    self.adopt(&task, &state);
                    tasks.push(task);
                }
                (Some(Err(e)), Some(shim)) if unfinished(&e) => self.disown(&task, shim.clone()),
                (None, Some(shim)) => {
                    shim.api.mark_silent();
                    warn!("task {}: its shim does not answer; it is taken over when it goes on", task.id());
                    self.insert(&task);
                    self.ask_patiently(&task, shim);
                    tasks.push(task);
                }
                (None, None) if busy => {
                    warn!("task {}: its shim does not take connections; it is taken over when it goes on", task.id());
                    self.insert(&task);
                    self.try_again(&task);
                    tasks.push(task);
                }
                (answer, _) => {
                    let why = answer.and_then(Result::err).unwrap_or_else(|| Error::new(Kind::Unavailable, "no shim listens"));
                    info!("task {}: cleaning up: {}", task.id(), why.chain());
                    self.insert(&task);
                    let (own, buried) = (self.clone(), buried.clone());
                    self.care.now(move || {
                        own.bury(&task);
                        let _ = buried.send(task);
                    });
                }
            }
        }
        drop(buried);
        tasks.extend(graves.iter());
        tasks
    }
    fn adopt(self: &Arc<Self>, task: &Arc<Task>, answer: &StateResponse) {
        let state = State::of(answer);
        task.init().set_pid(state.pid);
        self.insert(task);
        if let Some(exit) = state.exit.filter(|_| state.status == Status::Stopped) {
            task.init().exited(exit);
        }
        self.watch(task, &task.init());
        if task.shim().is_some_and(|s| s.dead()) {
            let (own, task) = (self.clone(), task.clone());
            self.care.now(move || own.bury(&task));
        }
    }
    /// The shim does not know the container: what there may be of it is removed.
    fn disown(self: &Arc<Self>, task: &Arc<Task>, shim: Arc<Shim>) {
        info!("task {}: unknown to its shim, removed", task.id());
        let (own, task) = (self.clone(), task.clone());
        self.care.now(move || {
            let bundle = task.directory();
            own.revoke(&shim, bundle);
            if let Err(e) = own.binaries.delete(task.program(), bundle, own.config.timeouts.cleanup) {
                warn!("task {}: {}", task.id(), e.chain());
            }
            leftovers::clear(bundle, &own.stop);
            own.leave(&shim, bundle);
            own.forget(&task);
            own.remove_bundle(bundle, 5);
        });
    }
    /// A create that is still going on in the shim must not leave a container behind: it is waited for and deleted.
    fn revoke(&self, shim: &Shim, bundle: &Bundle) {
        let until = Instant::now() + CREATE_LIMIT;
        let (call, limit) = (Call::background(&bundle.namespace), self.config.timeouts.cleanup);
        let request = DeleteRequest { id: bundle.id.clone(), ..DeleteRequest::new() };
        while let Err(e) = shim.api.act::<_, DeleteResponse>(method::DELETE, &call, limit, &request) {
            if e.kind() != Kind::FailedPrecondition || Instant::now() > until || self.stop.sleep(CREATE_TICK) {
                return;
            }
        }
    }
    /// The question waits in the shim's socket until the shim goes on: nothing polls.
    fn ask_patiently(self: &Arc<Self>, task: &Arc<Task>, shim: &Shim) {
        let request = StateRequest { id: task.id().into(), ..StateRequest::new() };
        let (shared, asked) = (Arc::downgrade(self), task.clone());
        let sent = shim.api.start(method::STATE, task.namespace(), &request, move |answer| {
            let Some(shared) = shared.upgrade() else { return };
            let own = shared.clone();
            shared.care.now(move || own.answered_late(&asked, answer));
        });
        if let Err(e) = sent {
            debug!("task {}: {}", task.id(), e.chain());
        }
    }
    /// Connects to a shim that would not be connected to, until it is or is gone.
    fn try_again(self: &Arc<Self>, task: &Arc<Task>) {
        let (shared, task) = (Arc::downgrade(self), task.clone());
        self.care.after(BUSY_TICK, move || {
            let Some(shared) = shared.upgrade().filter(|s| s.is_current(&task)) else { return };
            let bundle = task.directory().clone();
            let Some(bootstrap) = bootstrap_of(&bundle) else { return };
            let Candidate { shim, program, .. } = shared.candidate(bundle.clone(), bootstrap, &mut HashMap::new());
            match shim {
                Ok(shim) => {
                    let init = Process::new("", Stdio::default(), task.pid());
                    let reached = Task::new(Arc::downgrade(&shared), bundle, program, Some(shim.clone()), init);
                    shared.insert(&reached);
                    shared.ask_patiently(&reached, &shim);
                }
                Err(e) if e.kind() == Kind::ResourceExhausted => shared.try_again(&task),
                Err(_) => shared.bury(&task),
            }
        });
    }
    fn is_current(&self, task: &Arc<Task>) -> bool {
        self.get(task.namespace(), task.id()).is_some_and(|t| Arc::ptr_eq(&t, task))
    }
    fn answered_late(self: &Arc<Self>, task: &Arc<Task>, answer: Result<StateResponse>) {
        let (true, Some(shim)) = (self.is_current(task), task.shim()) else { return };
        let answer = match answer {
            Err(e) if e.kind() == Kind::Unimplemented => self.ask_again(&shim, task.directory()),
            answer => answer,
        };
        match answer {
            Ok(answer) => {
                info!("task {}: its shim answers again", task.id());
                shim.api.mark_answering();
                self.adopt(task, &answer);
            }
            Err(e) if unfinished(&e) => self.disown(task, shim),
            // The end of its connection has its own way.
            Err(e) => debug!("task {}: {}", task.id(), e.chain()),
        }
    }
}

/// Whether the shim does not know the container, or does not yet: the daemon died within its create or delete.
fn unfinished(error: &Error) -> bool {
    matches!(error.kind(), Kind::NotFound | Kind::FailedPrecondition)
}

/// Where the bundle's shim listens; shims before 1.7 left only the address.
fn bootstrap_of(bundle: &Bundle) -> Option<Bootstrap> {
    let text = bundle.read("bootstrap.json").or_else(|| bundle.read("address"))?;
    Bootstrap::parse(text.as_bytes()).map_err(|e| warn!("bundle {}/{}: {}", bundle.namespace, bundle.id, e.chain())).ok()
}

/// What the shim noted of the container's first process.
fn pid_hint(bundle: &Bundle) -> u32 {
    bundle.read("init.pid").and_then(|t| t.parse().ok()).unwrap_or(0)
}
