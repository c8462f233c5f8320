//! CNI beyond one bridge: conf templates, several networks, handlers' own confs, addresses in order, and what dead daemons left.
use super::network::ready;
use crate::harness::{Daemon, RUNTIMES, Setup, cni, wait_until};
use cradle::proto::cri::{NetworkConfig, RuntimeConfig, StatusRequest, UpdateRuntimeConfigRequest};
use cradle::proto::cri_methods::runtime_service as rt;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);
const SECTION: &str = "[plugins.\"io.containerd.grpc.v1.cri\".cni]\n";

/// A daemon with lines in the CNI section of its config.
fn with_cni(setup: Setup, lines: &str) -> Daemon {
    let d = setup.prepare();
    let config = std::fs::read_to_string(d.path("config.toml")).unwrap();
    let lines = lines.replace("DIR", &d.dir.display().to_string());
    std::fs::write(d.path("config.toml"), config.replacen(SECTION, &format!("{SECTION}{lines}\n"), 1)).unwrap();
    d
}

fn info(d: &Daemon) -> std::collections::HashMap<String, String> {
    d.get(&rt::STATUS, &StatusRequest { verbose: true, ..Default::default() }).info
}

fn tell_cidr(d: &Daemon, cidr: &str) -> cradle::error::Result<()> {
    let network = NetworkConfig { pod_cidr: cidr.into(), ..Default::default() };
    let config = RuntimeConfig { network_config: Some(network).into(), ..Default::default() };
    d.ask(&rt::UPDATE_RUNTIME_CONFIG, &UpdateRuntimeConfigRequest { runtime_config: Some(config).into(), ..Default::default() }).map(drop)
}

#[test]
fn the_pod_cidr_makes_a_conf_of_the_template_once() {
    let mut d = with_cni(Setup::new().no_network(), "conf_template = \"DIR/template\"");
    let template = r#"{"name": "NET", "cniVersion": "1.0.0", "plugins": [{"type": "bridge", "bridge": "NET", "isGateway": true,
        "ipam": {"type": "host-local", "dataDir": "DIR/ipam",
            "ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
            "routes": [{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}]}}]}"#;
    std::fs::write(d.path("template"), template.replace("NET", &d.net.name).replace("DIR", &d.dir.display().to_string())).unwrap();
    d.start_again();
    let error = tell_cidr(&d, "10.0.0.0").unwrap_err();
    assert!(error.kind() == cradle::error::Kind::InvalidArgument && error.chain().contains("pod_cidr"), "{}", error.chain());
    tell_cidr(&d, "").unwrap();
    assert!(ready(&d).is_err());
    tell_cidr(&d, &format!("{}.0/24,fd00:77::/64", d.net.prefix)).unwrap();
    wait_until("NetworkReady", SOON, || ready(&d).is_ok());
    let conf: Value = serde_json::from_slice(&std::fs::read(d.path("net.d/10-containerd-net.conflist")).unwrap()).unwrap();
    assert_eq!(conf["plugins"][0]["ipam"]["routes"], json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]));
    let pod = d.pod("of-the-template", "runc");
    let status = pod.status().network.unwrap_or_default();
    assert!(status.ip.starts_with(&d.net.prefix) && status.additional_ips[0].ip.starts_with("fd00:77::"), "{status:?}");
    pod.remove();
    // The network is there: another CIDR changes nothing.
    tell_cidr(&d, "10.250.0.0/24").unwrap();
    assert_eq!(conf, serde_json::from_slice::<Value>(&std::fs::read(d.path("net.d/10-containerd-net.conflist")).unwrap()).unwrap());
}

/// A plugin that takes its time and gives addresses; it writes down each call.
const SLOW: &str = r#"conf=$(cat); name=${conf##*\"name\":\"}; name=${name%%\"*}
echo "$CNI_COMMAND $name $CNI_IFNAME" >> ${0%/*}/../calls
[ $CNI_COMMAND != ADD ] || { sleep 0.7; echo '{"cniVersion":"1.0.0","ips":[{"address":"fd00::7/64"},{"address":"10.9.8.7/24"},{"address":"10.9.8.8/24"}]}'; }"#;

#[test]
fn several_networks_at_once_or_in_turn_and_addresses_in_the_order_asked_for() {
    for (lines, first, at_least) in [
        ("max_conf_num = 3", "10.9.8.7", 0),
        ("max_conf_num = 3\nsetup_serially = true\nip_pref = \"ipv6\"", "fd00::7", 2000),
        ("ip_pref = \"cni\"", "fd00::7", 0),
    ] {
        let mut d = with_cni(Setup::new().no_network(), lines);
        cni::script(&d.path("cni-bin"), "slow", SLOW);
        for name in ["one", "three", "two"] {
            let conf = json!({"cniVersion": "1.0.0", "name": name, "plugins": [{"type": "slow"}]});
            cni::put(&d.path("net.d"), &format!("{name}.conflist"), &conf);
        }
        d.start_again();
        let begun = Instant::now();
        let pod = d.pod("many", "crun");
        let took = begun.elapsed().as_millis();
        let networks = if lines.contains('3') { 3 } else { 1 };
        assert!(took >= at_least && (at_least > 0 || took < 2000), "{lines}: {took} ms");
        let status = pod.status().network.unwrap_or_default();
        let mut all: Vec<String> = status.additional_ips.iter().map(|ip| ip.ip.clone()).collect();
        assert_eq!((status.ip.as_str(), all.len()), (first, 2), "{lines}");
        all.push(status.ip);
        all.sort();
        assert_eq!(all, ["10.9.8.7", "10.9.8.8", "fd00::7"]);
        pod.remove();
        let calls = std::fs::read_to_string(d.path("calls")).unwrap();
        let of = |verb: &str| calls.lines().filter(|l| l.starts_with(verb)).count();
        assert_eq!((of("ADD"), of("DEL")), (networks, networks), "{calls}");
        assert!(lines.contains("cni") || calls.contains("ADD three eth1"), "{calls}");
    }
}

#[test]
fn a_handler_has_confs_of_its_own_and_status_tells_of_both_dirs() {
    let d = Setup::new().prepare();
    let config = std::fs::read_to_string(d.path("config.toml")).unwrap();
    let section = "runtimes.crun]\n";
    let lines = format!("{section}cni_conf_dir = \"{}/other.d\"\ncni_max_conf_num = 2\n", d.dir.display());
    std::fs::write(d.path("config.toml"), config.replacen(section, &lines, 1)).unwrap();
    let mut d = d;
    d.start_again();
    assert_eq!(info(&d)["lastCNILoadStatus"], "OK");
    assert!(info(&d)["lastCNILoadStatus.crun"].contains("other.d"), "{:?}", info(&d));
    let error = d.try_pod(d.pod_config("none-yet"), "crun").err().unwrap().chain();
    assert!(error.contains("other.d"), "{error}");
    d.pod("default", "runc").remove();
    cni::script(&d.path("cni-bin"), "slow", &SLOW.replace("0.7", "0"));
    for name in ["a", "b", "c"] {
        let conf = json!({"cniVersion": "1.0.0", "name": name, "plugins": [{"type": "slow"}]});
        cni::put(&d.path("other.d"), &format!("{name}.conflist"), &conf);
    }
    wait_until("the handler's confs", SOON, || info(&d)["lastCNILoadStatus.crun"] == "OK");
    let pod = d.pod("own", "crun");
    assert_eq!(pod.ip(), "10.9.8.7");
    let calls = std::fs::read_to_string(d.path("calls")).unwrap();
    assert!(calls.contains("ADD b eth1") && !calls.contains("ADD c"), "{calls}");
    pod.remove();

    let info = info(&d);
    let config: Value = serde_json::from_str(&info["config"]).unwrap();
    assert_eq!(config["containerd"]["runtimes"]["crun"]["cniMaxConfNum"], 2);
    assert_eq!(config["containerd"]["runtimes"]["crun"]["options"]["BinaryName"], "crun");
    assert_eq!(config["cni"]["confDir"], json!(d.path("net.d")));
    let conf: Value = serde_json::from_str(&info["cniconfig"]).unwrap();
    assert_eq!(conf["Networks"][0]["Config"]["Name"], json!(d.net.name));
    let loops: Vec<Value> = serde_json::from_str(&info["loops"]).unwrap();
    let named = |name: &str| loops.iter().find(|l| l["name"] == name).unwrap_or_else(|| panic!("{name} in {loops:?}"));
    for name in ["cri-events", "cni-sync:0", "cni-sync:1", "snap-sync", "gc", "task-care", "ttrpc-events"] {
        assert_eq!(named(name)["state"], "running");
    }
    for name in ["cri-events", "cni-sync:0", "snap-sync"] {
        assert!(named(name)["lastRun"].is_string(), "{name}");
    }
    assert!(named("cni-sync:1")["lastError"]["text"].as_str().unwrap().contains("other.d"));
}

#[test]
fn a_teardown_is_tried_until_the_plugin_has_done_it() {
    let mut d = Setup::new().no_network().start();
    let script = r#"echo "$CNI_COMMAND $CNI_CONTAINERID $(cat)" >> ${0%/*}/../calls
case $CNI_COMMAND in
ADD) echo '{"cniVersion":"1.1.0","ips":[{"address":"10.9.8.7/24"}]}';;
DEL) [ ! -e ${0%/*}/../stuck ] || { echo '{"code":100,"msg":"stuck"}'; exit 1; };;
esac"#;
    cni::script(&d.path("cni-bin"), "sticky", script);
    let conf = json!({"cniVersion": "1.1.0", "name": "sticky", "plugins": [{"type": "sticky"}]});
    cni::put(&d.path("net.d"), "10-sticky.conflist", &conf);
    wait_until("NetworkReady", SOON, || ready(&d).is_ok());
    let calls = |d: &Daemon, verb: &str| {
        let all = std::fs::read_to_string(d.path("calls")).unwrap_or_default();
        all.lines().filter(|l| l.starts_with(verb)).map(str::to_owned).collect::<Vec<_>>()
    };
    let keep = d.pod("keeps", "runc").id;
    let pod = d.pod("stuck", "runc").id;
    std::fs::write(d.path("stuck"), "").unwrap();
    for _ in 0..2 {
        let error = d.stop_pod(&pod).unwrap_err().chain();
        assert!(error.contains("stuck"), "{error}");
    }
    assert_eq!(calls(&d, "DEL").len(), 2);
    std::fs::remove_file(d.path("stuck")).unwrap();
    d.stop_pod(&pod).unwrap();
    crate::harness::client::remove_pod(&d, &pod).unwrap();

    // An attachment whose pod no record knows, as after a lost disk: its DEL comes at the start, and again until it is through;
    // and plugins that know GC are told what is left.
    let left = d.path("root/io.containerd.grpc.v1.cri/cni");
    let name = std::fs::read_dir(&left).unwrap().filter_map(|e| e.ok()?.file_name().into_string().ok()).find(|n| n.ends_with("conf.json"));
    let text = std::fs::read_to_string(left.join(name.unwrap())).unwrap();
    let ghost = "f".repeat(64);
    std::fs::write(left.join(format!("{ghost}:eth0.conf.json")), text.replace(&keep, &ghost)).unwrap();
    std::fs::write(d.path("stuck"), "").unwrap();
    d.restart();
    assert!(calls(&d, &format!("DEL {ghost}")).len() == 1 && left.join(format!("{ghost}:eth0.conf.json")).exists());
    let gc = calls(&d, "GC").pop().expect("a GC at the start");
    assert!(gc.contains(&format!("\"containerID\":\"{keep}\"")), "{gc}");
    std::fs::remove_file(d.path("stuck")).unwrap();
    wait_until("the DEL of the ghost", SOON, || !left.join(format!("{ghost}:eth0.conf.json")).exists());
    assert!(d.pod_status(&keep).is_ok());
    d.restart();
    let gc = calls(&d, "GC").pop().unwrap();
    assert!(gc.contains(&keep) && !gc.contains(&ghost), "{gc}");
}

#[test]
fn a_pod_goes_without_its_conf_and_its_namespace() {
    let mut d = Setup::new().no_network().start();
    // Without masquerading: the bridge plugin leaves its rules where the namespace is gone, as they are with a reboot.
    let mut conf = d.net.conflist(&d.path("ipam"));
    conf["plugins"][0]["ipMasq"] = false.into();
    conf["plugins"].as_array_mut().unwrap().truncate(1);
    cni::put(&d.path("net.d"), "10-test.conflist", &conf);
    wait_until("NetworkReady", SOON, || ready(&d).is_ok());
    let pods: Vec<String> = RUNTIMES.iter().map(|handler| d.pod("orphan", handler).id).collect();
    std::fs::remove_file(d.path("net.d/10-test.conflist")).unwrap();
    d.kill9();
    // As after a reboot: the pinned namespaces are gone.
    for mount in crate::harness::leftovers::mounts(&d.path("state")).iter().filter(|m| m.to_string_lossy().contains("/netns/")) {
        let _ = crate::harness::run("umount", &[mount.to_str().unwrap()]);
    }
    d.start_again();
    for pod in pods {
        d.stop_pod(&pod).unwrap();
        crate::harness::client::remove_pod(&d, &pod).unwrap();
    }
}
