//! ImageStatus: one image; an absent one is an empty answer, not an error, on which the kubelet relies.
use super::list_images::item;
use crate::call::Call;
use crate::cri::store::image::Image;
use crate::cri::{Cri, json};
use crate::error::{Error, Result};
use crate::proto::cri::{ImageStatusRequest, ImageStatusResponse};
use protobuf::MessageField;
use std::collections::HashMap;

/// ImageStatus.
pub fn image_status(cri: &Cri, _: &Call, req: ImageStatusRequest) -> Result<ImageStatusResponse> {
    let name = &req.image.get_or_default().image;
    if name.is_empty() {
        return Err(Error::invalid("image.image is empty: name the image"));
    }
    let image = match cri.images.resolve(name) {
        Err(e) if e.is_not_found() => return Ok(ImageStatusResponse::default()),
        found => found?,
    };
    let info = if req.verbose { verbose(&image) } else { HashMap::new() };
    Ok(ImageStatusResponse { image: MessageField::some(item(&image)), info, ..ImageStatusResponse::default() })
}

fn verbose(image: &Image) -> HashMap<String, String> {
    let value = serde_json::json!({"chainID": image.chain_id, "imageSpec": *image.config});
    HashMap::from([("info".to_string(), json(&value))])
}
