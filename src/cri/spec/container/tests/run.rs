//! Specs run for real: a pod, and containers in it, by each runtime that is installed. Needs root and busybox.
use super::*;
use crate::cri::spec::{exec_process, perform};
use std::process::{Child, Command, Stdio};

const TOOLS: [&str; 9] = ["id", "grep", "ps", "head", "cat", "ls", "touch", "hostname", "sleep"];

/// Holds namespaces; killed and waited for at the end.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn holder() -> (Holder, Pins) {
    let child = Holder(Command::new("unshare").args(["-n", "-u", "-i", "sleep", "60"]).spawn().unwrap());
    let of = |kind: &str| Some(PathBuf::from(format!("/proc/{}/ns/{kind}", child.0.id())));
    let pins = Pins { net: of("net"), ipc: of("ipc"), uts: of("uts"), user: None };
    let own = fs::read_link("/proc/self/ns/ipc").unwrap();
    while fs::read_link(pins.ipc.as_ref().unwrap()).unwrap() == own {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    (child, pins)
}

/// A pod that runs under one runtime, and is taken away with its cgroups.
struct Pod {
    runtime: &'static str,
    scene: Scene,
    id: String,
    pins: Pins,
    pid: u32,
    _holder: Holder,
}

impl Pod {
    /// `None` where it can not be tried. `change` edits the requests.
    fn run(runtime: &'static str, what: &str, change: fn(&mut Scene)) -> Option<Pod> {
        let there = |tool: &str| ["/usr/bin", "/usr/sbin", "/bin"].iter().any(|d| Path::new(d).join(tool).exists());
        if !there(runtime) || !there("busybox") || !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root, busybox and {runtime}");
            return None;
        }
        let mut scene = Scene::new(&format!("run-{runtime}-{what}"));
        scene.host = Host::probe().unwrap();
        let id = format!("cradle-spec-{runtime}-{what}-{}", std::process::id());
        scene.pod.linux.mut_or_insert_default().cgroup_parent = format!("/{id}");
        change(&mut scene);
        let (_holder, pins) = holder();
        let mut pod = Pod { runtime, scene, id, pins, pid: 0, _holder };
        let spec = pod.scene.sandbox(&pod.pins);
        let bundle = pod.bundle("p", &spec);
        let pause = bundle.join("rootfs/pause");
        fs::write(&pause, "#!/bin/busybox sh\nexec /bin/busybox sleep 60\n").unwrap();
        fs::set_permissions(&pause, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let (pid_file, log) = (pod.scene.dir.join("pid"), pod.scene.dir.join("log"));
        let to = || fs::File::options().create(true).append(true).open(&log).unwrap();
        let line = format!("run -d --pid-file {} -b {} {}-p", pid_file.display(), bundle.display(), pod.id);
        let status = pod.command(&line).stdout(to()).stderr(to()).status().unwrap();
        assert!(status.success(), "{runtime}: {}", fs::read_to_string(&log).unwrap());
        pod.pid = fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        Some(pod)
    }

    /// crun takes no hybrid cgroups.
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("unshare");
        let script = format!("umount /sys/fs/cgroup/unified 2>/dev/null; exec {} {line}", self.runtime);
        command.args(["-m", "sh", "-c", &script]).stdin(Stdio::null());
        command
    }

    fn bundle(&self, name: &str, spec: &Spec) -> PathBuf {
        let bundle = self.scene.dir.join(name);
        fs::create_dir_all(bundle.join("rootfs/bin")).unwrap();
        fs::copy("/bin/busybox", bundle.join("rootfs/bin/busybox")).unwrap();
        fs::write(bundle.join("config.json"), spec.to_json().unwrap()).unwrap();
        bundle
    }

    /// Runs a shell text as a container of the pod; its output.
    fn container(&mut self, text: &str) -> String {
        let functions: String = TOOLS.iter().map(|t| format!("{t}() {{ /bin/busybox {t} \"$@\"; }}; ")).collect();
        self.scene.request.command = ["/bin/busybox", "sh", "-c", &format!("{functions}{text}")].map(String::from).to_vec();
        let built = self.scene.build_with(&self.pins, self.pid).unwrap();
        perform(&built.actions).unwrap();
        let bundle = self.bundle("c", &built.spec);
        let output = self.command(&format!("run -b {} {}-c", bundle.display(), self.id)).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    fn shows(&mut self, text: &str, wanted: &[&str]) -> String {
        let out = self.container(text);
        for want in wanted {
            assert!(out.contains(want), "{}: {want:?} is missing in\n{out}", self.runtime);
        }
        out
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for part in ["c", "p"] {
            let _ = self.command(&format!("delete -f {}-{part}", self.id)).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        // Runtimes remove a container's cgroup, not the pod's.
        let all = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|e| e.path());
        for hierarchy in all.chain([PathBuf::from("/sys/fs/cgroup")]) {
            let _ = fs::remove_dir(hierarchy.join(&self.id));
        }
    }
}

fn plain(runtime: &'static str) {
    let set = |scene: &mut Scene| {
        scene.pod.linux.mut_or_insert_default().sysctls.insert("net.ipv4.tcp_syncookies".into(), "0".into());
        scene.image(serde_json::json!({"Volumes": {"/vol": {}}, "Env": ["HOME=/vol"], "User": "web"}));
        let made = scene.dir.join("made/here").display().to_string();
        let mount = cri::Mount { container_path: "/new".into(), host_path: made, readonly: true, ..Default::default() };
        scene.request.mounts.push(mount);
        let context = scene.context();
        context.seccomp = MessageField::some(Default::default());
        context.no_new_privs = true;
        context.supplemental_groups = vec![77];
        context.masked_paths = vec!["/proc/kcore".into(), "/sys/devices/virtual/powercap".into(), "/sys/firmware".into()];
        context.readonly_paths = vec!["/proc/sys".into()];
        let limits = scene.request.linux.mut_or_insert_default().resources.mut_or_insert_default();
        (limits.memory_limit_in_bytes, limits.cpu_shares, limits.oom_score_adj) = (64 << 20, 100, 500);
    };
    let Some(mut pod) = Pod::run(runtime, "plain", set) else { return };
    let text = "id; grep -E 'Cap(Inh|Amb|Bnd)|Seccomp:|NoNew' /proc/self/status; echo $HOME $HOSTNAME; ps; touch /new/x || echo read-only; \
                cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/tcp_syncookies /proc/self/oom_score_adj; \
                grep -c . /etc/hosts; ls /sys/firmware; echo end";
    let wanted = [
        "uid=1000",
        "groups=77",
        "CapInh:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "CapBnd:\t00000000a80425fb",
        "Seccomp:\t2",
        "NoNewPrivs:\t1",
        "/vol web-0",
        "sleep 60",
        "read-only",
        "\n0\n0\n500\n",
        "end",
    ];
    pod.shows(text, &wanted);
    let base = pod.scene.sandbox(&pod.pins).process.unwrap();
    let process = exec_process(&base, &["/bin/busybox", "echo", "hi"].map(String::from), false).unwrap();
    let path = pod.scene.dir.join("process.json");
    fs::write(&path, serde_json::to_vec(&process).unwrap()).unwrap();
    let output = pod.command(&format!("exec -p {} {}-p", path.display(), pod.id)).output().unwrap();
    assert_eq!(output.stdout, b"hi\n", "{runtime}: {}", String::from_utf8_lossy(&output.stderr));
}

fn privileged(runtime: &'static str) {
    let set = |scene: &mut Scene| {
        scene.pod_context().privileged = true;
        scene.context().privileged = true;
    };
    let Some(mut pod) = Pod::run(runtime, "privileged", set) else { return };
    let text = "grep Seccomp: /proc/self/status; ls /dev/null /dev/full; grep ' /sys ' /proc/mounts; echo end";
    pod.shows(text, &["Seccomp:\t0", "/dev/full", "sysfs /sys sysfs rw", "end"]);
}

fn ambient(runtime: &'static str) {
    let set = |scene: &mut Scene| {
        let context = scene.context();
        context.run_as_user = MessageField::some(cri::Int64Value { value: 1234, ..Default::default() });
        context.capabilities.mut_or_insert_default().add_ambient_capabilities = vec!["NET_BIND_SERVICE".into()];
        context.capabilities.mut_or_insert_default().drop_capabilities = vec!["ALL".into()];
    };
    let Some(mut pod) = Pod::run(runtime, "ambient", set) else { return };
    let bit = "0000000000000400";
    let wanted = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|c| format!("{c}:\t{bit}"));
    pod.shows("grep Cap /proc/self/status", &wanted.each_ref().map(String::as_str));
}

/// The rules of RuntimeDefault as the kernel has them: what socket and unshare answer.
fn filtered(runtime: &'static str) {
    let set = |scene: &mut Scene| {
        scene.context().seccomp = MessageField::some(Default::default());
    };
    let Some(mut pod) = Pod::run(runtime, "filtered", set) else { return };
    let out = pod.container(
        "/bin/busybox unshare -m /bin/busybox true; /bin/busybox mount -t tmpfs x /tmp; /bin/busybox nc -z 127.0.0.1 1; echo end",
    );
    assert!(out.matches("not permitted").count() + out.matches("ermission denied").count() >= 2 && out.contains("end"), "{runtime}: {out}");
}

#[test]
fn runc_takes_our_specs() {
    for case in [plain, privileged, ambient, filtered] {
        case("runc");
    }
}

#[test]
fn crun_takes_our_specs() {
    for case in [plain, privileged, ambient, filtered] {
        case("crun");
    }
}
