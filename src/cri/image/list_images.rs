//! ListImages: the images that the filter names; all without one. An image that was pulled for several runtime handlers is
//! listed once for each.
use super::item;
use crate::call::Call;
use crate::cri::Cri;
use crate::error::Result;
use crate::proto::cri::{self, ListImagesRequest, ListImagesResponse};

/// ListImages.
pub fn list_images(cri: &Cri, _: &Call, req: ListImagesRequest) -> Result<ListImagesResponse> {
    let wanted = req.filter.get_or_default().image.get_or_default();
    let images = match wanted.image.as_str() {
        "" => cri.images.list(),
        name => match cri.images.resolve(name) {
            Err(e) if e.is_not_found() => vec![],
            found => vec![found?],
        },
    };
    let mut items: Vec<cri::Image> = vec![];
    for image in images {
        let handlers: Vec<&str> = if wanted.runtime_handler.is_empty() {
            item::handlers(&image).collect()
        } else {
            Some(wanted.runtime_handler.as_str()).filter(|h| item::is_for(&image, h)).into_iter().collect()
        };
        items.extend(handlers.into_iter().map(|handler| item::of(&image, handler)));
    }
    items.retain(|i| wanted.annotations.iter().all(|(k, v)| i.spec.annotations.get(k) == Some(v)));
    Ok(ListImagesResponse { images: items, ..ListImagesResponse::default() })
}
