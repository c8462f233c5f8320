//! RemoveImage: after Ok no name of the image is left. Layers that a container still stands on stay until it goes. Repeating it
//! is free.
use crate::call::Call;
use crate::cri::{Cri, NAMESPACE};
use crate::error::{Error, Result};
use crate::proto::cri::{RemoveImageRequest, RemoveImageResponse};
use log::info;

/// RemoveImage.
pub fn remove_image(cri: &Cri, _: &Call, req: RemoveImageRequest) -> Result<RemoveImageResponse> {
    let name = &req.image.get_or_default().image;
    if name.is_empty() {
        return Err(Error::invalid("image.image is empty: name the image to remove"));
    }
    let image = match cri.images.resolve(name) {
        Err(e) if e.is_not_found() => return Ok(RemoveImageResponse::default()),
        found => found?,
    };
    // All names go in one transaction: a crash leaves either all or none.
    cri.ports.images.delete_all(NAMESPACE, &image.names())?;
    cri.images.reload()?;
    cri.ports.gc.run_now()?;
    info!("image {} ({}) removed", image.name(), image.id);
    Ok(RemoveImageResponse::default())
}
