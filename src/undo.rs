//! Undo: a stack of named clean-ups, run backwards on drop unless the work was kept.
use crate::error::Result;
use log::warn;

type Step = Box<dyn FnOnce() -> Result<()> + Send>;

/// Clean-ups of what was built so far.
#[derive(Default)]
pub struct Undo {
    steps: Vec<(&'static str, Step)>,
}

impl Undo {
    /// An empty stack.
    pub fn new() -> Undo {
        Undo::default()
    }
    /// Pushes the reverse of the step that was just done.
    pub fn push(&mut self, name: &'static str, step: impl FnOnce() -> Result<()> + Send + 'static) {
        self.steps.push((name, Box::new(step)));
    }
    /// The work stands: nothing is undone.
    pub fn keep(mut self) {
        self.steps.clear();
    }
    /// Runs all clean-ups now and says which failed; the caller leaves its durable intent for recovery if any did.
    pub fn run(mut self) -> Vec<(&'static str, crate::error::Error)> {
        self.unwind()
    }
    fn unwind(&mut self) -> Vec<(&'static str, crate::error::Error)> {
        let mut failed = vec![];
        while let Some((name, step)) = self.steps.pop() {
            if let Err(e) = step() {
                failed.push((name, e));
            }
        }
        failed
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        for (name, e) in self.unwind() {
            warn!("undo \"{name}\" failed, left for the next start: {}", e.chain());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn steps_run_backwards_unless_kept() {
        let seen = Arc::new(Mutex::new(vec![]));
        let fill = |undo: &mut Undo| {
            for name in ["a", "b"] {
                let seen = seen.clone();
                undo.push(name, move || {
                    seen.lock().unwrap().push(name);
                    Ok(())
                });
            }
        };
        let mut kept = Undo::new();
        fill(&mut kept);
        kept.keep();
        assert!(seen.lock().unwrap().is_empty());
        let mut undone = Undo::new();
        fill(&mut undone);
        drop(undone);
        assert_eq!(*seen.lock().unwrap(), ["b", "a"]);
    }
}
