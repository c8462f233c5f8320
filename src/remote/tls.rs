//! TLS settings of a host: system roots plus its own, a client certificate, or no verification.
use super::hosts::Tls;
use crate::error::{Context, Error, Result};
use log::warn;
use openssl::pkey::PKey;
use openssl::x509::X509;
use std::path::Path;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsProvider};

/// Where distributions keep the system's roots in one file; SSL_CERT_FILE wins.
const SYSTEM_ROOTS: [&str; 4] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"];

/// Whether a client certificate is shown.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Client {
    /// To the configured host.
    Shown,
    /// To hosts that it redirects to, and token servers.
    Hidden,
}

/// Builds the library's settings; errors name the file.
pub fn config(tls: &Tls, client: Client) -> Result<TlsConfig> {
    let mut builder = TlsConfig::builder().provider(TlsProvider::NativeTls).disable_verification(tls.skip_verify.unwrap_or(false));
    builder = builder.root_certs(if tls.ca.is_empty() {
        RootCerts::PlatformVerifier
    } else {
        // The library takes either its own roots or the system's: to have both, the system's are read here.
        let mut roots = system_roots();
        for file in &tls.ca {
            roots.extend(certificates(file)?);
        }
        RootCerts::new_with_certs(&roots)
    });
    if let (Some((cert, key)), Client::Shown) = (tls.client.first(), client) {
        if tls.client.len() > 1 {
            warn!("client certificate {}: the first of {} is used, one a host can be shown", cert.display(), tls.client.len());
        }
        builder = builder.client_cert(Some(ClientCert::new_with_certs(&certificates(cert)?, private_key(key.as_ref().unwrap_or(cert))?)));
    }
    Ok(builder.build())
}

fn system_roots() -> Vec<Certificate<'static>> {
    let named = std::env::var("SSL_CERT_FILE").ok();
    let files = named.iter().map(String::as_str).chain(SYSTEM_ROOTS);
    files.filter_map(|file| certificates(Path::new(file)).ok()).next().unwrap_or_default()
}

fn certificates(file: &Path) -> Result<Vec<Certificate<'static>>> {
    let pem = std::fs::read(file).during(|| format!("read certificate {}", file.display()))?;
    let bad = |e| Error::invalid(format!("{}: not a PEM certificate", file.display())).because(e);
    let stack = X509::stack_from_pem(&pem).map_err(bad)?;
    if stack.is_empty() {
        return Err(Error::invalid(format!("{}: no PEM certificate in it", file.display())));
    }
    stack.iter().map(|c| Ok(Certificate::from_der(&c.to_der().map_err(bad)?).to_owned())).collect()
}

/// Any key that OpenSSL reads becomes PKCS#8, the only form that the TLS library takes.
fn private_key(file: &Path) -> Result<PrivateKey<'static>> {
    let pem = std::fs::read(file).during(|| format!("read key {}", file.display()))?;
    let bad = |e| Error::invalid(format!("{}: not a PEM private key without a pass phrase", file.display())).because(e);
    // The empty pass phrase keeps OpenSSL from asking on the terminal.
    let key = PKey::private_key_from_pem_passphrase(&pem, b"").map_err(bad)?;
    let pkcs8 = key.private_key_to_pem_pkcs8().map_err(bad)?;
    PrivateKey::from_pem(&pkcs8).map_err(|e| Error::invalid(format!("{}: not usable as a client key", file.display())).because(e))
}
