//! CreateContainer: after Ok the container can be started, also after a restart of the daemon; it needs its image to be here.
//!
//! Check, reserve the name, write down what will be built (one durable write), prepare the snapshot, make the spec from it, write
//! that down (one durable write). What fails is removed. The work runs on when the client leaves; its retry gets the result.
use super::{rootfs, teardown};
use crate::call::Call;
use crate::core::image::Shape;
use crate::core::snapshot::scoped;
use crate::cri::assemble::Parts;
use crate::cri::owners::Owners;
use crate::cri::store::container::{Container, Life, Oom, Record, State, name_of};
use crate::cri::store::creations::{Begun, Creation};
use crate::cri::store::sandbox::{self, Sandbox};
use crate::cri::{Cri, NAMESPACE, dirs, image_volumes, new_id, now, prepared, spec};
use crate::error::{Context, Error, Result};
use crate::failpoint;
use crate::proto::cri::{ContainerConfig, CreateContainerRequest, CreateContainerResponse, PodSandboxConfig, PodSandboxMetadata};
use log::{info, warn};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The kubelet waits 2 minutes; the work may take as long without it.
const LIMIT: Duration = Duration::from_secs(240);

/// CreateContainer.
pub fn create_container(cri: &Cri, call: &Call, req: CreateContainerRequest) -> Result<CreateContainerResponse> {
    let config = req.config.into_option().ok_or_else(|| Error::invalid("config is missing: describe the container to create"))?;
    let pod = cri.sandboxes.by_id.get(&req.pod_sandbox_id)?;
    spec::check_container(&config, &pod.record.config)?;
    same_pod(req.sandbox_config.get_or_default(), &pod)?;
    let name = name_of(&config, &pod.record.config);
    let container_id = match cri.containers.names.begin(call, "container", &name)? {
        Begun::Made(id) => id,
        Begun::Mine(creation) => create(cri, call, creation, Wish { id: new_id()?, name, config, pod })?,
    };
    Ok(CreateContainerResponse { container_id, ..CreateContainerResponse::default() })
}

/// The pod's config is the one that it was run with; a request that brings another pod's is a mistake.
fn same_pod(given: &PodSandboxConfig, pod: &Sandbox) -> Result<()> {
    let (given, own) = (given.metadata.get_or_default(), pod.record.config.metadata.get_or_default());
    let identity = |m: &PodSandboxMetadata| (m.name.clone(), m.namespace.clone(), m.uid.clone());
    if !given.name.is_empty() && identity(given) != identity(own) {
        let (name, id) = (&given.name, &pod.id);
        return Err(Error::invalid(format!(
            "sandbox_config.metadata: pod \"{name}\" is not the one of pod_sandbox_id, which is \"{}\" ({id})",
            own.name
        )));
    }
    Ok(())
}

/// What is to be made.
struct Wish {
    id: String,
    name: String,
    config: ContainerConfig,
    pod: Arc<Sandbox>,
}

fn create(cri: &Cri, call: &Call, creation: Creation, wish: Wish) -> Result<String> {
    let begun = Instant::now();
    match build(cri, &call.detached(LIMIT), &wish) {
        Ok(record) => {
            info!("container {} ({}) created: {} ms", wish.id, record.name, begun.elapsed().as_millis());
            let container = Container {
                id: wish.id.clone(),
                record,
                state: State::Created,
                oom: Oom::NotSeen,
                turns: Arc::default(),
                ended: Arc::default(),
                stopping: Arc::default(),
            };
            cri.container_created(container);
            creation.done(call, &wish.id);
            Ok(wish.id)
        }
        Err(error) => {
            let error = match teardown::half_made_container(cri, &wish.id) {
                Ok(()) => error,
                Err(also) => error.and_also(also),
            };
            creation.failed(&error);
            Err(error)
        }
    }
}

fn build(cri: &Cri, call: &Call, wish: &Wish) -> Result<Record> {
    // A pod that is being stopped gets no more containers; one being filled is not stopped meanwhile.
    let _turn = wish.pod.turns.take(call, &format!("sandbox {}", wish.pod.id))?;
    let pod = cri.sandboxes.by_id.get(&wish.pod.id)?;
    if !matches!(pod.state, sandbox::State::Ready { .. }) {
        return Err(Error::precondition(format!("sandbox \"{}\" is not ready: no container can be created in it", pod.id)));
    }
    let image = cri.images.resolve(&wish.config.image.get_or_default().image)?;
    if image.shape == Shape::Artifact {
        return Err(Error::precondition(format!("image {} is an artifact: it can be a volume, but no container's root", image.name())));
    }
    let mut config = wish.config.clone();
    let images = image_volumes::show(cri, call, &pod.id, &mut config)?;
    let log_path = log_path(&wish.config, &pod)?;
    let mut record = Record {
        name: wish.name.clone(),
        sandbox_id: pod.id.clone(),
        config,
        created_at: now(),
        image_id: image.id.clone(),
        image_ref: image.reference(),
        image_name: image.name(),
        log_path,
        stop_signal: spec::stop_signal(&wish.config, &image.config)?,
        user: (0, 0, vec![]),
        limits: Default::default(),
        life: Life::Created,
    };
    let key = scoped(NAMESPACE, &wish.id);
    let snapshotter = cri.snapshotter_for(&pod.record.handler);
    cri.unpack(call, &image, &snapshotter)?;
    cri.intend_container(&wish.id, &record, &pod, (&snapshotter, &key))?;
    failpoint::reach("create-after-intend");
    let parts = Parts { config: &wish.config, pod: &pod, image: &image, images: &images };
    let built = prepare(cri, &wish.id, &parts, (&snapshotter, &key))?;
    (record.user, record.limits) = (built.user, built.limits);
    let spec = serde_json::to_value(&built.spec).during(|| format!("encode the spec of container {}", wish.id))?;
    prepared::check(&spec)?;
    failpoint::reach("create-before-commit");
    cri.save_container_with_spec(&wish.id, &record, spec)?;
    Ok(record)
}

/// The snapshot, the spec made with a look into it, and the volumes that the image defines.
fn prepare(cri: &Cri, id: &str, parts: &Parts<'_>, (snapshotter, key): (&str, &str)) -> Result<spec::Built> {
    let parent = parts.image.chain_id.as_ref().map(|c| scoped(NAMESPACE, c));
    let snapshotter = cri.ports.snapshotter(snapshotter)?;
    let owners = Owners::of(&parts.pod.record.config, &**snapshotter);
    let mounts = snapshotter.prepare(key, parent.as_deref(), &owners.labels())?;
    for dir in [cri.dirs.container(id), cri.dirs.volumes(id)] {
        dirs::make(&dir)?;
    }
    failpoint::reach("create-after-snapshot");
    rootfs::with(&cri.dirs.peek(id), &mounts, |root| {
        owners.give(root)?;
        let built = cri.container_spec(id, parts, root)?;
        for warning in &built.warnings {
            warn!("container {id}: {warning}");
        }
        rootfs::make_volumes(root, &built.volumes, owners.root())?;
        spec::perform(&built.actions)?;
        Ok(built)
    })
}

/// The log file's path: under the pod's log directory, whatever the request says.
fn log_path(config: &ContainerConfig, pod: &Sandbox) -> Result<Option<PathBuf>> {
    let directory = &pod.record.config.log_directory;
    if directory.is_empty() || config.log_path.is_empty() {
        return Ok(None);
    }
    let relative = std::path::Path::new(&config.log_path);
    if relative.components().any(|c| !matches!(c, std::path::Component::Normal(_) | std::path::Component::CurDir)) {
        return Err(Error::invalid(format!("log_path \"{}\" leads out of the pod's log directory {directory}", config.log_path)));
    }
    Ok(Some(std::path::Path::new(directory).join(relative)))
}
