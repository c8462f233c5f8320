//! RunPodSandbox: after Ok the pod's namespaces, network and process are there, and will be after a restart of the daemon.
//!
//! Check, reserve the name, write down what will be built (one durable write), build, start, write down that it stands (one
//! durable write). What fails is taken down by the steps of RemovePodSandbox; if those fail too, the pod stays listed as not
//! ready, so that the kubelet can remove it. The work runs on when the client leaves; its retry gets the result.
use super::teardown;
use crate::call::Call;
use crate::cni::Outcome;
use crate::core::runtime::{Create, Runtime, Stdio};
use crate::cri::store::creations::{Begun, Creation};
use crate::cri::store::image::Image;
use crate::cri::store::sandbox::{Network, Pins, Record, Sandbox, State, id_map, name_of, namespaces};
use crate::cri::{Cri, NAMESPACE, new_id, now, pod_files, prepared, sandbox_image, spec};
use crate::error::{Context, Error, Kind, Result};
use crate::failpoint;
use crate::proto::cri::{NamespaceMode, PodSandboxConfig, RunPodSandboxRequest, RunPodSandboxResponse};
use crate::sys::netns::{self, NsKind};
use crate::sys::userns;
use crossbeam_channel::{Receiver, bounded};
use log::info;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The kubelet waits 4 minutes; the work may take as long without it.
const LIMIT: Duration = Duration::from_secs(240);

/// RunPodSandbox.
pub fn run_pod_sandbox(cri: &Cri, call: &Call, req: RunPodSandboxRequest) -> Result<RunPodSandboxResponse> {
    let config = req.config.into_option().ok_or_else(|| Error::invalid("config is missing: describe the pod to run"))?;
    spec::check_sandbox(&config)?;
    let runtime = cri.runtime_for(&req.runtime_handler)?;
    let name = name_of(&config);
    let pod_sandbox_id = match cri.sandboxes.names.begin(call, "sandbox", &name)? {
        Begun::Made(id) => id,
        Begun::Mine(creation) => {
            let id = new_pod_id(cri)?;
            let record = intend(cri, &id, name, config, req.runtime_handler);
            create(cri, call, creation, Pod { id, record, runtime })?
        }
    };
    Ok(RunPodSandboxResponse { pod_sandbox_id, ..RunPodSandboxResponse::default() })
}

/// A pod's SELinux level comes from its ID, and no two pods may have the same: then another ID is drawn.
fn new_pod_id(cri: &Cri) -> Result<String> {
    let range = cri.runtime.selinux_category_range;
    for _ in 0..1000 {
        let id = new_id()?;
        let taken = || cri.sandboxes.by_id.list().iter().any(|pod| spec::pod_level(&pod.id, range) == spec::pod_level(&id, range));
        if !cri.runtime.enable_selinux || !taken() {
            return Ok(id);
        }
    }
    Err(Error::new(Kind::ResourceExhausted, "no SELinux level is left for another pod: raise selinux_category_range"))
}

/// What is being built.
struct Pod {
    id: String,
    record: Record,
    runtime: Runtime,
}

fn intend(cri: &Cri, id: &str, name: String, config: PodSandboxConfig, handler: String) -> Record {
    let (net, _, ipc) = namespaces(&config);
    let dir = cri.dirs.sandbox(id).join("ns");
    let own = |mode: NamespaceMode, kind: &str| (mode != NamespaceMode::NODE).then(|| dir.join(kind));
    let pins = Pins {
        net: (net != NamespaceMode::NODE).then(|| cri.netns_path(id)),
        ipc: own(ipc, "ipc"),
        // A host network comes with the host's name.
        uts: own(net, "uts"),
        user: id_map(&config).map(|_| dir.join("user")),
    };
    let network = if pins.net.is_some() { Network::Pending } else { Network::Host };
    Record { name, config, handler, created_at: now(), pins, network, snapshot: None, image_volumes: BTreeMap::new(), stopped_at: None }
}

fn create(cri: &Cri, call: &Call, creation: Creation, pod: Pod) -> Result<String> {
    let begun = Instant::now();
    let work = call.detached(LIMIT);
    let mut record = pod.record.clone();
    match build(cri, &work, &pod, &mut record) {
        Ok(pid) => {
            let sandbox = Sandbox { id: pod.id.clone(), record, state: State::Ready { pid }, turns: Arc::default() };
            let ip = sandbox.ips().first().map_or("none of its own".into(), ToString::to_string);
            info!("pod {} ({}) ready: pid {pid}, ip {ip}, {} ms", sandbox.record.name, pod.id, begun.elapsed().as_millis());
            cri.pod_stands(sandbox);
            creation.done(call, &pod.id);
            Ok(pod.id)
        }
        Err(error) => {
            let error = give_up(cri, &pod, record, error);
            creation.failed(&error);
            Err(error)
        }
    }
}

/// Takes down what was built; what cannot be taken down stays listed.
fn give_up(cri: &Cri, pod: &Pod, record: Record, error: Error) -> Error {
    let sandbox = Sandbox { id: pod.id.clone(), record, state: State::NotReady, turns: Arc::default() };
    match teardown::pod(cri, &Call::background(NAMESPACE).within(Duration::from_secs(60)), &sandbox) {
        Ok(()) => error,
        Err(also) => {
            cri.sandboxes.by_id.put(&pod.id, sandbox);
            error.and_also(also)
        }
    }
}

fn build(cri: &Cri, call: &Call, pod: &Pod, record: &mut Record) -> Result<u32> {
    let image = sandbox_image::needed(cri, call, &record.handler)?;
    record.snapshot = image.as_ref().map(|image| sandbox_image::snapshot_of(cri, &pod.id, &record.handler, image));
    cri.intend_sandbox(&pod.id, record, &pod.runtime)?;
    failpoint::reach("after-intend");
    pod_files::write(&cri.dirs.sandbox(&pod.id), &pod.record.config)?;
    pin(&pod.record)?;
    failpoint::reach("after-netns");
    let network = attach(cri, call, pod)?;
    let started = start(cri, call, pod, record, image.as_deref());
    // The plugins are waited for even when the process failed: what they set up must be known to be taken down.
    let network = network.map(|n| n.recv().unwrap_or_else(|_| Err(Error::internal("the network set-up ended without a result"))));
    let (pid, spec) = started?;
    if let Some(outcome) = network.transpose()? {
        failpoint::reach("after-cni");
        record.network = Network::Up { ips: outcome.ips, result: Value::Array(outcome.results) };
    }
    failpoint::reach("before-commit");
    cri.sandbox_ready(&pod.id, record, spec)?;
    Ok(pid)
}

fn pin(record: &Record) -> Result<()> {
    let pins = &record.pins;
    let paths: Vec<(NsKind, PathBuf)> =
        [(NsKind::User, &pins.user), (NsKind::Net, &pins.net), (NsKind::Ipc, &pins.ipc), (NsKind::Uts, &pins.uts)]
            .into_iter()
            .filter_map(|(kind, path)| Some((kind, path.clone()?)))
            .collect();
    if paths.is_empty() {
        return Ok(());
    }
    let hostname = Some(record.config.hostname.as_str()).filter(|h| !h.is_empty() && pins.uts.is_some());
    let made = match id_map(&record.config) {
        Some(map) => userns::pin(&map, &paths, hostname),
        None => netns::pin(&paths, hostname),
    };
    made.during(|| format!("make the namespaces of pod {}", record.name))
}

/// Begins CNI ADD beside the rest of the work: nothing in a pod's process depends on it.
fn attach(cri: &Cri, call: &Call, pod: &Pod) -> Result<Option<Receiver<Result<Outcome>>>> {
    if pod.record.network == Network::Host {
        return Ok(None);
    }
    let (networks, call, id, record) = (cri.networks.clone(), call.clone(), pod.id.clone(), pod.record.clone());
    let (tx, rx) = bounded(1);
    cri.io.run(move || drop(tx.send(networks.attach(&call, &id, &record))));
    Ok(Some(rx))
}

fn start(cri: &Cri, call: &Call, pod: &Pod, record: &Record, image: Option<&Image>) -> Result<(u32, Value)> {
    let mut spec = cri.sandbox_spec(&pod.id, record)?;
    let rootfs = image.map_or(Ok(vec![]), |image| sandbox_image::prepare(cri, &pod.id, record, image, &mut spec))?;
    failpoint::reach("after-snapshot");
    let mut spec = serde_json::to_value(&spec).during(|| format!("encode the spec of pod {}", pod.record.name))?;
    let mounted = prepared::make(&mut spec, &cri.dirs.sandbox(&pod.id).join("mounts"))?;
    let task = cri.ports.tasks.create(
        call,
        Create {
            id: pod.id.clone(),
            sandbox_id: None,
            spec: serde_json::to_vec(&spec).during(|| format!("encode the spec of pod {}", pod.record.name))?,
            rootfs,
            stdio: Stdio::default(),
            runtime: pod.runtime.clone(),
            pause: image.is_none(),
        },
    )?;
    drop(mounted);
    failpoint::reach("after-task-create");
    Ok((task.start(call)?, spec))
}
