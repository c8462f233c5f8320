//! Files as they are in the field, and every kind of mistake in them.
use super::*;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory of config files that goes with the test.
struct Files(PathBuf);

impl Files {
    fn new(files: &[(&str, &str)]) -> Files {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = PathBuf::from(format!("/tmp/cradle-config-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst)));
        for (name, text) in files {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Files(dir)
    }
    fn load(&self) -> Result<(Config, Vec<Warning>)> {
        load(Some(&self.0.join("config.toml")), &Overrides::default())
    }
    fn dir(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn good(text: &str) -> Config {
    let (config, warnings) = Files::new(&[("config.toml", text)]).load().unwrap();
    assert_eq!(warnings, [], "{text}");
    config
}

fn bad(text: &str) -> String {
    let files = Files::new(&[("config.toml", text)]);
    files.load().unwrap_err().chain().replace(&files.dir(), "")
}

fn warned(text: &str) -> Vec<String> {
    let files = Files::new(&[("config.toml", text)]);
    files.load().unwrap().1.iter().map(|w| w.to_string().replace(&files.dir(), "")).collect()
}

#[test]
fn the_default_file_is_the_default() {
    let config = good(&default_toml());
    assert_eq!((config.root.to_str(), config.state.to_str()), (Some("/var/lib/cradled"), Some("/run/cradled")));
    assert_eq!(
        (config.grpc.address.as_str(), config.ttrpc.address.as_str()),
        ("/run/cradled/cradled.sock", "/run/cradled/cradled.sock.ttrpc")
    );
    assert_eq!(config.cri_images.sandbox_image(), None);
    assert_eq!(config.cri_runtime.cni.bin_dirs, [Path::new("/opt/cni/bin"), Path::new("/usr/lib/cni")]);
    assert_eq!(config.cri_runtime.containerd.runtimes["runc"].runc(), RuncOptions::default());
    assert_eq!(*config.cri_images.image_pull_progress_timeout, Duration::from_secs(300));
    assert_eq!(good("version = 4").dump(), config.dump());
}

#[test]
fn a_dump_loads_the_same_and_names_origins() {
    let config = good("version = 4\nroot = \"/data\"\n[timeouts]\n\"my.own\" = \"7s\"");
    assert_eq!(good(&config.dump()).dump(), config.dump());
    let shown = config.dump_with_origins();
    let line = shown.lines().find(|l| l.starts_with("root = ")).unwrap();
    assert!(line.contains("config.toml:2"), "{line}");
    assert_eq!(good(&shown).dump(), config.dump());
    assert_eq!(config.timeout("my.own"), Some(Duration::from_secs(7)));
    assert_eq!(config.timeout("io.containerd.timeout.bolt.open"), None);
}

#[test]
fn every_key_has_its_line_of_explanation() {
    let text = default_toml();
    let lines: Vec<_> = text.lines().collect();
    for (above, line) in lines.iter().zip(&lines[1..]) {
        if line.contains(" = ") && !line.starts_with('#') || line.starts_with('[') {
            assert!(above.starts_with("# "), "no comment above: {line}");
        }
    }
}

const VERSION_2: &str = r#"
version = 2
root = "/var/lib/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.native"]
[grpc]
  address = "/run/containerd/containerd.sock"
  gid = 7
  tcp_address = "127.0.0.1:1234"
  max_recv_message_size = 1024
[ttrpc]
  address = ""
[debug]
  level = "debug"
  address = "/run/debug.sock"
[metrics]
  address = "127.0.0.1:1338"
[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "registry.k8s.io/pause:3.6"
    max_concurrent_downloads = 5
    stats_collect_period = 20
    stream_server_port = "10010"
    systemd_cgroup = false
    enable_selinux = true
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/libexec/cni"
      max_conf_num = 2
    [plugins."io.containerd.grpc.v1.cri".containerd]
      snapshotter = "native"
      no_pivot = false
      default_runtime_name = "crun"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
        runtime_type = "io.containerd.runc.v2"
        runtime_engine = ""
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun.options]
          BinaryName = "/usr/bin/crun"
          SystemdCgroup = true
      [plugins."io.containerd.grpc.v1.cri".containerd.untrusted_workload_runtime]
        runtime_type = ""
    [plugins."io.containerd.grpc.v1.cri".registry]
      config_path = "/etc/certs.d"
  [plugins."io.containerd.snapshotter.v1.devmapper"]
    pool_name = ""
"#;

#[test]
fn version_2_is_split_as_containerd_splits_it() {
    let config = good(VERSION_2);
    assert_eq!(config.grpc.address, "/run/containerd/containerd.sock");
    assert_eq!((config.grpc.gid, config.grpc.max_recv_message_size, config.grpc.max_send_message_size), (7, 1024, 16 << 20));
    assert_eq!((config.ttrpc.address.as_str(), config.ttrpc.gid), ("/run/containerd/containerd.sock.ttrpc", 7));
    assert_eq!((config.grpc_tcp.address.as_str(), config.grpc_tcp.max_recv_message_size), ("127.0.0.1:1234", 1024));
    assert_eq!((config.debug.address.as_str(), config.log.level.as_str()), ("/run/debug.sock", "debug"));
    assert_eq!(config.metrics.address, "127.0.0.1:1338");
    let images = &config.cri_images;
    assert_eq!(images.sandbox_image(), Some("registry.k8s.io/pause:3.6"));
    assert_eq!((images.max_concurrent_downloads, images.stats_collect_period, images.snapshotter.as_str()), (5, 20, "native"));
    assert_eq!((images.registry.config_path.as_str(), config.cri_server.stream_server_port.as_str()), ("/etc/certs.d", "10010"));
    let runtime = &config.cri_runtime;
    assert!(runtime.enable_selinux);
    assert_eq!((runtime.cni.bin_dirs.as_slice(), runtime.cni.max_conf_num), (&[PathBuf::from("/usr/libexec/cni")][..], 2));
    assert_eq!(runtime.containerd.default_runtime_name, "crun");
    assert_eq!(runtime.containerd.runtimes.keys().collect::<Vec<_>>(), ["crun", "runc"]);
    let options = runtime.containerd.runtimes["crun"].runc();
    assert_eq!((options.binary_name.as_str(), options.systemd_cgroup), ("/usr/bin/crun", true));
}

#[test]
fn version_1_and_3_are_read() {
    let one = good("disabled_plugins = [\"cri\"]\n[plugins.cri]\nsandbox_image = \"p:1\"\n[plugins.overlayfs]\nroot_path = \"/x\"");
    assert_eq!(one.disabled_plugins, ["io.containerd.grpc.v1.cri"]);
    assert_eq!((one.cri_images.sandbox_image(), one.overlayfs.root_path.as_str()), (Some("p:1"), "/x"));
    let three = good(
        "version = 3\n[plugins.\"io.containerd.cri.v1.images\"]\nsnapshotter = \"native\"\n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.kata]\nruntime_type = 'io.containerd.kata.v2'\n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.kata.options]\nConfigPath = '/kata'\n[ttrpc]\naddress = '/t.sock'",
    );
    assert_eq!((three.cri_images.snapshotter.as_str(), three.ttrpc.address.as_str()), ("native", "/t.sock"));
    assert_eq!(three.cri_runtime.containerd.runtimes["kata"].options["ConfigPath"].as_str(), Some("/kata"));
    let four = good("version = 4\n[plugins.'io.containerd.server.v1.grpc']\naddress = '/g.sock'");
    assert_eq!(four.ttrpc.address, "/g.sock.ttrpc");
}

#[test]
fn an_unknown_key_is_a_warning_with_its_line_and_the_nearest_name() {
    assert_eq!(
        warned(
            "version = 4\nrooot = \"/x\"\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\nSystemDCgroups = true\n"
        ),
        [
            "/config.toml:4: plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.runc.options.SystemDCgroups: \
             unknown key, ignored, did you mean SystemdCgroup?",
            "/config.toml:2: rooot: unknown key, ignored, did you mean root?",
        ]
    );
    let misplaced = warned("version = 4\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\nSystemdCgroup = true");
    assert!(
        misplaced[0].ends_with("did you mean plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.runc.options.SystemdCgroup?")
    );
    assert!(warned("version = 4\n[plugins.'io.containerd.cri.v1.image']\nx = 1")[0].contains("no such plugin, ignored, did you mean"));
}

#[test]
fn a_mistake_is_an_error_with_key_and_line() {
    let cri = "version = 4\n[plugins.'io.containerd.cri.v1.runtime'.cni]\n";
    for (text, error) in [
        ("version = 4\nroot = 5", "root (/config.toml:2): is an integer, must be a string"),
        ("version = 4\n[root]\nx = 1", "root (/config.toml:2): is a table, must be a string"),
        ("version = 9", "version (/config.toml:1): is 9, must be 1 to 4"),
        ("version = 4\nroot = ", "/config.toml:2: "),
        ("version = 4\nroot = \"x\"", "root (/config.toml:2): \"x\" must be an absolute path"),
        ("version = 4\nroot = \"/run/cradled\"", "state: root and state must be different paths"),
        ("version = 4\n[timeouts]\nx = \"fast\"", "timeouts.x (/config.toml:3): \"fast\" is no duration"),
        ("version = 4\ndisabled_plugins = [\"cri\"]", "disabled_plugins (/config.toml:2): \"cri\" is no plugin URI"),
        ("version = 4\ndisabled_plugins = [1]", "disabled_plugins (/config.toml:2)"),
        (&format!("{cri}ip_pref = \"ipv5\""), "cni.ip_pref (/config.toml:3): \"ipv5\" is none of ipv4, ipv6, cni"),
        (&format!("{cri}max_conf_num = -1"), "max_conf_num"),
        (
            "version = 4\n[plugins.'io.containerd.cri.v1.runtime'.containerd]\ndefault_runtime_name = 'k'",
            "(/config.toml:3): no runtime \"k\", known: runc",
        ),
        ("version = 4\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.k]\nsandboxer = 'x'\nruntime_type = 'y'", "sandboxer"),
    ] {
        let said = bad(text);
        assert!(said.contains(error), "{text}: {said}");
    }
    assert!(load(Some(Path::new("/nonexistent.toml")), &Overrides::default()).is_err());
}

#[test]
fn imports_are_laid_over_and_the_command_line_over_them() {
    let files = Files::new(&[
        (
            "config.toml",
            "version = 4\nimports = [\"d/*.toml\", \"config.toml\"]\nstate = \"/s\"\ndisabled_plugins = [\"a.b\"]\n\
             [plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = [\"/a\"]\nmax_conf_num = 3\n[timeouts]\nx = \"1s\"\ny = \"1s\"",
        ),
        ("d/1.toml", "version = 2\nroot = \"/one\"\nstate = \"\"\ndisabled_plugins = [\"a.b\", \"c.d\"]\n[grpc]\naddress = \"/one.sock\""),
        (
            "d/2.toml",
            "version = 3\nroot = \"/two\"\n[plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = [\"/b\"]\n[timeouts]\nx = \"2s\"",
        ),
        ("d/.hidden.toml", "not toml"),
        ("d/other.conf", "not toml"),
    ]);
    let (config, warnings) = files.load().unwrap();
    assert_eq!(warnings, []);
    assert_eq!((config.root.to_str(), config.state.to_str()), (Some("/two"), Some("/s")));
    assert_eq!(config.disabled_plugins, ["a.b", "c.d"]);
    assert_eq!((config.cri_runtime.cni.bin_dirs.as_slice(), config.cri_runtime.cni.max_conf_num), (&[PathBuf::from("/b")][..], 3));
    assert_eq!((config.timeouts["x"].as_secs(), config.timeouts["y"].as_secs()), (2, 1));
    let overrides = Overrides { root: Some("/cli".into()), address: Some("/cli.sock".into()), ..Overrides::default() };
    let (config, _) = load(Some(&files.0.join("config.toml")), &overrides).unwrap();
    assert_eq!((config.root.to_str(), config.ttrpc.address.as_str()), (Some("/cli"), "/cli.sock.ttrpc"));
    assert!(Files::new(&[("config.toml", "version = 4\nimports = [\"gone.toml\"]")]).load().unwrap_err().chain().contains("gone.toml"));
}

/// Debian's containerd, where it is installed, is the judge of what a real file looks like.
#[test]
fn containerds_own_default_loads_without_a_warning() {
    let found = ["/opt/clients/containerd/usr/bin/containerd", "/usr/bin/containerd"].into_iter().find(|p| Path::new(p).exists());
    let Some(program) = found else { return };
    let out = std::process::Command::new(program).args(["config", "default"]).output().unwrap();
    let config = good(&String::from_utf8(out.stdout).unwrap());
    assert_eq!(config.root, Path::new("/var/lib/containerd"));
    assert!(config.cri_images.sandbox_image().unwrap().contains("pause"));
}
