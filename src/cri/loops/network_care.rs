//! Network care: attachments of pods that are gone, which no plugin would take off at the start, are tried again with growing
//! pauses. It ends with the last of them; nobody else would ever come back to them.
use crate::call::Call;
use crate::cri::NAMESPACE;
use crate::cri::networks::Networks;
use crate::thread::Stop;
use log::{info, warn};
use std::collections::BTreeSet;
use std::time::Duration;

/// First and longest pause before another try.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// For one sandbox.
const LIMIT: Duration = Duration::from_secs(60);

/// The loop `cni-care`; `left` are the sandboxes.
pub fn run(networks: &Networks, mut left: BTreeSet<String>, stop: &Stop) {
    let mut pause = PAUSES.0;
    while !left.is_empty() && !stop.sleep(pause) {
        left.retain(|id| match networks.detach(&Call::background(NAMESPACE).within(LIMIT), id) {
            Ok(()) => {
                info!("sandbox {id}, which is gone: its network attachments are removed now");
                stop.went_well();
                false
            }
            Err(e) => {
                warn!("sandbox {id}, which is gone: its network attachments are still there: {}", e.chain());
                stop.went_wrong(&e);
                true
            }
        });
        pause = (pause * 2).min(PAUSES.1);
    }
}
