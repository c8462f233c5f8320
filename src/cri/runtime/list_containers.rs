//! ListContainers: the containers that match all parts of the filter. The hot path of an idle node.
use super::list_pod_sandbox::selects;
use crate::call::Call;
use crate::cri::Cri;
use crate::cri::store::container::{Container, State};
use crate::error::Result;
use crate::proto::cri::{self, ContainerFilter, ContainerState, ImageSpec, ListContainersRequest, ListContainersResponse};
use protobuf::MessageField;

/// ListContainers.
pub fn list_containers(cri: &Cri, _: &Call, req: ListContainersRequest) -> Result<ListContainersResponse> {
    let containers = items(cri, req.filter.get_or_default()).collect();
    Ok(ListContainersResponse { containers, ..ListContainersResponse::default() })
}

/// The containers one by one, each copied when it is asked for.
pub fn items(cri: &Cri, filter: &ContainerFilter) -> impl Iterator<Item = cri::Container> + use<> {
    cri.containers.by_id.filter(|c| matches(c, filter)).into_iter().map(|c| item(&c))
}

/// The state as CRI spells it.
pub fn state_of(container: &Container) -> ContainerState {
    match container.state {
        State::Created => ContainerState::CONTAINER_CREATED,
        State::Running { .. } => ContainerState::CONTAINER_RUNNING,
        State::Exited(_) => ContainerState::CONTAINER_EXITED,
        State::Unknown { .. } => ContainerState::CONTAINER_UNKNOWN,
    }
}

/// The image as it was asked for, under its resolved name.
pub fn image_of(container: &Container) -> ImageSpec {
    let asked = container.record.config.image.get_or_default();
    ImageSpec { image: container.record.image_name.clone(), ..asked.clone() }
}

fn matches(container: &Container, filter: &ContainerFilter) -> bool {
    container.id.starts_with(&filter.id)
        && container.record.sandbox_id.starts_with(&filter.pod_sandbox_id)
        && filter.state.as_ref().is_none_or(|s| s.state == state_of(container).into())
        && selects(&filter.label_selector, &container.record.config.labels)
}

fn item(container: &Container) -> cri::Container {
    let record = &container.record;
    cri::Container {
        id: container.id.clone(),
        pod_sandbox_id: record.sandbox_id.clone(),
        metadata: record.config.metadata.clone(),
        image: MessageField::some(image_of(container)),
        image_ref: record.image_ref.clone(),
        state: state_of(container).into(),
        created_at: record.created_at,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        image_id: record.image_id.clone(),
        ..cri::Container::default()
    }
}
