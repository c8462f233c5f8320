//! Claims: who works on a blob right now. Pulls of different images that share a layer fetch it once: the second one waits.
use crate::error::Result;
use crate::remote::Session;
use crate::thread::lock;
use crossbeam_channel::{Receiver, Sender, bounded, select};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

/// The claims of all pulls.
#[derive(Clone, Default)]
pub struct Claims(Arc<Mutex<HashMap<String, Receiver<Infallible>>>>);

/// Held while the work goes on.
pub struct Claim {
    claims: Claims,
    key: String,
    _alive: Sender<Infallible>,
}

impl Claims {
    /// Waits until nobody works on `key`, or the session is aborted.
    pub fn take(&self, key: &str, session: &Session) -> Result<Claim> {
        loop {
            let busy = {
                let mut map = lock(&self.0);
                match map.get(key) {
                    Some(busy) => busy.clone(),
                    None => {
                        let (alive, busy) = bounded(0);
                        map.insert(key.to_string(), busy);
                        return Ok(Claim { claims: self.clone(), key: key.to_string(), _alive: alive });
                    }
                }
            };
            select! {
                recv(busy) -> _ => {}
                recv(session.aborted()) -> _ => session.check()?,
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.claims.0).remove(&self.key);
    }
}
