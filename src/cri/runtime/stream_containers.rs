//! StreamContainers: ListContainers in messages of bounded size, for nodes whose list is too long for one.
use super::list_containers::items;
use crate::call::Call;
use crate::cri::Cri;
use crate::cri::batches::{Send, batches};
use crate::error::Result;
use crate::proto::cri::{StreamContainersRequest, StreamContainersResponse};

/// StreamContainers.
pub fn stream_containers(cri: &Cri, call: &Call, req: StreamContainersRequest, send: Send<'_, StreamContainersResponse>) -> Result<()> {
    let wrap = |containers| StreamContainersResponse { containers, ..StreamContainersResponse::default() };
    batches(call, items(cri, req.filter.get_or_default()), send, wrap)
}
