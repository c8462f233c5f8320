//! The registry section of the daemon's config as the client's settings: directories of hosts.toml, or containerd's older tables
//! `mirrors`, `configs`, `auths` and `headers`.
use super::auth::{AuthFields, Credentials, Login, server_host};
use super::hosts::{Hosts, Tls};
use super::hosts_toml::header;
use crate::config::{Registry, RegistryAuth, RegistryTls};
use crate::error::{Context, Result};
use std::collections::HashMap;
use std::path::PathBuf;

/// Where hosts are configured when the config does not say: containerd's directory and docker's.
const DEFAULT_PATH: &str = "/etc/containerd/certs.d:/etc/docker/certs.d";

/// Hosts, and the credentials by host. An error names the table's entry.
pub fn read(section: &Registry) -> Result<(Hosts, HashMap<String, Credentials>)> {
    // Who has mirrors in the old table means these alone.
    let path = match section.config_path.as_str() {
        "" if section.mirrors.is_empty() => DEFAULT_PATH,
        path => path,
    };
    let mut hosts = Hosts::from_path(path);
    hosts.mirrors = section.mirrors.iter().map(|(name, mirror)| (name.clone(), mirror.endpoint.clone())).collect();
    hosts.check().during(|| "registry.mirrors")?;
    let mut auths = HashMap::new();
    for (name, config) in &section.configs {
        if let Some(given) = config.tls.as_ref() {
            hosts.tls.insert(name.clone(), tls(given));
        }
        if let Some(given) = &config.auth {
            auths.insert(name.clone(), credentials(given).during(|| format!("registry.configs.\"{name}\".auth"))?);
        }
    }
    for (url, given) in &section.auths {
        let found = credentials(given).during(|| format!("registry.auths.\"{url}\""))?;
        auths.extend(server_host(url).map(|name| (name, found)));
    }
    for (name, values) in &section.headers {
        for value in values {
            hosts.headers.push(header(name, value).during(|| "registry.headers")?);
        }
    }
    Ok((hosts, auths))
}

fn credentials(given: &RegistryAuth) -> Result<Credentials> {
    let fields = AuthFields {
        username: &given.username,
        password: &given.password,
        auth: &given.auth,
        identity_token: &given.identitytoken,
        ..AuthFields::default()
    };
    Ok(Login::from_fields(fields)?.credentials)
}

fn tls(given: &RegistryTls) -> Tls {
    let file = |name: &str| Some(PathBuf::from(name)).filter(|p| !p.as_os_str().is_empty());
    Tls {
        ca: file(&given.ca_file).into_iter().collect(),
        client: file(&given.cert_file).map(|cert| (cert, file(&given.key_file))).into_iter().collect(),
        skip_verify: given.insecure_skip_verify.then_some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn section(text: &str) -> Registry {
        #[derive(serde::Deserialize)]
        struct All {
            #[serde(flatten)]
            tables: HashMap<String, toml::Value>,
        }
        let mut registry = Config::default().cri_images.registry;
        let mut all: All = toml::from_str(text).unwrap();
        let mut take = |key: &str| all.tables.remove(key);
        registry.config_path = take("config_path").map_or_else(String::new, |v| v.as_str().unwrap().into());
        registry.mirrors = take("mirrors").map_or_else(Default::default, |v| v.try_into().unwrap());
        registry.configs = take("configs").map_or_else(Default::default, |v| v.try_into().unwrap());
        registry.auths = take("auths").map_or_else(Default::default, |v| v.try_into().unwrap());
        registry.headers = take("headers").map_or_else(Default::default, |v| v.try_into().unwrap());
        registry
    }

    #[test]
    fn the_old_tables_become_hosts_and_credentials() {
        let (hosts, auths) = read(&section(
            "[mirrors.'docker.io']\nendpoint = ['https://m.io:5000/v2/hub', 'http://n.io']\n\
             [configs.'m.io:5000'.tls]\nca_file = '/ca'\ncert_file = '/c'\nkey_file = '/k'\n\
             [configs.'m.io:5000'.auth]\nusername = 'u'\npassword = 'p'\n\
             [configs.'q.io'.tls]\ninsecure_skip_verify = true\n\
             [auths.'https://a.io/v1/']\nauth = 'dTpw'\n[auths.'b.io']\nidentitytoken = 't'\n\
             [headers]\nX-Meta = ['1', '2']\n",
        ))
        .unwrap();
        assert!(hosts.dirs.is_empty());
        let found = hosts.of("docker.io").unwrap();
        let names: Vec<_> = found.iter().map(|h| (h.authority.as_str(), h.path.as_str())).collect();
        assert_eq!(names, [("m.io:5000", "/v2/hub"), ("n.io", "/v2"), ("registry-1.docker.io", "/v2")]);
        assert_eq!((found[0].tls.ca.len(), found[0].tls.client.len()), (1, 1));
        assert_eq!(found[0].headers, [("X-Meta".into(), "1".into()), ("X-Meta".into(), "2".into())]);
        assert_eq!(hosts.of("q.io").unwrap()[0].tls.skip_verify, Some(true));
        let basic = Credentials::Basic { user: "u".into(), password: "p".into() };
        assert_eq!((&auths["m.io:5000"], &auths["a.io"]), (&basic, &basic));
        assert_eq!(auths["b.io"], Credentials::IdentityToken("t".into()));
    }

    #[test]
    fn without_tables_the_usual_directories_are_looked_into() {
        assert_eq!(read(&section("")).unwrap().0.dirs.len(), 2);
        assert_eq!(read(&section("config_path = '/a'")).unwrap().0.dirs, [PathBuf::from("/a")]);
        assert_eq!(read(&section("[auths.'b.io']\nusername = 'x'")).unwrap().0.dirs.len(), 2);
    }

    #[test]
    fn wrong_entries_are_named_without_their_secret() {
        for (text, word) in [
            ("[configs.'q.io'.auth]\nauth = 'secret!'", "registry.configs.\"q.io\".auth"),
            ("[auths.'a.io']\nauth = 'secret!'", "registry.auths.\"a.io\""),
            ("[mirrors.'q.io']\nendpoint = ['ftp://x']", "registry.mirrors"),
            ("[headers]\n'a b' = ['x']", "registry.headers"),
        ] {
            let e = read(&section(text)).unwrap_err().chain();
            assert!(e.contains(word) && !e.contains("secret"), "{e}");
        }
    }
}
