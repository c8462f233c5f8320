//! TLS against a server of our own: roots from `ca`, client certificates with any key, `skip_verify`, and the way back to plain.
use super::auth::Login;
use super::hosts::Hosts;
use super::*;
use crate::thread::Threads;
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{SslAcceptor, SslMethod, SslVerifyMode};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

struct Pair {
    cert: X509,
    key: PKey<Private>,
}

fn pair(name: &str, key: PKey<Private>, by: Option<&Pair>) -> Pair {
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let subject = subject.build();
    let mut cert = X509::builder().unwrap();
    cert.set_version(2).unwrap();
    cert.set_serial_number(&BigNum::from_u32(name.len() as u32 + 7).unwrap().to_asn1_integer().unwrap()).unwrap();
    cert.set_subject_name(&subject).unwrap();
    match by {
        Some(issuer) => cert.set_issuer_name(issuer.cert.subject_name()).unwrap(),
        None => cert.set_issuer_name(&subject).unwrap(),
    }
    cert.set_pubkey(&key).unwrap();
    cert.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    cert.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
    if by.is_none() {
        cert.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    } else {
        let names = SubjectAlternativeName::new().ip("127.0.0.1").build(&cert.x509v3_context(by.map(|p| &*p.cert), None)).unwrap();
        cert.append_extension(names).unwrap();
    }
    cert.sign(by.map_or(&key, |p| &p.key), MessageDigest::sha256()).unwrap();
    Pair { cert: cert.build(), key }
}

fn ec() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

/// Answers any request over TLS with an empty manifest; wants a certificate of `ca`.
fn server(threads: &Threads, server: &Pair, ca: &Pair) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
    acceptor.set_private_key(&server.key).unwrap();
    acceptor.set_certificate(&server.cert).unwrap();
    acceptor.cert_store_mut().add_cert(ca.cert.clone()).unwrap();
    acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    let acceptor = acceptor.build();
    threads
        .spawn("tls-stub", move |stop| {
            for stream in listener.incoming().flatten() {
                if stop.stopped() {
                    return;
                }
                let Ok(mut stream) = acceptor.accept(stream) else { continue };
                let mut lines = BufReader::new(&mut stream).lines();
                while lines.next().is_some_and(|l| l.is_ok_and(|l| !l.is_empty())) {}
                let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/vnd.oci.image.manifest.v1+json\r\n";
                let digest = crate::core::content::Digest::of(b"{}");
                let _ = write!(stream, "{head}docker-content-digest: {digest}\r\ncontent-length: 2\r\n\r\n");
                let _ = stream.shutdown();
            }
        })
        .unwrap();
    address
}

#[test]
fn roots_client_certificates_and_skip_verify_are_honoured() {
    let dir = std::env::temp_dir().join(format!("cradle-remote-tls-{}", std::process::id()));
    let ca = pair("test root", ec(), None);
    let served = pair("server", ec(), Some(&ca));
    let threads = Threads::new().unwrap();
    let address = server(&threads, &served, &ca);
    let hosts_dir = dir.join(format!("127.0.0.1_{}_", address.port()));
    std::fs::create_dir_all(&hosts_dir).unwrap();
    let put = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = hosts_dir.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    put("ca.pem", &ca.cert.to_pem().unwrap());
    let with_ec = pair("client", ec(), Some(&ca));
    put("ec.pem", &[with_ec.cert.to_pem().unwrap(), with_ec.key.ec_key().unwrap().private_key_to_pem().unwrap()].concat());
    let with_rsa = pair("client2", PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(), Some(&ca));
    put("rsa.cert", &with_rsa.cert.to_pem().unwrap());
    put("rsa.key", &with_rsa.key.rsa().unwrap().private_key_to_pem().unwrap());
    let pull = |toml: &str| {
        put("hosts.toml", format!("server = \"https://{address}\"\n{toml}").as_bytes());
        let retry = Retry { rounds: 1, first: Duration::from_millis(1), most: Duration::from_millis(1) };
        let hosts = Hosts::from_path(&dir.display().to_string());
        let reference = Reference::parse(&format!("{address}/app:v1")).unwrap();
        Client::new(Config { hosts, retry, ..Config::default() }).session(&reference, &Login::default()).unwrap().resolve()
    };
    pull("ca = \"ca.pem\"\nclient = \"ec.pem\"").unwrap();
    pull("ca = [\"ca.pem\"]\nclient = [[\"rsa.cert\", \"rsa.key\"]]").unwrap();
    pull("skip_verify = true\nclient = [[\"rsa.cert\", \"rsa.key\"]]").unwrap();
    for (toml, word) in [
        ("client = \"ec.pem\"", "RegistryUnavailable"),
        ("ca = \"ca.pem\"", ""),
        ("ca = \"missing.pem\"", "missing.pem"),
        ("ca = \"ca.pem\"\nclient = \"ca.pem\"", "not a PEM private key"),
    ] {
        let e = pull(toml).unwrap_err();
        assert!(e.chain().contains(word) && e.chain().contains(&address.to_string()) | e.chain().contains(".pem"), "{toml}: {}", e.chain());
    }
    let waker = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        let _ = TcpStream::connect(address);
    });
    threads.shutdown();
    waker.join().unwrap();
    let _ = std::fs::remove_dir_all(&dir);
}
