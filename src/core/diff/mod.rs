//! Diffs: a layer's tar stream becomes files below a directory, and never touches anything outside of it.
//!
//! One pass: what is read is hashed, so the layer's diff ID is known when its last file is written. The caller provides threads,
//! mounts and durability.
mod applier;
mod archive;
mod decompress;
mod pax;
mod processors;
#[cfg(test)]
mod tests;
mod upper;

pub use decompress::{Compression, decompress};
pub use processors::Processors;
pub use upper::write_layer;

use crate::core::content::{Algorithm, Digest, Hasher};
use crate::error::{Context, Error, Kind, Result};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// Bytes that are read and written at once.
const CHUNK: usize = 128 << 10;

/// What becomes of a whiteout, the mark for a file of a lower layer that is deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whiteouts {
    /// It is kept in overlayfs's form: for a directory that will be a layer of an overlay mount above others.
    Overlay,
    /// What it names is removed: for a directory that holds the lower layers' files (a copy or a mount), and for lowest layers.
    Remove,
}

/// Bounds of what a layer may unpack to; none by default.
#[derive(Clone, Copy, Default, Debug)]
pub struct Limits {
    /// Bytes of the uncompressed stream.
    pub bytes: Option<u64>,
    /// Entries.
    pub entries: Option<u64>,
}

/// How to apply a layer.
pub struct Apply<'a> {
    /// Form of whiteouts.
    pub whiteouts: Whiteouts,
    /// Whether overlayfs marks are `user.overlay.*` attributes (`Snapshotter::userxattr`).
    pub userxattr: bool,
    /// Asked every few milliseconds; `true` ends the work with `Cancelled`.
    pub cancel: &'a dyn Fn() -> bool,
    /// Bounds.
    pub limits: Limits,
}

/// A layer that was applied.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Digest of the uncompressed stream.
    pub diff_id: Digest,
    /// Length of the uncompressed stream.
    pub bytes: u64,
    /// Number of entries.
    pub entries: u64,
    /// Directories that entries needed and no entry described, below the root: `Snapshotter::inherit` wants them.
    pub implied: Vec<PathBuf>,
}

/// Unpacks an uncompressed layer below `root`, and reads the stream to its very end.
///
/// A malformed archive is `InvalidArgument`, a hard link to a file that the layer does not hold `FailedPrecondition`, too much
/// `ResourceExhausted`. After an error `root` holds some part of the layer: the caller drops it.
pub fn apply(layer: impl Read, root: &Path, how: &Apply<'_>) -> Result<Applied> {
    let mut stream = Stream { layer, hasher: Hasher::new(Algorithm::Sha256), bytes: 0, how, stopped: None };
    let done = unpack(&mut stream, root, how);
    if let Some(stopped) = stream.stopped {
        return Err(stopped);
    }
    let (entries, implied) = done?;
    Ok(Applied { diff_id: stream.hasher.finish(), bytes: stream.bytes, entries, implied })
}

fn unpack(stream: &mut dyn Read, root: &Path, how: &Apply<'_>) -> Result<(u64, Vec<PathBuf>)> {
    let mut archive = archive::Archive::new(BufReader::with_capacity(CHUNK, stream));
    let mut applier = applier::Applier::new(root, how).during(|| format!("open {} to unpack a layer", root.display()))?;
    let mut entries = 0;
    while let Some(entry) = archive.next_entry()? {
        entries += 1;
        if how.limits.entries.is_some_and(|most| entries > most) {
            return Err(Error::new(Kind::ResourceExhausted, format!("the layer has more than {} entries", entries - 1)));
        }
        applier.entry(&entry, &mut archive).during(|| format!("unpack \"{}\"", entry.path.escape_ascii()))?;
    }
    archive.drain()?;
    Ok((entries, applier.finish()?))
}

/// The stream on its way to the archive reader: hashed, counted, and ended when the caller or a limit says so.
struct Stream<'a, 'b, R> {
    layer: R,
    hasher: Hasher,
    bytes: u64,
    how: &'a Apply<'b>,
    stopped: Option<Error>,
}

impl<R: Read> Read for Stream<'_, '_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if (self.how.cancel)() {
            self.stopped = Some(Error::new(Kind::Cancelled, "unpacking was cancelled"));
            return Err(io::Error::other("cancelled"));
        }
        let got = self.layer.read(buf)?;
        self.hasher.update(&buf[..got]);
        self.bytes += got as u64;
        if let Some(most) = self.how.limits.bytes.filter(|most| self.bytes > *most) {
            self.stopped = Some(Error::new(Kind::ResourceExhausted, format!("the layer is larger than {most} bytes uncompressed")));
            return Err(io::Error::other("too large"));
        }
        Ok(got)
    }
}

/// What reading the stream failed with: damage is the layer's fault, anything else the system's.
fn reading(error: io::Error) -> Error {
    use io::ErrorKind as E;
    match error.kind() {
        E::UnexpectedEof => Error::new(Kind::DataLoss, "the layer's stream ends early").because(error),
        E::InvalidData | E::InvalidInput => Error::new(Kind::DataLoss, "the layer's stream is damaged").because(error),
        _ => Error::internal("read the layer's stream").because(error),
    }
}
