//! Exec, attach and port-forward as clients have them: every protocol, many at a time, slow ones, and those that vanish.
use crate::harness::client::container_config;
use crate::harness::streams::{Remote, Said, Spdy, upgrade};
use crate::harness::{Container, Daemon, RUNTIMES, Setup, go_handler, run_ok, scratch, wait_until};
use cradle::error::{Kind, Result};
use cradle::proto::cri::{AttachRequest, ExecRequest, PortForwardRequest};
use cradle::proto::cri_methods::runtime_service as rt;
use openssl::ssl::{SslConnector, SslFiletype, SslMethod};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);
const V4: &str = "spdy:v4.channel.k8s.io";
const V5: &str = "ws:v5.channel.k8s.io";

fn try_exec(c: &Container<'_>, cmd: &[&str], streams: &str) -> Result<String> {
    let has = |letter| streams.contains(letter);
    let request = ExecRequest {
        container_id: c.id.clone(),
        cmd: cmd.iter().map(ToString::to_string).collect(),
        stdin: has('i'),
        stdout: has('o'),
        stderr: has('e'),
        tty: has('t'),
        ..Default::default()
    };
    Ok(c.daemon.ask(&rt::EXEC, &request)?.url)
}
#[track_caller]
fn exec(c: &Container<'_>, protocol: &str, script: &str, streams: &str) -> Remote {
    let url = try_exec(c, &["sh", "-c", script], streams).unwrap_or_else(|e| panic!("{}", e.chain()));
    Remote::connect(&url, protocol, streams, None).unwrap()
}
fn try_attach(c: &Container<'_>, streams: &str) -> Result<String> {
    let has = |letter| streams.contains(letter);
    let (stdin, stdout, stderr, tty) = (has('i'), has('o'), has('e'), has('t'));
    let request = AttachRequest { container_id: c.id.clone(), stdin, stdout, stderr, tty, ..Default::default() };
    Ok(c.daemon.ask(&rt::ATTACH, &request)?.url)
}
#[track_caller]
fn attach(c: &Container<'_>, protocol: &str, streams: &str) -> Remote {
    Remote::connect(&try_attach(c, streams).unwrap_or_else(|e| panic!("{}", e.chain())), protocol, streams, None).unwrap()
}
fn forward(d: &Daemon, pod: &str, ports: &[i32]) -> Result<String> {
    let request = PortForwardRequest { pod_sandbox_id: pod.into(), port: ports.to_vec(), ..Default::default() };
    Ok(d.ask(&rt::PORT_FORWARD, &request)?.url)
}
fn count(d: &Daemon, what: &str) -> usize {
    std::fs::read_dir(format!("/proc/{}/{what}", d.pid())).unwrap().count()
}
fn resident_kib(d: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", d.pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A shell that says its terminal's size after each line; a change takes a moment.
#[track_caller]
fn sees_size(client: &mut Remote, size: &str) {
    let begun = Instant::now();
    while !client.said().out.contains(size) {
        assert!(begun.elapsed() < SOON, "no size {size}: {:?}", client.said());
        client.input(b"\n");
        assert!(client.step());
    }
}

#[test]
fn a_command_speaks_every_protocol() {
    let d = Daemon::start();
    let image = d.busybox();
    for handler in RUNTIMES {
        let pod = d.pod("speak", handler);
        let main = pod.shell("main", &image, "sleep 1000");
        for protocol in ["spdy:", "spdy:channel.k8s.io", "spdy:v2.channel.k8s.io", "spdy:v3.channel.k8s.io", V4, V5] {
            let mut client = exec(&main, protocol, "cat; echo bad >&2; exit 7", "ioe");
            client.input(b"hello");
            client.end_input();
            let said = client.finish();
            assert_eq!((said.out.as_str(), said.err.as_str()), ("hello", "bad\n"), "{protocol}");
            match protocol {
                V4 | V5 => assert_eq!(said.code(), 7),
                _ => assert!(said.status.ends_with("exit code 7"), "{said:?}"),
            }
        }
        for protocol in ["ws:", "ws:channel.k8s.io", "ws:base64.channel.k8s.io", "ws:v4.channel.k8s.io", "ws:v4.base64.channel.k8s.io"] {
            let mut client = exec(&main, protocol, "head -c 5; echo bad >&2", "ioe");
            client.input(b"hello");
            let said = client.finish();
            assert_eq!((said.out.as_str(), said.err.as_str()), ("hello", "bad\n"), "{protocol}");
            assert_eq!(said.status.is_empty(), !protocol.contains("v4"), "a success is told from version 4 on: {said:?}");
        }
        let failed = Remote::connect(&try_exec(&main, &["/no/such"], "o").unwrap(), V4, "o", None).unwrap().finish();
        assert!(failed.status.contains("InternalError") && failed.status.contains("/no/such"), "{failed:?}");
        // Much, both ways, and no byte is lost or turned round.
        let mut client = exec(&main, V4, "busybox md5sum; head -c 3000000 /dev/zero | tr '\\0' y", "io");
        for _ in 0..100 {
            client.input(&[b'x'; 30_000]);
        }
        client.end_input();
        let said = client.finish();
        let expected = main.says("head -c 3000000 /dev/zero | tr '\\0' x | busybox md5sum") + "\n";
        assert!(said.out.starts_with(&expected) && said.out[expected.len()..] == "y".repeat(3_000_000), "{} bytes", said.out.len());
        pod.remove();
    }
}

#[test]
fn a_terminal_has_a_size_and_hangs_up_with_its_client() {
    let d = Daemon::start();
    let image = d.busybox();
    for (handler, protocol) in RUNTIMES.into_iter().zip([V4, V5]) {
        let pod = d.pod("tty", handler);
        let main = pod.shell("main", &image, "sleep 1000");
        let script = "trap 'echo hup > /tmp/hup; exit' HUP; echo $TERM; while :; do read x && stty size; done";
        let mut client = exec(&main, protocol, script, "iot");
        client.resize(100, 40);
        client.hears("xterm\r\n");
        sees_size(&mut client, "40 100\r\n");
        client.resize(90, 30);
        client.resize(77, 22);
        sees_size(&mut client, "22 77\r\n");
        client.vanish();
        wait_until("the hang-up", SOON, || main.exec("cat /tmp/hup").out == "hup\n");
        pod.remove();
    }
}

#[test]
fn two_hundred_open_commands_cost_no_threads_and_leave_nothing() {
    let d = Daemon::start();
    let image = d.busybox();
    let pod = d.pod("many", "crun");
    let main = pod.shell("main", &image, "sleep 1000");
    exec(&main, V4, "true", "o").finish();
    let (files, memory) = (count(&d, "fd"), resident_kib(&d));
    let open = |i: usize| {
        let mut client = exec(&main, if i.is_multiple_of(2) { V4 } else { V5 }, "exec cat", "ioe");
        client.input(format!("number {i}\n").as_bytes());
        client.hears(&format!("number {i}\n"));
        client
    };
    // One that talks without end and is never heard holds back nobody but itself.
    let deaf = exec(&main, V4, "exec yes", "oe");
    let mut clients: Vec<Remote> = std::thread::scope(|s| {
        let parts: Vec<_> = (0..8).map(|part| s.spawn(move || (0..25).map(|i| open(25 * part + i)).collect::<Vec<_>>())).collect();
        parts.into_iter().flat_map(|p| p.join().unwrap()).collect()
    });
    assert_eq!(clients.len(), 200);
    assert_eq!(main.says("ps -o args | grep -c '^cat'"), "200");
    let own = |name: &str| run_ok("ps", &["-T", "-o", "comm=", "-p", &d.pid().to_string()]).lines().filter(|l| l.trim() == name).count();
    assert_eq!(own("stream-loop"), 1);
    // What ran the starts is idle by now and goes; nothing stands for the 200.
    wait_until("idle workers to go", Duration::from_secs(25), || count(&d, "task") < 40);
    let grown = resident_kib(&d).saturating_sub(memory);
    assert!(grown < 16 << 10, "{grown} KiB for 200 commands");
    for (i, client) in clients.iter_mut().enumerate() {
        client.input(format!("again {i}\n").as_bytes());
        client.hears(&format!("again {i}\n"));
    }
    let rest = clients.split_off(100);
    clients.into_iter().for_each(Remote::vanish);
    for mut client in rest {
        client.end_input();
        assert_eq!(client.finish().code(), 0);
    }
    deaf.vanish();
    wait_until("all commands to end", SOON, || main.says("ps -o args | grep -cE '^(cat|yes)' || true") == "0");
    wait_until("all descriptors to be closed", SOON, || count(&d, "fd") <= files + 2);
    let fifos = d.path("state").join("io.containerd.grpc.v1.cri/fifo");
    wait_until("all FIFOs to be removed", SOON, || std::fs::read_dir(&fifos).unwrap().count() == 0);
}

#[test]
fn a_windowed_client_is_not_overrun() {
    let d = Daemon::start();
    let image = d.busybox();
    let pod = d.pod("windows", "crun");
    let main = pod.shell("main", &image, "sleep 1000");
    let url = try_exec(&main, &["sh", "-c", "head -c 100000 /dev/zero; cat >/dev/null"], "io").unwrap();
    let mut spdy = Spdy::connect(&url, "v4.channel.k8s.io", None).unwrap();
    spdy.windows(10_000);
    let [error, stdin, stdout] = ["error", "stdin", "stdout"].map(|kind| spdy.open(&[("streamType", kind)]));
    let stranger = spdy.open(&[("streamType", "stdout")]);
    spdy.until(|s| s.inbox.get(&stdout).is_some_and(|b| b.len() >= 10_000));
    assert!(spdy.reset.contains(&stranger), "a second stdout is refused");
    std::thread::sleep(Duration::from_millis(300));
    spdy.ping(1);
    spdy.until(|s| !s.pongs.is_empty());
    assert_eq!(spdy.inbox[&stdout].len(), 10_000, "no byte beyond the window");
    spdy.allow(stdout, 90_000);
    spdy.allow(0, 90_000);
    spdy.until(|s| s.inbox[&stdout].len() >= 100_000);
    for _ in 0..4 {
        spdy.send(stdin, &[0; 16_000], false).unwrap();
    }
    spdy.until(|s| s.credits.get(&stdin).is_some_and(|c| *c >= 32_000) && s.credits.get(&0).is_some_and(|c| *c >= 32_000));
    spdy.send(stdin, &[], true).unwrap();
    spdy.until(|s| s.over_with(error));
    assert!(spdy.text(error).contains("Success") && !spdy.gone, "{}", spdy.text(error));
}

/// Adds a key to the section of the streaming server.
fn set(d: &Daemon, line: &str) {
    let config = std::fs::read_to_string(d.path("config.toml")).unwrap();
    let port = "stream_server_port = \"0\"";
    assert!(config.contains(port));
    std::fs::write(d.path("config.toml"), config.replace(port, &format!("{port}\n{line}"))).unwrap();
}

#[test]
fn silence_and_a_killed_daemon_end_a_session() {
    let mut d = Setup::new().prepare();
    set(&d, "stream_idle_timeout = \"2s\"");
    d.start_again();
    let image = d.busybox();
    let pod = d.pod("ends", "runc");
    let main = pod.shell("main", &image, "sleep 1000");
    let silent = exec(&main, V4, "exec cat", "io");
    let begun = Instant::now();
    assert_eq!(silent.finish(), Said::default());
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(10), "{took:?}");
    wait_until("the command's end", SOON, || main.says("ps -o args | grep -c '^cat' || true") == "0");
    let mut cut = exec(&main, V5, "echo on; exec sleep 444", "io");
    cut.hears("on\n");
    let (id, log) = (main.id.clone(), main.log_file.clone());
    d.kill9();
    assert_eq!(cut.finish().status, "");
    d.start_again();
    let main = d.container(&id, log);
    wait_until("the command's end", SOON, || main.says("ps -o args | grep -c '^sleep 444' || true") == "0");
}

#[test]
fn tokens_are_good_once_and_requests_are_checked() {
    let d = Daemon::start();
    let image = d.busybox();
    let pod = d.pod("tokens", "runc");
    let main = pod.shell("main", &image, "sleep 1000");
    let url = try_exec(&main, &["true"], "o").unwrap();
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    assert_eq!(Remote::connect(&url, V4, "o", None).unwrap().finish().code(), 0);
    let refused = |url: &str, protocol: &str| Remote::connect(url, protocol, "o", None).err().unwrap();
    assert!(refused(&url, V4).contains("404"));
    assert!(refused(&try_exec(&main, &["true"], "o").unwrap().replace("/exec/", "/attach/"), V4).contains("404"));
    let unknown = refused(&try_exec(&main, &["true"], "o").unwrap(), "spdy:v9.channel.k8s.io");
    assert!(unknown.contains("403") && unknown.contains("v4.channel.k8s.io"), "{unknown}");
    assert!(refused(&try_exec(&main, &["true"], "o").unwrap(), "ws:v9").contains("403"));
    assert!(upgrade(&try_exec(&main, &["true"], "o").unwrap(), &[("Upgrade", "h2c")], None).err().unwrap().contains("400"));
    let cases: [(&[&str], &str, &str); 3] = [(&["true"], "oet", "tty"), (&["true"], "", "stdin"), (&[], "o", "cmd")];
    for (cmd, streams, named) in cases {
        let error = try_exec(&main, cmd, streams).unwrap_err();
        assert!(error.kind() == Kind::InvalidArgument && error.chain().contains(named), "{}", error.chain());
    }
    assert_eq!(try_attach(&main, "").unwrap_err().kind(), Kind::InvalidArgument);
    assert!(try_attach(&main, "ot").unwrap_err().chain().contains("tty"));
    assert!(forward(&d, &pod.id, &[70_000]).unwrap_err().chain().contains("70000"));
    assert_eq!(forward(&d, "0123", &[80]).unwrap_err().kind(), Kind::NotFound);
    d.stop_container(&main.id, 0).unwrap();
    for error in [try_exec(&main, &["true"], "o").unwrap_err(), try_attach(&main, "o").unwrap_err()] {
        assert!(error.kind() == Kind::FailedPrecondition && error.chain().contains(&main.id), "{}", error.chain());
    }
}

#[test]
fn gos_shim_runs_commands_and_cannot_be_attached_to() {
    let d = Setup::new().config(&go_handler()).start();
    let image = d.busybox();
    let pod = d.pod("go", "go");
    let main = pod.shell("main", &image, "sleep 1000");
    let mut client = exec(&main, V4, "cat; echo bad >&2; exit 7", "ioe");
    client.input(b"hello");
    client.end_input();
    let said = client.finish();
    assert_eq!((said.out.as_str(), said.err.as_str(), said.code()), ("hello", "bad\n", 7));
    let said = exec(&main, V5, "echo out; exit 4", "e").finish();
    assert_eq!((said.err.as_str(), said.code()), ("", 4));
    let mut client = exec(&main, V5, "while read x; do [ \"$x\" = end ] && exit 3; stty size; done", "iot");
    client.resize(60, 10);
    sees_size(&mut client, "10 60\r\n");
    client.input(b"end\n");
    assert_eq!(client.finish().code(), 3);
    let mut config = container_config("fed", &image, &["sh", "-c", "read x; echo ended"]);
    config.stdin = true;
    assert_eq!(pod.start(config).ended(SOON).exit_code, 0, "it starts, and its input is empty");
    let error = try_attach(&main, "o").unwrap_err();
    assert!(error.kind() == Kind::Unimplemented && error.chain().contains("runtime_path"), "{}", error.chain());
}

#[test]
fn attached_clients_share_output_and_stdin_ends_once() {
    let d = Daemon::start();
    let image = d.busybox();
    for handler in RUNTIMES {
        let pod = d.pod("attach", handler);
        let script = "echo early; while read x; do echo got $x; echo bad $x >&2; done; echo over; sleep 1";
        let mut config = container_config("main", &image, &["sh", "-c", script]);
        (config.stdin, config.stdin_once) = (true, true);
        let main = pod.start(config);
        main.logged("early", SOON);
        let (mut first, mut second) = (attach(&main, V4, "ioe"), attach(&main, "ws:v4.channel.k8s.io", "oe"));
        // Each is attached at its own time.
        second.patience(Duration::from_millis(100));
        let begun = Instant::now();
        while !second.said().out.contains("got one\n") {
            assert!(begun.elapsed() < SOON, "the second client hears nothing");
            first.input(b"one\n");
            second.step();
        }
        second.patience(SOON);
        first.hears("got one\n");
        assert!(!first.said().out.contains("early"), "nothing is played again");
        first.vanish();
        second.hears("over\n");
        let said = second.finish();
        assert!(said.err.starts_with("bad one\n") && said.code() == 0, "{said:?}");
        main.logged("got one", SOON);
        // Input that stays open goes from client to client, and a client whose input ends is let go.
        let mut config = container_config("open", &image, &["sh", "-c", "while read x; do echo got $x; done"]);
        config.stdin = true;
        let open = pod.start(config);
        for name in ["a", "b"] {
            let mut client = attach(&open, V5, "io");
            client.input(format!("{name}\n").as_bytes());
            client.hears(&format!("got {name}\n"));
            client.end_input();
            assert_eq!(client.finish().code(), 0);
            assert!(open.running());
        }
        let mut config = container_config("tty", &image, &["sh", "-c", "while read x; do stty size; done"]);
        (config.stdin, config.tty) = (true, true);
        let tty = pod.start(config);
        let mut client = attach(&tty, V4, "iot");
        client.resize(50, 20);
        sees_size(&mut client, "20 50\r\n");
        d.stop_container(&tty.id, 0).unwrap();
        assert_eq!(client.finish().code(), 0, "it ends with the container");
        pod.remove();
    }
}

/// Opens a pair of streams to a port: (error, data).
fn pair(spdy: &mut Spdy, request: &str, port: u16) -> (u32, u32) {
    let port = port.to_string();
    let mut open = |kind| spdy.open(&[("streamType", kind), ("port", &port), ("requestID", request)]);
    (open("error"), open("data"))
}

#[test]
fn ports_of_a_pod_are_reached() {
    let d = Daemon::start();
    let image = d.busybox();
    let pod = d.pod("ports", "crun");
    let script = "nc -ll -p 80 -e cat & nc -ll -p 81 -e busybox echo six & echo on; wait";
    pod.shell("main", &image, script).logged("on", SOON);
    std::thread::sleep(Duration::from_millis(300));
    let threads = count(&d, "fd");
    for tunnel in [false, true] {
        let url = forward(&d, &pod.id, &[]).unwrap();
        let mut spdy = if tunnel { Spdy::tunnel(&url) } else { Spdy::connect(&url, "portforward.k8s.io", None).unwrap() };
        let (echo_error, echo) = pair(&mut spdy, "0", 80);
        let (_, six) = pair(&mut spdy, "1", 81);
        let (closed_error, closed) = pair(&mut spdy, "2", 82);
        let none = spdy.open(&[("streamType", "data"), ("port", "0"), ("requestID", "3")]);
        spdy.send(echo, b"hello", false).unwrap();
        spdy.until(|s| {
            s.text(echo) == "hello" && s.over_with(six) && s.over_with(closed) && s.over_with(closed_error) && s.over_with(none)
        });
        assert_eq!((spdy.text(echo), spdy.text(six)), ("hello".into(), "six\n".into()));
        assert!(spdy.text(closed_error).contains("port 82") && spdy.reset.contains(&none), "{}", spdy.text(closed_error));
        for _ in 0..20 {
            spdy.send(echo, &[b'x'; 30_000], false).unwrap();
            let wanted = spdy.inbox[&echo].len() + 30_000;
            spdy.until(|s| s.inbox[&echo].len() >= wanted);
        }
        spdy.send(echo, &[], true).unwrap();
        spdy.until(|s| s.over_with(echo) && s.over_with(echo_error));
        assert_eq!((spdy.inbox[&echo].len(), spdy.text(echo_error).as_str()), (600_005, ""));
        let _ = pair(&mut spdy, "4", 80);
    }
    // Channels: a pair for each port, and each begins with its port.
    let url = forward(&d, &pod.id, &[80, 82]).unwrap();
    let mut client = Remote::connect(&url, "ws:v4.channel.k8s.io", "", None).unwrap();
    client.input(b"hello");
    let said = |client: &Remote| match client {
        Remote::Channels { said, .. } => said.clone(),
        Remote::Spdy { .. } => unreachable!(),
    };
    while !said(&client)[0].ends_with(b"hello") || !String::from_utf8_lossy(&said(&client)[3]).contains("port 82") {
        assert!(client.step(), "{:?}", said(&client));
    }
    let came = said(&client);
    assert_eq!((&came[0][..2], &came[1][..], &came[2][..2]), (&[80, 0][..], &[80, 0][..], &[82, 0][..]));
    client.vanish();
    wait_until("all descriptors to be closed", SOON, || count(&d, "fd") <= threads + 2);
}

#[test]
fn a_host_networks_ports_are_the_hosts() {
    let d = Daemon::start();
    let mut config = d.pod_config("host");
    let options = cradle::proto::cri::NamespaceOption { network: cradle::proto::cri::NamespaceMode::NODE.into(), ..Default::default() };
    let context =
        cradle::proto::cri::LinuxSandboxSecurityContext { namespace_options: crate::harness::client::some(options), ..Default::default() };
    config.linux.as_mut().unwrap().security_context = crate::harness::client::some(context);
    config.hostname.clear();
    let pod = d.run_pod(config, "runc");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut spdy = Spdy::connect(&forward(&d, &pod.id, &[]).unwrap(), "portforward.k8s.io", None).unwrap();
    let (_, data) = pair(&mut spdy, "0", listener.local_addr().unwrap().port());
    spdy.send(data, b"ping", true).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    let mut heard = String::new();
    peer.read_to_string(&mut heard).unwrap();
    peer.write_all(b"pong").unwrap();
    drop(peer);
    spdy.until(|s| s.over_with(data));
    assert_eq!((heard.as_str(), spdy.text(data).as_str()), ("ping", "pong"));
}

#[test]
fn streams_are_encrypted_and_clients_show_certificates() {
    let dir = scratch("stream-tls");
    let at = |name: &str| dir.join(name).display().to_string();
    for (ca, name) in [("ca", "server"), ("ca", "client"), ("other", "stranger")] {
        if !dir.join(format!("{ca}.pem")).exists() {
            run_ok(
                "openssl",
                &[
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                    "-nodes",
                    "-days",
                    "2",
                    "-subj",
                    "/CN=ca",
                    "-keyout",
                    &at(&format!("{ca}.key")),
                    "-out",
                    &at(&format!("{ca}.pem")),
                ],
            );
        }
        run_ok(
            "openssl",
            &[
                "req",
                "-new",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-subj",
                "/CN=localhost",
                "-keyout",
                &at(&format!("{name}.key")),
                "-out",
                &at("request"),
            ],
        );
        run_ok(
            "openssl",
            &[
                "x509",
                "-req",
                "-days",
                "2",
                "-in",
                &at("request"),
                "-CA",
                &at(&format!("{ca}.pem")),
                "-CAkey",
                &at(&format!("{ca}.key")),
                "-CAcreateserial",
                "-out",
                &at(&format!("{name}.pem")),
            ],
        );
    }
    let table = "plugins.\"io.containerd.grpc.v1.cri\".x509_key_pair_streaming";
    let pair = format!(
        "[{table}]\ntls_cert_file = \"{}\"\ntls_key_file = \"{}\"\ntls_client_ca_file = \"{}\"",
        at("server.pem"),
        at("server.key"),
        at("ca.pem")
    );
    let mut d = Setup::new().config(&pair).prepare();
    set(&d, "enable_tls_streaming = true");
    d.start_again();
    let image = d.busybox();
    let pod = d.pod("tls", "crun");
    let main = pod.shell("main", &image, "sleep 1000");
    let connector = |certificate: Option<&str>| {
        let mut tls = SslConnector::builder(SslMethod::tls()).unwrap();
        tls.set_ca_file(at("ca.pem")).unwrap();
        if let Some(name) = certificate {
            tls.set_certificate_file(at(&format!("{name}.pem")), SslFiletype::PEM).unwrap();
            tls.set_private_key_file(at(&format!("{name}.key")), SslFiletype::PEM).unwrap();
        }
        tls.build()
    };
    for protocol in [V4, V5] {
        let url = try_exec(&main, &["sh", "-c", "cat; exit 3"], "io").unwrap();
        assert!(url.starts_with("https://"), "{url}");
        let mut client = Remote::connect(&url, protocol, "io", Some(&connector(Some("client")))).unwrap();
        let text = "x".repeat(30_000);
        for _ in 0..20 {
            client.input(text.as_bytes());
        }
        client.end_input();
        let said = client.finish();
        assert_eq!((said.out.len(), said.code()), (600_000, 3));
    }
    for wrong in [None, Some("stranger")] {
        let url = try_exec(&main, &["true"], "o").unwrap();
        assert!(Remote::connect(&url, V4, "o", Some(&connector(wrong))).is_err(), "{wrong:?}");
    }
    let plain = try_exec(&main, &["true"], "o").unwrap().replace("https://", "http://");
    assert!(Remote::connect(&plain, V4, "o", None).is_err());
}
