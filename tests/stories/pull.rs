//! Pulls from a real registry: formats, indexes, what is shared, and what a bad registry leaves behind: nothing.
use crate::harness::image::push_index;
use crate::harness::{Compression, Daemon, Format, Image, Layer, Meta, RUNTIMES, Registry, free_port};
use cradle::core::content::Digest;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

/// What is on disk of images: blobs, ingests, snapshots.
fn on_disk(d: &Daemon) -> Vec<String> {
    let find = "find root/io.containerd.content.v1.content root/io.containerd.snapshotter.v1.overlayfs -mindepth 2 -maxdepth 3 -path '*[0-9]*' | sort";
    let text = crate::harness::run_ok("sh", &["-c", &format!("cd {} && {find}", d.dir.display())]);
    text.lines().map(String::from).collect()
}

#[test]
fn every_format_runs() {
    let d = Daemon::start();
    let registry = Registry::shared();
    let cases = [
        ("plain", Compression::Plain, Format::Oci),
        ("gzip", Compression::Gzip, Format::Oci),
        ("zstd", Compression::Zstd, Format::Oci),
        ("docker", Compression::Gzip, Format::Docker),
    ];
    let pod = d.pod("formats", "runc");
    for (name, compression, format) in cases {
        let top = Layer::new().file("which", Meta::mode(0o644), name.as_bytes());
        let image = Image::empty().layer(Layer::busybox(), compression).layer(top, compression).format(format);
        let pushed = image.push(&registry.repository("formats"), name);
        let reference = registry.reference("formats", name);
        let id = d.pull(&reference).unwrap_or_else(|e| panic!("{name}: {}", e.chain()));
        assert_eq!(pod.shell(name, &reference, "sleep 1000").says("cat /which"), name);
        let by_digest = format!("{}/formats@{}", registry.host, pushed.digest);
        assert_eq!(d.pull(&by_digest).unwrap(), id);
        let status = d.image_status(&by_digest).unwrap();
        assert_eq!(status.id, id);
        assert!(status.repo_tags.contains(&reference) && status.repo_digests.contains(&by_digest), "{status:?}");
        assert!(status.size > 0);
    }
    assert_eq!(d.images().len(), cases.len());
}

#[test]
fn an_index_gives_the_nodes_platform() {
    let d = Daemon::start();
    let registry = Registry::shared();
    let repository = registry.repository("index");
    let ours = Image::busybox().push(&repository, "ours");
    let mut foreign = Image::busybox().set("Env", serde_json::json!(["FOREIGN=1"]));
    foreign.architecture = "s390x".into();
    let foreign = foreign.push(&repository, "foreign");
    let arch = format!("linux/{}", Image::empty().architecture);
    push_index(&repository, "both", &[(&foreign, "linux/s390x"), (&ours, &arch)]);
    push_index(&repository, "none", &[(&foreign, "linux/s390x")]);
    let id = d.pull(&registry.reference("index", "both")).unwrap();
    assert_eq!(id, d.pull(&registry.reference("index", "ours")).unwrap());
    let error = d.pull(&registry.reference("index", "none")).unwrap_err();
    assert!(error.chain().contains("index:none") && error.chain().contains("s390x"), "{}", error.chain());
}

#[test]
fn an_images_own_settings_hold() {
    let d = Daemon::start();
    let config = Image::busybox()
        .set("Env", serde_json::json!(["PATH=/bin", "A=1"]))
        .set("User", "web:extra".into())
        .set("WorkingDir", "/home".into())
        .set("Entrypoint", serde_json::json!(["sh", "-c"]))
        .set("Cmd", serde_json::json!(["echo $A; id -u; id -g; pwd; sleep 1000"]));
    let image = d.image("settings", &config);
    for handler in RUNTIMES {
        let pod = d.pod("settings", handler);
        let main = pod.start(crate::harness::client::container_config("main", &image, &[]));
        main.logged("/home", Duration::from_secs(10));
        let lines: Vec<String> = main.log().into_iter().map(|l| l.text).collect();
        assert_eq!(lines, ["1", "1000", "2000", "/home"]);
        pod.remove();
    }
}

#[test]
fn equal_pulls_share_the_work_and_layers_stay_while_used() {
    let d = Daemon::start();
    let registry = Registry::shared();
    Image::busybox().set("Env", serde_json::json!(["SHARED=1"])).push(&registry.repository("shared"), "1");
    let reference = registry.reference("shared", "1");
    let ids: Vec<String> = std::thread::scope(|s| {
        let calls: Vec<_> = (0..6).map(|_| s.spawn(|| d.pull(&reference).unwrap())).collect();
        calls.into_iter().map(|c| c.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]));
    let before = on_disk(&d);
    d.pull(&reference).unwrap();
    assert_eq!(on_disk(&d), before);
    // A running container keeps its root filesystem when the image goes.
    let pod = d.pod("keeps", "runc");
    let main = pod.shell("main", &reference, "sleep 1000");
    d.remove_image(&reference).unwrap();
    assert_eq!(main.says("ls /bin/busybox"), "/bin/busybox");
}

#[test]
fn a_removed_image_leaves_no_byte() {
    let d = Daemon::start();
    let before = on_disk(&d);
    let image = d.busybox();
    assert_ne!(on_disk(&d), before);
    d.remove_image(&image).unwrap();
    crate::harness::wait_until("blobs and snapshots to be gone", Duration::from_secs(10), || on_disk(&d) == before);
}

#[test]
fn a_blob_that_was_tampered_with_is_refused_and_leaves_nothing() {
    let d = Daemon::start();
    let registry = Registry::start();
    let before = on_disk(&d);
    let pushed = Image::busybox().push(&registry.repository("bad"), "1");
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(registry.blob_file(&pushed.digest)).unwrap()).unwrap();
    let layer = Digest::parse(manifest["layers"][0]["digest"].as_str().unwrap()).unwrap();
    let mut bytes = std::fs::read(registry.blob_file(&layer)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(registry.blob_file(&layer), bytes).unwrap();
    let reference = registry.reference("bad", "1");
    let error = d.pull(&reference).unwrap_err().chain();
    assert!(error.contains(&registry.host) && error.contains("bad"), "{error}");
    assert!(d.images().is_empty());
    crate::harness::wait_until("the pull's remains to be gone", Duration::from_secs(10), || on_disk(&d) == before);
    // Truncated.
    let bytes = std::fs::read(registry.blob_file(&layer)).unwrap();
    std::fs::write(registry.blob_file(&layer), &bytes[..middle]).unwrap();
    assert!(d.pull(&reference).is_err());
    crate::harness::wait_until("the pull's remains to be gone", Duration::from_secs(10), || on_disk(&d) == before);
}

#[test]
fn errors_name_host_reference_and_reason() {
    let d = Daemon::start();
    let registry = Registry::shared();
    Image::busybox().push(&registry.repository("busybox"), "1");
    let host = &registry.host;
    let dead = format!("127.0.0.1:{}", free_port());
    let html = serve("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 27\r\n\r\n<html>please log in</html>\n");
    let denied = serve("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    let cases = [
        (format!("{host}/busybox:nosuch"), vec![host.as_str(), "nosuch", "not found"]),
        (format!("{host}/nosuch:1"), vec![host.as_str(), "nosuch", "not found"]),
        (format!("{dead}/x:1"), vec![dead.as_str(), "RegistryUnavailable"]),
        (format!("{html}/x:1"), vec![html.as_str()]),
        (format!("{denied}/x:1"), vec![denied.as_str(), "403"]),
        ("UPPER/case:1".into(), vec!["UPPER/case"]),
        (format!("{host}/busybox@sha256:12"), vec!["sha256:12"]),
        (String::new(), vec![]),
    ];
    for (reference, words) in cases {
        let error = d.pull(&reference).err().unwrap_or_else(|| panic!("{reference} was pulled")).chain();
        for word in words {
            assert!(error.contains(word), "{reference}: no \"{word}\" in: {error}");
        }
    }
    assert!(d.images().is_empty());
}

/// A server that says the same to everyone, and ends with the process.
fn serve(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().filter_map(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}
