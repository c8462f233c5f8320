//! TLS of the streaming server, and sockets with or without it that never block.
use crate::config::CriServer;
use crate::error::{Error, Result};
use log::debug;
use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{ErrorCode, Ssl, SslAcceptor, SslFiletype, SslMethod, SslMode, SslOptions, SslStream, SslVerifyMode};
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

/// How long a self-signed certificate is good; each start makes a new one.
const VALID_DAYS: u32 = 365;

/// What the config asks for: None is plain HTTP.
pub fn acceptor(config: &CriServer, ip: IpAddr) -> Result<Option<SslAcceptor>> {
    let pair = &config.x509_key_pair_streaming;
    let (cert, key, ca) = (&pair.tls_cert_file, &pair.tls_key_file, &pair.tls_client_ca_file);
    if !config.enable_tls_streaming {
        let set = [("tls_cert_file", cert), ("tls_key_file", key), ("tls_client_ca_file", ca)].into_iter().find(|(_, v)| !v.is_empty());
        return match set {
            Some((name, _)) => Err(Error::invalid(format!("x509_key_pair_streaming.{name} is set but enable_tls_streaming is not set"))),
            None => Ok(None),
        };
    }
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).map_err(failed("prepare TLS for streams"))?;
    match (cert.is_empty(), key.is_empty()) {
        (false, false) => {
            builder.set_certificate_chain_file(cert).map_err(failed(&format!("x509_key_pair_streaming.tls_cert_file {cert}")))?;
            builder.set_private_key_file(key, SslFiletype::PEM).map_err(failed(&format!("x509_key_pair_streaming.tls_key_file {key}")))?;
            builder.check_private_key().map_err(failed(&format!("certificate {cert} and key {key} do not belong together")))?;
        }
        (true, true) => {
            let (cert, key) = self_signed(ip).map_err(failed("make a certificate for streams"))?;
            builder.set_certificate(&cert).and_then(|()| builder.set_private_key(&key)).map_err(failed("use a self-signed certificate"))?;
        }
        (false, true) => return Err(Error::invalid("x509_key_pair_streaming.tls_key_file must be set as tls_cert_file is")),
        (true, false) => return Err(Error::invalid("x509_key_pair_streaming.tls_cert_file must be set as tls_key_file is")),
    }
    if !ca.is_empty() {
        let what = format!("x509_key_pair_streaming.tls_client_ca_file {ca}");
        builder.set_ca_file(ca).map_err(failed(&what))?;
        let names = openssl::x509::X509Name::load_client_ca_file(ca).map_err(failed(&what))?;
        builder.set_client_ca_list(names);
        builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    }
    // An idle connection holds no buffers, and needs no ticket: each is for one stream.
    builder.set_mode(SslMode::RELEASE_BUFFERS | SslMode::ENABLE_PARTIAL_WRITE | SslMode::ACCEPT_MOVING_WRITE_BUFFER);
    builder.set_options(SslOptions::NO_TICKET);
    Ok(Some(builder.build()))
}

fn failed(what: &str) -> impl FnOnce(ErrorStack) -> Error {
    let what = what.to_owned();
    move |e| Error::invalid(what).because(e)
}

/// A key and a certificate for this host's name and the address that is listened on.
fn self_signed(ip: IpAddr) -> Result<(X509, PKey<Private>), ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_text("O", "cradled")?;
    // The field has room for 64 bytes.
    name.append_entry_by_text("CN", host.get(..64).unwrap_or(&host))?;
    let name = name.build();
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
    let mut cert = X509::builder()?;
    cert.set_version(2)?;
    cert.set_serial_number(&*serial.to_asn1_integer()?)?;
    cert.set_subject_name(&name)?;
    cert.set_issuer_name(&name)?;
    cert.set_not_before(&*Asn1Time::days_from_now(0)?)?;
    cert.set_not_after(&*Asn1Time::days_from_now(VALID_DAYS)?)?;
    cert.set_pubkey(&key)?;
    cert.append_extension(BasicConstraints::new().critical().ca().build()?)?;
    cert.append_extension(ExtendedKeyUsage::new().server_auth().build()?)?;
    let mut names = SubjectAlternativeName::new();
    names.dns("localhost").ip("127.0.0.1").ip("::1").ip(&ip.to_string());
    if !host.is_empty() {
        names.dns(&host);
    }
    let names = names.build(&cert.x509v3_context(None, None))?;
    cert.append_extension(names)?;
    cert.sign(&key, MessageDigest::sha256())?;
    Ok((cert.build(), key))
}

/// A client's connection.
pub enum Socket {
    /// Plain.
    Plain(TcpStream),
    /// Encrypted.
    Tls(SslStream<TcpStream>, Handshake),
}

/// How far TLS is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// It goes on.
    Going,
    /// Bytes may be sent.
    Done,
}

/// What a read or write on a socket came to.
pub enum Moved {
    /// This many bytes.
    Bytes(usize),
    /// Nothing until the socket can be read.
    WantRead,
    /// Nothing until the socket can be written.
    WantWrite,
    /// The client is gone, or broke TLS.
    Gone,
}

impl Socket {
    /// A fresh connection, which must not block.
    pub fn new(stream: TcpStream, acceptor: Option<&SslAcceptor>) -> Result<Socket> {
        let Some(acceptor) = acceptor else { return Ok(Socket::Plain(stream)) };
        let ssl = Ssl::new(acceptor.context()).map_err(failed("begin TLS"))?;
        let stream = SslStream::new(ssl, stream).map_err(failed("begin TLS"))?;
        Ok(Socket::Tls(stream, Handshake::Going))
    }
    fn tcp(&self) -> &TcpStream {
        match self {
            Socket::Plain(stream) => stream,
            Socket::Tls(stream, _) => stream.get_ref(),
        }
    }
    /// Goes on with the handshake; None once it is over.
    pub fn greet(&mut self) -> Option<Moved> {
        let Socket::Tls(stream, handshake @ Handshake::Going) = self else { return None };
        if let Err(e) = stream.accept() {
            debug!("TLS of a stream's client: {e}");
            return Some(of_ssl(&e));
        }
        *handshake = Handshake::Done;
        None
    }
    /// Reads.
    pub fn read(&mut self, buffer: &mut [u8]) -> Moved {
        match self {
            Socket::Plain(stream) => of_io(stream.read(buffer), Moved::WantRead),
            Socket::Tls(stream, _) => match stream.ssl_read(buffer) {
                Ok(0) => Moved::Gone,
                Ok(n) => Moved::Bytes(n),
                Err(e) => of_ssl(&e),
            },
        }
    }
    /// Writes.
    pub fn write(&mut self, bytes: &[u8]) -> Moved {
        match self {
            Socket::Plain(stream) => of_io(stream.write(bytes), Moved::WantWrite),
            Socket::Tls(stream, _) => match stream.ssl_write(bytes) {
                Ok(n) => Moved::Bytes(n),
                Err(e) => of_ssl(&e),
            },
        }
    }
    /// Whether decrypted bytes wait that no poll tells of.
    pub fn holds_bytes(&self) -> bool {
        matches!(self, Socket::Tls(stream, _) if stream.ssl().pending() > 0)
    }
    /// Says that nothing more comes from us.
    pub fn shutdown(&mut self) {
        if let Socket::Tls(stream, _) = self {
            // Best effort: the client has everything that matters.
            let _ = stream.shutdown();
        }
        let _ = self.tcp().shutdown(std::net::Shutdown::Write);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp().as_fd()
    }
}

fn of_io(result: io::Result<usize>, want: Moved) -> Moved {
    match result {
        Ok(0) => Moved::Gone,
        Ok(n) => Moved::Bytes(n),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => want,
        Err(_) => Moved::Gone,
    }
}

fn of_ssl(error: &openssl::ssl::Error) -> Moved {
    match error.code() {
        ErrorCode::WANT_READ => Moved::WantRead,
        ErrorCode::WANT_WRITE => Moved::WantWrite,
        _ => Moved::Gone,
    }
}
