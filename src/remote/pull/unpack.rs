//! One layer's stream becomes an active snapshot, is checked against its diff ID, and is published under its chain ID.
use super::SnapshotLabels;
use super::flight::Flight;
use super::layers::Work;
use crate::core::content::Digest;
use crate::core::diff::{self, Apply, Limits, Whiteouts};
use crate::core::image::Form;
use crate::core::snapshot::scoped;
use crate::error::{Context, Error, Kind, Result};
use crate::remote::blob::into_error;
use crate::remote::session::Session;
use crate::sys::fs::{make_dir, sync_file_system};
use crate::thread::lock;
use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Longest value of a label that lists layers.
const LABEL_MAX: usize = 4000;
/// Bytes of a file that are written at once.
const PIECE: usize = 128 << 10;

/// A layer in an active snapshot.
pub struct Unpacked {
    index: usize,
    key: String,
    implied: Vec<PathBuf>,
}

/// Unpacks a packed stream into a new active snapshot, on `below` where the snapshotter cannot put it there later.
pub fn unpack(work: &Work, index: usize, below: Option<&str>, packed: impl Read + Send) -> Result<Unpacked> {
    let flight = &work.flight;
    let layer = &work.layers[index];
    let key = work.keys[index].clone();
    flight.snapshotter.prepare(&key, below, &labels(work, index))?;
    lock(&work.active).push(key.clone());
    let root = flight.snapshotter.upper_dir(&key)?;
    if let Form::File(path) = &layer.form {
        write_file(&root, path, packed, &flight.session).during(|| format!("write the artifact's file {}", path.display()))?;
        return Ok(Unpacked { index, key, implied: vec![] });
    }
    let session = flight.session.clone();
    let stream = flight.shared.parts.processors.open(&layer.desc, packed, move || session.check().is_err())?;
    // Only the snapshotter that stacks layers needs marks, and its lowest layer hides nothing.
    let lowest = work.below_count == 0 && index == 0;
    let whiteouts = if flight.snapshotter.rebases() && !lowest { Whiteouts::Overlay } else { Whiteouts::Remove };
    let how = Apply {
        whiteouts,
        userxattr: flight.snapshotter.userxattr(),
        cancel: &|| flight.session.check().is_err(),
        limits: Limits::default(),
    };
    let applied = diff::apply(stream, &root, &how).during(|| format!("unpack layer {}", layer.desc.digest))?;
    if applied.diff_id != layer.diff_id {
        let text =
            format!("layer {}: its content has diff ID {}, the image's config says {}", layer.desc.digest, applied.diff_id, layer.diff_id);
        return Err(Error::new(Kind::FailedPrecondition, text));
    }
    Ok(Unpacked { index, key, implied: applied.implied })
}

/// What the snapshotter is told of the layer, in containerd's words.
fn labels(work: &Work, index: usize) -> BTreeMap<String, String> {
    if work.flight.shared.limits.labels == SnapshotLabels::Bare {
        return BTreeMap::new();
    }
    let mut above = String::new();
    for layer in &work.layers[index..] {
        let text = if above.is_empty() { layer.desc.digest.to_string() } else { format!(",{}", layer.desc.digest) };
        // Labels have a limit; the nearest layers are what a snapshotter looks ahead to.
        if above.len() + text.len() > LABEL_MAX {
            break;
        }
        above.push_str(&text);
    }
    let told = [
        ("image-ref", work.flight.session.reference().to_string()),
        ("manifest-digest", work.manifest.to_string()),
        ("layer-digest", work.layers[index].desc.digest.to_string()),
        ("image-layers", above),
    ];
    told.into_iter().map(|(key, value)| (format!("containerd.io/snapshot/cri.{key}"), value)).collect()
}

/// Writes one blob as a file, readable by all whatever our umask is. Its path is checked, and what is below the root is our own.
fn write_file(root: &Path, path: &Path, mut bytes: impl Read, session: &Session) -> Result<()> {
    for dir in path.ancestors().skip(1).collect::<Vec<_>>().iter().rev().filter(|d| !d.as_os_str().is_empty()) {
        make_dir(&root.join(dir), 0o755).during(|| "make its directory")?;
    }
    let mut file = File::create_new(root.join(path)).during(|| "create it")?;
    file.set_permissions(Permissions::from_mode(0o644)).during(|| "set its mode")?;
    let mut piece = vec![0; PIECE];
    loop {
        session.check()?;
        match bytes.read(&mut piece).map_err(into_error)? {
            0 => return Ok(()),
            n => file.write_all(&piece[..n]).during(|| "write")?,
        }
    }
}

/// Makes an unpacked layer the snapshot of its chain ID; one that is there already is as good.
pub fn publish(work: &Work, chain: &Digest, below: Option<&str>, layer: &Unpacked, alone: bool) -> Result<String> {
    let snapshotter = &work.flight.snapshotter;
    let name = scoped(work.flight.ns(), chain.as_str());
    let mut labels = labels(work, layer.index);
    labels.insert("containerd.io/snapshot.ref".into(), chain.to_string());
    if alone {
        sync(&work.flight)?;
    }
    let done = if snapshotter.rebases() {
        snapshotter.inherit(&layer.key, below, &layer.implied).and_then(|()| snapshotter.commit_onto(&name, &layer.key, below, &labels))
    } else {
        snapshotter.commit(&name, &layer.key, &labels)
    };
    match done {
        Ok(()) => lock(&work.active).retain(|key| *key != layer.key),
        // Another pull with the same layers was faster; ours is removed with what else is left.
        Err(e) if e.kind() == Kind::AlreadyExists => {}
        Err(e) => return Err(e).during(|| format!("publish layer {chain}")),
    }
    Ok(name)
}

/// Writes all that was unpacked to the disk.
pub fn sync(flight: &Flight) -> Result<()> {
    let root = flight.snapshotter.root();
    sync_file_system(root).during(|| format!("write the layers below {} to the disk", root.display()))
}

/// A key for the active snapshot of a layer, named as containerd does, so that tools know what it is.
pub fn active_key(diff_id: &Digest) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("extract-{now}-{} {diff_id}", COUNT.fetch_add(1, Ordering::Relaxed))
}
