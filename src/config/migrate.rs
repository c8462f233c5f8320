//! Migrate: files of versions 1 to 3, and old keys in newer ones, as version 4.
use super::check::Warning;
use super::tree::{Item, Keys, Node};
use super::{CRI, DEBUG, GRPC, GRPC_TCP, IMAGES, METRICS, NEWEST, RUNTIME, TTRPC};
use crate::error::{Error, Result};
use std::path::Path;
use toml::Value;

/// Short names of version 1.
const SHORT: [(&str, &str); 16] = [
    ("cri", CRI),
    ("cgroups", "io.containerd.monitor.v1.cgroups"),
    ("linux", "io.containerd.runtime.v1.linux"),
    ("scheduler", "io.containerd.gc.v1.scheduler"),
    ("bolt", "io.containerd.metadata.v1.bolt"),
    ("task", "io.containerd.runtime.v2.task"),
    ("opt", "io.containerd.internal.v1.opt"),
    ("restart", "io.containerd.internal.v1.restart"),
    ("tracing", "io.containerd.internal.v1.tracing"),
    ("otlp", "io.containerd.tracing.processor.v1.otlp"),
    ("aufs", "io.containerd.snapshotter.v1.aufs"),
    ("btrfs", "io.containerd.snapshotter.v1.btrfs"),
    ("devmapper", "io.containerd.snapshotter.v1.devmapper"),
    ("native", "io.containerd.snapshotter.v1.native"),
    ("overlayfs", "io.containerd.snapshotter.v1.overlayfs"),
    ("zfs", "io.containerd.snapshotter.v1.zfs"),
];
/// Keys of the one CRI table of version 2 that are the images' now.
const TO_IMAGES: [&str; 6] = [
    "registry",
    "image_decryption",
    "max_concurrent_downloads",
    "image_pull_progress_timeout",
    "image_pull_with_sync_fs",
    "stats_collect_period",
];
/// Keys of its `containerd` table that are the images' now.
const CONTAINERD_TO_IMAGES: [&str; 3] = ["snapshotter", "disable_snapshot_annotations", "discard_unpacked_layers"];
/// Keys that stay with the CRI server.
const TO_SERVER: [&str; 6] = [
    "disable_tcp_service",
    "stream_server_address",
    "stream_server_port",
    "stream_idle_timeout",
    "enable_tls_streaming",
    "x509_key_pair_streaming",
];
/// Keys of old versions that have nothing to say any more.
const DEAD_CRI: [&str; 1] = ["systemd_cgroup"];
const DEAD_CONTAINERD: [&str; 1] = ["no_pivot"];

/// Brings one file to version 4; its version is taken out.
pub(super) fn migrate(keys: &mut Keys, file: &Path, warnings: &mut Vec<Warning>) -> Result<()> {
    let version = match keys.remove("version") {
        // containerd takes a file without a version as of version 1.
        None => 1,
        Some(node) => match &node.item {
            Item::Value(Value::Integer(version @ 1..=NEWEST)) => *version,
            Item::Value(other) => {
                return Err(Error::invalid(format!("version{}: is {other}, must be 1 to {NEWEST}", node.at())));
            }
            Item::Table(_) => return Err(Error::invalid(format!("{}: version is a table", file.display()))),
        },
    };
    if version == 1 {
        long_names(keys);
    }
    keys.remove("plugin_dir");
    let plugins = keys.remove("plugins").unwrap_or_else(|| Node::table(Keys::new(), None));
    let Item::Table(mut plugins) = plugins.item else {
        return Err(Error::invalid(format!("plugins{}: is {}, must be a table", plugins.at(), plugins.kind())));
    };
    servers(keys, &mut plugins);
    cri(&mut plugins, warnings);
    if !plugins.is_empty() {
        keys.insert("plugins".into(), Node::table(plugins, None));
    }
    Ok(())
}

fn long_name(short: &str) -> String {
    match SHORT.iter().find(|(s, _)| *s == short) {
        Some((_, long)) => (*long).to_owned(),
        None if short.contains('.') => short.to_owned(),
        None if short.ends_with("-service") => format!("io.containerd.service.v1.{short}"),
        None => format!("io.containerd.grpc.v1.{short}"),
    }
}

fn long_names(keys: &mut Keys) {
    if let Some(plugins) = keys.get_mut("plugins").and_then(Node::keys_mut) {
        *plugins = std::mem::take(plugins).into_iter().map(|(name, node)| (long_name(&name), node)).collect();
    }
    for list in ["disabled_plugins", "required_plugins"] {
        if let Some(Item::Value(Value::Array(list))) = keys.get_mut(list).map(|n| &mut n.item) {
            for value in list {
                if let Value::String(name) = value {
                    *name = long_name(name);
                }
            }
        }
    }
}

/// `[grpc]`, `[ttrpc]`, `[metrics]` and the address of `[debug]` are plugins since version 4. What a plugin's own table says
/// wins, and an empty address keeps the default.
fn servers(keys: &mut Keys, plugins: &mut Keys) {
    let tcp = [
        ("tcp_address", "address"),
        ("tcp_tls_ca", "tls_ca"),
        ("tcp_tls_cert", "tls_cert"),
        ("tcp_tls_key", "tls_key"),
        ("tcp_tls_common_name", "tls_common_name"),
    ];
    let same = ["address", "uid", "gid", "max_recv_message_size", "max_send_message_size"].map(|k| (k, k));
    let mut owner = vec![];
    if let Some(grpc) = keys.get_mut("grpc").and_then(Node::keys_mut) {
        // Shims may publish to who may call.
        owner = ["uid", "gid"].iter().filter_map(|k| grpc.get(*k).filter(|n| !n.is_zero()).map(|n| (*k, n.clone()))).collect();
        let sizes: Vec<_> = same[3..].iter().filter_map(|(k, _)| grpc.get(*k).map(|n| (*k, n.clone()))).collect();
        if grpc.get("tcp_address").is_some_and(|n| !n.is_zero()) {
            let to = below(plugins, GRPC_TCP);
            sizes.into_iter().filter(|(_, n)| !n.is_zero()).for_each(|(k, n)| put(to, k, n));
        }
        shift(grpc, plugins, GRPC_TCP, &tcp);
        shift(grpc, plugins, GRPC, &same);
    }
    if let Some(ttrpc) = keys.get_mut("ttrpc").and_then(Node::keys_mut) {
        shift(ttrpc, plugins, TTRPC, &same[..3]);
    }
    for (key, node) in owner {
        put(below(plugins, TTRPC), key, node);
    }
    if let Some(debug) = keys.get_mut("debug").and_then(Node::keys_mut) {
        shift(debug, plugins, DEBUG, &same[..3]);
    }
    if let Some(metrics) = keys.get_mut("metrics").and_then(Node::keys_mut) {
        shift(metrics, plugins, METRICS, &same[..1]);
        shift(metrics, plugins, "io.containerd.metrics.v1.grpc-prometheus", &[("grpc_histogram", "grpc_histogram")]);
    }
    for name in ["grpc", "ttrpc", "metrics"] {
        if keys.get(name).and_then(Node::keys).is_some_and(Keys::is_empty) {
            keys.remove(name);
        }
    }
}

fn shift(from: &mut Keys, plugins: &mut Keys, plugin: &str, names: &[(&str, &str)]) {
    for (old, new) in names {
        if let Some(node) = from.remove(*old)
            && !node.is_zero()
        {
            put(below(plugins, plugin), new, node);
        }
    }
}

/// The table of that name, made if missing.
fn below<'a>(keys: &'a mut Keys, name: &str) -> &'a mut Keys {
    let node = keys.entry(name.to_owned()).or_insert_with(|| Node::table(Keys::new(), None));
    if node.keys().is_none() {
        // The check would refuse it later; nothing can be moved into a value.
        node.item = Item::Table(Keys::new());
    }
    match &mut node.item {
        Item::Table(keys) => keys,
        Item::Value(_) => unreachable!("made a table above"),
    }
}

/// What is there already stays: new names win over old ones. Tables join.
fn put(to: &mut Keys, key: &str, node: Node) {
    match (to.get_mut(key), node) {
        (None, node) => {
            to.insert(key.to_owned(), node);
        }
        (Some(Node { item: Item::Table(there), .. }), Node { item: Item::Table(more), .. }) => {
            more.into_iter().for_each(|(key, node)| put(there, &key, node));
        }
        _ => {}
    }
}

/// Version 2 had one CRI table; three plugins have its keys now.
fn cri(plugins: &mut Keys, warnings: &mut Vec<Warning>) {
    if let Some(old) = plugins.get_mut(CRI).and_then(Node::keys_mut) {
        let all = std::mem::take(old);
        let (stay, go): (Keys, Keys) = all.into_iter().partition(|(key, _)| TO_SERVER.contains(&key.as_str()));
        *old = stay;
        for (key, node) in go {
            move_cri_key(plugins, &key, node);
        }
        if plugins.get(CRI).and_then(Node::keys).is_some_and(Keys::is_empty) {
            plugins.remove(CRI);
        }
    }
    if let Some(runtime) = plugins.get_mut(RUNTIME).and_then(Node::keys_mut) {
        old_runtime_keys(runtime, warnings);
    }
}

fn move_cri_key(plugins: &mut Keys, key: &str, node: Node) {
    match (key, node) {
        (key, _) if DEAD_CRI.contains(&key) => {}
        ("sandbox_image", node) => put(below(below(plugins, IMAGES), "pinned_images"), "sandbox", node),
        (key, node) if TO_IMAGES.contains(&key) => put(below(plugins, IMAGES), key, node),
        ("containerd", Node { item: Item::Table(keys), origin }) => {
            let (images, runtime): (Keys, Keys) = keys.into_iter().partition(|(key, _)| CONTAINERD_TO_IMAGES.contains(&key.as_str()));
            images.into_iter().for_each(|(key, node)| put(below(plugins, IMAGES), &key, node));
            put(below(plugins, RUNTIME), "containerd", Node::table(runtime, origin));
        }
        (key, node) => put(below(plugins, RUNTIME), key, node),
    }
}

fn old_runtime_keys(runtime: &mut Keys, warnings: &mut Vec<Warning>) {
    if let Some(cni) = runtime.get_mut("cni").and_then(Node::keys_mut)
        && let Some(Node { item: Item::Value(dir), origin }) = cni.remove("bin_dir")
        && dir.as_str() != Some("")
    {
        put(cni, "bin_dirs", Node::value(Value::Array(vec![dir]), origin));
    }
    let Some(containerd) = runtime.get_mut("containerd").and_then(Node::keys_mut) else { return };
    DEAD_CONTAINERD.iter().for_each(|key| drop(containerd.remove(*key)));
    for (old, name) in [("default_runtime", "default"), ("untrusted_workload_runtime", "untrusted")] {
        let Some(node) = containerd.remove(old) else { continue };
        let set = node.keys().and_then(|k| k.get("runtime_type")).is_some_and(|t| !t.is_zero());
        if !set {
            continue;
        }
        let text = format!("is read as containerd.runtimes.{name}");
        warnings.push(Warning { key: old.into(), origin: node.origin.clone(), text });
        if old == "default_runtime" {
            containerd.insert("default_runtime_name".into(), Node::value(name, node.origin.clone()));
        }
        put(below(containerd, "runtimes"), name, node);
    }
    let Some(runtimes) = containerd.get_mut("runtimes").and_then(Node::keys_mut) else { return };
    for keys in runtimes.values_mut().filter_map(Node::keys_mut) {
        for (old, new) in [("runtime_root", "Root"), ("runtime_engine", "BinaryName")] {
            if let Some(node) = keys.remove(old).filter(|n| !n.is_zero()) {
                put(below(keys, "options"), new, node);
            }
        }
        for (old, new) in [("sandbox_mode", "sandboxer"), ("snapshot", "snapshotter")] {
            if let Some(node) = keys.remove(old).filter(|n| !n.is_zero()) {
                put(keys, new, node);
            }
        }
    }
}
