//! Sandbox image: where the config names one, a pod's process is that image's, on a root of the pod's own; where it does not, and
//! for handlers with `disable_pause_image_pull`, it is the built-in pause. The image comes when a pod first needs it.
use super::owners::Owners;
use super::runtime::rootfs;
use super::store::image::Image;
use super::store::sandbox::{Record, Snapshot};
use super::{Cri, NAMESPACE, image, spec};
use crate::call::Call;
use crate::core::snapshot::scoped;
use crate::error::{Context, Error, Result};
use crate::proto::cri::{ImageSpec, PullImageRequest};
use crate::sys::mount::Mount;
use protobuf::MessageField;
use std::path::Path;
use std::sync::Arc;

/// The image that pods of a handler need; it is pulled into the handler's snapshotter if it is not there yet.
pub fn needed(cri: &Cri, call: &Call, handler: &str) -> Result<Option<Arc<Image>>> {
    let Some(name) = cri.images_config.sandbox_image() else { return Ok(None) };
    if cri.handler(handler)?.disable_pause_image_pull {
        return Ok(None);
    }
    if let Some(image) = unpacked(cri, name, handler)? {
        return Ok(Some(image));
    }
    let asked = ImageSpec { image: name.into(), runtime_handler: handler.into(), ..ImageSpec::default() };
    let request = PullImageRequest { image: MessageField::some(asked), ..PullImageRequest::default() };
    image::pull_image(cri, call, request).during(|| format!("pull the sandbox image \"{name}\" (pinned_images.sandbox in the config)"))?;
    match unpacked(cri, name, handler)? {
        None => Err(Error::internal(format!("sandbox image \"{name}\" was removed again while it was pulled"))),
        found => Ok(found),
    }
}

/// The image, if it is here and its layers are in the handler's snapshotter.
fn unpacked(cri: &Cri, name: &str, handler: &str) -> Result<Option<Arc<Image>>> {
    let image = match cri.images.resolve(name) {
        Err(e) if e.is_not_found() => return Ok(None),
        found => found?,
    };
    let Some(chain) = &image.chain_id else { return Ok(Some(image)) };
    match cri.ports.snapshotter(&cri.snapshotter_for(handler))?.stat(&scoped(NAMESPACE, chain)) {
        Err(e) if e.is_not_found() => Ok(None),
        found => found.map(|_| Some(image)),
    }
}

/// Where the root of a pod's process will be.
pub fn snapshot_of(cri: &Cri, id: &str, handler: &str, image: &Image) -> Snapshot {
    Snapshot { snapshotter: cri.snapshotter_for(handler), key: scoped(NAMESPACE, id), image: image.name() }
}

/// Makes that root, and has the spec run what the image says.
pub fn prepare(cri: &Cri, id: &str, record: &Record, image: &Image, spec: &mut spec::Spec) -> Result<Vec<Mount>> {
    let Some(held) = &record.snapshot else { return Ok(vec![]) };
    let parent = image.chain_id.as_ref().map(|c| scoped(NAMESPACE, c));
    let snapshotter = cri.ports.snapshotter(&held.snapshotter)?;
    let owners = Owners::of(&record.config, &**snapshotter);
    let mounts = snapshotter.prepare(&held.key, parent.as_deref(), &owners.labels())?;
    let look = |root: &Path| {
        owners.give(root)?;
        spec::run_sandbox_image(spec, &image.config, &record.config, root)
    };
    rootfs::with(&cri.dirs.peek(id), &mounts, look).during(|| format!("sandbox image \"{}\"", held.image))?;
    spec.annotations.insert(spec::SANDBOX_IMAGE.into(), held.image.clone());
    Ok(mounts)
}
