//! Content, as far as the progress of pulls is told by it: the ingests of the caller's namespace, with what came and what is
//! expected.
use super::filter::Filters;
use crate::call::Call;
use crate::core::content::{IngestStatus, Store};
use crate::error::{Error, Kind, Result};
use crate::proto::content::{ListStatusesRequest, ListStatusesResponse, Status, StatusRequest, StatusResponse};
use crate::proto::content_methods::content as methods;
use crate::rpc::grpc::Routes;
use crate::thread::Pool;
use protobuf::MessageField;
use protobuf::well_known_types::timestamp::Timestamp;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

/// The store once its plugin runs.
pub type Slot = Arc<OnceLock<Arc<Store>>>;

/// Adds the service's calls.
pub fn add(routes: Routes, lane: &Pool, store: &Slot) -> Routes {
    let (one, all) = (store.clone(), store.clone());
    routes.unary(&methods::STATUS, lane, move |call, request| status(of(&one)?, call, &request)).unary(
        &methods::LIST_STATUSES,
        lane,
        move |call, request| list_statuses(of(&all)?, call, &request),
    )
}

fn of(slot: &Slot) -> Result<&Store> {
    slot.get().map(AsRef::as_ref).ok_or_else(|| Error::new(Kind::Unavailable, "server is not initialized yet"))
}

fn status(store: &Store, call: &Call, request: &StatusRequest) -> Result<StatusResponse> {
    let found = store.ingest(super::namespace(call)?, &request.ref_)?;
    Ok(StatusResponse { status: MessageField::some(message(found)), ..StatusResponse::default() })
}

fn list_statuses(store: &Store, call: &Call, request: &ListStatusesRequest) -> Result<ListStatusesResponse> {
    let filters = Filters::parse(&request.filters)?;
    let found = store.ingests(super::namespace(call)?)?.into_iter();
    let found = found.filter(|s| filters.pass(|path| (path == ["ref"]).then(|| s.reference.clone())));
    Ok(ListStatusesResponse { statuses: found.map(message).collect(), ..ListStatusesResponse::default() })
}

fn message(status: IngestStatus) -> Status {
    let whole = |n| i64::try_from(n).unwrap_or(i64::MAX);
    Status {
        started_at: time(status.started_at),
        updated_at: time(status.updated_at),
        ref_: status.reference,
        offset: whole(status.offset),
        total: whole(status.total),
        expected: status.expected.map(|d| d.to_string()).unwrap_or_default(),
        ..Status::default()
    }
}

fn time(at: SystemTime) -> MessageField<Timestamp> {
    MessageField::some(Timestamp::from(at))
}
