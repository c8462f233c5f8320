//! Images and artifacts shown as read-only volumes.
use crate::harness::client::{container_config, image_spec};
use crate::harness::{Compression, Daemon, Image, Layer, Meta, RUNTIMES, Registry};
use cradle::proto::cri::Mount;
use serde_json::json;

fn volume(image: &str, at: &str, sub_path: &str) -> Mount {
    Mount { image: image_spec(image), container_path: at.into(), readonly: true, image_sub_path: sub_path.into(), ..Default::default() }
}

/// Two layers, with links that lead out.
fn model(d: &Daemon) -> String {
    let low =
        Layer::new().dir("weights", Meta::mode(0o755)).file("weights/one", Meta::mode(0o644), b"1").file("top", Meta::mode(0o644), b"t");
    let high = Layer::new()
        .file("weights/two", Meta::mode(0o644), b"2")
        .symlink("inside", "/weights")
        .symlink("etc", "../../../../../../../../etc");
    d.image("model", &Image::empty().layer(low, Compression::Gzip).layer(high, Compression::Plain))
}

#[test]
fn an_image_is_a_volume_of_the_pod_until_it_stops() {
    let mut d = Daemon::start();
    let (image, model) = (d.busybox(), model(&d));
    for handler in RUNTIMES {
        let pod = d.pod("volumes", handler);
        let mut config = container_config("main", &image, &["sleep", "1000"]);
        config.mounts = vec![
            volume(&model, "/model", ""),
            volume(&d.image_status(&model).unwrap().id, "/by-id", "inside"),
            volume(&model, "/one", "weights/one"),
        ];
        let main = pod.start(config.clone());
        assert_eq!(main.says("cat /model/weights/one /model/weights/two /by-id/two /one"), "1221", "{handler}");
        for write in ["touch /model/x", "touch /by-id/x", "echo x > /one"] {
            assert_ne!(main.exec(write).code, 0, "{handler}: {write}");
        }
        let status = main.status();
        assert_eq!(status.mounts[0].image.image_ref, d.image_status(&model).unwrap().id);
        assert_eq!(volumes(&d).len(), 1, "{handler}: mounted once for all");
        // The layers stay as long as they are shown.
        let (id, log) = (main.id.clone(), main.log_file.clone());
        let pod_id = pod.id.clone();
        d.remove_image(&model).unwrap();
        d.kill9();
        d.start_again();
        assert_eq!(d.container(&id, log).says("cat /model/weights/one"), "1");
        d.pull(&model).unwrap();
        d.stop_pod(&pod_id).unwrap();
        assert!(volumes(&d).is_empty(), "{handler}: {:?}", volumes(&d));
        crate::harness::client::remove_pod(&d, &pod_id).unwrap();
    }
}

fn volumes(d: &Daemon) -> Vec<std::path::PathBuf> {
    crate::harness::leftovers::mounts(&d.dir).into_iter().filter(|m| m.to_string_lossy().contains("image-volumes")).collect()
}

#[test]
fn a_volume_that_cannot_be_shown_says_so_to_the_kubelet() {
    let d = Daemon::start();
    let (image, model) = (d.busybox(), model(&d));
    let pod = d.pod("volumes", "crun");
    let no_image = format!("{}/none:1", Registry::shared().host);
    let bad: [(Mount, &str); 7] = [
        (volume(&no_image, "/v", ""), "not found"),
        (volume(&model, "/v", "missing"), "missing"),
        (volume(&model, "/v", "etc/passwd"), "etc/passwd"),
        (volume(&model, "/v", "../x"), "image_sub_path"),
        (Mount { readonly: false, ..volume(&model, "/v", "") }, "readonly"),
        (Mount { host_path: "/tmp".into(), ..volume(&model, "/v", "") }, "host_path"),
        (volume("", "/v", ""), "image.image"),
    ];
    for (mount, why) in bad {
        let mut config = container_config("bad", &image, &["true"]);
        config.mounts.push(mount);
        let error = pod.try_create(config).err().unwrap().chain();
        assert!(error.starts_with("ImageVolumeMountFailed: ") && error.contains(why), "{why}: {error}");
    }
}

#[test]
fn an_artifact_is_a_volume_of_its_files() {
    let d = Daemon::start();
    let image = d.busybox();
    let to = Registry::shared().repository("artifact");
    let blob = |title: &str, text: &str| {
        let digest = to.blob(text.as_bytes());
        let annotations = json!({ "org.opencontainers.image.title": title });
        json!({ "mediaType": "application/x-model", "digest": digest.to_string(), "size": text.len(), "annotations": annotations })
    };
    let empty = to.blob(b"{}");
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let push = |tag: &str, layers: serde_json::Value| {
        to.manifest(
            tag,
            kind,
            &json!({
                "schemaVersion": 2, "mediaType": kind, "artifactType": "application/x-model", "layers": layers,
                "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": empty.to_string(), "size": 2 },
            }),
        );
        Registry::shared().reference("artifact", tag)
    };
    let one = push("one", json!([blob("weights.bin", "w"), blob("conf/model.json", "{}")]));
    let two = push("two", json!([blob("weights.bin", "other")]));
    let evil = push("evil", json!([blob("../../etc/evil", "x")]));
    let ids = [d.pull(&one).unwrap(), d.pull(&two).unwrap()];
    assert_ne!(ids[0], ids[1], "both have the same empty configuration");
    let error = d.pull(&evil).unwrap_err().chain();
    assert!(error.contains("no safe name"), "{error}");
    let pod = d.pod("artifacts", "crun");
    let mut config = container_config("main", &image, &["sleep", "1000"]);
    config.mounts = vec![volume(&one, "/one", ""), volume(&two, "/two", ""), volume(&one, "/model.json", "conf/model.json")];
    let main = pod.start(config);
    assert_eq!(main.says("cat /one/weights.bin /two/weights.bin /model.json; ls /one"), "wother{}conf\nweights.bin");
    assert_ne!(main.exec("touch /one/x").code, 0);
    let error = pod.try_create(container_config("root", &one, &["true"])).err().unwrap().chain();
    assert!(error.contains("is an artifact"), "{error}");
}
