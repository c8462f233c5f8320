//! Rules of CDI.
use super::*;
use crate::cri::spec::oci::{Process, Resources};
use std::fs;

struct Dirs(PathBuf);
impl Drop for Dirs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Dirs {
    fn new(name: &str) -> Dirs {
        let dir = std::env::temp_dir().join(format!("cradle-spec-cdi-{name}-{}", std::process::id()));
        fs::create_dir_all(dir.join("etc")).unwrap();
        fs::create_dir_all(dir.join("run")).unwrap();
        Dirs(dir)
    }
    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }
    fn apply(&self, names: &[&str]) -> Result<Spec> {
        let mut spec = Spec { process: Some(Process::default()), ..Spec::default() };
        spec.linux.resources = Some(Resources::default());
        let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
        apply(&mut spec, &names, &[self.0.join("etc"), self.0.join("run"), self.0.join("none")]).map(|()| spec)
    }
}

const GPU: &str = r#"
cdiVersion: "0.6.0"
kind: acme.com/gpu
containerEdits:
  env: [ACME=all]
  hooks:
    - {hookName: createContainer, path: /bin/hook, args: [hook, -x], timeout: 3}
devices:
  - name: "0"
    containerEdits:
      deviceNodes:
        - {path: /dev/acme0, hostPath: /dev/null, permissions: rw, fileMode: 0640}
      mounts:
        - {hostPath: /usr/lib, containerPath: /opt/acme/lib, options: [ro, nosuid, rbind]}
      additionalGids: [44, 0]
  - name: zero
    containerEdits:
      deviceNodes: [{path: /dev/zero}]
      netDevices: [{hostInterfaceName: eth9, name: net1}]
"#;

#[test]
fn edits_of_a_file_and_its_devices_are_applied() {
    let dirs = Dirs::new("edits");
    dirs.write("etc/acme.yaml", GPU);
    let spec = dirs.apply(&["acme.com/gpu=0", "acme.com/gpu=zero"]).unwrap();
    let process = spec.process.unwrap();
    assert_eq!((process.env, process.user.additional_gids), (vec!["ACME=all".to_owned()], vec![44]));
    let nodes: Vec<_> = spec.linux.devices.iter().map(|d| (d.path.as_str(), d.kind.as_str(), d.major, d.minor)).collect();
    assert_eq!(nodes, [("/dev/acme0", "c", 1, 3), ("/dev/zero", "c", 1, 5)]);
    assert_eq!(spec.linux.devices[0].file_mode, Some(0o640));
    let rules = spec.linux.resources.unwrap().devices;
    assert_eq!((rules[0].access.as_str(), rules[1].access.as_str(), rules[1].minor), ("rw", "rwm", Some(5)));
    assert_eq!((spec.mounts[0].destination.as_str(), spec.mounts[0].kind.as_str()), ("/opt/acme/lib", "bind"));
    // Once, though two of its devices are there.
    assert_eq!(spec.other["hooks"]["createContainer"], serde_json::json!([{"path": "/bin/hook", "args": ["hook", "-x"], "timeout": 3}]));
    assert_eq!(spec.linux.other["netDevices"]["eth9"]["name"], "net1");
}

#[test]
fn later_directory_wins_and_one_name_twice_is_an_error() {
    let dirs = Dirs::new("order");
    let one =
        |env: &str| format!(r#"{{"cdiVersion":"0.3.0","kind":"a.b/c","devices":[{{"name":"d","containerEdits":{{"env":["X={env}"]}}}}]}}"#);
    dirs.write("etc/a.json", &one("etc"));
    dirs.write("run/a.json", &one("run"));
    assert_eq!(dirs.apply(&["a.b/c=d"]).unwrap().process.unwrap().env, ["X=run"]);
    dirs.write("run/b.json", &one("again"));
    assert!(dirs.apply(&["a.b/c=d"]).unwrap_err().chain().contains("several files"));
}

#[test]
fn what_is_not_there_is_named() {
    let dirs = Dirs::new("missing");
    dirs.write("etc/bad.json", r#"{"cdiVersion":"0.3.0","kind":"a.b/c","devices":[],"surprise":1}"#);
    let text = dirs.apply(&["a.b/c=d"]).unwrap_err().chain();
    assert!(text.contains("unresolvable CDI device a.b/c=d") && text.contains("surprise"), "{text}");
    dirs.write("etc/new.json", r#"{"cdiVersion":"9.0.0","kind":"a.b/c","devices":[]}"#);
    assert!(dirs.apply(&["a.b/c=d"]).unwrap_err().chain().contains("cdiVersion"));
    dirs.write(
        "etc/gone.yml",
        "cdiVersion: 0.5.0\nkind: a.b/e\ndevices: [{name: x, containerEdits: {deviceNodes: [{path: /dev/none-such}]}}]\n",
    );
    assert!(dirs.apply(&["a.b/e=x"]).unwrap_err().chain().contains("/dev/none-such"));
}

#[test]
fn names_come_from_the_field_and_from_annotations() {
    let mut config = cri::ContainerConfig::new();
    config.CDI_devices.push(cri::CDIDevice { name: "v.com/c=1".into(), ..Default::default() });
    config.annotations.insert("cdi.k8s.io/plugin".into(), "v.com/c=2,v.com/c=1".into());
    config.annotations.insert("other".into(), "v.com/c=3".into());
    assert_eq!(asked(&config), ["v.com/c=1", "v.com/c=2"]);
    check(&config).unwrap();
    for bad in ["gpu0", "v.com/c", "/c=1", "v.com/=1", "v.com/c=", "v.com/c=-", "v/c/d=1"] {
        config.CDI_devices[0].name = bad.into();
        assert!(check(&config).unwrap_err().chain().starts_with("CDI_devices"), "{bad}");
    }
}
