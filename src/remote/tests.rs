//! The session against a scripted registry: what is asked, what is shown to whom, and how each fault is told.
use super::auth::{Credentials, Login};
use super::blob::{Blob, Part, Wanted, into_error};
use super::stub::{End, Reply, Seen, Shelf, Stub};
use super::*;
use crate::core::content::Digest;
use crate::error::{Error, Kind, Result};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

fn config() -> Config {
    let retry = Retry { rounds: 3, first: Duration::from_millis(5), most: Duration::from_millis(20) };
    Config { retry, progress_timeout: Some(Duration::from_millis(400)), ..Config::default() }
}

fn session(stub: &Stub, login: impl Into<Login>) -> Arc<Session> {
    let reference = Reference::parse(&format!("{}/app:v1", stub.host())).unwrap();
    Client::new(config()).session(&reference, &login.into()).unwrap()
}

fn basic() -> Credentials {
    Credentials::Basic { user: "user".into(), password: "hunter22".into() }
}

fn read(session: &Arc<Session>, bytes: &[u8]) -> Result<Vec<u8>> {
    read_sized(session, &Digest::of(bytes), bytes.len() as u64)
}

fn read_sized(session: &Arc<Session>, digest: &Digest, size: u64) -> Result<Vec<u8>> {
    let wanted = Wanted { kind: Part::Blobs, digest: digest.clone(), size, media_type: String::new(), urls: vec![] };
    let mut got = vec![];
    Blob::new(session, wanted, 0).read_to_end(&mut got).map_err(into_error)?;
    Ok(got)
}

fn refused(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Error {
    let stub = Stub::start(answer);
    let e = session(&stub, basic()).resolve().unwrap_err();
    let text = e.chain();
    assert!(text.contains(&stub.host()) && text.contains("app:v1"), "{text}");
    assert!(!text.contains("hunter22"), "{text}");
    e
}

#[test]
fn a_tag_is_resolved_by_head_alone() {
    let mut shelf = Shelf::default();
    let digest = shelf.manifest("v1", OCI, b"{}");
    let stub = Stub::start(move |s| shelf.answer(s));
    let found = session(&stub, Login::default()).resolve().unwrap();
    assert_eq!((found.digest.to_string(), found.size, found.media_type.as_str()), (digest, 2, OCI));
    assert!(stub.seen().iter().all(|s| s.method == "HEAD" && !s.headers.contains_key("authorization")));
}

#[test]
fn refusals_say_host_reference_and_reason() {
    let denied = r#"{"errors":[{"code":"DENIED","message":"requested access is denied\nhunter22"}]}"#;
    for (status, kind, word) in [
        (401, Kind::Unauthenticated, "DENIED: requested access"),
        (403, Kind::PermissionDenied, "access denied"),
        (404, Kind::NotFound, "not found"),
        (429, Kind::Unavailable, "429"),
        (503, Kind::Unavailable, "503"),
    ] {
        let e = refused(move |_| Reply::new(status, denied));
        assert_eq!(e.kind(), kind, "{}", e.chain());
        assert!(e.chain().contains(word), "{}", e.chain());
    }
    let e = refused(|_| Reply::new(200, "<html><title>Sign in</title>").with("content-type", "text/html"));
    assert!(e.chain().contains("HTML page") && e.chain().contains("Sign in"), "{}", e.chain());
    let e = refused(|_| Reply::new(200, "x").with("content-type", OCI).with("docker-content-digest", "sha256:../../x"));
    assert!(e.chain().contains("Docker-Content-Digest"), "{}", e.chain());
    let e = refused(|_| Reply::new(200, "").with("content-type", OCI).ending(End::Endless));
    assert!(e.chain().contains("more than"), "{}", e.chain());
}

#[test]
fn nobody_there_is_registry_unavailable() {
    let port = { std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port() };
    let reference = Reference::parse(&format!("127.0.0.1:{port}/app:v1")).unwrap();
    let e = Client::new(config()).session(&reference, &Login::default()).unwrap().resolve().unwrap_err();
    assert_eq!(e.kind(), Kind::Unknown);
    assert!(e.chain().starts_with("RegistryUnavailable: 127.0.0.1"), "{}", e.chain());
}

#[test]
fn failures_of_the_moment_are_tried_again() {
    let mut shelf = Shelf::default();
    shelf.manifest("v1", OCI, b"{}");
    let calls = AtomicUsize::new(0);
    let stub = Stub::start(move |s| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::new(429, "").with("retry-after", "0"),
        1 => Reply::new(500, ""),
        _ => shelf.answer(s),
    });
    session(&stub, Login::default()).resolve().unwrap();
    assert_eq!(stub.seen().len(), 3);
}

#[test]
fn a_broken_stream_goes_on_where_it_broke() {
    let bytes: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
    for ranges in [true, false] {
        let (mut shelf, calls) = (Shelf::default(), AtomicUsize::new(0));
        shelf.blob(&bytes);
        let stub = Stub::start(move |s| {
            let mut s = s.clone();
            if !ranges {
                s.headers.remove("range");
            }
            let reply = shelf.answer(&s);
            if calls.fetch_add(1, Ordering::SeqCst) == 0 { reply.ending(End::CutAt(70_000)) } else { reply }
        });
        assert_eq!(read(&session(&stub, Login::default()), &bytes).unwrap(), bytes);
        assert_eq!(stub.seen()[1].header("range"), "bytes=70000-");
    }
}

#[test]
fn a_blob_is_as_long_as_said_or_an_error() {
    let bytes = vec![7u8; 1000];
    let digest = Digest::of(&bytes);
    let cut = bytes.clone();
    let stub = Stub::start(move |_| Reply::new(200, cut.clone()).ending(End::CutAt(500)));
    let e = read(&session(&stub, Login::default()), &bytes).unwrap_err();
    assert!(e.chain().contains("gave up after"), "{}", e.chain());
    let long = bytes.clone();
    let stub = Stub::start(move |_| Reply::new(200, long.clone()));
    let e = read_sized(&session(&stub, Login::default()), &digest, 900).unwrap_err();
    assert!(e.chain().contains("1000 bytes announced where 900 are due"), "{}", e.chain());
    let stub = Stub::start(move |_| Reply::new(200, bytes.clone()).ending(End::Endless));
    let e = read_sized(&session(&stub, Login::default()), &digest, 1000).unwrap_err();
    assert!(e.chain().contains("more than the 1000 bytes"), "{}", e.chain());
}

#[test]
fn silence_ends_a_pull_and_so_does_abort_at_once() {
    let bytes = vec![7u8; 1000];
    let sent = bytes.clone();
    let stub = Stub::start(move |_| Reply::new(200, sent.clone()).ending(End::StallAt(500)));
    let e = read(&session(&stub, Login::default()), &bytes).unwrap_err();
    assert_eq!(e.kind(), Kind::DeadlineExceeded, "{}", e.chain());
    let reference = Reference::parse(&format!("{}/app:v1", stub.host())).unwrap();
    let patient = Client::new(Config { progress_timeout: None, ..config() }).session(&reference, &Login::default()).unwrap();
    let threads = crate::thread::Threads::new().unwrap();
    let other = patient.clone();
    threads
        .spawn("abort", move |stop| {
            stop.sleep(Duration::from_millis(100));
            other.abort();
        })
        .unwrap();
    let begun = Instant::now();
    let e = read(&patient, &bytes).unwrap_err();
    assert_eq!(e.kind(), Kind::Cancelled, "{}", e.chain());
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_redirect_to_another_host_sees_no_authorization() {
    let (mut there, bytes) = (Shelf::default(), b"layer".to_vec());
    let digest = there.blob(&bytes);
    let second = Stub::start(move |s| there.answer(s));
    let target = format!("http://{}/blobs/{digest}?sig=s3cret", second.host());
    let first = Stub::start(move |s| match s.header("authorization") {
        "" => Reply::new(401, "").with("www-authenticate", "Basic realm=x"),
        _ => Reply::new(307, "").with("location", target.clone()),
    });
    assert_eq!(read(&session(&first, basic()), &bytes).unwrap(), bytes);
    assert!(first.seen().iter().any(|s| s.header("authorization").starts_with("Basic ")));
    assert!(second.seen().iter().all(|s| !s.headers.contains_key("authorization")));
    assert_eq!(second.seen().len(), 1);
}

#[test]
fn a_challenge_of_the_redirect_target_is_not_answered() {
    let second = Stub::start(|_| Reply::new(401, "").with("www-authenticate", "Basic realm=x"));
    let target = format!("http://{}/x", second.host());
    let first = Stub::start(move |_| Reply::new(302, "").with("location", target.clone()));
    let e = read(&session(&first, basic()), b"x").unwrap_err();
    assert_eq!(e.kind(), Kind::Unauthenticated, "{}", e.chain());
    assert!(second.seen().iter().all(|s| !s.headers.contains_key("authorization")));
}

#[test]
fn tokens_are_fetched_once_a_scope_and_kept() {
    let mut shelf = Shelf::default();
    shelf.manifest("v1", OCI, b"{}");
    let auth = Stub::start(|s| match (s.method.as_str(), s.header("authorization")) {
        ("GET", a) if a.starts_with("Basic ") => Reply::new(200, r#"{"token":"tok1","expires_in":300}"#),
        ("POST", "") if s.body.contains("refresh_token=ident") => Reply::new(200, r#"{"access_token":"tok2"}"#),
        _ => Reply::new(401, ""),
    });
    let realm = format!("http://{}/token", auth.host());
    let stub = Stub::start(move |s| match s.header("authorization") {
        "Bearer tok1" | "Bearer tok2" | "Bearer direct" => shelf.answer(s),
        _ => {
            Reply::new(401, "").with("www-authenticate", format!("Bearer realm=\"{realm}\",service=\"s v\",scope=\"repository:app:pull\""))
        }
    });
    let client = Client::new(config());
    let reference = Reference::parse(&format!("{}/app:v1", stub.host())).unwrap();
    let pull = |credentials: Credentials| client.session(&reference, &credentials.into()).unwrap().resolve();
    pull(basic()).unwrap();
    pull(basic()).unwrap();
    assert_eq!(auth.seen().len(), 1);
    assert!(auth.seen()[0].path.contains("service=s%20v&scope=repository%3Aapp%3Apull"), "{}", auth.seen()[0].path);
    pull(Credentials::IdentityToken("ident".into())).unwrap();
    pull(Credentials::RegistryToken("direct".into())).unwrap();
    assert_eq!(auth.seen().len(), 2);
    let e = pull(Credentials::Anonymous).unwrap_err();
    assert_eq!(e.kind(), Kind::Unauthenticated, "{}", e.chain());
    assert!(e.chain().contains("token for"), "{}", e.chain());
}

#[test]
fn mirrors_come_first_know_whose_images_and_are_skipped_when_they_fail() {
    let mut shelf = Shelf::default();
    shelf.manifest("v1", OCI, b"{}");
    let upstream = Stub::start(move |s| shelf.answer(s));
    let mirror = Stub::start(|_| Reply::new(404, ""));
    let mut hosts = hosts::Hosts::default();
    hosts.mirrors.insert(upstream.host(), vec!["http://127.0.0.1:1".into(), format!("http://{}", mirror.host())]);
    let reference = Reference::parse(&format!("{}/app:v1", upstream.host())).unwrap();
    let session = Client::new(Config { hosts, ..config() }).session(&reference, &Login::default()).unwrap();
    session.resolve().unwrap();
    assert!(mirror.seen()[0].path.contains("/v2/app/manifests/v1?ns=127%2E0%2E0%2E1%3A"), "{}", mirror.seen()[0].path);
    assert!(upstream.seen().iter().all(|s| !s.path.contains("ns=")));
}

#[test]
fn a_layers_own_address_gets_no_credentials() {
    let elsewhere = Stub::start(|_| Reply::new(200, "layer"));
    let stub = Stub::start(|_| Reply::new(500, ""));
    let session = session(&stub, Credentials::RegistryToken("tok".into()));
    let urls = vec![format!("http://{}/l", elsewhere.host())];
    let wanted = Wanted { kind: Part::Blobs, digest: Digest::of(b"layer"), size: 5, media_type: String::new(), urls };
    let mut got = vec![];
    Blob::new(&session, wanted, 0).read_to_end(&mut got).unwrap();
    assert_eq!(got, b"layer");
    assert!(elsewhere.seen().iter().all(|s| !s.headers.contains_key("authorization")));
}
