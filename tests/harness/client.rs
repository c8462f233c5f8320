//! Pods and containers as stories tell of them, by CRI calls.
use super::{Daemon, next, wait_for};
use cradle::error::Result;
use cradle::proto::cri::*;
use cradle::proto::cri_methods::{image_service as images, runtime_service as rt};
use protobuf::MessageField;
use std::path::PathBuf;
use std::time::Duration;

/// A pod.
#[derive(Clone)]
pub struct Pod<'a> {
    pub daemon: &'a Daemon,
    pub id: String,
    pub config: PodSandboxConfig,
}

/// A container.
#[derive(Clone)]
pub struct Container<'a> {
    pub daemon: &'a Daemon,
    pub id: String,
    pub config: ContainerConfig,
    pub log_file: PathBuf,
}

/// What a command in a container did.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// One line of a log file.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub stream: String,
    pub whole: bool,
    pub text: String,
}

impl Daemon {
    /// What to ask for a pod, to be changed by the story.
    pub fn pod_config(&self, name: &str) -> PodSandboxConfig {
        let uid = format!("{name}-{}", next());
        let linux = LinuxPodSandboxConfig { cgroup_parent: self.cgroup_parent.clone(), ..Default::default() };
        PodSandboxConfig {
            metadata: some(PodSandboxMetadata { name: name.into(), uid: uid.clone(), namespace: "stories".into(), ..Default::default() }),
            hostname: name.into(),
            log_directory: self.logs().join(&uid).display().to_string(),
            linux: some(linux),
            ..Default::default()
        }
    }
    /// Runs a pod.
    #[track_caller]
    pub fn run_pod(&self, config: PodSandboxConfig, handler: &str) -> Pod<'_> {
        self.try_pod(config, handler).unwrap_or_else(|e| panic!("run pod with {handler}: {}", e.chain()))
    }
    /// Runs a pod that may fail.
    pub fn try_pod(&self, config: PodSandboxConfig, handler: &str) -> Result<Pod<'_>> {
        std::fs::create_dir_all(&config.log_directory).unwrap();
        let request = RunPodSandboxRequest { config: some(config.clone()), runtime_handler: handler.into(), ..Default::default() };
        let answer = self.ask(&rt::RUN_POD_SANDBOX, &request)?;
        Ok(Pod { daemon: self, id: answer.pod_sandbox_id, config })
    }
    /// A pod as most stories want it.
    #[track_caller]
    pub fn pod(&self, name: &str, handler: &str) -> Pod<'_> {
        self.run_pod(self.pod_config(name), handler)
    }
    /// Pulls; the image ID.
    pub fn pull(&self, reference: &str) -> Result<String> {
        let request = PullImageRequest { image: image_spec(reference), ..Default::default() };
        self.ask(&images::PULL_IMAGE, &request).map(|answer| answer.image_ref)
    }
    /// Pulls with credentials.
    pub fn pull_as(&self, reference: &str, auth: AuthConfig) -> Result<String> {
        let request = PullImageRequest { image: image_spec(reference), auth: some(auth), ..Default::default() };
        self.ask(&images::PULL_IMAGE, &request).map(|answer| answer.image_ref)
    }
    /// Pulls for a runtime handler.
    pub fn pull_for(&self, reference: &str, handler: &str) -> Result<String> {
        let request = PullImageRequest { image: image_for(reference, handler), ..Default::default() };
        self.ask(&images::PULL_IMAGE, &request).map(|answer| answer.image_ref)
    }
    /// Images that a filter names.
    pub fn images_like(&self, image: MessageField<ImageSpec>) -> Vec<cradle::proto::cri::Image> {
        let filter = some(ImageFilter { image, ..Default::default() });
        self.get(&images::LIST_IMAGES, &ListImagesRequest { filter, ..Default::default() }).images
    }
    /// What is known of an image.
    pub fn image_status(&self, reference: &str) -> Option<cradle::proto::cri::Image> {
        let request = ImageStatusRequest { image: image_spec(reference), ..Default::default() };
        self.get(&images::IMAGE_STATUS, &request).image.into_option()
    }
    /// Takes an image's name away.
    pub fn remove_image(&self, reference: &str) -> Result<()> {
        self.ask(&images::REMOVE_IMAGE, &RemoveImageRequest { image: image_spec(reference), ..Default::default() }).map(drop)
    }
    /// All images.
    pub fn images(&self) -> Vec<cradle::proto::cri::Image> {
        self.get(&images::LIST_IMAGES, &ListImagesRequest::default()).images
    }
    /// A pod's status.
    pub fn pod_status(&self, id: &str) -> Result<PodSandboxStatus> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), ..Default::default() };
        self.ask(&rt::POD_SANDBOX_STATUS, &request).map(|a| a.status.unwrap_or_default())
    }
    /// A container's status.
    pub fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        let request = ContainerStatusRequest { container_id: id.into(), ..Default::default() };
        self.ask(&rt::CONTAINER_STATUS, &request).map(|a| a.status.unwrap_or_default())
    }
    /// Stops a pod.
    pub fn stop_pod(&self, id: &str) -> Result<()> {
        self.ask(&rt::STOP_POD_SANDBOX, &StopPodSandboxRequest { pod_sandbox_id: id.into(), ..Default::default() }).map(drop)
    }
    /// Stops a container.
    pub fn stop_container(&self, id: &str, timeout: i64) -> Result<()> {
        self.ask(&rt::STOP_CONTAINER, &StopContainerRequest { container_id: id.into(), timeout, ..Default::default() }).map(drop)
    }
    /// Removes a container.
    pub fn remove_container(&self, id: &str) -> Result<()> {
        self.ask(&rt::REMOVE_CONTAINER, &RemoveContainerRequest { container_id: id.into(), ..Default::default() }).map(drop)
    }
    /// IDs of all pods.
    pub fn pod_ids(&self) -> Vec<String> {
        self.get(&rt::LIST_POD_SANDBOX, &ListPodSandboxRequest::default()).items.into_iter().map(|p| p.id).collect()
    }
    /// All containers.
    pub fn containers(&self) -> Vec<cradle::proto::cri::Container> {
        self.get(&rt::LIST_CONTAINERS, &ListContainersRequest::default()).containers
    }
    /// A container whose daemon has been restarted meanwhile, or whose borrow is in the way.
    pub fn container(&self, id: &str, log_file: PathBuf) -> Container<'_> {
        Container { daemon: self, id: id.into(), config: ContainerConfig::default(), log_file }
    }
}

/// Removes a pod.
pub fn remove_pod(daemon: &Daemon, id: &str) -> Result<()> {
    daemon.ask(&rt::REMOVE_POD_SANDBOX, &RemovePodSandboxRequest { pod_sandbox_id: id.into(), ..Default::default() }).map(drop)
}

/// A set message field.
pub fn some<T>(value: T) -> MessageField<T> {
    MessageField::some(value)
}

/// An image by its name.
pub fn image_spec(reference: &str) -> MessageField<ImageSpec> {
    some(ImageSpec { image: reference.into(), ..Default::default() })
}

/// An image for a runtime handler.
pub fn image_for(reference: &str, handler: &str) -> MessageField<ImageSpec> {
    some(ImageSpec { image: reference.into(), runtime_handler: handler.into(), ..Default::default() })
}

/// What to ask for a container.
pub fn container_config(name: &str, image: &str, command: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: some(ContainerMetadata { name: name.into(), ..Default::default() }),
        image: image_spec(image),
        command: command.iter().map(ToString::to_string).collect(),
        log_path: format!("{name}.log"),
        linux: some(LinuxContainerConfig::default()),
        ..Default::default()
    }
}

impl<'a> Pod<'a> {
    /// Creates a container.
    pub fn try_create(&self, config: ContainerConfig) -> Result<Container<'a>> {
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: some(config.clone()),
            sandbox_config: some(self.config.clone()),
            ..Default::default()
        };
        let id = self.daemon.ask(&rt::CREATE_CONTAINER, &request)?.container_id;
        let log_file = PathBuf::from(&self.config.log_directory).join(&config.log_path);
        Ok(Container { daemon: self.daemon, id, config, log_file })
    }
    /// Creates a container that must be created.
    #[track_caller]
    pub fn create(&self, config: ContainerConfig) -> Container<'a> {
        self.try_create(config).unwrap_or_else(|e| panic!("create container: {}", e.chain()))
    }
    /// Creates and starts one.
    #[track_caller]
    pub fn start(&self, config: ContainerConfig) -> Container<'a> {
        let container = self.create(config);
        container.start().unwrap_or_else(|e| panic!("start container: {}", e.chain()));
        container
    }
    /// Creates and starts a shell script.
    #[track_caller]
    pub fn shell(&self, name: &str, image: &str, script: &str) -> Container<'a> {
        self.start(container_config(name, image, &["sh", "-c", script]))
    }
    /// Its status.
    pub fn status(&self) -> PodSandboxStatus {
        self.daemon.pod_status(&self.id).unwrap()
    }
    /// Its first address.
    pub fn ip(&self) -> String {
        self.status().network.get_or_default().ip.clone()
    }
    /// Stops and removes it.
    #[track_caller]
    pub fn remove(&self) {
        self.daemon.stop_pod(&self.id).unwrap_or_else(|e| panic!("stop pod: {}", e.chain()));
        remove_pod(self.daemon, &self.id).unwrap_or_else(|e| panic!("remove pod: {}", e.chain()));
    }
}

impl Container<'_> {
    /// Starts it.
    pub fn start(&self) -> Result<()> {
        self.daemon.ask(&rt::START_CONTAINER, &StartContainerRequest { container_id: self.id.clone(), ..Default::default() }).map(drop)
    }
    /// Its status.
    #[track_caller]
    pub fn status(&self) -> ContainerStatus {
        self.daemon.container_status(&self.id).unwrap_or_else(|e| panic!("container status: {}", e.chain()))
    }
    /// Whether it runs.
    pub fn running(&self) -> bool {
        self.status().state == ContainerState::CONTAINER_RUNNING.into()
    }
    /// Waits for its end; its last status.
    #[track_caller]
    pub fn ended(&self, limit: Duration) -> ContainerStatus {
        wait_for("the container's end", limit, || Some(self.status()).filter(|s| s.state == ContainerState::CONTAINER_EXITED.into()))
    }
    /// Runs a command in it.
    pub fn try_exec(&self, command: &[&str], timeout: i64) -> Result<Done> {
        let cmd = command.iter().map(ToString::to_string).collect();
        let request = ExecSyncRequest { container_id: self.id.clone(), cmd, timeout, ..Default::default() };
        let answer = self.daemon.ask(&rt::EXEC_SYNC, &request)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Done { code: answer.exit_code, out: text(answer.stdout), err: text(answer.stderr) })
    }
    /// Runs a shell script in it.
    #[track_caller]
    pub fn exec(&self, script: &str) -> Done {
        self.try_exec(&["sh", "-c", script], 20).unwrap_or_else(|e| panic!("exec {script}: {}", e.chain()))
    }
    /// What a shell script in it prints, without the last newline.
    #[track_caller]
    pub fn says(&self, script: &str) -> String {
        let done = self.exec(script);
        assert_eq!(done.code, 0, "{script}: {done:?}");
        done.out.trim_end().to_string()
    }
    /// Its log so far.
    pub fn log(&self) -> Vec<Line> {
        let text = std::fs::read(&self.log_file).unwrap_or_default();
        String::from_utf8_lossy(&text).split_inclusive('\n').filter_map(Line::parse).collect()
    }
    /// Waits until its log has a line with this text.
    #[track_caller]
    pub fn logged(&self, text: &str, limit: Duration) {
        super::wait_until(&format!("\"{text}\" in the log"), limit, || self.log().iter().any(|l| l.text.contains(text)));
    }
}

impl Line {
    fn parse(line: &str) -> Option<Line> {
        let line = line.strip_suffix('\n')?;
        let mut fields = line.splitn(4, ' ');
        let (_, stream, tag, text) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        Some(Line { stream: stream.into(), whole: tag == "F", text: text.into() })
    }
}
