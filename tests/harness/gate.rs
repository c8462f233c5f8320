//! A forwarder before a registry that lets so many bytes through and then holds the line: whoever pulls through it is in
//! the middle of the pull for as long as the story wants, however fast the machine is.
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// The forwarder; its threads end with the process.
pub struct Gate {
    /// `127.0.0.1:<port>`, to be pulled from.
    pub host: String,
    state: Arc<(Mutex<State>, Condvar)>,
}

struct State {
    left: usize,
    open: bool,
    /// Answers that wait at the gate.
    held: usize,
}

impl Gate {
    /// Before `registry` (`127.0.0.1:<port>`): all its answers together get `bytes` through, until the gate opens.
    pub fn before(registry: &str, bytes: usize) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let state = Arc::new((Mutex::new(State { left: bytes, open: false, held: 0 }), Condvar::new()));
        let (registry, shared) = (registry.to_string(), state.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().filter_map(Result::ok) {
                let Ok(server) = TcpStream::connect(&registry) else { continue };
                let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || forward(from_client, to_server, |_| {}));
                let shared = shared.clone();
                std::thread::spawn(move || forward(server, client, |count| pass(&shared, count)));
            }
        });
        Gate { host, state }
    }
    /// Waits until an answer is held: the pull is under way and cannot end.
    #[track_caller]
    pub fn wait_held(&self) {
        super::wait_until("the pull to reach the gate", Duration::from_secs(20), || self.state.0.lock().unwrap().held > 0);
    }
    /// From now on all passes.
    pub fn open(&self) {
        self.state.0.lock().unwrap().open = true;
        self.state.1.notify_all();
    }
}

/// Waits until `count` bytes may pass.
fn pass(state: &(Mutex<State>, Condvar), count: usize) {
    let mut now = state.0.lock().unwrap();
    if !now.open && now.left < count {
        now.held += 1;
        now = state.1.wait_while(now, |now| !now.open).unwrap();
        now.held -= 1;
    }
    now.left = now.left.saturating_sub(count);
}

fn forward(mut from: TcpStream, mut to: TcpStream, may: impl Fn(usize)) {
    let mut buffer = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        may(count);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
