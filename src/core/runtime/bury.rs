//! Bury: a shim died. Its containers are killed and removed, their ends told once, within five seconds.
use super::Exit;
use super::leftovers;
use super::shim::Shim;
use super::task::{Task, Turn};
use super::tasks::Shared;
use log::{error, info, warn};
use std::sync::Arc;
use std::time::Duration;

/// Shorter than the five seconds in which an end must be told.
const DELETE_LIMIT: Duration = Duration::from_secs(4);

impl Shared {
    /// The connection to a shim ended. Runs on the mux thread, so the work goes to the pool.
    pub fn lost(self: &Arc<Self>, namespace: &str, shim: &Arc<Shim>) {
        if self.stop.stopped() {
            return;
        }
        let members = shim.die();
        if !members.is_empty() {
            error!("shim of {namespace}/{}: it is gone; its containers are cleaned up", members.join(", "));
        }
        for id in members {
            let Some(task) = self.get(namespace, &id) else { continue };
            // A namesake that was made meanwhile has a shim of its own.
            if task.shim().is_some_and(|s| Arc::ptr_eq(&s, shim)) {
                let shared = self.clone();
                self.care.now(move || shared.bury(&task));
            }
        }
    }
    /// Cleans up a container without a shim and tells its end.
    pub fn bury(self: &Arc<Self>, task: &Arc<Task>) {
        let Turn::Ours = task.begin_end() else { return };
        let bundle = task.directory();
        let limit = self.config.timeouts.cleanup.min(DELETE_LIMIT);
        let exit = match self.binaries.delete(task.program(), bundle, limit) {
            Ok((_, exit)) => exit,
            Err(e) => {
                warn!("task {}: {}; its cgroup is killed instead", task.id(), e.chain());
                Exit::killed()
            }
        };
        // Also after a success: nothing of the container may run on.
        leftovers::clear(bundle, &self.stop);
        let exit = task.init().exited(exit);
        for process in task.execs() {
            let exit = process.exited(Exit::killed());
            // One that was never started has no end to tell.
            if process.pid() != 0 {
                self.publish_exit(task, &process, exit);
            }
        }
        self.publish_exit(task, &task.init(), exit);
        self.publish_delete(task, task.pid(), exit);
        self.forget(task);
        task.end(exit);
        self.logs.remove(bundle);
        self.remove_bundle(bundle, 5);
        info!("task {}: cleaned up after its shim, exit code {}", task.id(), exit.code);
    }
}
