//! Checkpoints: the archive, what is refused, and a container that runs on in any case. CRIU itself does not run on every kernel:
//! a runtime and a `criu` of the story's own stand in for it where it does not, and say so.
use crate::harness::client::container_config;
use crate::harness::{Daemon, Setup, cni};
use cradle::error::{Kind, Result};
use cradle::proto::cri::CheckpointContainerRequest;
use cradle::proto::cri_methods::runtime_service as rt;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);

/// Runs runc, but for `checkpoint`: that leaves files where CRIU would.
const RUNTIME: &str = r#"images= work= checkpoint=
for word; do
    case $last in --image-path) images=$word;; --work-path) work=$word;; esac
    [ "$word" != checkpoint ] || checkpoint=yes
    last=$word
done
[ -n "$checkpoint" ] || exec runc "$@"
echo "$@" > DIR/asked
if [ -e DIR/slow ]; then sleep 3; fi
if [ -e DIR/fails ]; then echo "(00.1) Error (criu/x.c:7): no such luck" > $work/dump.log; echo "criu failed" >&2; exit 1; fi
echo pages > $images/pages-1.img; echo inventory > $images/inventory.img; echo "(00.1) fine" > $work/dump.log
"#;

fn daemon(criu: &str) -> Daemon {
    let d = Setup::new().prepare();
    cni::script(&d.dir, "runtime", &RUNTIME.replace("DIR", &d.dir.display().to_string()));
    cni::script(&d.dir, "criu", "echo Version: 3.17.1\n");
    let config = std::fs::read_to_string(d.path("config.toml")).unwrap();
    let extra = format!(
        "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.saves]\nruntime_type = \"io.containerd.runc.v2\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.saves.options]\nBinaryName = \"{}\"\nCriuPath = \"{}\"\n",
        d.path("runtime").display(),
        d.path(criu).display()
    );
    std::fs::write(d.path("config.toml"), config + &extra).unwrap();
    d
}

fn checkpoint(d: &Daemon, id: &str, location: &Path, timeout: i64) -> Result<()> {
    let location = location.display().to_string();
    let request = CheckpointContainerRequest { container_id: id.into(), location, timeout, ..Default::default() };
    d.ask(&rt::CHECKPOINT_CONTAINER, &request).map(drop)
}

/// The files of a tar, with the content of the small ones.
fn files(mut tar: tar::Archive<impl Read>) -> BTreeMap<String, Vec<u8>> {
    let entries = tar.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut bytes = vec![];
        entry.read_to_end(&mut bytes).unwrap();
        (entry.path().unwrap().display().to_string().trim_end_matches('/').to_string(), bytes)
    });
    entries.collect()
}

#[test]
fn a_checkpoint_holds_all_of_the_container_which_runs_on() {
    let mut d = daemon("criu");
    d.start_again();
    let image = d.busybox();
    let pod = d.pod("saved", "saves");
    let main = pod.shell("main", &image, "echo up; echo kept > /kept; rm /etc/group; i=0; while :; do i=$((i+1)); sleep 0.05; done");
    main.logged("up", SOON);
    let archive = d.path("saved.tar");
    checkpoint(&d, &main.id, &archive, 30).unwrap();
    assert!(main.running());
    assert_eq!(main.says("cat /kept"), "kept");
    let asked = std::fs::read_to_string(d.path("asked")).unwrap();
    for word in ["--leave-running", "--tcp-established", "--file-locks", &main.id] {
        assert!(asked.contains(word), "{asked}");
    }
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&archive.metadata().unwrap().permissions()) & 0o777, 0o600);
    let all = files(tar::Archive::new(std::fs::File::open(&archive).unwrap()));
    assert_eq!(all["checkpoint/pages-1.img"], b"pages\n");
    assert!(String::from_utf8_lossy(&all["container.log"]).contains("stdout F up"));
    assert!(all.contains_key("dump.log") && all.contains_key("checkpoint/inventory.img"));
    let layer = files(tar::Archive::new(&all["rootfs-diff.tar"][..]));
    assert_eq!(layer["kept"], b"kept\n");
    assert!(layer.contains_key("etc/.wh.group"), "{:?}", layer.keys());
    let json = |name: &str| serde_json::from_slice::<Value>(&all[name]).unwrap();
    assert_eq!((json("config.dump")["id"].as_str(), json("config.dump")["rootfsImageName"].as_str()), (Some(&*main.id), Some(&*image)));
    assert!(json("spec.dump")["process"]["args"][2].as_str().unwrap().contains("echo up"));
    assert!(json("status")["Pid"].as_u64() > Some(1));

    // What goes wrong is said with CRIU's own words, leaves no file, and the container runs on.
    std::fs::write(d.path("fails"), "").unwrap();
    let error = checkpoint(&d, &main.id, &d.path("bad.tar"), 30).unwrap_err();
    assert!(error.kind() == Kind::FailedPrecondition && error.chain().contains("no such luck"), "{}", error.chain());
    std::fs::remove_file(d.path("fails")).unwrap();
    std::fs::write(d.path("slow"), "").unwrap();
    let begun = Instant::now();
    let error = checkpoint(&d, &main.id, &d.path("bad.tar"), 1).unwrap_err();
    assert_eq!(error.kind(), Kind::DeadlineExceeded, "{}", error.chain());
    assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
    std::fs::remove_file(d.path("slow")).unwrap();
    assert!(!d.path("bad.tar").exists() && !d.path("bad.part").exists());
    assert_eq!(main.says("echo still here"), "still here");
    let left = d.path("root/io.containerd.grpc.v1.cri/containers").join(&main.id).join("checkpoint");
    assert!(!left.exists());

    for (location, field) in [("relative.tar", "location"), ("/no/such/dir/x.tar", "location"), ("", "location")] {
        assert!(checkpoint(&d, &main.id, Path::new(location), 5).unwrap_err().chain().contains(field), "{location}");
    }
    assert!(checkpoint(&d, &main.id, &archive, -1).unwrap_err().chain().contains("timeout"));
    d.stop_container(&main.id, 0).unwrap();
    assert_eq!(checkpoint(&d, &main.id, &archive, 5).unwrap_err().kind(), Kind::FailedPrecondition);
    assert_eq!(checkpoint(&d, "f00", &archive, 5).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_node_without_criu_says_what_to_do() {
    let mut d = daemon("no-criu-here");
    d.start_again();
    let image = d.busybox();
    let pod = d.pod("unsaved", "saves");
    let main = pod.start(container_config("main", &image, &["sleep", "1000"]));
    let error = checkpoint(&d, &main.id, &d.path("x.tar"), 5).unwrap_err();
    assert!(error.kind() == Kind::FailedPrecondition && error.chain().contains("apt-get install criu"), "{}", error.chain());
    assert!(main.running());
    let section = "[plugins.\"io.containerd.grpc.v1.cri\"]\n";
    let config = std::fs::read_to_string(d.path("config.toml")).unwrap();
    let (id, log) = (main.id.clone(), main.log_file.clone());
    std::fs::write(d.path("config.toml"), config.replacen(section, &format!("{section}enable_criu = false\n"), 1)).unwrap();
    d.restart();
    let error = checkpoint(&d, &id, &d.path("x.tar"), 5).unwrap_err();
    assert!(error.kind() == Kind::FailedPrecondition && error.chain().contains("enable_criu"), "{}", error.chain());
    assert!(d.container(&id, log).running());
}

#[test]
fn the_real_criu_saves_a_container_where_it_can() {
    // Debian's of 2022 fails on kernels since 6.13 (their vDSO is larger): another one may be named.
    let criu = std::env::var("CRADLE_CRIU").unwrap_or("/usr/sbin/criu".into());
    let works = std::process::Command::new(&criu).arg("check").output().is_ok_and(|o| o.status.success());
    if !works {
        println!("{criu} does not run on this kernel (`criu check`): the real one is not tried");
        return;
    }
    let d = Setup::new().prepare();
    let config = std::fs::read_to_string(d.path("config.toml")).unwrap();
    let line = format!("BinaryName = \"runc\"\nCriuPath = \"{criu}\"");
    std::fs::write(d.path("config.toml"), config.replacen("BinaryName = \"runc\"", &line, 1)).unwrap();
    let mut d = d;
    d.start_again();
    let image = d.busybox();
    let pod = d.pod("real", "runc");
    let main = pod.shell("main", &image, "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done");
    main.logged("3", SOON);
    checkpoint(&d, &main.id, &d.path("real.tar"), 60).unwrap();
    let all = files(tar::Archive::new(std::fs::File::open(d.path("real.tar")).unwrap()));
    assert!(all.keys().any(|name| name.starts_with("checkpoint/pages-")), "{:?}", all.keys());
    let seen = main.log().len();
    crate::harness::wait_until("the container to run on", SOON, || main.log().len() > seen);
}

#[cfg(feature = "failpoints")]
#[test]
fn a_daemon_that_dies_meanwhile_leaves_nothing_frozen() {
    let mut d = daemon("criu");
    d.env = vec![("CRADLE_FAILPOINT".into(), "checkpoint-while-frozen".into())];
    d.start_again();
    let image = d.busybox();
    let pod = d.pod("frozen", "saves");
    let main = pod.shell("main", &image, "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done");
    main.logged("3", SOON);
    let (id, log) = (main.id.clone(), main.log_file.clone());
    assert!(checkpoint(&d, &id, &d.path("cut-off.tar"), 30).is_err());
    d.wait_end(SOON);
    d.env.clear();
    d.start_again();
    let main = d.container(&id, log);
    let seen = main.log().len();
    crate::harness::wait_until("the container to run on", SOON, || main.log().len() > seen);
    assert_eq!(main.says("echo ok"), "ok");
    assert!(!d.path("cut-off.tar").exists() && !d.path("root/io.containerd.grpc.v1.cri/containers").join(&id).join("checkpoint").exists());
}
