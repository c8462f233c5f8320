//! Fixture: a pod and a container with nothing set but their names, for tests.
use super::*;
use crate::proto::cri::{ContainerMetadata, ImageSpec, LinuxContainerSecurityContext, PodSandboxMetadata};
use crate::sys::fs::Scratch;
use protobuf::MessageField;

/// A pod's fixture, with namespaces pinned by a process that sleeps.
pub struct Fixture {
    pub scratch: Scratch,
    pub pod: PodSandboxConfig,
    pub config: ContainerConfig,
    pub image: ImageConfiguration,
    pub pins: Pins,
    pub host: Host,
    pub options: Options,
}

/// A pod "p" with a container "c" that has nothing set but its names.
pub fn fixture(host: Host) -> Fixture {
    let scratch = Scratch::new("spec");
    for dir in ["root/bin", "root/etc", "pod/shm", "volumes"] {
        scratch.dir(dir);
    }
    for (name, text) in [("hostname", "p\n"), ("hosts", "127.0.0.1 localhost\n"), ("resolv.conf", "")] {
        std::fs::write(scratch.path.join("pod").join(name), text).unwrap();
    }
    let mut pod = PodSandboxConfig { hostname: "p".into(), log_directory: "/var/log/p".into(), ..PodSandboxConfig::default() };
    pod.metadata = MessageField::some(PodSandboxMetadata {
        name: "p".into(),
        uid: "u".into(),
        namespace: "n".into(),
        ..PodSandboxMetadata::default()
    });
    let mut config = ContainerConfig {
        metadata: MessageField::some(ContainerMetadata { name: "c".into(), ..ContainerMetadata::default() }),
        image: MessageField::some(ImageSpec { image: "busybox".into(), ..ImageSpec::default() }),
        ..ContainerConfig::default()
    };
    config.linux.mut_or_insert_default();
    let (pins, options) = (Pins::default(), Options::default());
    Fixture { scratch, pod, config, image: ImageConfiguration::default(), pins, host, options }
}

impl Fixture {
    pub fn build(&self, sandbox_pid: u32) -> crate::error::Result<Built> {
        container(&ContainerInput {
            id: "c1",
            sandbox_id: "p1",
            sandbox: &self.pod,
            pins: &self.pins,
            sandbox_pid,
            target_pid: None,
            config: &self.config,
            image: &self.image,
            image_name: "docker.io/library/busybox:latest",
            rootfs: &self.scratch.path.join("root"),
            pod_dir: &self.scratch.path.join("pod"),
            volumes_dir: &self.scratch.path.join("volumes"),
            host: &self.host,
            options: &self.options,
        })
    }
    pub fn sandbox(&self) -> crate::error::Result<Spec> {
        let shm = self.pins.ipc.is_some().then(|| self.scratch.path.join("pod/shm"));
        sandbox(&SandboxInput { id: "p1", config: &self.pod, pins: &self.pins, shm, host: &self.host, options: &self.options })
    }
    /// The container's security context.
    pub fn context(&mut self) -> &mut LinuxContainerSecurityContext {
        self.config.linux.mut_or_insert_default().security_context.mut_or_insert_default()
    }
    /// The spec as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::to_value(&self.build(42).unwrap().spec).unwrap()
    }
}
