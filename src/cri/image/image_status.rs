//! ImageStatus: one image; an absent one is an empty answer, not an error, on which the kubelet relies.
use super::item;
use crate::call::Call;
use crate::cri::store::image::Image;
use crate::cri::{Cri, json};
use crate::error::{Error, Result};
use crate::proto::cri::{ImageStatusRequest, ImageStatusResponse};
use protobuf::MessageField;
use std::collections::HashMap;

/// ImageStatus.
pub fn image_status(cri: &Cri, _: &Call, req: ImageStatusRequest) -> Result<ImageStatusResponse> {
    let wanted = req.image.get_or_default();
    let name = &wanted.image;
    if name.is_empty() {
        return Err(Error::invalid("image.image is empty: name the image"));
    }
    let image = match cri.images.resolve(name) {
        Err(e) if e.is_not_found() => return Ok(ImageStatusResponse::default()),
        found => found?,
    };
    if !item::is_for(&image, &wanted.runtime_handler) {
        return Ok(ImageStatusResponse::default());
    }
    let handler = match wanted.runtime_handler.as_str() {
        "" => item::handlers(&image).next().unwrap_or_default(),
        named => named,
    };
    let info = if req.verbose { verbose(&image) } else { HashMap::new() };
    Ok(ImageStatusResponse { image: MessageField::some(item::of(&image, handler)), info, ..ImageStatusResponse::default() })
}

fn verbose(image: &Image) -> HashMap<String, String> {
    let value = serde_json::json!({"chainID": image.chain_id, "imageSpec": image.config});
    HashMap::from([("info".to_string(), json(&value))])
}
