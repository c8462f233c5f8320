//! ListImages: the images that the filter names; all without one.
use crate::call::Call;
use crate::cri::Cri;
use crate::cri::store::image::{Image, Pinned};
use crate::error::Result;
use crate::proto::cri::{self, Int64Value, ListImagesRequest, ListImagesResponse};
use protobuf::MessageField;

/// ListImages.
pub fn list_images(cri: &Cri, _: &Call, req: ListImagesRequest) -> Result<ListImagesResponse> {
    let wanted = &req.filter.get_or_default().image.get_or_default().image;
    let images = match wanted.as_str() {
        "" => cri.images.list(),
        name => match cri.images.resolve(name) {
            Err(e) if e.is_not_found() => vec![],
            found => vec![found?],
        },
    };
    Ok(ListImagesResponse { images: images.iter().map(|i| item(i)).collect(), ..ListImagesResponse::default() })
}

/// An image as CRI shows it.
pub fn item(image: &Image) -> cri::Image {
    let user = image.config.config().as_ref().and_then(|c| c.user().clone()).unwrap_or_default();
    // The kubelet reads the part before the colon: a number is a uid, all else a name.
    let (uid, username) = match user.split(':').next().unwrap_or_default() {
        "" => (Some(0), String::new()),
        name => name.parse::<i64>().map_or_else(|_| (None, name.to_string()), |n| (Some(n), String::new())),
    };
    cri::Image {
        id: image.id.clone(),
        repo_tags: image.tags.clone(),
        repo_digests: image.digests.clone(),
        size: image.size,
        uid: uid.map_or_else(MessageField::none, |value| MessageField::some(Int64Value { value, ..Int64Value::default() })),
        username,
        pinned: image.pinned == Pinned::Yes,
        ..cri::Image::default()
    }
}
