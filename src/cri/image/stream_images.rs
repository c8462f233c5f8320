//! StreamImages: ListImages in messages of bounded size, for nodes whose list is too long for one.
use super::list_images;
use crate::call::Call;
use crate::cri::Cri;
use crate::cri::batches::{Send, batches};
use crate::error::Result;
use crate::proto::cri::{ListImagesRequest, StreamImagesRequest, StreamImagesResponse};

/// StreamImages.
pub fn stream_images(cri: &Cri, call: &Call, req: StreamImagesRequest, send: Send<'_, StreamImagesResponse>) -> Result<()> {
    let listed = list_images(cri, call, ListImagesRequest { filter: req.filter, ..ListImagesRequest::default() })?;
    let wrap = |images| StreamImagesResponse { images, ..StreamImagesResponse::default() };
    batches(call, listed.images.into_iter(), send, wrap)
}
