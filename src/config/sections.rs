//! Sections: the daemon's own tables as types. What a key means is said once, in `conf/config.toml`.
#![expect(missing_docs, reason = "each field is a key of conf/config.toml, which documents it")]
use super::duration::GoDuration;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// `[cgroup]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cgroup {
    pub path: String,
}

/// `[debug]`: the log.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub level: String,
    pub format: String,
    pub log_trace_id: bool,
}

/// An entry of `[proxy_plugins]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyPlugin {
    #[serde(rename = "type")]
    pub kind: String,
    pub address: String,
    pub platform: String,
    pub exports: BTreeMap<String, String>,
    pub capabilities: Vec<String>,
}

/// An entry of `[stream_processors]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamProcessor {
    pub accepts: Vec<String>,
    pub returns: String,
    pub path: String,
    pub args: Vec<String>,
    pub env: Vec<String>,
}

/// `io.containerd.server.v1.grpc`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grpc {
    pub address: String,
    pub uid: u32,
    pub gid: u32,
    pub max_recv_message_size: u32,
    pub max_send_message_size: u32,
}

/// `io.containerd.server.v1.grpc-tcp`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcTcp {
    pub address: String,
    pub tls_ca: String,
    pub tls_cert: String,
    pub tls_key: String,
    pub tls_common_name: String,
    pub max_recv_message_size: u32,
    pub max_send_message_size: u32,
}

/// `io.containerd.server.v1.ttrpc` and `….debug`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Socket {
    pub address: String,
    pub uid: u32,
    pub gid: u32,
}

/// `io.containerd.server.v1.metrics`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    pub address: String,
}

/// `io.containerd.gc.v1.scheduler`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GcScheduler {
    pub pause_threshold: f64,
    pub deletion_threshold: i64,
    pub mutation_threshold: i64,
    pub schedule_delay: GoDuration,
    pub startup_delay: GoDuration,
}

/// `io.containerd.metadata.v1.bolt`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    pub content_sharing_policy: String,
    pub no_sync: bool,
}

/// `io.containerd.snapshotter.v1.overlayfs`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlayfs {
    pub root_path: String,
    pub upperdir_label: bool,
    pub sync_remove: bool,
    pub slow_chown: bool,
    pub mount_options: Vec<String>,
}

/// `io.containerd.snapshotter.v1.native`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Native {
    pub root_path: String,
}

/// `io.containerd.transfer.v1.local`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    pub max_concurrent_downloads: usize,
    pub max_concurrent_uploaded_layers: usize,
    pub max_concurrent_unpacks: usize,
    pub concurrent_layer_fetch_buffer: u64,
    pub check_platform_supported: bool,
    pub config_path: String,
    #[serde(default)]
    pub unpack_config: Vec<toml::Table>,
}

/// `io.containerd.service.v1.tasks-service`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tasks {
    pub blockio_config_file: String,
    pub rdt_config_file: String,
}

/// `io.containerd.nri.v1.nri`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nri {
    pub disable: bool,
    pub socket_path: PathBuf,
    pub plugin_path: PathBuf,
    pub plugin_config_path: PathBuf,
    pub plugin_registration_timeout: GoDuration,
    pub plugin_request_timeout: GoDuration,
    pub disable_connections: bool,
    #[serde(default)]
    pub default_validator: toml::Table,
}
