//! Environment: the image's, then the request's; HOME, PATH, HOSTNAME and TERM where neither sets them.
use super::ContainerInput;
use crate::error::{Error, Result};
use crate::proto::cri::NamespaceMode;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables in order, each once.
struct Variables(Vec<(String, String)>);

impl Variables {
    fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value.into(),
            None => self.0.push((name.into(), value.into())),
        }
    }
}

/// `NAME=value` lines.
pub fn of_container(input: &ContainerInput<'_>, home: &str) -> Result<Vec<String>> {
    let mut all = Variables(vec![]);
    all.set("PATH", PATH);
    all.set("HOSTNAME", &hostname(input));
    if input.config.tty {
        all.set("TERM", "xterm");
    }
    all.set("HOME", home);
    for line in input.image.config().iter().filter_map(|c| c.env().as_ref()).flatten() {
        if let Some((name, value)) = line.split_once('=').filter(|(name, _)| !name.is_empty()) {
            all.set(name, value);
        }
    }
    for env in &input.config.envs {
        let value = std::str::from_utf8(&env.value);
        all.set(&env.key, value.map_err(|_| Error::invalid(format!("envs: the value of {} is not UTF-8", env.key)))?);
    }
    // Runtimes and tools write HOME into passwd-like files.
    if let Some((_, bad)) = all.0.iter().find(|(name, value)| name == "HOME" && value.contains(['\n', '\r', ':'])) {
        return Err(Error::invalid(format!("envs: HOME has a line break or a colon: {bad:?}")));
    }
    if let Some((name, _)) = all.0.iter().find(|(name, value)| name.contains('\0') || value.contains('\0')) {
        return Err(Error::invalid(format!("envs: {name:?} has a zero byte")));
    }
    Ok(all.0.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

fn hostname(input: &ContainerInput<'_>) -> String {
    let options = input.sandbox.linux.get_or_default().security_context.get_or_default().namespace_options.get_or_default();
    let own = options.network.enum_value_or_default() != NamespaceMode::NODE && !input.sandbox.hostname.is_empty();
    if own { input.sandbox.hostname.clone() } else { input.host.hostname.clone() }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::fixture;
    use super::super::host::Host;
    use crate::proto::cri::KeyValue;

    #[test]
    fn request_wins_over_image_and_home_has_no_line_break() {
        let mut f = fixture(Host::for_tests());
        f.config.command = vec!["sh".into()];
        f.config.tty = true;
        let mut image = oci_spec::image::Config::default();
        image.set_env(Some(["PATH=/bin", "A=1", "B=x=y", "odd"].map(String::from).to_vec()));
        f.image.set_config(Some(image));
        let set = |key: &str, value: &[u8]| KeyValue { key: key.into(), value: value.to_vec(), ..KeyValue::default() };
        f.config.envs = vec![set("A", b"2"), set("C", b"a\nb")];
        let env = f.json()["process"]["env"].clone();
        assert_eq!(env, serde_json::json!(["PATH=/bin", "HOSTNAME=p", "TERM=xterm", "HOME=/", "A=2", "B=x=y", "C=a\nb"]));
        for home in ["/root\nx::0:0::/:/bin/sh", "/root\rx", "/a:b"] {
            f.config.envs = vec![set("HOME", home.as_bytes())];
            assert!(f.build(1).unwrap_err().chain().contains("HOME"), "{home:?}");
        }
    }
}
