//! Specs run for real: a pod and a container in it, by each runtime that is installed. Needs root and busybox.
use super::fixture::{Fixture, fixture};
use super::*;
use crate::proto::cri::{KeyValue, Mount};
use protobuf::MessageField;
use std::process::{Child, Command, Stdio};

fn bundle(f: &Fixture, name: &str, spec: &Spec) -> PathBuf {
    let bundle = f.scratch.dir(name);
    let root = f.scratch.dir(&format!("{name}/rootfs"));
    for dir in ["bin", "etc"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    std::fs::write(bundle.join("config.json"), serde_json::to_vec_pretty(spec).unwrap()).unwrap();
    bundle
}

/// Killed and waited for at the end.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn holder() -> (Holder, Pins) {
    let child = Command::new("unshare").args(["-n", "-u", "-i", "sleep", "60"]).spawn().unwrap();
    let of = |kind: &str| Some(PathBuf::from(format!("/proc/{}/ns/{kind}", child.id())));
    let pins = Pins { net: of("net"), ipc: of("ipc"), uts: of("uts") };
    let own = std::fs::read_link("/proc/self/ns/ipc").unwrap();
    while std::fs::read_link(pins.ipc.as_ref().unwrap()).unwrap() == own {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    (Holder(child), pins)
}

/// crun takes no hybrid cgroups.
fn runtime(name: &str, line: &str) -> Command {
    let mut command = Command::new("unshare");
    let hide = "umount /sys/fs/cgroup/unified 2>/dev/null;";
    command.args(["-m", "sh", "-c", &format!("{hide} exec {name} {line}")]).stdin(Stdio::null());
    command
}

fn runs_under(name: &str, what: &str, inside: fn(&mut Fixture, &str, &str, u32)) {
    if Command::new(name).arg("--version").output().is_err() || !Path::new("/bin/busybox").exists() || !rustix::process::geteuid().is_root()
    {
        eprintln!("skipped: needs root, busybox and {name}");
        return;
    }
    let (_holder, pins) = holder();
    let mut f = fixture(Host::probe());
    f.pins = pins;
    let id = format!("cradle-spec-{name}-{what}-{}", std::process::id());
    f.pod.linux.mut_or_insert_default().cgroup_parent = format!("/{id}");
    f.pod.linux.mut_or_insert_default().sysctls.insert("net.ipv4.tcp_syncookies".into(), "0".into());
    f.pod.linux.mut_or_insert_default().security_context.mut_or_insert_default().privileged = what == "privileged";
    let pod = bundle(&f, "podbundle", &f.sandbox().unwrap());
    let script = "#!/bin/busybox sh\nexec /bin/busybox sleep 60\n";
    std::fs::write(pod.join("rootfs/pause"), script).unwrap();
    std::fs::set_permissions(pod.join("rootfs/pause"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let pid_file = f.scratch.path.join("pid");
    let line = format!("run -d --pid-file {} -b {} {id}-p", pid_file.display(), pod.display());
    let log = f.scratch.path.join("pod.log");
    let to = || std::fs::File::options().create(true).append(true).open(&log).unwrap();
    let status = runtime(name, &line).stdout(to()).stderr(to()).status().unwrap();
    assert!(status.success(), "{name}: {}", std::fs::read_to_string(&log).unwrap());
    let pid: u32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        inside(&mut f, name, &id, pid);
        exec_in(&f, name, &id);
    }));
    for part in ["p", "c", "v"] {
        let _ = runtime(name, &format!("delete -f {id}-{part}")).stderr(Stdio::null()).status();
    }
    remove_cgroups(&id);
    outcome.unwrap();
}

/// Runtimes remove a container's cgroup, not the pod's.
fn remove_cgroups(id: &str) {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|e| e.path());
    for hierarchy in hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]) {
        let _ = std::fs::remove_dir(hierarchy.join(id));
    }
}

fn container_in(f: &mut Fixture, name: &str, id: &str, pid: u32) {
    let text = "id; pwd; echo $V $HOME $HOSTNAME; hostname; grep -E 'Cap(Inh|Amb|Bnd)|Seccomp:' /proc/self/status; ps | head -3; \
                cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/tcp_syncookies; ls /data; echo x >/data/x && echo wr''ote; \
                cat /etc/hosts; ls /proc/acpi /sys/firmware; echo 1 >/proc/sys/kernel/panic; echo end";
    let data = f.scratch.dir("data");
    std::fs::write(data.join("seen"), "").unwrap();
    std::os::unix::fs::symlink(&data, f.scratch.path.join("link")).unwrap();
    std::fs::write(f.scratch.path.join("root/etc/passwd"), "root:x:0:0::/root:/bin/sh\nu:x:1000:1001::/home/u:/bin/sh\n").unwrap();
    std::fs::write(f.scratch.path.join("root/etc/group"), "u:x:1001:\nextra:x:1002:a,u\n").unwrap();
    let config = &mut f.config;
    config.command = ["/bin/busybox", "sh", "-c", &format!("{}{text}", functions())].map(String::from).to_vec();
    config.working_dir = "/tmp".into();
    config.envs.push(KeyValue { key: "V".into(), value: b"a=b".to_vec(), ..KeyValue::default() });
    let link = f.scratch.path.join("link").display().to_string();
    config.mounts.push(Mount {
        container_path: "/data".into(),
        host_path: link,
        readonly: true,
        recursive_read_only: true,
        ..Mount::default()
    });
    let linux = config.linux.mut_or_insert_default();
    linux.resources.mut_or_insert_default().memory_limit_in_bytes = 64 << 20;
    let context = linux.security_context.mut_or_insert_default();
    context.run_as_username = "u".into();
    context.no_new_privs = true;
    context.seccomp = MessageField::some(crate::proto::cri::SecurityProfile::default());
    context.masked_paths = security::MASKED.iter().map(|p| p.to_string()).collect();
    context.readonly_paths = security::READONLY.iter().map(|p| p.to_string()).collect();
    let built = f.build(pid).unwrap();
    assert_eq!(built.user, (1000, 1001, vec![1001, 1002]));
    let bundle = bundle(f, "bundle", &built.spec);
    let output = runtime(name, &format!("run -b {} {id}-c", bundle.display())).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{name}:\n{out}\n{err}");
    for line in
        ["uid=1000 gid=1001 groups=1001,1002", "/tmp", "a=b /home/u p", "CapInh:\t0000000000000000", "Seccomp:\t2", "seen", "end", "0\n0\n"]
    {
        assert!(out.contains(line), "{name}: {line:?} is missing in\n{out}{err}");
    }
    assert!(!out.contains("\nwrote"));
    assert!(out.contains("pause") || out.contains("sleep 60"), "{name}: the pod's process is not seen\n{out}");
}

fn privileged_in(f: &mut Fixture, name: &str, id: &str, pid: u32) {
    let text = "grep -E 'Seccomp:' /proc/self/status; ls /dev/null /dev/full; grep ' /sys ' /proc/mounts; echo end";
    let config = &mut f.config;
    config.command = ["/bin/busybox", "sh", "-c", &format!("{}{text}", functions())].map(String::from).to_vec();
    config.mounts.clear();
    *f.context() = crate::proto::cri::LinuxContainerSecurityContext { privileged: true, ..Default::default() };
    let built = f.build(pid).unwrap();
    let bundle = bundle(f, "privileged", &built.spec);
    let output = runtime(name, &format!("run -b {} {id}-v", bundle.display())).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for line in ["Seccomp:\t0", "/dev/full", "sysfs /sys sysfs rw", "end"] {
        assert!(out.contains(line), "{name}: {line:?} is missing in\n{out}{err}");
    }
}

/// An exec of our making, in the running pod.
fn exec_in(f: &Fixture, name: &str, id: &str) {
    let base = f.sandbox().unwrap().process().clone().unwrap();
    let process = exec_process(&base, &["/bin/busybox", "echo", "hi"].map(String::from), false).unwrap();
    let path = f.scratch.path.join("process.json");
    std::fs::write(&path, serde_json::to_vec(&process).unwrap()).unwrap();
    let output = runtime(name, &format!("exec -p {} {id}-p", path.display())).output().unwrap();
    assert_eq!(output.stdout, b"hi\n", "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

fn functions() -> String {
    ["id", "grep", "ps", "head", "cat", "ls", "hostname"].map(|a| format!("{a}() {{ /bin/busybox {a} \"$@\"; }}; ")).concat()
}

#[test]
fn runc_takes_our_specs() {
    runs_under("runc", "plain", container_in);
    runs_under("runc", "privileged", privileged_in);
}

#[test]
fn crun_takes_our_specs() {
    runs_under("crun", "plain", container_in);
    runs_under("crun", "privileged", privileged_in);
}
