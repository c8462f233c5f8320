//! Creations: names being created or taken. A retry of a call that its client gave up waits for the first attempt and gets its
//! result; a name whose holder was handed over is refused.
use crate::call::Call;
use crate::error::{Error, Kind, Result};
use crate::thread::lock;
use crossbeam_channel::{Receiver, Sender, bounded, select};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Names of one kind of object.
#[derive(Default)]
pub struct Creations {
    slots: Mutex<HashMap<String, Slot>>,
}

enum Slot {
    Creating(Arc<Flight>),
    /// Made, but the client of the creating call was gone before the answer.
    Unclaimed(String),
    Taken(String),
}

struct Flight {
    landed: Receiver<std::convert::Infallible>,
    result: Mutex<Option<Result<String, (Kind, String)>>>,
}

/// What a caller who asks for a name gets.
pub enum Begun {
    /// The name is the caller's to create.
    Mine(Creation),
    /// It was created for an earlier attempt of the same client: this is its ID.
    Made(String),
}

/// A name held while its object is made; dropped without [`Creation::done`], the name is free again.
pub struct Creation {
    names: Arc<Creations>,
    name: String,
    flight: Arc<Flight>,
    landing: Option<Sender<std::convert::Infallible>>,
}

impl Creations {
    /// Takes the name, or joins the attempt that has it.
    pub fn begin(self: &Arc<Self>, call: &Call, object: &str, name: &str) -> Result<Begun> {
        let flight = {
            let mut slots = lock(&self.slots);
            match slots.get(name) {
                None => {
                    let (landing, landed) = bounded(0);
                    let flight = Arc::new(Flight { landed, result: Mutex::default() });
                    slots.insert(name.into(), Slot::Creating(flight.clone()));
                    return Ok(Begun::Mine(Creation { names: self.clone(), name: name.into(), flight, landing: Some(landing) }));
                }
                Some(Slot::Taken(id)) => {
                    let text = format!("{object} name \"{name}\" is reserved for \"{id}\"; remove that one first");
                    return Err(Error::new(Kind::AlreadyExists, text));
                }
                Some(Slot::Unclaimed(id)) => {
                    let id = id.clone();
                    slots.insert(name.into(), Slot::Taken(id.clone()));
                    return Ok(Begun::Made(id));
                }
                Some(Slot::Creating(flight)) => flight.clone(),
            }
        };
        select! {
            recv(flight.landed) -> _ => {}
            recv(call.done()) -> _ => return call.check().and(Err(Error::new(Kind::Cancelled, "the client has cancelled the call"))),
        }
        let result = lock(&flight.result).clone();
        match result {
            Some(Ok(id)) => {
                lock(&self.slots).insert(name.into(), Slot::Taken(id.clone()));
                Ok(Begun::Made(id))
            }
            Some(Err((kind, text))) => Err(Error::new(kind, text)),
            None => Err(Error::internal(format!("the first attempt to create {object} \"{name}\" ended without a result"))),
        }
    }
    /// Takes a name for an object that was there before this start.
    pub fn adopt(&self, name: &str, id: &str) {
        lock(&self.slots).insert(name.into(), Slot::Taken(id.into()));
    }
    /// The object is gone: its name is free.
    pub fn free(&self, name: &str, id: &str) {
        let mut slots = lock(&self.slots);
        if matches!(slots.get(name), Some(Slot::Taken(held) | Slot::Unclaimed(held)) if held == id) {
            slots.remove(name);
        }
    }
}

impl Creation {
    /// The object stands. `call` tells whether its client still listens: if not, a retry may claim it.
    pub fn done(mut self, call: &Call, id: &str) {
        *lock(&self.flight.result) = Some(Ok(id.into()));
        let slot = if call.cancelled() { Slot::Unclaimed(id.into()) } else { Slot::Taken(id.into()) };
        lock(&self.names.slots).insert(self.name.clone(), slot);
        self.landing.take();
    }
    /// The attempt failed; those who joined get the same error.
    pub fn failed(self, error: &Error) {
        *lock(&self.flight.result) = Some(Err((error.kind(), error.chain())));
    }
}

impl Drop for Creation {
    fn drop(&mut self) {
        if self.landing.is_some() {
            lock(&self.names.slots).remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mine(names: &Arc<Creations>, call: &Call) -> Creation {
        match names.begin(call, "sandbox", "web").unwrap() {
            Begun::Mine(c) => c,
            Begun::Made(id) => panic!("made {id}"),
        }
    }

    #[test]
    fn a_retry_joins_the_first_attempt() {
        let names = Arc::<Creations>::default();
        let (first, alive) = Call::new("k8s.io", "t", None);
        let creation = mine(&names, &first);
        drop(alive);
        let (names2, (retry, _alive)) = (names.clone(), Call::new("k8s.io", "t", None));
        std::thread::scope(|s| {
            let joined = s.spawn(move || names2.begin(&retry, "sandbox", "web"));
            std::thread::sleep(std::time::Duration::from_millis(20));
            creation.done(&first, "id1");
            assert!(matches!(joined.join().unwrap().unwrap(), Begun::Made(id) if id == "id1"));
        });
        let (third, _a) = Call::new("k8s.io", "t", None);
        assert_eq!(names.begin(&third, "sandbox", "web").err().unwrap().kind(), Kind::AlreadyExists);
    }

    #[test]
    fn an_unclaimed_result_is_handed_over_once_and_a_failed_name_is_free() {
        let names = Arc::<Creations>::default();
        let (call, alive) = Call::new("k8s.io", "t", None);
        let creation = mine(&names, &call);
        drop(alive);
        creation.done(&call, "id1");
        let (retry, _a) = Call::new("k8s.io", "t", None);
        assert!(matches!(names.begin(&retry, "sandbox", "web").unwrap(), Begun::Made(id) if id == "id1"));
        assert!(names.begin(&retry, "sandbox", "web").is_err());
        names.free("web", "id1");
        mine(&names, &retry).failed(&Error::internal("x"));
        drop(mine(&names, &retry));
    }
}
