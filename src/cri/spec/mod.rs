//! stub
#![allow(missing_docs, dead_code)]
use crate::cri::store::sandbox::Pins;
use crate::error::Result;
use crate::proto::cri::*;
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{LinuxResources, Process, Spec};
use std::path::{Path, PathBuf};
pub struct Host;
impl Host {
    pub fn probe() -> Host {
        Host
    }
}
pub struct Options {
    pub systemd_cgroup: bool,
    pub privileged_without_host_devices: bool,
    pub restrict_oom_score_adj: bool,
    pub disable_cgroup: bool,
}
pub struct SandboxInput<'a> {
    pub id: &'a str,
    pub config: &'a PodSandboxConfig,
    pub pins: &'a Pins,
    pub shm: Option<PathBuf>,
    pub host: &'a Host,
    pub options: &'a Options,
}
pub struct ContainerInput<'a> {
    pub id: &'a str,
    pub sandbox_id: &'a str,
    pub sandbox: &'a PodSandboxConfig,
    pub pins: &'a Pins,
    pub sandbox_pid: u32,
    pub target_pid: Option<u32>,
    pub config: &'a ContainerConfig,
    pub image: &'a ImageConfiguration,
    pub image_name: &'a str,
    pub rootfs: &'a Path,
    pub pod_dir: &'a Path,
    pub volumes_dir: &'a Path,
    pub host: &'a Host,
    pub options: &'a Options,
}
pub struct Volume {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
}
pub struct Built {
    pub spec: Spec,
    pub user: (u32, u32, Vec<u32>),
    pub volumes: Vec<Volume>,
}
pub fn sandbox(_: &SandboxInput) -> Result<Spec> {
    todo!()
}
pub fn container(_: &ContainerInput) -> Result<Built> {
    todo!()
}
pub fn check_sandbox(_: &PodSandboxConfig) -> Result<()> {
    todo!()
}
pub fn check_container(_: &ContainerConfig, _: &PodSandboxConfig) -> Result<()> {
    todo!()
}
pub fn exec_process(_: &Process, _: &[String], _: bool) -> Result<Process> {
    todo!()
}
pub fn update_resources(_: &LinuxResources, _: &LinuxContainerResources, _: &Host) -> Result<LinuxResources> {
    todo!()
}
pub fn stop_signal(_: &ContainerConfig, _: &ImageConfiguration) -> Result<u32> {
    todo!()
}
pub fn signal_name(_: u32) -> Option<String> {
    todo!()
}
pub fn resolv_conf(_: &DNSConfig) -> Result<String> {
    todo!()
}
pub fn cgroup_path(_: &str, _: &str, _: bool) -> String {
    todo!()
}
