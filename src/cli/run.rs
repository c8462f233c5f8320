//! `cradled run`: a thin CRI client. Pulls an image, runs a pod of it on the node's network setup, streams its output, passes its
//! exit code on, and removes all, also when it fails.
use super::args::{Options, Run};
use super::progress::Progress;
use crate::cri;
use crate::error::{Context, Error, Result};
use crate::proto::content::ListStatusesRequest;
use crate::proto::content_methods::content as content_methods;
use crate::proto::cri::{
    ContainerConfig, ContainerMetadata, ContainerState, ContainerStatusRequest, CreateContainerRequest, ImageSpec, LinuxPodSandboxConfig,
    PodSandboxConfig, PodSandboxMetadata, PullImageRequest, RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest,
    StopPodSandboxRequest,
};
use crate::proto::cri_methods::{image_service as images, runtime_service as rt};
use crate::rpc::grpc::Client;
use inotify::{Inotify, WatchMask};
use protobuf::MessageField;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// For calls that build or tear down.
const LIMIT: Duration = Duration::from_secs(300);
/// For a pull; a registry that sends nothing ends it earlier.
const PULL_LIMIT: Duration = Duration::from_secs(3600);
/// For a look at a pull's progress.
const LOOK: Duration = Duration::from_secs(2);
/// How often the container's state is looked at; its log is shown as it comes.
const TICK: Duration = Duration::from_millis(50);

/// Runs it.
pub fn run(run: Run, options: Options) -> Result<ExitCode> {
    let client = super::client(&options)?;
    pull(&client, &run.image)?;
    let name = format!("run-{}", std::process::id());
    let logs = std::env::temp_dir().join(format!("cradled-{name}"));
    std::fs::create_dir_all(&logs).during(|| format!("create {}", logs.display()))?;
    let pod = pod_config(&name, &logs);
    let request = RunPodSandboxRequest { config: MessageField::some(pod.clone()), ..RunPodSandboxRequest::default() };
    let result = client.call(&rt::RUN_POD_SANDBOX, &request, LIMIT).and_then(|answer| {
        let code = container(&client, &answer.pod_sandbox_id, pod, &run);
        let removed = remove(&client, &answer.pod_sandbox_id);
        code.and_then(|code| removed.map(|()| code))
    });
    let _ = std::fs::remove_dir_all(&logs);
    result.map(|code| ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn spec(image: &str) -> MessageField<ImageSpec> {
    MessageField::some(ImageSpec { image: image.into(), ..ImageSpec::default() })
}

fn pull(client: &Client, image: &str) -> Result<()> {
    let request = PullImageRequest { image: spec(image), ..PullImageRequest::default() };
    let mut progress = Progress::new();
    let content = client.in_namespace(cri::NAMESPACE);
    let mut watch = || {
        // A daemon that does not tell how far it is pulls all the same.
        if let Ok(answer) = content.call(&content_methods::LIST_STATUSES, &ListStatusesRequest::default(), LOOK) {
            progress.look(&answer.statuses);
        }
    };
    let answer = client.call_while(&images::PULL_IMAGE, &request, PULL_LIMIT, (TICK * 4, &mut watch));
    // What has come since the last look is told too.
    watch();
    progress.end(image, answer.as_ref().map(|a| a.image_ref.as_str()).map_err(drop));
    answer.map(drop)
}

fn pod_config(name: &str, logs: &Path) -> PodSandboxConfig {
    let metadata = PodSandboxMetadata { name: name.into(), uid: name.into(), namespace: "default".into(), ..PodSandboxMetadata::default() };
    PodSandboxConfig {
        metadata: MessageField::some(metadata),
        hostname: name.into(),
        log_directory: logs.display().to_string(),
        linux: MessageField::some(LinuxPodSandboxConfig::default()),
        ..PodSandboxConfig::default()
    }
}

fn container(client: &Client, pod_id: &str, pod: PodSandboxConfig, run: &Run) -> Result<i32> {
    let log = PathBuf::from(&pod.log_directory).join("0.log");
    let config = ContainerConfig {
        metadata: MessageField::some(ContainerMetadata { name: "main".into(), ..ContainerMetadata::default() }),
        image: spec(&run.image),
        args: run.command.clone(),
        log_path: "0.log".into(),
        ..ContainerConfig::default()
    };
    let create = CreateContainerRequest {
        pod_sandbox_id: pod_id.into(),
        config: MessageField::some(config),
        sandbox_config: MessageField::some(pod),
        ..CreateContainerRequest::default()
    };
    let container_id = client.call(&rt::CREATE_CONTAINER, &create, LIMIT)?.container_id;
    let start = StartContainerRequest { container_id: container_id.clone(), ..StartContainerRequest::default() };
    client.call(&rt::START_CONTAINER, &start, LIMIT)?;
    follow(client, &container_id, &log)
}

/// Shows the log until the container has ended and the log is read to its end.
fn follow(client: &Client, container_id: &str, log: &Path) -> Result<i32> {
    let request = ContainerStatusRequest { container_id: container_id.into(), ..ContainerStatusRequest::default() };
    // The log is there since the container was started.
    let mut reader = BufReader::new(File::open(log).during(|| format!("open {}", log.display()))?);
    let mut changes = Inotify::init().during(|| "start inotify")?;
    changes.watches().add(log, WatchMask::MODIFY).during(|| format!("watch {}", log.display()))?;
    loop {
        let status = client.call(&rt::CONTAINER_STATUS, &request, LIMIT)?.status.unwrap_or_default();
        show(&mut reader).during(|| format!("read {}", log.display()))?;
        if status.state == ContainerState::CONTAINER_EXITED.into() {
            if !status.message.is_empty() {
                eprintln!("{}: {}", status.reason, status.message);
            }
            return Ok(status.exit_code);
        }
        // Lines are shown as they come; in between the container's state is asked at each tick.
        let asked = Instant::now();
        while let Some(left) = TICK.checked_sub(asked.elapsed()) {
            if changed(&mut changes, left).during(|| "wait for the log")? {
                show(&mut reader).during(|| format!("read {}", log.display()))?;
            }
        }
    }
}

/// Waits until the log grows, at most for `limit`.
fn changed(changes: &mut Inotify, limit: Duration) -> std::io::Result<bool> {
    let limit = Timespec { tv_sec: 0, tv_nsec: limit.subsec_nanos().into() };
    match poll(&mut [PollFd::new(&*changes, PollFlags::IN)], Some(&limit)) {
        Ok(0) | Err(Errno::INTR) => Ok(false),
        Ok(_) => changes.read_events(&mut [0; 4096]).map(|_| true),
        Err(e) => Err(e.into()),
    }
}

/// Copies complete log lines to the stream that they came from.
fn show(reader: &mut BufReader<File>) -> std::io::Result<()> {
    let mut line = vec![];
    while reader.read_until(b'\n', &mut line)? > 0 {
        let mut fields = line.splitn(4, |b| *b == b' ');
        if let (Some(_), Some(stream), Some(tag), Some(text)) = (fields.next(), fields.next(), fields.next(), fields.next()) {
            // A partial line ends where the next one goes on.
            let text = if tag == b"P" { text.strip_suffix(b"\n").unwrap_or(text) } else { text };
            if stream == b"stderr" { std::io::stderr().write_all(text)? } else { std::io::stdout().write_all(text)? }
        }
        line.clear();
    }
    std::io::stdout().flush()
}

fn remove(client: &Client, pod_sandbox_id: &str) -> Result<()> {
    let stop = StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.into(), ..StopPodSandboxRequest::default() };
    client.call(&rt::STOP_POD_SANDBOX, &stop, LIMIT)?;
    let remove = RemovePodSandboxRequest { pod_sandbox_id: pod_sandbox_id.into(), ..RemovePodSandboxRequest::default() };
    client.call(&rt::REMOVE_POD_SANDBOX, &remove, LIMIT).map(drop).map_err(|e: Error| e)
}
