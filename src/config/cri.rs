//! CRI's sections as types. What a key means is said once, in `conf/config.toml`.
#![expect(missing_docs, reason = "each field is a key of conf/config.toml, which documents it")]
use super::duration::GoDuration;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// `io.containerd.grpc.v1.cri`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CriServer {
    pub disable_tcp_service: bool,
    pub stream_server_address: String,
    pub stream_server_port: String,
    pub stream_idle_timeout: GoDuration,
    pub enable_tls_streaming: bool,
    pub x509_key_pair_streaming: KeyPair,
}

/// Certificate and key.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyPair {
    pub tls_cert_file: String,
    pub tls_key_file: String,
    pub tls_client_ca_file: String,
}

/// `io.containerd.cri.v1.images`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CriImages {
    pub snapshotter: String,
    pub disable_snapshot_annotations: bool,
    pub discard_unpacked_layers: bool,
    pub max_concurrent_downloads: usize,
    pub concurrent_layer_fetch_buffer: u64,
    pub image_pull_progress_timeout: GoDuration,
    pub image_pull_with_sync_fs: bool,
    pub stats_collect_period: u64,
    pub use_local_image_pull: bool,
    pub pinned_images: BTreeMap<String, String>,
    pub runtime_platforms: BTreeMap<String, RuntimePlatform>,
    pub registry: Registry,
    pub image_decryption: ImageDecryption,
}

impl CriImages {
    /// The pause image; none = the built-in pause.
    pub fn sandbox_image(&self) -> Option<&str> {
        self.pinned_images.get("sandbox").map(String::as_str).filter(|s| !s.is_empty())
    }
}

/// An entry of `runtime_platforms`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimePlatform {
    pub platform: String,
    pub snapshotter: String,
}

/// `[….registry]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    pub config_path: String,
    pub mirrors: BTreeMap<String, Mirror>,
    pub configs: BTreeMap<String, RegistryHost>,
    pub auths: BTreeMap<String, RegistryAuth>,
    pub headers: BTreeMap<String, Vec<String>>,
}

/// An entry of `registry.mirrors`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mirror {
    pub endpoint: Vec<String>,
}

/// An entry of `registry.configs`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryHost {
    pub auth: Option<RegistryAuth>,
    pub tls: Option<RegistryTls>,
}

/// Credentials in the file.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryAuth {
    pub username: String,
    pub password: String,
    pub auth: String,
    pub identitytoken: String,
}

/// Secrets stay out of logs.
impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RegistryAuth {{ username: {:?}, .. }}", self.username)
    }
}

/// TLS of one registry.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryTls {
    pub insecure_skip_verify: bool,
    pub ca_file: String,
    pub cert_file: String,
    pub key_file: String,
}

/// `[….image_decryption]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageDecryption {
    pub key_model: String,
}

/// `io.containerd.cri.v1.runtime`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CriRuntime {
    pub enable_selinux: bool,
    pub selinux_category_range: u32,
    pub max_container_log_line_size: i64,
    pub disable_apparmor: bool,
    pub restrict_oom_score_adj: bool,
    pub disable_proc_mount: bool,
    pub disable_cgroup: bool,
    pub unset_seccomp_profile: String,
    pub tolerate_missing_hugetlb_controller: bool,
    pub disable_hugetlb_controller: bool,
    pub device_ownership_from_security_context: bool,
    pub ignore_image_defined_volumes: bool,
    pub netns_mounts_under_state_dir: bool,
    pub enable_unprivileged_ports: bool,
    pub enable_unprivileged_icmp: bool,
    pub enable_cdi: bool,
    pub cdi_spec_dirs: Vec<PathBuf>,
    pub drain_exec_sync_io_timeout: GoDuration,
    pub ignore_deprecation_warnings: Vec<String>,
    pub stats_collect_period: GoDuration,
    pub stats_retention_period: GoDuration,
    pub enable_criu: bool,
    pub containerd: Runtimes,
    pub cni: Cni,
}

/// `[….containerd]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtimes {
    pub default_runtime_name: String,
    pub ignore_blockio_not_enabled_errors: bool,
    pub ignore_rdt_not_enabled_errors: bool,
    pub runtimes: BTreeMap<String, RuntimeHandler>,
}

/// An entry of `runtimes`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeHandler {
    pub runtime_type: String,
    pub runtime_path: String,
    pub pod_annotations: Vec<String>,
    pub container_annotations: Vec<String>,
    pub privileged_without_host_devices: bool,
    pub privileged_without_host_devices_all_devices_allowed: bool,
    pub cgroup_writable: bool,
    pub base_runtime_spec: String,
    pub cni_conf_dir: String,
    pub cni_max_conf_num: usize,
    pub snapshotter: String,
    pub sandboxer: Sandboxer,
    pub disable_pause_image_pull: bool,
    pub io_type: String,
    pub options: toml::Table,
}

impl RuntimeHandler {
    /// The options, where the type is `io.containerd.runc.v2`.
    pub fn runc(&self) -> RuncOptions {
        // The check has seen to the types; another shim's options have fields of their own.
        self.options.clone().try_into().unwrap_or_default()
    }
}

/// Who makes a pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
pub enum Sandboxer {
    /// The daemon.
    #[default]
    #[serde(rename = "podsandbox", alias = "")]
    PodSandbox,
    /// The shim's sandbox service.
    #[serde(rename = "shim")]
    Shim,
}

/// Options of `io.containerd.runc.v2`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RuncOptions {
    pub binary_name: String,
    pub systemd_cgroup: bool,
    pub root: String,
    pub shim_cgroup: String,
    pub no_new_keyring: bool,
    pub no_pivot_root: bool,
    pub io_uid: u32,
    pub io_gid: u32,
    pub criu_path: String,
    pub criu_image_path: String,
    pub criu_work_path: String,
}

/// `[….cni]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cni {
    pub bin_dirs: Vec<PathBuf>,
    pub conf_dir: PathBuf,
    pub max_conf_num: usize,
    pub setup_serially: bool,
    pub conf_template: String,
    pub ip_pref: String,
    pub use_internal_loopback: bool,
}
