//! Image volumes: images shown read only to a pod's containers. Each image is mounted once a pod, below the pod's directory, until
//! the pod stops; a record of it comes before the mount, so that what a crash leaves is found.
use super::owners::Owners;
use super::runtime::rootfs;
use super::store::image::Image;
use super::store::sandbox::{Sandbox, Snapshot};
use super::{Cri, NAMESPACE, dirs};
use crate::call::Call;
use crate::core::snapshot::{Labels, Snapshotter, scoped};
use crate::error::{Context, Error, Kind, Result};
use crate::proto::cri::{ContainerConfig, Mount};
use crate::sys::{fs, mount};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How the kubelet knows such an error.
const FAILED: &str = "ImageVolumeMountFailed";
/// The collector's mark of what it keeps: the pod's record knows of it and lets go of it.
const ROOT_LABEL: &str = "containerd.io/gc.root";

/// Mounts the images that `config` wants as volumes; their directories and files by container path. The image's ID is put into
/// `config`. The caller has the pod's turn.
pub fn show(cri: &Cri, call: &Call, pod: &str, config: &mut ContainerConfig) -> Result<BTreeMap<String, PathBuf>> {
    let mut shown = BTreeMap::new();
    for mount in config.mounts.iter_mut().filter(|m| m.image.is_some()) {
        let (path, id) = one(cri, call, pod, mount).map_err(failed)?;
        mount.image.mut_or_insert_default().image_ref = id;
        shown.insert(mount.container_path.clone(), path);
    }
    Ok(shown)
}

/// Unmounts all of a pod's, and removes their snapshots; the caller writes down that they are gone. Repeating it is free.
pub fn remove(cri: &Cri, sandbox: &Sandbox) -> Result<()> {
    mount::unmount_tree(&directory(cri, &sandbox.id), mount::UnmountFlags::empty())
        .during(|| format!("unmount the image volumes of pod {}", sandbox.record.name))?;
    for held in sandbox.record.image_volumes.values() {
        super::runtime::teardown::snapshot(cri, &held.snapshotter, &held.key)?;
    }
    Ok(())
}

fn failed(error: Error) -> Error {
    // An image that is not here is no container that is not there.
    let kind = if error.is_not_found() { Kind::FailedPrecondition } else { error.kind() };
    Error::new(kind, format!("{FAILED}: {}", error.chain()))
}

fn directory(cri: &Cri, pod: &str) -> PathBuf {
    cri.dirs.sandbox(pod).join("image-volumes")
}

fn one(cri: &Cri, call: &Call, pod: &str, wanted: &Mount) -> Result<(PathBuf, String)> {
    let name = &wanted.image.image;
    let image = cri.images.resolve(name)?;
    let root = directory(cri, pod).join(image.id.trim_start_matches("sha256:"));
    if !mount::is_mountpoint(&root).unwrap_or(false) {
        let sandbox = cri.sandboxes.by_id.get(pod)?;
        cri.unpack(call, &image, &cri.snapshotter_for(&sandbox.record.handler))?;
        mount_image(cri, &sandbox, &image, &root).during(|| format!("mount image {name}"))?;
    }
    let path = if wanted.image_sub_path.is_empty() {
        root
    } else {
        inside(&root, &wanted.image_sub_path).during(|| format!("image_sub_path {:?} of image {name}", wanted.image_sub_path))?
    };
    Ok((path, image.id.clone()))
}

/// The place of a sub-path, without links from here on.
fn inside(root: &Path, path: &str) -> std::io::Result<PathBuf> {
    let (real, kind) = fs::real_path(root, Path::new(path))?;
    if !matches!(kind, rustix::fs::FileType::Directory | rustix::fs::FileType::RegularFile) {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "is neither a directory nor a regular file"));
    }
    Ok(real)
}

fn mount_image(cri: &Cri, sandbox: &Arc<Sandbox>, image: &Image, root: &Path) -> Result<()> {
    let held = record(cri, sandbox, image)?;
    let snapshotter = cri.ports.snapshotter(&held.snapshotter)?;
    let parent = image.chain_id.as_ref().map(|c| scoped(NAMESPACE, c));
    let owners = Owners::of(&sandbox.record.config, &**snapshotter);
    let mut labels = owners.labels();
    labels.insert(ROOT_LABEL.into(), "image volume".into());
    let shown = if matches!(owners, Owners::GivenAway(_)) { Shown::Copy } else { Shown::View };
    let mounts = snapshot(&**snapshotter, &held.key, parent.as_deref(), (&labels, shown))?;
    if let Owners::GivenAway(_) = owners {
        // Elsewhere, so that what is mounted on `root` is always whole.
        rootfs::with(&cri.dirs.peek(&format!("{}-volume", sandbox.id)), &mounts, |copy| owners.give(copy))?;
    }
    dirs::make(root)?;
    mount::mount_all(&mounts, root).during(|| format!("mount {}", root.display()))?;
    let finished = mount::read_only(root, mount::Depth::One).during(|| format!("make {} read only", root.display()));
    finished.inspect_err(|_| drop(mount::unmount_all(root, mount::UnmountFlags::DETACH)))
}

/// Writes down which snapshot the pod will have.
fn record(cri: &Cri, sandbox: &Arc<Sandbox>, image: &Image) -> Result<Snapshot> {
    if let Some(held) = sandbox.record.image_volumes.get(&image.id) {
        return Ok(held.clone());
    }
    let digits = image.id.trim_start_matches("sha256:");
    let held = Snapshot {
        snapshotter: cri.snapshotter_for(&sandbox.record.handler),
        key: scoped(NAMESPACE, &format!("image-volume-{}-{digits}", sandbox.id)),
        image: image.name(),
    };
    let mut record = sandbox.record.clone();
    record.image_volumes.insert(image.id.clone(), held.clone());
    cri.save_sandbox(&sandbox.id, &record)?;
    cri.sandboxes.by_id.swap(&sandbox.id, |s| s.with_record(record))?;
    Ok(held)
}

/// What of an image the pod gets.
#[derive(Clone, Copy)]
enum Shown {
    /// Its own files.
    View,
    /// A copy, whose owners change.
    Copy,
}

fn snapshot(of: &dyn Snapshotter, key: &str, parent: Option<&str>, (labels, shown): (&Labels, Shown)) -> Result<Vec<mount::Mount>> {
    let make = || match shown {
        Shown::View => of.view(key, parent, labels),
        Shown::Copy => of.prepare(key, parent, labels),
    };
    match make() {
        // Nobody knows how much was done with what an earlier attempt left.
        Err(e) if e.kind() == Kind::AlreadyExists => of.remove(key).and_then(|()| make()),
        made => made,
    }
}
