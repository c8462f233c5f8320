//! Builtins: THE list of plugins. Each is a constant here or beside its code; `cradled plugins` and the start order come from it.
use crate::config::Config;
use crate::core::content::Store;
use crate::core::diff::Processors;
use crate::core::events::Bus;
use crate::core::gc::Collector;
use crate::core::image::Images;
use crate::core::lease::Leases;
use crate::core::metadata::{Db, Objects};
use crate::core::runtime::{self, Launch, Tasks, Timeouts, probe};
use crate::core::snapshot::{Snapshotter, native::Native, overlay};
use crate::cri::{self, Cri, dirs::Dirs};
use crate::error::{Error, Result};
use crate::plugin::{Context, Kind, Registration};
use crate::remote;
use crate::remote::pull::{Blobs, SnapshotLabels};
use crate::rpc::ttrpc;
use log::warn;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Every plugin of the daemon.
pub const BUILTINS: &[&Registration] =
    &[&METADATA, &EVENTS, &CONTENT, &OVERLAYFS, &NATIVE, &IMAGES, &LEASES, &GC, &RUNTIME, &TTRPC, &PULL, &CRI, &CONTENT_API];

const METADATA: Registration = Registration { kind: Kind::Metadata, id: "redb", requires: &[], start: metadata };
const EVENTS: Registration = Registration { kind: Kind::Event, id: "exchange", requires: &[], start: events };
const CONTENT: Registration = Registration { kind: Kind::Content, id: "content", requires: &[Kind::Metadata], start: content };
const OVERLAYFS: Registration = Registration { kind: Kind::Snapshotter, id: "overlayfs", requires: &[Kind::Metadata], start: overlayfs };
const NATIVE: Registration = Registration { kind: Kind::Snapshotter, id: "native", requires: &[Kind::Metadata], start: native };
const IMAGES: Registration =
    Registration { kind: Kind::Service, id: "images-service", requires: &[Kind::Metadata, Kind::Event], start: images };
const LEASES: Registration = Registration { kind: Kind::Lease, id: "manager", requires: &[Kind::Metadata], start: leases };
const GC: Registration = Registration {
    kind: Kind::Gc,
    id: "scheduler",
    requires: &[Kind::Metadata, Kind::Content, Kind::Snapshotter, Kind::Lease, Kind::Service],
    start: gc,
};
const RUNTIME: Registration = Registration { kind: Kind::Runtime, id: "task", requires: &[Kind::Event], start: task };
const TTRPC: Registration = Registration { kind: Kind::Ttrpc, id: "events", requires: &[Kind::Runtime], start: forward };
const CONTENT_API: Registration = Registration { kind: Kind::Grpc, id: "content", requires: &[Kind::Content], start: content_api };
const PULL: Registration = Registration {
    kind: Kind::Cri,
    id: "images",
    requires: &[Kind::Content, Kind::Service, Kind::Lease, Kind::Snapshotter, Kind::Gc, Kind::Metadata],
    start: puller,
};
const CRI: Registration = Registration {
    kind: Kind::Grpc,
    id: "cri",
    requires: &[
        Kind::Cri,
        Kind::Runtime,
        Kind::Ttrpc,
        Kind::Content,
        Kind::Service,
        Kind::Gc,
        Kind::Snapshotter,
        Kind::Event,
        Kind::Metadata,
    ],
    start: cri_service,
};

fn metadata(cx: &mut Context<'_>) -> Result<()> {
    let db = Arc::new(Db::open(&cx.root()?)?);
    cx.provide(db);
    Ok(())
}

fn events(cx: &mut Context<'_>) -> Result<()> {
    cx.provide(Arc::new(Bus::new()));
    Ok(())
}

fn content(cx: &mut Context<'_>) -> Result<()> {
    let store = Store::open(&cx.root()?, cx.require(Kind::Metadata)?)?;
    store.clean_stale_ingests()?;
    cx.provide(Arc::new(store));
    Ok(())
}

fn overlayfs(cx: &mut Context<'_>) -> Result<()> {
    let section = &cx.config().overlayfs;
    let config = overlay::Config {
        root_path: PathBuf::from(&section.root_path),
        upperdir_label: section.upperdir_label,
        sync_remove: section.sync_remove,
        mount_options: section.mount_options.clone(),
    };
    let snapshotter = overlay::Overlay::open(&cx.root()?, cx.require(Kind::Metadata)?, config)?;
    snapshotter.cleanup()?;
    cx.provide::<dyn Snapshotter>(Arc::new(snapshotter));
    Ok(())
}

fn native(cx: &mut Context<'_>) -> Result<()> {
    let own = &cx.config().native.root_path;
    let root = if own.is_empty() { cx.root()? } else { PathBuf::from(own) };
    let snapshotter = Native::open(&root, cx.require(Kind::Metadata)?)?;
    snapshotter.cleanup()?;
    cx.provide::<dyn Snapshotter>(Arc::new(snapshotter));
    Ok(())
}

fn images(cx: &mut Context<'_>) -> Result<()> {
    let images = Images::new(cx.require(Kind::Metadata)?, cx.require(Kind::Event)?);
    cx.provide(Arc::new(images));
    Ok(())
}

fn leases(cx: &mut Context<'_>) -> Result<()> {
    let leases = Leases::new(cx.require::<Db>(Kind::Metadata)?);
    // What a dead daemon was pulling is nobody's any more.
    leases.drop_stale(&instance())?;
    cx.provide(Arc::new(leases));
    Ok(())
}

fn gc(cx: &mut Context<'_>) -> Result<()> {
    let content = cx.require::<Store>(Kind::Content)?;
    let snapshotters = cx.all::<dyn Snapshotter>(Kind::Snapshotter)?;
    let images = cx.require::<Images>(Kind::Service)?;
    let collector = Arc::new(Collector::new(cx.require(Kind::Metadata)?, content.as_ref().clone(), snapshotters, images.as_ref().clone()));
    collector.start(cx.threads())?;
    collector.schedule();
    cx.provide(collector);
    Ok(())
}

fn task(cx: &mut Context<'_>) -> Result<()> {
    let config = cx.config().clone();
    let (state, root) = (cx.state()?, cx.root()?);
    let found = probe::find(&state, &root);
    let default_binary = match found {
        Ok(found) => Some(found.path),
        Err(e) => {
            warn!(
                "no OCI runtime works here, only handlers with a BinaryName or a runtime_path of their own can start pods: {}",
                e.chain()
            );
            None
        }
    };
    cx.provide(Arc::new(OciRuntime(default_binary.clone())));
    let timeouts = config.timeouts.iter().filter_map(|(k, v)| Some((k.clone(), v.limit()?))).collect();
    let search = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_path_buf())).into_iter().collect();
    let launch = Launch { ttrpc_address: ttrpc_address(&config), grpc_address: PathBuf::from(&config.grpc.address), search };
    let settings = runtime::Config {
        state: config.state.clone(),
        root: config.root.clone(),
        launch,
        timeouts: Timeouts::from_config(&timeouts),
        default_binary,
    };
    let tasks = Tasks::open(settings, cx.require(Kind::Event)?)?;
    cx.provide(Arc::new(tasks));
    Ok(())
}

/// The OCI runtime that the probe found.
struct OciRuntime(Option<PathBuf>);

/// Empty in the config means beside the gRPC socket.
fn ttrpc_address(config: &Config) -> PathBuf {
    let own = &config.ttrpc.address;
    PathBuf::from(if own.is_empty() { format!("{}.ttrpc", config.grpc.address) } else { own.clone() })
}

fn forward(cx: &mut Context<'_>) -> Result<()> {
    let config = cx.config().clone();
    let tasks = cx.require::<Tasks>(Kind::Runtime)?;
    let listener = super::listeners::unix(&ttrpc_address(&config), config.ttrpc.uid, config.ttrpc.gid)?;
    let server = ttrpc::Server::new(listener, Arc::new(tasks.forward()))?;
    cx.threads().spawn("ttrpc-events", move |stop| server.serve(stop))
}

/// This run of the daemon: no other has its PID and start.
fn instance() -> String {
    static STARTED: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    STARTED.get_or_init(|| format!("{}-{}", std::process::id(), cri::now())).clone()
}

fn puller(cx: &mut Context<'_>) -> Result<()> {
    let section = &cx.config().cri_images;
    let (hosts, auths) = remote::tables::read(&section.registry)?;
    let client = remote::Client::new(remote::Config {
        hosts,
        auths,
        progress_timeout: section.image_pull_progress_timeout.limit(),
        ..remote::Config::default()
    });
    let limits = remote::pull::Limits {
        max_concurrent_downloads: section.max_concurrent_downloads,
        blobs: if section.discard_unpacked_layers { Blobs::Discard } else { Blobs::Keep },
        labels: if section.disable_snapshot_annotations { SnapshotLabels::Bare } else { SnapshotLabels::OfImage },
        ..remote::pull::Limits::default()
    };
    let parts = remote::pull::Parts {
        content: cx.require::<Store>(Kind::Content)?.as_ref().clone(),
        images: cx.require::<Images>(Kind::Service)?.as_ref().clone(),
        leases: cx.require::<Leases>(Kind::Lease)?.as_ref().clone(),
        snapshotters: cx.all(Kind::Snapshotter)?,
        client,
        processors: Processors::new(cx.config().stream_processors.clone(), &section.image_decryption.key_model),
        collector: Some(cx.require(Kind::Gc)?),
        instance: instance(),
    };
    let puller = remote::pull::Puller::new(parts, limits)?;
    cx.provide(Arc::new(puller));
    Ok(())
}

fn cri_service(cx: &mut Context<'_>) -> Result<()> {
    let (root, state) = (cx.root()?, cx.state()?);
    let db = cx.require::<Db>(Kind::Metadata)?;
    let ports = cri::Ports {
        content: cx.require(Kind::Content)?,
        images: cx.require(Kind::Service)?,
        containers: Objects::new(db.clone()),
        sandboxes: Objects::new(db),
        tasks: cx.require(Kind::Runtime)?,
        gc: cx.require(Kind::Gc)?,
        puller: cx.require(Kind::Cri)?,
        snapshotters: cx.all(Kind::Snapshotter)?,
    };
    let oci = cx.require::<OciRuntime>(Kind::Runtime)?;
    let mut loops = cx.all_threads();
    loops.push((RUNTIME.uri(), Arc::downgrade(ports.tasks.threads())));
    let node = cri::Node {
        dirs: Dirs { root, state },
        oci_runtime: oci.0.as_deref().map(Path::display).map(|d| d.to_string()).unwrap_or_default(),
        cni_limit: cx.config().timeout("io.cradled.timeout.cni.plugin").unwrap_or(Duration::from_secs(60)),
        threads: cx.threads().clone(),
        loops,
    };
    let bus = cx.require::<Bus>(Kind::Event)?;
    let opened = cri::open(cx.config(), node, ports, &bus)?;
    cx.provide::<Cri>(opened);
    Ok(())
}

/// What containerd's content service is asked about.
struct Served(Arc<Store>);

fn content_api(cx: &mut Context<'_>) -> Result<()> {
    let store = cx.require::<Store>(Kind::Content)?;
    cx.provide(Arc::new(Served(store)));
    Ok(())
}

/// The store that the content service shows, unless its plugin is off.
pub fn content_of(loaded: &crate::plugin::Loaded) -> Option<Arc<Store>> {
    loaded.provided.of::<Served>(Kind::Grpc).into_values().next().map(|served| served.0.clone())
}

/// CRI, once it runs.
pub fn cri_of(loaded: &crate::plugin::Loaded) -> Result<Arc<Cri>> {
    loaded.provided.of::<Cri>(Kind::Grpc).into_values().next().ok_or_else(|| {
        let why = loaded.plugins.iter().find(|(p, _)| p.uri() == CRI.uri()).map(|(_, s)| format!("{s:?}")).unwrap_or_default();
        Error::precondition(format!("plugin {} does not run: {why}", CRI.uri()))
    })
}
