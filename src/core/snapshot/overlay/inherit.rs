//! Directories that a layer needed and did not describe look as they do in the layers below; overlayfs shows the topmost one's
//! owner, mode and attributes.
use crate::error::{Context, Result};
use crate::sys::fs::{Metadata, Node, open_dir};
use rustix::fs::FileType;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What a layer says of a path.
enum Said {
    /// It is a directory here; `opaque` if that or one above it hides the layers below.
    Directory { node: Node, opaque: bool },
    /// It is something else, or hidden from here on.
    Hidden,
    /// Nothing; ask the next layer.
    Nothing,
}

/// Gives `upper` the owner, mode and attributes of `below`.
pub(super) fn root(below: &Path, upper: &Path, userxattr: bool) -> Result<()> {
    let copied = open_dir(below).and_then(|from| copy(&Node::Open(from), &Node::Open(open_dir(upper)?), userxattr));
    copied.during(|| format!("make {} look like {}", upper.display(), below.display()))
}

/// Gives each path in `upper` what the nearest of `layers` has for it.
pub(super) fn directories(layers: &[PathBuf], upper: &Path, paths: &[PathBuf], userxattr: bool) -> Result<()> {
    for path in paths {
        inherit(layers, upper, path, userxattr).during(|| format!("take \"{}\" over from the layers below", path.display()))?;
    }
    Ok(())
}

fn inherit(layers: &[PathBuf], upper: &Path, path: &Path, userxattr: bool) -> io::Result<()> {
    let Said::Directory { node: to, opaque: false } = ask(upper, path, userxattr)? else { return Ok(()) };
    for layer in layers {
        match ask(layer, path, userxattr)? {
            Said::Directory { node: from, .. } => return copy(&from, &to, userxattr),
            Said::Hidden => return Ok(()),
            Said::Nothing => {}
        }
    }
    Ok(())
}

/// Looks a path up in one layer as overlayfs does: no link is followed, an opaque directory hides what is below it.
fn ask(layer: &Path, path: &Path, userxattr: bool) -> io::Result<Said> {
    let mut here = Node::Open(open_dir(layer)?);
    let mut opaque = false;
    for part in path.components() {
        match Node::place(here.fd(), part.as_os_str().as_bytes()) {
            Ok(next) if next.kind()? == FileType::Directory => here = Node::directory(here.fd(), part.as_os_str().as_bytes())?,
            Ok(_) => return Ok(Said::Hidden),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(if opaque { Said::Hidden } else { Said::Nothing }),
            Err(e) => return Err(e),
        }
        opaque |= is_opaque(&here, userxattr)?;
    }
    Ok(Said::Directory { node: here, opaque })
}

fn is_opaque(dir: &Node, userxattr: bool) -> io::Result<bool> {
    let name = if userxattr { c"user.overlay.opaque" } else { c"trusted.overlay.opaque" };
    Ok(dir.xattr(name)?.is_some_and(|v| v == b"y"))
}

fn copy(from: &Node, to: &Node, userxattr: bool) -> io::Result<()> {
    let metadata = Metadata::of(&from.stat()?);
    to.set_owner(metadata.uid, metadata.gid)?;
    let own = if userxattr { &b"user.overlay."[..] } else { b"trusted.overlay." };
    for (name, value) in from.xattrs()?.into_iter().filter(|(name, _)| !name.to_bytes().starts_with(own)) {
        to.set_xattr(&name, &value)?;
    }
    to.set_mode(metadata.mode)?;
    to.set_times(&metadata.times)
}
