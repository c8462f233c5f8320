//! Images beyond a plain pull: progress, credentials, mirrors, names, pinning, file systems, what is refused.
use crate::harness::client::{image_for, image_spec};
use crate::harness::registry::{PASSWORD, USER};
use crate::harness::{Compression, Daemon, Gate, Image, Layer, Meta, Registry, Setup, wait_for, wait_until};
use cradle::core::content::Digest;
use cradle::error::Kind;
use cradle::proto::content::{ListStatusesRequest, Status, StatusRequest};
use cradle::proto::content_methods::content;
use cradle::proto::cri::{AuthConfig, ImageFsInfoRequest, PullImageRequest, RemoveImageRequest};
use cradle::proto::cri_methods::image_service as images;
use std::process::Stdio;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);

/// Bytes that no packing makes smaller.
fn noise(size: u32) -> Vec<u8> {
    (0..size).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// An image with one layer of 4 MB above busybox's.
fn big() -> Image {
    Image::busybox().layer(Layer::new().file("noise", Meta::mode(0o644), &noise(4_000_000)), Compression::Plain)
}

/// What the daemon tells of pulls on their way.
fn on_the_way(d: &Daemon, filters: &[&str]) -> Vec<Status> {
    let request = ListStatusesRequest { filters: filters.iter().map(ToString::to_string).collect(), ..Default::default() };
    d.client().in_namespace("k8s.io").call(&content::LIST_STATUSES, &request, SOON).unwrap().statuses
}

/// A daemon with keys of containerd 2's sections, which go into a file of their own.
fn with_images(lines: &str) -> Daemon {
    let mut d = Setup::new().prepare();
    std::fs::write(d.path("images.toml"), format!("version = 3\n{lines}")).unwrap();
    let config = std::fs::read_to_string(d.path("config.toml")).unwrap();
    std::fs::write(d.path("config.toml"), format!("imports = [\"images.toml\"]\n{config}")).unwrap();
    d.start_again();
    d
}

#[test]
fn how_far_a_pull_is_can_be_seen_from_outside() {
    let d = Daemon::start();
    let registry = Registry::shared();
    big().push(&registry.repository("progress"), "1");
    let gate = Gate::before(&registry.host, 2_000_000);
    let reference = format!("{}/progress:1", gate.host);
    std::thread::scope(|s| {
        let pull = s.spawn(|| d.pull(&reference).unwrap());
        gate.wait_held();
        let big = |s: &Status| s.total > 4_000_000 && s.offset > 500_000;
        let seen = wait_for("a layer on its way", SOON, || on_the_way(&d, &[]).into_iter().find(big));
        assert!(seen.ref_ == format!("layer-{}", seen.expected) && seen.offset < seen.total, "{seen:?}");
        assert!(seen.started_at.seconds > 1_600_000_000 && seen.updated_at.seconds >= seen.started_at.seconds);
        assert_eq!(on_the_way(&d, &[&format!("ref==\"{}\"", seen.ref_)]).len(), 1);
        assert_eq!(on_the_way(&d, &["ref==other"]).len(), 0);
        let one = StatusRequest { ref_: seen.ref_.clone(), ..Default::default() };
        let asked = d.client().in_namespace("k8s.io").call(&content::STATUS, &one, SOON).unwrap();
        assert_eq!(asked.status.expected, seen.expected);
        // Another namespace has another store, and without one there is none.
        assert_eq!(d.client().in_namespace("other").call(&content::STATUS, &one, SOON).unwrap_err().kind(), Kind::NotFound);
        let error = d.client().call(&content::STATUS, &one, SOON).unwrap_err();
        assert!(error.kind() == Kind::FailedPrecondition && error.chain().contains("namespace is required"), "{}", error.chain());
        gate.open();
        pull.join().unwrap();
    });
    assert!(on_the_way(&d, &[]).is_empty());
}

#[test]
fn run_shows_a_bar_on_a_terminal_and_lines_elsewhere() {
    let d = Daemon::start();
    let registry = Registry::shared();
    let pushed = big().push(&registry.repository("bar"), "1");
    let digest = pushed.digest.to_string();
    for terminal in [true, false] {
        let gate = Gate::before(&registry.host, 2_000_000);
        let reference = format!("{}/bar:1", gate.host);
        let config = d.path("config.toml").display().to_string();
        let line = format!("{} --config {config} run {reference} -- sh -c 'echo out; exit 5'", crate::harness::daemon::CRADLED);
        let args = if terminal { vec!["script", "-qefc", &line, "/dev/null"] } else { vec!["sh", "-c", &line] };
        let mut command = std::process::Command::new(args[0]);
        let child = command.args(&args[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        gate.wait_held();
        wait_for("a layer on its way", SOON, || on_the_way(&d, &[]).into_iter().find(|s| s.total > 4_000_000));
        std::thread::sleep(Duration::from_millis(500));
        gate.open();
        let done = child.wait_with_output().unwrap();
        assert_eq!(done.status.code(), Some(5), "{done:?}");
        let text = String::from_utf8_lossy(if terminal { &done.stdout } else { &done.stderr }).into_owned();
        assert_eq!(text.contains("[==") && text.contains("B/s") && text.contains("\x1b["), terminal, "{text}");
        assert!(text.contains(": 3.8 MiB") && text.contains(&format!("{reference}: sha256:")), "{digest}: {text}");
        assert!(String::from_utf8_lossy(&done.stdout).contains("out"));
        d.remove_image(&reference).unwrap();
    }
}

/// Credentials as the kubelet sends them.
fn auth(password: &str) -> AuthConfig {
    AuthConfig { username: USER.into(), password: password.into(), ..Default::default() }
}

#[test]
fn credentials_open_a_registry_and_are_never_repeated() {
    let d = Daemon::start();
    let open = Registry::start();
    Image::busybox().push(&open.repository("private"), "1");
    let locked = open.locked();
    let reference = locked.reference("private", "1");
    let error = d.pull(&reference).unwrap_err();
    assert!(error.kind() == Kind::Unauthenticated && error.chain().contains(&reference), "{}", error.chain());
    let error = d.pull_as(&reference, auth("wrong-secret")).unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthenticated);
    let base64 = |text: &str| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, text);
    for secret in ["wrong-secret".to_string(), base64(&format!("{USER}:wrong-secret"))] {
        assert!(!error.chain().contains(&secret) && !d.log().contains(&secret), "{}", error.chain());
    }
    // Credentials for another host stay at home.
    let elsewhere = AuthConfig { server_address: "https://other.example/v1/".into(), ..auth(PASSWORD) };
    assert_eq!(d.pull_as(&reference, elsewhere).unwrap_err().kind(), Kind::Unauthenticated);
    d.pull_as(&reference, auth(PASSWORD)).unwrap();
    d.remove_image(&reference).unwrap();
    let encoded = AuthConfig { auth: base64(&format!("{USER}:{PASSWORD}")), ..Default::default() };
    d.pull_as(&reference, AuthConfig { server_address: format!("http://{}", locked.host), ..encoded }).unwrap();
}

#[test]
fn old_registry_tables_give_mirrors_and_credentials() {
    let open = Registry::start();
    Image::busybox().push(&open.repository("private"), "1");
    let locked = open.locked();
    let section = "plugins.\"io.containerd.grpc.v1.cri\".registry";
    let (host, none) = (&locked.host, crate::harness::free_port());
    let d = Setup::new()
        .registry(&format!(
            "[{section}.mirrors.\"up.example\"]\nendpoint = [\"http://127.0.0.1:{none}\", \"http://{host}\"]\n\
             [{section}.configs.\"{host}\".auth]\nusername = \"{USER}\"\npassword = \"{PASSWORD}\"\n\
             [{section}.headers]\nX-Story = [\"one\"]\n"
        ))
        .start();
    d.pull("up.example/private:1").unwrap();
    assert_eq!(d.image_status("up.example/private:1").unwrap().repo_tags, ["up.example/private:1"]);
    // What the request brings counts more than the config.
    assert_eq!(d.pull_as("up.example/private:1", auth("wrong")).unwrap_err().kind(), Kind::Unauthenticated);
    let both = Setup::new().registry(&format!("config_path = \"/x\"\n[{section}.mirrors.\"up.example\"]\nendpoint = []\n")).prepare();
    let done = both.cli(&["config", "check"]);
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!done.status.success() && text.contains("registry.mirrors") && text.contains("config_path"), "{text}");
}

#[test]
fn host_files_count_at_once_and_say_whose_credentials_a_mirror_sees() {
    let d = Daemon::start();
    let open = Registry::start();
    Image::busybox().push(&open.repository("private"), "1");
    let locked = open.locked();
    let reference = "up.example/private:1";
    let of_upstream = AuthConfig { server_address: "up.example".into(), ..auth(PASSWORD) };
    let dir = d.path("certs.d/up.example");
    let dead = crate::harness::free_port();
    let hosts = |more: &str| {
        std::fs::create_dir_all(&dir).unwrap();
        let text = format!("server = \"http://127.0.0.1:{dead}\"\n[host.\"http://{}\"]\n{more}\n", locked.host);
        std::fs::write(dir.join("hosts.toml"), text).unwrap();
    };
    hosts("");
    let error = d.pull_as(reference, of_upstream.clone()).unwrap_err();
    assert!(error.chain().contains(&locked.host) && error.kind() == Kind::Unauthenticated, "{}", error.chain());
    hosts("credential_domain = \"up.example\"");
    d.pull_as(reference, of_upstream).unwrap();
    // A file that goes away counts at once, too: then only the registry itself is left, which does not exist.
    d.remove_image(reference).unwrap();
    std::fs::write(dir.join("hosts.toml"), format!("server = \"http://127.0.0.1:{dead}\"\n")).unwrap();
    assert!(d.pull(reference).unwrap_err().chain().starts_with("RegistryUnavailable: up.example/private:1"));
}

#[test]
fn any_name_takes_the_image_away_and_filters_name_one() {
    let mut d = Daemon::start();
    let registry = Registry::shared();
    let image = Image::busybox().set("User", "1002:1003".into()).set("Env", serde_json::json!(["NAMES=1"]));
    let pushed = image.push(&registry.repository("names"), "1");
    image.push(&registry.repository("names"), "2");
    let named = Image::busybox().set("User", "web".into());
    let other = d.image("other", &named);
    let (one, two) = (registry.reference("names", "1"), registry.reference("names", "2"));
    let by_digest = format!("{}/names@{}", registry.host, pushed.digest);
    for way in [&two, &by_digest, &"ID".to_string()] {
        let id = d.pull(&one).unwrap();
        assert_eq!(d.pull(&two).unwrap(), id);
        let short = &id["sha256:".len()..][..12];
        for name in [&one, &two, &by_digest, &id, short] {
            let found = d.images_like(image_spec(name));
            assert_eq!(found.len(), 1, "{name}");
            assert_eq!((&found[0].id, found[0].repo_tags.len(), found[0].repo_digests.len()), (&id, 2, 1), "{name}");
            assert_eq!((found[0].uid.value, found[0].username.as_str(), found[0].pinned), (1002, "", false));
            assert!(found[0].size > 100_000 && found[0].spec.image == id, "{:?}", found[0]);
        }
        assert_eq!(d.image_status(&other).unwrap().username, "web");
        assert!(d.image_status(&other).unwrap().uid.is_none());
        assert!(d.images_like(image_spec("nosuch")).is_empty());
        assert_eq!(d.images().len(), 2);
        d.restart();
        d.remove_image(if way == "ID" { &id } else { way }).unwrap();
        for name in [&one, &two, &by_digest, &id] {
            assert!(d.image_status(name).is_none(), "{name} after {way}");
            d.remove_image(name).unwrap();
        }
    }
    assert_eq!(d.images().len(), 1);
}

#[test]
fn a_tag_that_moves_leaves_the_old_image_with_its_digest() {
    let d = Daemon::start();
    let registry = Registry::shared();
    let reference = registry.reference("moves", "1");
    let push = |env: &str| Image::busybox().set("Env", serde_json::json!([env])).push(&registry.repository("moves"), "1");
    let before = push("V=1");
    let old = d.pull(&reference).unwrap();
    push("V=2");
    let new = d.pull(&reference).unwrap();
    assert_ne!(old, new);
    let old = d.image_status(&old).unwrap();
    assert_eq!((old.repo_tags.len(), &old.repo_digests), (0, &vec![format!("{}/moves@{}", registry.host, before.digest)]));
    assert_eq!(d.image_status(&reference).unwrap().id, new);
}

#[test]
fn pinned_images_are_told_by_name_and_by_pattern() {
    let registry = Registry::shared();
    let pins = format!("sandbox = \"{0}/pause:3\"\nours = \"{0}/system/*\"\n", registry.host);
    let d = with_images(&format!("[plugins.\"io.containerd.cri.v1.images\".pinned_images]\n{pins}"));
    for (name, tag, pinned) in [("pause", "3", true), ("pause", "4", false), ("system/agent", "1", true), ("app", "1", false)] {
        Image::busybox().set("Env", serde_json::json!([format!("PIN={name}{tag}")])).push(&registry.repository(name), tag);
        let reference = registry.reference(name, tag);
        d.pull(&reference).unwrap();
        assert_eq!(d.image_status(&reference).unwrap().pinned, pinned, "{reference}");
    }
    // The kubelet spares them; a person's word counts all the same.
    d.remove_image(&registry.reference("pause", "3")).unwrap();
    assert_eq!(d.images().iter().filter(|i| i.pinned).count(), 1);
}

#[test]
fn an_image_is_pulled_for_a_handlers_snapshotter() {
    let other = "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.copies]\nruntime_type = \"io.containerd.runc.v2\"\n\
                 snapshotter = \"native\"\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.copies.options]\nBinaryName = \"crun\"\n";
    let d = Setup::new().config(other).start();
    let registry = Registry::shared();
    let image = Image::busybox().set("Env", serde_json::json!(["HANDLER=1"]));
    image.push(&registry.repository("handlers"), "1");
    let reference = registry.reference("handlers", "1");
    let layers = |snapshotter: &str| {
        std::fs::read_dir(d.path(&format!("root/io.containerd.snapshotter.v1.{snapshotter}/snapshots"))).map_or(0, Iterator::count)
    };
    let error = d.pull_for(&reference, "nosuch").unwrap_err().chain();
    assert!(error.contains("nosuch") && error.contains("copies"), "{error}");
    let id = d.pull_for(&reference, "copies").unwrap();
    assert_eq!((layers("overlayfs"), layers("native")), (0, 1));
    let handlers = || -> Vec<String> { d.images().into_iter().map(|i| i.spec.runtime_handler.clone()).collect() };
    assert_eq!(handlers(), ["copies"]);
    assert_eq!((d.images_like(image_for(&id, "copies")).len(), d.images_like(image_for(&id, "runc")).len()), (1, 0));
    // A container of another handler gets the layers from the blobs, without the registry.
    let pod = d.pod("default", "runc");
    assert_eq!(pod.shell("main", &reference, "sleep 1000").says("echo $HANDLER"), "1");
    assert_eq!(d.pod("copies", "copies").shell("main", &reference, "sleep 1000").says("echo $HANDLER"), "1");
    for pod in d.pod_ids() {
        d.stop_pod(&pod).unwrap();
        crate::harness::client::remove_pod(&d, &pod).unwrap();
    }
    // Each handler's pull is one entry, and goes alone.
    assert_eq!(d.pull_for(&reference, "runc").unwrap(), id);
    assert_eq!(handlers(), ["copies", "runc"]);
    let remove = |handler: &str| d.get(&images::REMOVE_IMAGE, &RemoveImageRequest { image: image_for(&id, handler), ..Default::default() });
    remove("copies");
    assert_eq!(handlers(), ["runc"]);
    wait_until("the copies to be gone", SOON, || (layers("overlayfs"), layers("native")) == (1, 0));
    remove("runc");
    assert!(d.images().is_empty());
}

#[test]
fn the_image_file_system_tells_bytes_and_inodes() {
    let d = Daemon::start();
    let info = || d.get(&images::IMAGE_FS_INFO, &ImageFsInfoRequest::default());
    let empty = info();
    // Never empty, and on one disk the same for images and containers.
    assert_eq!((empty.image_filesystems.len(), empty.container_filesystems.len()), (1, 1));
    let root = d.path("root/io.containerd.snapshotter.v1.overlayfs").display().to_string();
    assert_eq!(empty.image_filesystems[0].fs_id.mountpoint, root);
    d.image("fs", &big());
    let full = wait_for("sizes", Duration::from_secs(20), || Some(info()).filter(|i| i.image_filesystems[0].used_bytes.value > 4_000_000));
    assert!(full.image_filesystems[0].inodes_used.value > 50, "{full:?}");
    assert_eq!(full.container_filesystems[0].used_bytes.value, full.image_filesystems[0].used_bytes.value);
}

#[test]
fn layers_on_a_disk_of_their_own_are_told_apart_from_containers() {
    let disk = crate::harness::scratch("disk").display().to_string();
    crate::harness::run_ok("mount", &["-t", "tmpfs", "disk", &disk]);
    let d = Setup::new().config(&format!("[plugins.\"io.containerd.snapshotter.v1.overlayfs\"]\nroot_path = \"{disk}/layers\"\n")).start();
    let image = d.image("disk", &big());
    let main = d.pod("disk", "runc").shell("main", &image, "head -c 2000000 /dev/urandom > /mine; sleep 1000");
    let info = wait_for("sizes", Duration::from_secs(30), || {
        let info = d.get(&images::IMAGE_FS_INFO, &ImageFsInfoRequest::default());
        Some(info).filter(|i| i.container_filesystems[0].used_bytes.value >= 2_000_000)
    });
    let told = |list: &[cradle::proto::cri::FilesystemUsage]| -> Vec<(String, u64)> {
        list.iter().map(|f| (f.fs_id.mountpoint.clone(), f.used_bytes.value / 1_000_000)).collect()
    };
    let blobs = d.path("root/io.containerd.content.v1.content").display().to_string();
    let (layers, image_list) = (format!("{disk}/layers"), told(&info.image_filesystems));
    assert_eq!(told(&info.container_filesystems), [(layers.clone(), 2)]);
    assert!(image_list[0].0 == layers && image_list[0].1 >= 5 && image_list[1].0 == blobs && image_list[1].1 >= 4, "{image_list:?}");
    drop(main);
    drop(d);
    crate::harness::run_ok("umount", &[&disk]);
}

#[test]
fn a_pull_ends_when_its_client_goes_or_nothing_comes() {
    let d = with_images("[plugins.\"io.containerd.cri.v1.images\"]\nimage_pull_progress_timeout = \"2s\"\n");
    let registry = Registry::shared();
    big().push(&registry.repository("held"), "1");
    let gate = Gate::before(&registry.host, 2_000_000);
    let reference = format!("{}/held:1", gate.host);
    let request = PullImageRequest { image: image_spec(&reference), ..Default::default() };
    let short = d.client().call(&images::PULL_IMAGE, &request, Duration::from_millis(1500)).unwrap_err();
    assert_eq!(short.kind(), Kind::DeadlineExceeded);
    wait_until("the pull to be gone", Duration::from_secs(2), || on_the_way(&d, &[]).is_empty());
    let begun = Instant::now();
    let error = d.pull(&reference).unwrap_err();
    assert!(error.chain().contains("no bytes within") && error.chain().contains("held:1"), "{}", error.chain());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(on_the_way(&d, &[]).is_empty() && d.images().is_empty());
    // Nobody holds a lock: the same pull goes through at once.
    gate.open();
    d.pull(&reference).unwrap();
}

#[test]
fn encrypted_layers_go_through_the_configs_program_or_are_refused() {
    let registry = Registry::shared();
    let to = registry.repository("sealed");
    let plain = Image::busybox().push(&to, "plain");
    let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(registry.blob_file(&plain.digest)).unwrap()).unwrap();
    let layer = Digest::parse(manifest["layers"][0]["digest"].as_str().unwrap()).unwrap();
    let sealed: Vec<u8> = std::fs::read(registry.blob_file(&layer)).unwrap().into_iter().map(|b| b.wrapping_add(128)).collect();
    let kind = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
    manifest["layers"][0] = serde_json::json!({
        "mediaType": kind, "digest": to.blob(&sealed).to_string(), "size": sealed.len(), "annotations": {"enc.keys.story": "wrapped"},
    });
    to.manifest("1", "application/vnd.oci.image.manifest.v1+json", &manifest);
    let reference = registry.reference("sealed", "1");
    let program = |key: &str| {
        let script = "grep -q enc.keys.story <&3 || exit 9; test $KEY = good || { echo no such key >&2; exit 7; }; LC_ALL=C tr '\\\\000-\\\\377' '\\\\200-\\\\377\\\\000-\\\\177'";
        format!(
            "[stream_processors.\"story.decoder\"]\naccepts = [\"{kind}\"]\nreturns = \"application/vnd.oci.image.layer.v1.tar+gzip\"\n\
             path = \"sh\"\nargs = [\"-c\", \"{script}\"]\nenv = [\"KEY={key}\"]\n"
        )
    };
    let refused = |d: &Daemon, words: &[&str]| {
        let error = d.pull(&reference).unwrap_err().chain();
        assert!(words.iter().all(|w| error.contains(w)) && error.contains("sealed:1"), "{error}");
        assert!(d.images().is_empty() && on_the_way(d, &[]).is_empty());
    };
    refused(&Daemon::start(), &["encrypted", kind, "stream_processors"]);
    refused(&Setup::new().config(&program("bad")).start(), &["story.decoder", "no such key"]);
    let d = Setup::new().config(&program("good")).start();
    d.pull(&reference).unwrap();
    assert_eq!(d.pod("sealed", "runc").shell("main", &reference, "sleep 1000").says("echo open"), "open");
}

#[test]
fn a_kill_while_an_image_is_removed_leaves_all_of_it_or_nothing() {
    let mut d = Daemon::start();
    let registry = Registry::shared();
    let pushed = Image::busybox().set("Env", serde_json::json!(["REMOVED=1"])).push(&registry.repository("removed"), "1");
    let reference = registry.reference("removed", "1");
    let by_digest = format!("{}/removed@{}", registry.host, pushed.digest);
    let blobs = |d: &Daemon| std::fs::read_dir(d.path("root/io.containerd.content.v1.content/blobs/sha256")).unwrap().count();
    for round in 0..4u64 {
        d.pull(&reference).unwrap();
        std::thread::scope(|s| {
            s.spawn(|| d.remove_image(&reference));
            std::thread::sleep(Duration::from_millis(4 * round));
            crate::harness::daemon::signal(d.pid(), "KILL");
        });
        d.wait_end(SOON);
        d.start_again();
        match d.image_status(&reference) {
            Some(image) => {
                assert_eq!((image.repo_tags, image.repo_digests), (vec![reference.clone()], vec![by_digest.clone()]));
                assert!(d.image_status(&image.id).is_some());
            }
            None => {
                assert!(d.images().is_empty(), "{:?}", d.images());
                wait_until("the blobs to be gone", SOON, || blobs(&d) == 0);
            }
        }
    }
}

#[test]
fn blobs_of_unpacked_layers_go_where_the_config_says_so() {
    let mut d = with_images("[plugins.\"io.containerd.cri.v1.images\"]\ndiscard_unpacked_layers = true\n");
    let image = d.image("discard", &Image::busybox().set("Env", serde_json::json!(["DISCARD=1"])));
    let blobs = d.path("root/io.containerd.content.v1.content/blobs/sha256");
    wait_until("manifest and config to be all", SOON, || std::fs::read_dir(&blobs).unwrap().count() == 2);
    d.restart();
    assert!(d.pull(&image).unwrap() == d.image_status(&image).unwrap().id);
    assert_eq!(d.pod("discard", "runc").shell("main", &image, "sleep 1000").says("echo $DISCARD"), "1");
}
