//! Which hosts are asked for a registry's images, in which order and how: `config_path` directories with `hosts.toml` or
//! docker's certificate files, the older mirror tables, and the defaults.
//!
//! Files are read anew for every pull, so a change needs no restart.
use super::hosts_toml;
use crate::error::{Context, Result};
use log::error;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How a host is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scheme {
    /// TLS.
    Https,
    /// Plain.
    Http,
}

impl Scheme {
    /// As in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Https => "https",
            Scheme::Http => "http",
        }
    }
}

/// What a host may be asked for; pushing is not ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// Content by digest.
    pub pull: bool,
    /// A tag's digest: a matter of trust.
    pub resolve: bool,
}

/// Files and switches of TLS.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Tls {
    /// PEM files with roots that are trusted besides the system's.
    pub ca: Vec<PathBuf>,
    /// Client certificates: a PEM file, and the key's unless it is in the same file.
    pub client: Vec<(PathBuf, Option<PathBuf>)>,
    /// Whether the server's certificate is not checked; unset leaves the default.
    pub skip_verify: Option<bool>,
}

impl Tls {
    /// Whether anything was said about TLS.
    pub fn is_set(&self) -> bool {
        *self != Tls::default()
    }
}

/// One host to ask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// Ways to speak to it; the second is tried when the first cannot be spoken.
    pub schemes: Vec<Scheme>,
    /// `name` or `name:port`.
    pub authority: String,
    /// Path of the API's root, `/v2` as a rule.
    pub path: String,
    /// What it is good for.
    pub can: Capabilities,
    /// TLS files and switches.
    pub tls: Tls,
    /// Headers for this host only.
    pub headers: Vec<(String, String)>,
    /// Limit of a connection attempt.
    pub dial_timeout: Option<Duration>,
    /// Another host, whose credentials this trusted mirror may see.
    pub credential_domain: Option<String>,
}

impl Host {
    /// Whether it serves `registry`'s images for another, and so must be told whose (`?ns=`).
    pub fn is_mirror_of(&self, registry: &str) -> bool {
        self.authority != registry && self.authority != default_authority(registry)
    }
}

/// Where hosts are configured.
#[derive(Clone, Default, Debug)]
pub struct Hosts {
    /// Directories with one sub-directory a registry; the first that has one counts.
    pub dirs: Vec<PathBuf>,
    /// The older table: registry (or `*`) to endpoint URLs.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// The older per-host TLS table.
    pub tls: BTreeMap<String, Tls>,
    /// Headers for every configured host.
    pub headers: Vec<(String, String)>,
}

impl Hosts {
    /// From a `config_path` as `/etc/containerd/certs.d:/etc/docker/certs.d`.
    pub fn from_path(config_path: &str) -> Hosts {
        Hosts { dirs: config_path.split(':').filter(|p| !p.is_empty()).map(PathBuf::from).collect(), ..Hosts::default() }
    }

    /// Whether the table of mirrors can be used.
    pub fn check(&self) -> Result<()> {
        self.mirrors.values().flatten().try_for_each(|url| endpoint(url).map(drop))
    }

    /// The hosts to ask for `registry`'s images, in order.
    pub fn of(&self, registry: &str) -> Result<Vec<Host>> {
        let mut hosts = match self.directory(registry) {
            Some(dir) => load_dir(&dir, registry)?,
            None => self.by_tables(registry)?,
        };
        for host in &mut hosts {
            host.headers.extend(self.headers.iter().cloned());
        }
        Ok(hosts)
    }

    fn directory(&self, registry: &str) -> Option<PathBuf> {
        // A registry name is a host name by the reference grammar, so it cannot leave the directory.
        let names = match registry.rsplit_once(':') {
            Some((host, port)) => vec![format!("{host}_{port}_"), registry.to_string(), "_default".to_string()],
            None => vec![registry.to_string(), "_default".to_string()],
        };
        self.dirs.iter().flat_map(|dir| names.iter().map(move |n| dir.join(n))).find(|p| p.is_dir())
    }

    fn by_tables(&self, registry: &str) -> Result<Vec<Host>> {
        let mut hosts = vec![];
        for url in self.mirrors.get(registry).or_else(|| self.mirrors.get("*")).into_iter().flatten() {
            let mut host = endpoint(url)?;
            if let Some(tls) = self.tls.get(&host.authority) {
                host.tls = tls.clone();
            }
            hosts.push(finished(host));
        }
        let tls = self.tls.get(registry).or_else(|| self.tls.get(default_authority(registry)));
        let own = default_host(registry, tls.cloned().unwrap_or_default());
        if !hosts.iter().any(|h| h.authority == own.authority) {
            hosts.push(own);
        }
        Ok(hosts)
    }
}

/// A mirror of the older table: a path there is the API's root as it stands, and loopback is plain where no scheme is said.
fn endpoint(url: &str) -> Result<Host> {
    let (scheme, rest) = url.split_once("://").map_or((None, url), |(scheme, rest)| (Some(scheme), rest));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let scheme = scheme.unwrap_or(if is_loopback(name_of(authority)) { "http" } else { "https" });
    hosts_toml::host_of_url(&format!("{scheme}://{rest}"), !path.is_empty())
}

fn load_dir(dir: &Path, registry: &str) -> Result<Vec<Host>> {
    let file = dir.join("hosts.toml");
    match std::fs::read_to_string(&file) {
        Ok(text) if !text.trim().is_empty() => match hosts_toml::parse(&text, dir) {
            Ok(parsed) => {
                let mut hosts: Vec<Host> = parsed.hosts.into_iter().map(finished).collect();
                hosts.push(match parsed.server {
                    Some(server) => finished(server),
                    None => parsed.root.over(default_host(registry, Tls::default())),
                });
                return Ok(hosts);
            }
            // As containerd: a broken file must not stop the node from pulling, but it is said aloud.
            Err(e) => error!("{}: not used, the registry is asked without it: {}", file.display(), e.chain()),
        },
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e).during(|| format!("read {}", file.display())),
    }
    Ok(vec![default_host(registry, docker_certs(dir)?)])
}

/// docker's layout: `*.crt` are roots, `x.cert` with `x.key` a client pair.
fn docker_certs(dir: &Path) -> Result<Tls> {
    let mut tls = Tls::default();
    let entries = std::fs::read_dir(dir).during(|| format!("list {}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.is_file()).collect();
    files.sort();
    for file in files {
        match file.extension().and_then(|e| e.to_str()) {
            Some("crt") => tls.ca.push(file),
            Some("cert") => {
                let key = file.with_extension("key");
                let key = key.is_file().then_some(key);
                tls.client.push((file, key));
            }
            _ => {}
        }
    }
    Ok(tls)
}

/// A host written as `http://` but with TLS settings is tried by TLS first, unless its port says that it is plain.
fn finished(mut host: Host) -> Host {
    if host.schemes == [Scheme::Http] && host.tls.is_set() && port_of(&host.authority) != Some(80) {
        host.schemes = vec![Scheme::Https, Scheme::Http];
    }
    host
}

/// The registry itself. Loopback is plain, or TLS with any certificate when plain is not understood there.
fn default_host(registry: &str, mut tls: Tls) -> Host {
    let authority = default_authority(registry).to_string();
    let schemes = match (is_loopback(name_of(&authority)), port_of(&authority)) {
        (false, _) => vec![Scheme::Https],
        (true, Some(443)) => vec![Scheme::Https],
        (true, Some(80)) => vec![Scheme::Http],
        (true, _) if tls.is_set() => vec![Scheme::Https, Scheme::Http],
        (true, _) => vec![Scheme::Http, Scheme::Https],
    };
    if is_loopback(name_of(&authority)) && tls.ca.is_empty() && tls.skip_verify.is_none() {
        tls.skip_verify = Some(true);
    }
    Host {
        schemes,
        authority,
        path: "/v2".to_string(),
        can: Capabilities { pull: true, resolve: true },
        tls,
        headers: vec![],
        dial_timeout: None,
        credential_domain: None,
    }
}

fn default_authority(registry: &str) -> &str {
    if registry == "docker.io" { "registry-1.docker.io" } else { registry }
}

/// The name without its port.
pub fn name_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.split(':').next().unwrap_or(authority),
    }
}

/// The port, if one is written.
pub fn port_of(authority: &str) -> Option<u16> {
    authority.rsplit_once(':').filter(|(name, _)| !name.starts_with('[') || name.ends_with(']')).and_then(|(_, p)| p.parse().ok())
}

/// `localhost`, 127.0.0.0/8, ::1.
pub fn is_loopback(name: &str) -> bool {
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|a| a.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);
    impl Dir {
        fn new(name: &str) -> Dir {
            let dir = std::env::temp_dir().join(format!("cradle-remote-hosts-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&dir);
            std::fs::create_dir_all(&dir).unwrap();
            Dir(dir)
        }
        fn write(&self, path: &str, text: &str) {
            let file = self.0.join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        fn hosts(&self) -> Hosts {
            Hosts::from_path(&format!("/nowhere:{}", self.0.display()))
        }
    }
    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn without_configuration_the_registry_itself_is_asked() {
        let of = |r: &str| Hosts::default().of(r).unwrap().remove(0);
        assert_eq!(of("docker.io").authority, "registry-1.docker.io");
        assert!(!of("docker.io").is_mirror_of("docker.io"));
        assert_eq!(of("quay.io").schemes, [Scheme::Https]);
        assert_eq!(of("localhost:5000").schemes, [Scheme::Http, Scheme::Https]);
        assert_eq!(of("127.9.9.9:80").schemes, [Scheme::Http]);
        assert_eq!(of("[::1]:5000").schemes[0], Scheme::Http);
        assert_eq!(of("127.evil.com").schemes, [Scheme::Https]);
    }

    #[test]
    fn hosts_are_tried_in_the_order_of_the_file_and_the_server_last() {
        let dir = Dir::new("order");
        dir.write(
            "r.io_5000_/hosts.toml",
            "server = 'https://up.io'\n[host.'https://z.io']\n[host.'https://z.io'.header]\nx = ['1','2']\n[host.'http://a.io/x']\ncapabilities=['pull']\nskip_verify=true\n",
        );
        let hosts = dir.hosts().of("r.io:5000").unwrap();
        let names: Vec<_> = hosts.iter().map(|h| h.authority.as_str()).collect();
        assert_eq!(names, ["z.io", "a.io", "up.io"]);
        assert_eq!(hosts[0].headers, [("x".into(), "1".into()), ("x".into(), "2".into())]);
        assert_eq!(hosts[1].path, "/x/v2");
        assert_eq!(hosts[1].schemes, [Scheme::Https, Scheme::Http]);
        assert_eq!(hosts[1].can, Capabilities { pull: true, resolve: false });
        assert!(hosts[0].is_mirror_of("r.io:5000"));
    }

    #[test]
    fn the_default_directory_catches_the_rest_and_changes_count_at_once() {
        let dir = Dir::new("default");
        dir.write("_default/hosts.toml", "[host.\"https://m.io\"]\n");
        let names = |h: &Hosts| h.of("q.io").unwrap().into_iter().map(|h| h.authority).collect::<Vec<_>>();
        let hosts = dir.hosts();
        assert_eq!(names(&hosts), ["m.io", "q.io"]);
        dir.write("_default/hosts.toml", "server = \"m2.io\"\n");
        assert_eq!(names(&hosts), ["m2.io"]);
        dir.write("_default/hosts.toml", "server = [broken\n");
        assert_eq!(names(&hosts), ["q.io"]);
    }

    #[test]
    fn docker_certificate_files_are_found() {
        let dir = Dir::new("docker");
        for f in ["ca.crt", "a.cert", "a.key", "b.cert"] {
            dir.write(&format!("q.io/{f}"), "x");
        }
        let host = dir.hosts().of("q.io").unwrap().remove(0);
        assert_eq!(host.tls.ca.len(), 1);
        assert_eq!(host.tls.client.len(), 2);
        assert!(host.tls.client[0].1.is_some() && host.tls.client[1].1.is_none());
    }

    #[test]
    fn the_older_tables_put_mirrors_before_the_registry() {
        let hosts = Hosts { mirrors: BTreeMap::from([("*".into(), vec!["http://m:5000".into()])]), ..Hosts::default() };
        let names: Vec<_> = hosts.of("q.io").unwrap().into_iter().map(|h| h.authority).collect();
        assert_eq!(names, ["m:5000", "q.io"]);
    }
}
