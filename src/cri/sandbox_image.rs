//! Sandbox image: where the config names one, a pod's process is that image's, on a root of the pod's own; where it does not, and
//! for handlers with `disable_pause_image_pull`, it is the built-in pause. The image comes when a pod first needs it.
use super::owners::Owners;
use super::runtime::rootfs;
use super::store::image::Image;
use super::store::sandbox::{Record, Snapshot};
use super::{Cri, NAMESPACE, image, spec};
use crate::call::Call;
use crate::core::snapshot::scoped;
use crate::error::{Context, Result};
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
    let image = match cri.images.resolve(name) {
        Err(e) if e.is_not_found() => {
            let asked = ImageSpec { image: name.into(), runtime_handler: handler.into(), ..ImageSpec::default() };
            let request = PullImageRequest { image: MessageField::some(asked), ..PullImageRequest::default() };
            let pulled = image::pull_image(cri, call, request);
            pulled.during(|| format!("pull the sandbox image \"{name}\" (pinned_images.sandbox in the config)"))?;
            cri.images.resolve(name)?
        }
        found => found?,
    };
    cri.unpack(call, &image, &cri.snapshotter_for(handler))?;
    Ok(Some(image))
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
