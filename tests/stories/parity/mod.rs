//! Parity: for the same requests, the config.json that we write has what containerd's has, but for the differences in
//! `tests/parity/differences.md`. `requests.json` there is what is asked, `reference.json` what containerd wrote.
mod fields;
mod host;
mod plan;
mod reference;
mod table;

use crate::harness::client::some;
use crate::harness::cri_json::message;
use crate::harness::{Daemon, Image, Registry, Setup, scratch};
use cradle::proto::cri::*;
use cradle::proto::cri_methods::runtime_service as rt;
use fields::{Fields, each_text, fields};
use plan::{Plan, Request};
use reference::{Answer, reference};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use table::Difference;

fn data(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn config_json_is_as_containerd_writes_it() {
    let dir = scratch("parity");
    let mut d = Setup::new().config(&handlers(&dir)).prepare();
    let plan = Plan::read(&dir, &d.cgroup_parent);
    of_the_reference(&d, &dir);
    d.start_again();
    let world = World { dir: dir.display().to_string(), d: &d };
    for (name, config) in plan.images() {
        let image = config.as_object().unwrap().iter().fold(Image::busybox(), |image, (key, value)| image.set(key, value.clone()));
        d.image(&format!("parity/{name}"), &image);
    }
    let pods = world.pods(&plan);
    let containers: BTreeMap<String, Answer> =
        plan.requests(&image_name).iter().filter_map(|r| Some((r.name.clone(), world.container(&pods, r)?))).collect();
    assert!(containers.len() >= 60, "only {} requests", containers.len());
    let pods = pods.into_iter().map(|(name, pod)| (name, pod.answer)).collect();
    let mut found = compared("pod", &reference("pods"), &pods);
    found.extend(compared("container", &reference("containers"), &containers));
    let complaints = table::complaints(&found, host::like_reference());
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

/// What the reference's own config had.
fn of_the_reference(d: &Daemon, dir: &Path) {
    let text = std::fs::read_to_string(d.path("config.toml")).unwrap();
    let key = "netns_mounts_under_state_dir = true\n";
    let keys = format!("{key}restrict_oom_score_adj = true\ncdi_spec_dirs = [\"{}/cdi\"]\n", dir.display());
    std::fs::write(d.path("config.toml"), text.replacen(key, &keys, 1)).unwrap();
}

/// Handlers as the reference had them.
fn handlers(dir: &Path) -> String {
    let table = "plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes";
    let of = |name: &str, keys: &str| {
        format!("[{table}.{name}]\nruntime_type = \"io.containerd.runc.v2\"\n{keys}\n[{table}.{name}.options]\nBinaryName = \"runc\"\n")
    };
    let base = format!("base_runtime_spec = \"{}/base.json\"", dir.display());
    [
        of("notes", "pod_annotations = [\"pod.test/*\"]\ncontainer_annotations = [\"container.test/*\"]"),
        of("no-devices", "privileged_without_host_devices = true"),
        of("all-allowed", "privileged_without_host_devices = true\nprivileged_without_host_devices_all_devices_allowed = true"),
        of("base", &base),
    ]
    .concat()
}

fn image_name(name: &str) -> String {
    Registry::shared().reference(&format!("parity/{name}"), "1")
}

/// A pod that runs, or does not.
struct PodHere {
    id: String,
    pid: u64,
    config: PodSandboxConfig,
    answer: Answer,
}

struct World<'a> {
    d: &'a Daemon,
    dir: String,
}

impl World<'_> {
    fn pods(&self, plan: &Plan) -> BTreeMap<String, PodHere> {
        let all = plan.pods(&self.d.logs(), &image_name);
        all.into_iter().map(|(name, handler, config)| (name.clone(), self.pod(&name, handler, &config))).collect()
    }
    fn pod(&self, name: &str, runtime_handler: String, config: &Value) -> PodHere {
        let config: PodSandboxConfig = message("PodSandboxConfig", config);
        let request = RunPodSandboxRequest { config: some(config.clone()), runtime_handler, ..Default::default() };
        let id = match self.d.ask(&rt::RUN_POD_SANDBOX, &request) {
            Ok(answer) => answer.pod_sandbox_id,
            Err(e) => return PodHere { id: String::new(), pid: 0, config, answer: Answer::Refused(e.chain()) },
        };
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: true, ..Default::default() };
        let info: Value = serde_json::from_str(&self.d.get(&rt::POD_SANDBOX_STATUS, &request).info["info"]).unwrap();
        let pid = info["pid"].as_u64().unwrap();
        let answer = Answer::Spec(self.fields(self.written(&id), "", name, &[(&id, "$POD")], pid));
        PodHere { id, pid, config, answer }
    }
    /// The config.json in a bundle.
    fn written(&self, id: &str) -> Value {
        let path = self.d.path("state/io.containerd.runtime.v2.task/k8s.io").join(id).join("config.json");
        serde_json::from_slice(&std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
    }
    /// None if its pod is not there.
    fn container(&self, pods: &BTreeMap<String, PodHere>, request: &Request) -> Option<Answer> {
        let pod = &pods[&request.pod];
        if pod.id.is_empty() {
            return None;
        }
        let mut config: ContainerConfig = message("ContainerConfig", &request.container);
        if request.target {
            let mut target = config.clone();
            target.metadata.mut_or_insert_default().name = "target".into();
            target.linux.mut_or_insert_default().security_context.mut_or_insert_default().namespace_options = None.into();
            let id = self.create(pod, target).unwrap();
            self.d.get(&rt::START_CONTAINER, &StartContainerRequest { container_id: id.clone(), ..Default::default() });
            let context = config.linux.mut_or_insert_default().security_context.mut_or_insert_default();
            context.namespace_options.mut_or_insert_default().target_id = id;
        }
        let id = match self.create(pod, config) {
            Ok(id) => id,
            Err(e) => return Some(Answer::Refused(e.chain())),
        };
        let status = ContainerStatusRequest { container_id: id.clone(), verbose: true, ..Default::default() };
        let mut info: Value = serde_json::from_str(&self.d.get(&rt::CONTAINER_STATUS, &status).info["info"]).unwrap();
        let spec = info["runtimeSpec"].take();
        if request.name == "plain" {
            self.d.get(&rt::START_CONTAINER, &StartContainerRequest { container_id: id.clone(), ..Default::default() });
            assert_eq!(self.written(&id), spec, "what is told of a container's spec is what its runtime gets");
        }
        let ids = [(id.as_str(), "$CTR"), (pod.id.as_str(), "$POD")];
        Some(Answer::Spec(self.fields(spec, &request.name, &request.pod, &ids, pod.pid)))
    }
    fn create(&self, pod: &PodHere, config: ContainerConfig) -> cradle::error::Result<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: some(config),
            sandbox_config: some(pod.config.clone()),
            ..Default::default()
        };
        self.d.ask(&rt::CREATE_CONTAINER, &request).map(|answer| answer.container_id)
    }
    /// Fields with placeholders for all that is of this run.
    fn fields(&self, spec: Value, container: &str, pod: &str, ids: &[(&str, &str)], pid: u64) -> Fields {
        let spec = each_text(spec, &|text| self.placeholders(text, ids, pid));
        let mut fields = fields(&spec);
        if let Some(score) = fields.get_mut("process.oomScoreAdj") {
            *score = host::oom_score(score.as_i64().unwrap()).into();
        }
        for (key, name, placeholder) in [
            ("container-name", container.to_string(), "$NAME"),
            ("sandbox-name", pod.to_string(), "$POD_NAME"),
            ("sandbox-uid", format!("uid-{pod}"), "uid-$POD_NAME"),
            ("sandbox-log-directory", format!("$LOGS/{pod}"), "$LOGS/$POD_NAME"),
        ] {
            if let Some(value) = fields.get_mut(&format!("annotations[io.kubernetes.cri.{key}]")).filter(|v| **v == name.as_str()) {
                *value = placeholder.into();
            }
        }
        fields
    }
    fn placeholders(&self, text: &str, ids: &[(&str, &str)], pid: u64) -> String {
        let mut text = ids.iter().fold(text.to_string(), |text, (id, placeholder)| text.replace(id, placeholder));
        text = text.replace(&self.dir, "$DIR").replace(&self.d.logs().display().to_string(), "$LOGS");
        text = text.replace(&self.d.cgroup_parent, "/parity");
        if let Some(name) = text.strip_prefix(&image_name("")[..image_name("").len() - 2]).and_then(|rest| rest.strip_suffix(":1")) {
            text = format!("$IMAGE/{name}");
        }
        if text.contains("/netns/") {
            return "$NETNS".into();
        }
        if let Some((of, namespace)) = text.strip_prefix("/proc/").and_then(|rest| rest.split_once("/ns/")) {
            return format!("/proc/{}/ns/{namespace}", if of == pid.to_string() { "$POD_PID" } else { "$TARGET_PID" });
        }
        if text.starts_with(&self.d.dir.display().to_string()) {
            return own_path(&PathBuf::from(&text));
        }
        match text.strip_prefix("HOSTNAME=") {
            Some(name) if std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim() == name => "HOSTNAME=$NODE".into(),
            _ => text,
        }
    }
}

/// A path below root or state: what counts is whose it is, and what it is called there.
fn own_path(path: &Path) -> String {
    let hex = |name: &str| name.len() >= 32 && name.bytes().all(|b| b.is_ascii_hexdigit());
    let mut out = String::new();
    for part in path.iter().map(|p| p.to_string_lossy()) {
        match &*part {
            "$POD" | "$CTR" => out = format!("{part}_DIR"),
            _ if out.ends_with("/volumes") => out.push_str("/$N"),
            name if hex(name) => out.push_str("/$DIGEST"),
            name => out.push_str(&format!("/{name}")),
        }
    }
    out
}

fn compared(kind: &'static str, theirs: &BTreeMap<String, Answer>, ours: &BTreeMap<String, Answer>) -> Vec<Difference> {
    let mut found = vec![];
    for (request, theirs) in theirs.iter().filter(|(name, _)| host::has_answer(name)) {
        let mut differs = |field: &str, theirs: Option<Value>, ours: Option<Value>| {
            found.push(Difference { kind, request: request.clone(), field: field.into(), theirs, ours });
        };
        match (theirs, ours.get(request)) {
            (_, None) => differs("config.json", Some("written".into()), None),
            (Answer::Refused(_), Some(Answer::Refused(_))) => {}
            (Answer::Refused(why), Some(_)) => differs("error", Some(why.as_str().into()), None),
            (_, Some(Answer::Refused(why))) => differs("error", None, Some(why.as_str().into())),
            (Answer::Spec(theirs), Some(Answer::Spec(ours))) => {
                let paths: std::collections::BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
                for path in paths.into_iter().filter(|p| theirs.get(*p) != ours.get(*p) && host::comparable(p)) {
                    differs(path, theirs.get(path).cloned(), ours.get(path).cloned());
                }
            }
        }
    }
    found
}
