//! ListPodSandbox: the pods that match all parts of the filter. The hot path of an idle node.
use crate::call::Call;
use crate::cri::Cri;
use crate::cri::store::sandbox::{Sandbox, State};
use crate::error::Result;
use crate::proto::cri::{ListPodSandboxRequest, ListPodSandboxResponse, PodSandbox, PodSandboxFilter, PodSandboxState};
use std::collections::HashMap;

/// ListPodSandbox.
pub fn list_pod_sandbox(cri: &Cri, _: &Call, req: ListPodSandboxRequest) -> Result<ListPodSandboxResponse> {
    let items = items(cri, req.filter.get_or_default()).collect();
    Ok(ListPodSandboxResponse { items, ..ListPodSandboxResponse::default() })
}

/// The pods one by one, each copied when it is asked for.
pub fn items(cri: &Cri, filter: &PodSandboxFilter) -> impl Iterator<Item = PodSandbox> + use<> {
    cri.sandboxes.by_id.filter(|s| matches(s, filter)).into_iter().map(|s| item(&s))
}

/// The state as CRI spells it: what is not surely ready is not.
pub fn state_of(sandbox: &Sandbox) -> PodSandboxState {
    match sandbox.state {
        State::Ready { .. } => PodSandboxState::SANDBOX_READY,
        State::NotReady | State::Unknown { .. } => PodSandboxState::SANDBOX_NOTREADY,
    }
}

/// Whether `labels` has each pair of the selector.
pub fn selects(selector: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    selector.iter().all(|(k, v)| labels.get(k) == Some(v))
}

fn matches(sandbox: &Sandbox, filter: &PodSandboxFilter) -> bool {
    sandbox.id.starts_with(&filter.id)
        && filter.state.as_ref().is_none_or(|s| s.state == state_of(sandbox).into())
        && selects(&filter.label_selector, &sandbox.record.config.labels)
}

fn item(sandbox: &Sandbox) -> PodSandbox {
    let config = &sandbox.record.config;
    PodSandbox {
        id: sandbox.id.clone(),
        metadata: config.metadata.clone(),
        state: state_of(sandbox).into(),
        created_at: sandbox.record.created_at,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: sandbox.record.handler.clone(),
        ..PodSandbox::default()
    }
}
