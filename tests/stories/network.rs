//! Pod networks of real CNI plugins.
use crate::harness::client::container_config;
use crate::harness::{Daemon, RUNTIMES, Setup, free_port, wait_until};
use cradle::proto::cri::{NamespaceMode, PortMapping, StatusRequest};
use cradle::proto::cri_methods::runtime_service as rt;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// Whether Status says that pods get a network; else the reason.
pub fn ready(d: &Daemon) -> Result<(), String> {
    let status = d.get(&rt::STATUS, &StatusRequest::default()).status.unwrap_or_default();
    let network = status.conditions.into_iter().find(|c| c.type_ == "NetworkReady").expect("a NetworkReady condition");
    if network.status { Ok(()) } else { Err(format!("{}: {}", network.reason, network.message)) }
}

/// What a web server says.
fn fetch(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn the_network_is_ready_when_a_conf_appears() {
    let d = Setup::new().no_network().start();
    let why = ready(&d).unwrap_err();
    assert!(why.contains("net.d"), "{why}");
    let error = d.try_pod(d.pod_config("early"), "runc").err().unwrap();
    assert!(error.chain().contains("net.d"), "{}", error.chain());
    d.net.write(&d.path("net.d"), &d.path("ipam"));
    wait_until("NetworkReady", SOON, || ready(&d).is_ok());
    d.pod("late", "runc").remove();
    std::fs::remove_file(d.path("net.d/10-test.conflist")).unwrap();
    wait_until("NetworkReady to be false again", SOON, || ready(&d).is_err());
}

#[test]
fn a_broken_conf_is_the_reason_and_a_mended_one_the_cure() {
    let d = Setup::new().no_network().start();
    std::fs::write(d.path("net.d/10-test.conflist"), "{ this is not JSON").unwrap();
    wait_until("the reason", SOON, || ready(&d).is_err_and(|why| why.contains("10-test.conflist")));
    d.net.write(&d.path("net.d"), &d.path("ipam"));
    wait_until("NetworkReady", SOON, || ready(&d).is_ok());
}

#[test]
fn host_ports_lead_to_the_pod() {
    let d = Daemon::start();
    let image = d.busybox();
    for handler in RUNTIMES {
        let port = free_port();
        let mut config = d.pod_config("web");
        config.port_mappings.push(PortMapping { host_port: port.into(), container_port: 80, ..Default::default() });
        let pod = d.run_pod(config, handler);
        pod.shell("httpd", &image, "echo hello from the pod > /tmp/index.html; exec httpd -f -p 80 -h /tmp");
        let answers = |address: &str| fetch(address).is_ok_and(|text| text.contains("hello from the pod"));
        wait_until("the pod's own address", SOON, || answers(&format!("{}:80", pod.ip())));
        wait_until("the host port", SOON, || answers(&format!("127.0.0.1:{port}")));
        pod.remove();
        assert!(fetch(&format!("127.0.0.1:{port}")).is_err());
    }
}

#[test]
fn pods_reach_each_other_and_share_namespaces_within() {
    let d = Daemon::start();
    let image = d.busybox();
    let server = d.pod("server", "runc");
    server.shell("httpd", &image, "echo across > /tmp/index.html; exec httpd -f -p 8080 -h /tmp");
    let beside = server.shell("beside", &image, "sleep 1000");
    wait_until("the neighbour container", SOON, || beside.exec("wget -qO- http://127.0.0.1:8080/").out.contains("across"));
    let client = d.pod("client", "crun");
    let other = client.shell("main", &image, "sleep 1000");
    assert_eq!(other.says(&format!("wget -qO- http://{}:8080/", server.ip())), "across");
    assert_ne!(other.exec("wget -qO- http://127.0.0.1:8080/").code, 0);
}

#[test]
fn a_pod_on_the_hosts_network_needs_no_plugin() {
    let d = Setup::new().no_network().start();
    let image = d.busybox();
    for handler in RUNTIMES {
        let mut config = d.pod_config("host");
        let options =
            config.linux.mut_or_insert_default().security_context.mut_or_insert_default().namespace_options.mut_or_insert_default();
        options.network = NamespaceMode::NODE.into();
        let pod = d.run_pod(config, handler);
        let mut container = container_config("main", &image, &["sleep", "1000"]);
        let security = container.linux.mut_or_insert_default().security_context.mut_or_insert_default();
        security.namespace_options.mut_or_insert_default().network = NamespaceMode::NODE.into();
        let main = pod.start(container);
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        assert_eq!(main.says("readlink /proc/self/ns/net"), own.display().to_string());
        pod.remove();
    }
}

#[test]
fn a_plugin_that_fails_leaves_no_pod() {
    use crate::harness::cni;
    let d = Setup::new().no_network().start();
    cni::script(&d.path("cni-bin"), "fails", r#"[ "$CNI_COMMAND" != ADD ] || { echo '{"code":100,"msg":"no more addresses"}'; exit 1; }"#);
    let conf = serde_json::json!({ "cniVersion": "1.0.0", "name": "fails", "plugins": [{ "type": "fails" }] });
    cni::put(&d.path("net.d"), "10-fails.conflist", &conf);
    wait_until("NetworkReady", SOON, || ready(&d).is_ok());
    let error = d.try_pod(d.pod_config("unlucky"), "runc").err().unwrap();
    assert!(error.chain().contains("no more addresses"), "{}", error.chain());
    assert!(d.pod_ids().is_empty());
}
