//! One pull from its reference to its image record. The order: documents, layers side by side, one sync, snapshots in order,
//! the image record. Until that record nothing of it is visible; a lease keeps the collector away meanwhile.
use super::{Blobs, Names, Pulled, Request, Shared, documents, layers};
use crate::core::image::Image;
use crate::core::lease::{EXPIRE, PULL, Resource};
use crate::core::metadata::time;
use crate::core::snapshot::Snapshotter;
use crate::error::{Context, Error, Result};
use crate::failpoint;
use crate::remote::Session;
use crate::remote::resolve::Found;
use log::{info, warn};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// A dead pull's lease ends by itself after this, even if no daemon comes up to end it.
const LEASE_LIFE: Duration = Duration::from_secs(24 * 3600);

/// What the steps of a pull share.
pub struct Flight {
    /// The puller's parts.
    pub shared: Arc<Shared>,
    /// What is pulled.
    pub request: Request,
    /// The registry.
    pub session: Arc<Session>,
    /// Where layers go.
    pub snapshotter: Arc<dyn Snapshotter>,
    /// ID of the lease.
    pub lease: String,
}

impl Flight {
    /// The namespace.
    pub fn ns(&self) -> &str {
        &self.request.namespace
    }
    /// Keeps things from the collector until the flight ends.
    pub fn keep(&self, resources: impl IntoIterator<Item = Resource>) -> Result<()> {
        self.shared.parts.leases.add_all(self.ns(), &self.lease, resources)
    }
}

/// Pulls; cleans up behind itself if that fails.
pub fn run(shared: Arc<Shared>, request: Request, session: Arc<Session>, snapshotter: Arc<dyn Snapshotter>) -> Result<Pulled> {
    let begun = Instant::now();
    let lease = lease_id();
    let labels = BTreeMap::from([
        (EXPIRE.to_string(), time::format(SystemTime::now() + LEASE_LIFE)),
        (PULL.to_string(), shared.parts.instance.clone()),
    ]);
    let name = session.reference().to_string();
    shared.parts.leases.create(&request.namespace, &lease, labels).during(|| format!("pull {name}"))?;
    let flight = Arc::new(Flight { shared, request, session, snapshotter, lease });
    // The kubelet wants RegistryUnavailable at the very beginning, so what names the image already is not wrapped.
    let named = |e: Error| if e.chain().contains(&name) { e } else { Error::new(e.kind(), format!("pull image \"{name}\"")).because(e) };
    let result = steps(&flight).map_err(named);
    let parts = &flight.shared.parts;
    if let Err(e) = parts.leases.delete(flight.ns(), &flight.lease) {
        warn!("pull of {name}: lease {} stays until it expires: {}", flight.lease, e.chain());
    }
    match &result {
        Ok(pulled) => {
            info!("image {name}: pulled, {}, {} ms", pulled.image.target.digest, begun.elapsed().as_millis());
            if flight.shared.limits.blobs == Blobs::Discard {
                parts.collector.iter().for_each(|collector| collector.schedule());
            }
        }
        Err(e) => {
            info!("image {name}: not pulled after {} ms: {}", begun.elapsed().as_millis(), e.chain());
            if let Some(collector) = &parts.collector {
                collector.schedule();
            }
        }
    }
    result
}

fn steps(flight: &Arc<Flight>) -> Result<Pulled> {
    let found = match &flight.request.target {
        Some(target) => Found { media_type: target.media_type.clone(), digest: target.digest.clone(), size: target.size, bytes: None },
        None => flight.session.resolve()?,
    };
    let image = documents::fetch(flight, found)?;
    layers::fetch_and_unpack(flight, &image)?;
    flight.session.check()?;
    let reference = flight.session.reference();
    let id = image.resolved.id().clone();
    let record = |name: String| Image::new(name, image.target.clone(), flight.request.labels.clone());
    let mut names = match flight.request.names {
        Names::Kept => return Ok(Pulled { image: record(reference.to_string()), id, names: vec![] }),
        Names::Reference => vec![reference.to_string()],
        Names::All => vec![reference.to_string(), format!("{}@{}", reference.name(), image.target.digest), id.to_string()],
    };
    // Who pulls by digest has said that name already.
    names.dedup();
    failpoint::reach("pull-before-commit");
    let stored = flight.shared.parts.images.upsert_all(flight.ns(), names.iter().cloned().map(record).collect())?;
    let image = stored.into_iter().next().ok_or_else(|| Error::internal(format!("image {reference}: not stored")))?;
    Ok(Pulled { image, id, names })
}

/// Unique on this machine: the time in nanoseconds and a counter.
fn lease_id() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("pull-{now:x}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}
