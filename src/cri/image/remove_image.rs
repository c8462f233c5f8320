//! RemoveImage: after Ok no name of the image is left, by whichever of them it was named. Layers that a container still stands
//! on stay until it goes. Where a runtime handler is named and others have the image too, only that handler's pull is undone.
//! Repeating it is free.
use crate::call::Call;
use crate::core::content::Digest;
use crate::core::snapshot::Labels;
use crate::cri::store::image::{Image, handler_label};
use crate::cri::{Cri, NAMESPACE};
use crate::error::{Error, Result};
use crate::proto::cri::{RemoveImageRequest, RemoveImageResponse};
use log::info;

/// RemoveImage.
pub fn remove_image(cri: &Cri, _: &Call, req: RemoveImageRequest) -> Result<RemoveImageResponse> {
    let wanted = req.image.get_or_default();
    let name = &wanted.image;
    if name.is_empty() {
        return Err(Error::invalid("image.image is empty: name the image to remove"));
    }
    let image = match cri.images.resolve(name) {
        Err(e) if e.is_not_found() => return Ok(RemoveImageResponse::default()),
        found => found?,
    };
    if !wanted.runtime_handler.is_empty() && image.handlers.keys().any(|h| *h != wanted.runtime_handler) {
        return forget_handler(cri, &image, &wanted.runtime_handler).map(|()| RemoveImageResponse::default());
    }
    // All names go in one transaction: a crash leaves either all or none.
    cri.ports.images.delete_all(NAMESPACE, &image.names())?;
    image.names().iter().try_for_each(|name| cri.images.refresh(name))?;
    cri.ports.gc.run_now()?;
    info!("image {} ({}) removed", image.name(), image.id);
    Ok(RemoveImageResponse::default())
}

/// The image is no longer there for a handler; its layers go where no other handler has that snapshotter.
fn forget_handler(cri: &Cri, image: &Image, handler: &str) -> Result<()> {
    let Some(snapshotter) = image.handlers.get(handler) else { return Ok(()) };
    cri.ports.images.set_labels(NAMESPACE, &image.names(), &Labels::from([(handler_label(handler), String::new())]))?;
    image.names().iter().try_for_each(|name| cri.images.refresh(name))?;
    if !image.handlers.iter().any(|(other, theirs)| other != handler && theirs == snapshotter) {
        let layers = Labels::from([(format!("containerd.io/gc.ref.snapshot.{snapshotter}"), String::new())]);
        cri.ports.content.set_labels(NAMESPACE, &Digest::parse(&image.id)?, layers)?;
        cri.ports.gc.run_now()?;
    }
    info!("image {} ({}) removed for runtime handler {handler}", image.name(), image.id);
    Ok(())
}
