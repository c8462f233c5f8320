//! The layers of one pull: downloaded side by side, unpacked while they come, published in order.
//!
//! A layer is downloaded by one thread, which hashes and stores it, and unpacked by another from the same bytes. Where the
//! snapshotter needs the layers below first, or no unpack slot is free, it is unpacked from the store afterwards.
use super::documents::{self, Documents};
use super::flight::Flight;
use super::pipe::pipe;
use super::unpack::{self, Unpacked};
use crate::core::content::{Digest, Expected, Ingest};
use crate::core::image::Layer;
use crate::core::lease::Resource;
use crate::core::snapshot::{self, scoped};
use crate::error::{Error, Kind, Result};
use crate::remote::blob::{Blob, Part, Wanted, into_error};
use crate::thread::lock;
use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Bytes handed on at once.
const PIECE: usize = 128 << 10;
/// Pause while another client of the store writes the same layer.
const WAIT: Duration = Duration::from_millis(100);

/// The layers that are not unpacked yet.
pub struct Work {
    /// The pull.
    pub flight: Arc<Flight>,
    /// Digest of the manifest.
    pub manifest: Digest,
    /// Their layers; the index counts from the first missing one.
    pub layers: Vec<Layer>,
    /// How many layers below them are there already.
    pub below_count: usize,
    /// The active snapshot that each is unpacked into; the lease keeps them.
    pub keys: Vec<String>,
    next: AtomicUsize,
    /// Active snapshots that were prepared and not published.
    pub active: Mutex<Vec<String>>,
}

/// What a download thread reports: the layer's index and its unpacked form, if it has one already.
type Report = (usize, Result<Option<Unpacked>>);

/// Fetches and unpacks what is missing; on any error nothing stays behind.
pub fn fetch_and_unpack(flight: &Arc<Flight>, image: &Documents) -> Result<()> {
    let snapshotter = &flight.snapshotter;
    let committed =
        |i: &usize| snapshotter.stat(&scoped(flight.ns(), image.chain[*i].as_str())).is_ok_and(|s| s.kind == snapshot::Kind::Committed);
    let done = (0..image.chain.len()).rev().find(committed).map_or(0, |top| top + 1);
    let name = flight.request.snapshotter.clone();
    let kept = image.chain.iter().map(|c| Resource::Snapshot { snapshotter: name.clone(), key: scoped(flight.ns(), c.as_str()) });
    let blobs = image.resolved.layers.iter().map(|l| Resource::Content(l.desc.digest.clone()));
    flight.keep(kept.chain(blobs))?;
    // Asked again under the lease: the collector may just have taken what was there.
    let done = (0..done).rev().find(committed).map_or(0, |top| top + 1);
    let layers = image.resolved.layers[done..].to_vec();
    if layers.is_empty() {
        return Ok(());
    }
    let keys: Vec<String> = layers.iter().map(|l| scoped(flight.ns(), &unpack::active_key(&l.diff_id))).collect();
    flight.keep(keys.iter().map(|key| Resource::Snapshot { snapshotter: name.clone(), key: key.clone() }))?;
    let work = Arc::new(Work {
        flight: flight.clone(),
        manifest: image.resolved.manifest_desc.digest.clone(),
        layers,
        below_count: done,
        keys,
        next: AtomicUsize::new(0),
        active: Mutex::default(),
    });
    let below = done.checked_sub(1).map(|i| image.chain[i].clone());
    let result = run(&work, &image.chain[done..], below);
    for key in std::mem::take(&mut *lock(&work.active)) {
        match flight.snapshotter.remove(&key) {
            Err(e) if !e.is_not_found() => {
                log::warn!("pull of {}: snapshot {key} stays until the next start: {}", flight.session.reference(), e.chain())
            }
            _ => {}
        }
    }
    result
}

fn run(work: &Arc<Work>, chain: &[Digest], below: Option<Digest>) -> Result<()> {
    let flight = &work.flight;
    let (report, reports) = unbounded::<Report>();
    let threads = match flight.shared.limits.max_concurrent_downloads {
        0 => work.layers.len(),
        most => most.min(work.layers.len()),
    };
    for _ in 0..threads {
        let (work, report) = (work.clone(), report.clone());
        flight.shared.fetch.run(move || work.download_loop(&report));
    }
    drop(report);
    let mut below = below.map(|c| scoped(flight.ns(), c.as_str()));
    let mut first_error = None;
    let mut here: BTreeMap<usize, Option<Unpacked>> = BTreeMap::new();
    let mut next = 0;
    // Until all download threads have gone, after an error too: they still hold ingests and snapshots.
    for (index, result) in reports {
        match result {
            Ok(unpacked) => drop(here.insert(index, unpacked)),
            Err(e) => {
                // The first error is the cause; those that the abort below provokes are not.
                first_error.get_or_insert(e);
                flight.session.abort();
            }
        }
        if flight.snapshotter.rebases() || first_error.is_some() {
            continue;
        }
        // Layer by layer: each needs the one below.
        while first_error.is_none() && here.remove(&next).is_some() {
            let step =
                work.unpack_stored(next, below.as_deref()).and_then(|u| unpack::publish(work, &chain[next], below.as_deref(), &u, true));
            match step {
                Ok(key) => below = Some(key),
                Err(e) => {
                    first_error = Some(e);
                    flight.session.abort();
                }
            }
            next += 1;
        }
    }
    if let Some(e) = first_error {
        return Err(e);
    }
    flight.session.check()?;
    if !flight.snapshotter.rebases() {
        return if next == chain.len() { Ok(()) } else { Err(Error::internal("a layer's thread failed")) };
    }
    let unpacked: Vec<Unpacked> = here.into_values().flatten().collect();
    if unpacked.len() != chain.len() {
        return Err(Error::internal("a layer's thread failed"));
    }
    // One sync for all layers, before the first of them is visible: a power cut must not leave a published empty file.
    unpack::sync(flight)?;
    for (layer, id) in unpacked.iter().zip(chain) {
        flight.session.check()?;
        below = Some(unpack::publish(work, id, below.as_deref(), layer, false)?);
    }
    Ok(())
}

impl Work {
    fn download_loop(self: &Arc<Self>, report: &Sender<Report>) {
        loop {
            let index = self.next.fetch_add(1, Ordering::SeqCst);
            if index >= self.layers.len() || self.flight.session.check().is_err() {
                return;
            }
            let result = self.layer(index);
            let failed = result.is_err();
            if report.send((index, result)).is_err() || failed {
                return;
            }
        }
    }

    /// Brings one layer here, and unpacks it if that can be done now.
    fn layer(self: &Arc<Self>, index: usize) -> Result<Option<Unpacked>> {
        let (flight, desc) = (&self.flight, &self.layers[index].desc);
        let claim = flight.shared.claims.take(&format!("{}/{}", flight.ns(), desc.digest), &flight.session)?;
        let unpacked = match self.writer(index)? {
            None => {
                documents::set_labels(flight, &desc.digest, self.source())?;
                None
            }
            Some(ingest) => self.download(index, ingest)?,
        };
        // Others may have the blob now; what follows is this pull's own.
        drop(claim);
        match unpacked {
            Some(unpacked) => Ok(Some(unpacked)),
            None if flight.snapshotter.rebases() => self.unpack_stored(index, None).map(Some),
            None => Ok(None),
        }
    }

    /// An ingest for the layer, or nothing if the blob is here.
    fn writer(&self, index: usize) -> Result<Option<Ingest>> {
        let (flight, desc) = (&self.flight, &self.layers[index].desc);
        loop {
            let expected = Expected { digest: Some(desc.digest.clone()), size: Some(desc.size) };
            match flight.shared.parts.content.writer(flight.ns(), &format!("layer-{}", desc.digest), expected) {
                Ok(ingest) => return Ok(Some(ingest)),
                Err(e) if e.kind() == Kind::AlreadyExists => return Ok(None),
                Err(e) if e.kind() == Kind::Unavailable => flight.session.pause(WAIT)?,
                Err(e) => return Err(e),
            }
        }
    }

    fn source(&self) -> BTreeMap<String, String> {
        let reference = self.flight.session.reference();
        BTreeMap::from([(format!("containerd.io/distribution.source.{}", reference.host), reference.repository.clone())])
    }

    /// Downloads into the ingest, and into an unpack beside it if there is a slot and the bytes come from the first on.
    fn download(self: &Arc<Self>, index: usize, mut ingest: Ingest) -> Result<Option<Unpacked>> {
        let flight = &self.flight;
        let slot = if ingest.offset() == 0 && flight.snapshotter.rebases() { flight.shared.slots.1.try_recv().ok() } else { None };
        let (mut feed, unpacking) = match slot {
            Some(()) => {
                let (feed, drain) = pipe();
                (Some(feed), Some(self.unpack_beside(index, drain)))
            }
            None => (None, None),
        };
        let copied = self.copy(index, &mut ingest, &mut feed);
        if copied.is_ok()
            && let Some(feed) = feed.take()
        {
            feed.finish();
        }
        // Dropping the feed breaks the unpacking's stream, so the wait below ends in any case.
        drop(feed);
        let stored = copied.and_then(|()| ingest.commit(self.source()).map(|_| ()));
        let unpacked = unpacking.map(|u| u.recv().unwrap_or_else(|_| Err(Error::internal("the unpacking thread failed"))));
        // Wrong bytes are the cause, whatever the unpacking made of them.
        stored?;
        unpacked.transpose()
    }

    fn copy(&self, index: usize, ingest: &mut Ingest, feed: &mut Option<super::pipe::Feed>) -> Result<()> {
        let desc = &self.layers[index].desc;
        let wanted = Wanted {
            kind: Part::Blobs,
            digest: desc.digest.clone(),
            size: desc.size,
            media_type: desc.media_type.clone(),
            urls: desc.urls.clone(),
        };
        let mut blob = Blob::new(&self.flight.session, wanted, ingest.offset());
        loop {
            let mut piece = vec![0; PIECE];
            let mut n = 0;
            while n < PIECE {
                match blob.read(&mut piece[n..]).map_err(into_error)? {
                    0 => break,
                    got => n += got,
                }
            }
            if n == 0 {
                return Ok(());
            }
            piece.truncate(n);
            ingest.write_all(&piece).map_err(into_error)?;
            // If the unpacking has failed, the rest is still fetched: only the digest tells whether the bytes are to blame.
            if feed.as_ref().is_some_and(|f| !f.send(piece)) {
                *feed = None;
            }
        }
    }

    /// Starts an unpack of the stream on its own thread; its slot is given back when it ends.
    fn unpack_beside(self: &Arc<Self>, index: usize, drain: super::pipe::Drain) -> Receiver<Result<Unpacked>> {
        let (tell, told) = bounded(1);
        let work = self.clone();
        let slot = Slot(self.flight.shared.slots.0.clone());
        self.flight.shared.unpack.run(move || {
            let result = unpack::unpack(&work, index, None, drain);
            drop(slot);
            let _ = tell.send(result);
        });
        told
    }

    /// Unpacks a layer that is in the store.
    fn unpack_stored(&self, index: usize, below: Option<&str>) -> Result<Unpacked> {
        let flight = &self.flight;
        select! {
            recv(flight.shared.slots.1) -> _ => {}
            recv(flight.session.aborted()) -> _ => flight.session.check()?,
        }
        let _slot = Slot(flight.shared.slots.0.clone());
        let file = flight.shared.parts.content.open_blob(flight.ns(), &self.layers[index].desc.digest)?;
        unpack::unpack(self, index, below, file)
    }
}

/// An unpack slot; dropping gives it back.
struct Slot(Sender<()>);

impl Drop for Slot {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}
