//! Shim: one connected shim process and the containers that it serves; the last one out shuts it down.
use super::api::Api;
use super::bootstrap::Bootstrap;
use crate::error::{Error, Kind, Result};
use crate::sys::pidfd::Identity;
use crate::thread::lock;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

/// A shim and its connection.
pub struct Shim {
    /// Its program, for `delete`.
    pub program: PathBuf,
    /// Where it listens.
    pub bootstrap: Bootstrap,
    /// Its Task service.
    pub api: Api,
    /// Its process, once it has said it.
    pub process: OnceLock<Identity>,
    state: Mutex<State>,
}

struct State {
    stage: Stage,
    members: BTreeSet<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Serving,
    /// Told to go: the end of its connection is no news.
    Leaving,
    Dead,
}

/// Who is left after a container left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// Others.
    Some,
    /// Nobody: shut it down.
    Nobody,
}

impl Shim {
    /// A connected shim without containers.
    pub fn new(program: PathBuf, bootstrap: Bootstrap, api: Api) -> Shim {
        Shim {
            program,
            bootstrap,
            api,
            process: OnceLock::new(),
            state: Mutex::new(State { stage: Stage::Serving, members: BTreeSet::new() }),
        }
    }
    /// Adds a container.
    pub fn join(&self, id: &str) -> Result<()> {
        let mut state = lock(&self.state);
        if state.stage != Stage::Serving {
            return Err(Error::new(Kind::Unavailable, format!("container \"{id}\": the sandbox's shim is gone")));
        }
        state.members.insert(id.into());
        Ok(())
    }
    /// Takes a container out.
    pub fn leave(&self, id: &str) -> Left {
        let mut state = lock(&self.state);
        if !state.members.remove(id) || !state.members.is_empty() || state.stage != Stage::Serving {
            return Left::Some;
        }
        state.stage = Stage::Leaving;
        Left::Nobody
    }
    /// Its connection is gone: the containers that lost it. None if it was told to go.
    pub fn die(&self) -> Vec<String> {
        let mut state = lock(&self.state);
        if state.stage == Stage::Serving {
            state.stage = Stage::Dead;
            return state.members.iter().cloned().collect();
        }
        vec![]
    }
    /// Whether new containers can join.
    pub fn serves(&self) -> bool {
        lock(&self.state).stage == Stage::Serving
    }
    /// Whether it died.
    pub fn dead(&self) -> bool {
        lock(&self.state).stage == Stage::Dead
    }
}
