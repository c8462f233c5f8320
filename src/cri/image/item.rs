//! Item: an image as CRI shows it.
use crate::cri::store::image::{Image, Pinned};
use crate::proto::cri::{self, ImageSpec, Int64Value};
use protobuf::MessageField;

/// The handlers that it is listed for: those that it was pulled for, or "" where nothing is known of that.
pub fn handlers(image: &Image) -> impl Iterator<Item = &str> {
    let unknown = image.handlers.is_empty().then_some("");
    image.handlers.keys().map(String::as_str).chain(unknown)
}

/// Whether it was pulled for a handler; any image serves who names none.
pub fn is_for(image: &Image, handler: &str) -> bool {
    handler.is_empty() || image.handlers.contains_key(handler)
}

/// The image for a handler.
pub fn of(image: &Image, handler: &str) -> cri::Image {
    let user = image.config.config().as_ref().and_then(|c| c.user().clone()).unwrap_or_default();
    // The kubelet reads the part before the colon: a number is a uid, all else a name.
    let (uid, username) = match user.split(':').next().unwrap_or_default() {
        "" => (Some(0), String::new()),
        name => name.parse::<i64>().map_or_else(|_| (None, name.to_string()), |n| (Some(n), String::new())),
    };
    // `user_specified_image` is the kubelet's: nobody has specified one here.
    let spec = ImageSpec {
        image: image.id.clone(),
        annotations: image.annotations.clone().into_iter().collect(),
        runtime_handler: handler.into(),
        ..ImageSpec::default()
    };
    cri::Image {
        id: image.id.clone(),
        repo_tags: image.tags.clone(),
        repo_digests: image.digests.clone(),
        size: image.size,
        uid: uid.map_or_else(MessageField::none, |value| MessageField::some(Int64Value { value, ..Int64Value::default() })),
        username,
        spec: MessageField::some(spec),
        pinned: image.pinned == Pinned::Yes,
        ..cri::Image::default()
    }
}
