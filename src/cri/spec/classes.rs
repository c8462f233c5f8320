//! Classes: block I/O by a file of the config (`blockio_config_file`), resource director groups by what resctrl has.
//!
//! A container's class comes from its annotations; without the means for it the request is refused, unless the config says that
//! it does not matter.
use super::host::Host;
use super::oci::IntelRdt;
use super::{annotations, devices, yaml};
use crate::config::Runtimes;
use crate::error::{Context, Error, Result};
use crate::proto::cri;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What the classes of a container come to.
#[derive(Debug, Default, PartialEq)]
pub struct Classes {
    /// Limits of block I/O.
    pub block_io: Option<Value>,
    /// Resource director group.
    pub rdt: Option<IntelRdt>,
    /// What is passed over.
    pub warnings: Vec<String>,
}

/// Looks a container's classes up.
pub fn of(config: &cri::ContainerConfig, pod: &cri::PodSandboxConfig, runtimes: &Runtimes, host: &Host) -> Result<Classes> {
    let class = |kind| annotations::class_of(kind, &config.metadata.name, &config.annotations, &pod.annotations);
    let mut found = Classes::default();
    if let Some(class) = class("rdt") {
        match rdt(&class, host) {
            Ok(group) => found.rdt = Some(group),
            Err(e) if runtimes.ignore_rdt_not_enabled_errors && !host.rdt => found.warnings.push(e.chain()),
            Err(e) => return Err(e),
        }
    }
    if let Some(class) = class("blockio") {
        match &host.blockio_config {
            Some(path) => found.block_io = Some(block_io(&class, path)?),
            None => {
                let text = format!("annotations: block I/O class {class}: blockio is not enabled, set blockio_config_file");
                match runtimes.ignore_blockio_not_enabled_errors {
                    true => found.warnings.push(text),
                    false => return Err(Error::precondition(text)),
                }
            }
        }
    }
    Ok(found)
}

fn rdt(class: &str, host: &Host) -> Result<IntelRdt> {
    if !host.rdt {
        return Err(Error::precondition(format!("annotations: RDT class {class}: RDT is not enabled, resctrl is not mounted")));
    }
    // A runtime would make a group of that name; on a typo nobody would notice.
    let plain = !class.contains('/') && class != "." && class != "..";
    if !plain || !host.resctrl.join(class).join("schemata").exists() {
        return Err(Error::precondition(format!("annotations: RDT class {class}: {} has no such group", host.resctrl.display())));
    }
    Ok(IntelRdt { clos_id: class.to_owned(), ..IntelRdt::default() })
}

/// The config file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "Classes", alias = "classes", default)]
    classes: BTreeMap<String, Vec<Rule>>,
}

/// One entry of a class; a later one wins for the devices of both.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Rule {
    #[serde(rename = "Devices", alias = "devices")]
    devices: Vec<String>,
    #[serde(rename = "ThrottleReadBps", alias = "throttleReadBps")]
    read_bps: Amount,
    #[serde(rename = "ThrottleWriteBps", alias = "throttleWriteBps")]
    write_bps: Amount,
    #[serde(rename = "ThrottleReadIOPS", alias = "throttleReadIOPS")]
    read_iops: Amount,
    #[serde(rename = "ThrottleWriteIOPS", alias = "throttleWriteIOPS")]
    write_iops: Amount,
    #[serde(rename = "Weight", alias = "weight")]
    weight: Amount,
}

/// A number, or a text like `50M`.
#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Amount {
    #[default]
    Unset,
    Number(u64),
    Text(String),
}

impl Amount {
    fn get(&self, field: &str) -> Result<Option<u64>> {
        match self {
            Amount::Unset => Ok(None),
            Amount::Number(n) => Ok(Some(*n)),
            Amount::Text(text) => amount(text)
                .map(Some)
                .ok_or_else(|| Error::invalid(format!("{field}: {text:?} is not a number with k, M, G, Ki, Mi or Gi"))),
        }
    }
}

fn amount(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// A class as OCI's blockIO.
fn block_io(class: &str, path: &Path) -> Result<Value> {
    let file: File = yaml::load(path).during(|| "blockio_config_file")?;
    let Some(rules) = file.classes.get(class) else {
        let known: Vec<&str> = file.classes.keys().map(String::as_str).collect();
        let text = format!("annotations: block I/O class {class} is not in {}; known: {}", path.display(), known.join(", "));
        return Err(Error::precondition(text));
    };
    // By device and OCI's name of the list.
    let mut of_devices: BTreeMap<&str, BTreeMap<(i64, i64), u64>> = BTreeMap::new();
    let mut all = Map::new();
    for rule in rules {
        let of_rule = || format!("block I/O class {class} of {}", path.display());
        let weight = rule.weight.get("Weight").during(of_rule)?;
        if weight.is_some_and(|w| !(10..=1000).contains(&w)) {
            return Err(Error::precondition(format!("{}: Weight is not in 10..=1000", of_rule())));
        }
        let rates = [
            ("throttleReadBpsDevice", rule.read_bps.get("ThrottleReadBps").during(of_rule)?),
            ("throttleWriteBpsDevice", rule.write_bps.get("ThrottleWriteBps").during(of_rule)?),
            ("throttleReadIOPSDevice", rule.read_iops.get("ThrottleReadIOPS").during(of_rule)?),
            ("throttleWriteIOPSDevice", rule.write_iops.get("ThrottleWriteIOPS").during(of_rule)?),
            ("weightDevice", weight),
        ];
        if rule.devices.is_empty() {
            match (weight, rates[..4].iter().any(|(_, r)| r.is_some())) {
                (_, true) => return Err(Error::precondition(format!("{}: a throttle needs Devices", of_rule()))),
                (Some(weight), false) => drop(all.insert("weight".into(), weight.into())),
                (None, false) => {}
            }
            continue;
        }
        for device in matching(&rule.devices)? {
            for (list, value) in rates {
                let entries = of_devices.entry(list).or_default();
                match value {
                    Some(value) => drop(entries.insert(device, value)),
                    None => drop(entries.remove(&device)),
                }
            }
        }
    }
    for (list, entries) in of_devices.into_iter().filter(|(_, e)| !e.is_empty()) {
        let key = if list == "weightDevice" { "weight" } else { "rate" };
        let entries: Vec<Value> =
            entries.into_iter().map(|((major, minor), value)| json!({ "major": major, "minor": minor, key: value })).collect();
        all.insert(list.into(), entries.into());
    }
    Ok(Value::Object(all))
}

/// The block devices that patterns name.
fn matching(patterns: &[String]) -> Result<Vec<(i64, i64)>> {
    let mut found = Vec::new();
    for pattern in patterns {
        let mut paths = vec![PathBuf::from("/")];
        for part in pattern.split('/').filter(|p| !p.is_empty()) {
            paths = paths.iter().flat_map(|dir| below(dir, part)).collect();
        }
        for path in paths {
            let real = std::fs::canonicalize(&path).during(|| format!("block device {}", path.display()))?;
            match devices::at(&real)? {
                Some(device) if device.kind == "b" => found.push((device.major, device.minor)),
                _ => return Err(Error::precondition(format!("Devices: {} is not a block device", path.display()))),
            }
        }
    }
    if found.is_empty() {
        return Err(Error::precondition(format!("Devices: no device matches {}", patterns.join(", "))));
    }
    Ok(found)
}

fn below(dir: &Path, pattern: &str) -> Vec<PathBuf> {
    if !pattern.contains(['*', '?', '[', '\\']) {
        return Some(dir.join(pattern)).filter(|p| p.exists()).into_iter().collect();
    }
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.retain(|name| annotations::glob(pattern.as_bytes(), name.as_bytes()));
    names.sort();
    names.into_iter().map(|name| dir.join(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);
    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn scratch(name: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("cradle-spec-classes-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Scratch(dir)
    }

    fn runtimes() -> Runtimes {
        crate::config::Config::default().cri_runtime.containerd
    }

    fn asking(kind: &str, class: &str) -> cri::ContainerConfig {
        let mut config = cri::ContainerConfig::new();
        config.annotations.insert(format!("io.kubernetes.cri.{kind}-class"), class.into());
        config
    }

    #[test]
    fn amounts_have_units() {
        for (text, want) in
            [("80", Some(80)), ("10k", Some(10_000)), ("50M", Some(50_000_000)), ("1Mi", Some(1 << 20)), ("x", None), ("1X", None)]
        {
            assert_eq!(amount(text), want, "{text}");
        }
    }

    #[test]
    fn block_io_class_comes_from_the_file() {
        let dir = scratch("blockio");
        let path = dir.0.join("blockio.yaml");
        std::fs::write(&path, "Classes:\n  low:\n    - Weight: 80\n  none:\n    - Devices: [/dev/nope*]\n      ThrottleReadBps: 5M\n  bad:\n    - ThrottleReadBps: 5M\n").unwrap();
        let host = Host { blockio_config: Some(path), ..Host::plain() };
        let pod = cri::PodSandboxConfig::new();
        let found = of(&asking("blockio", "low"), &pod, &runtimes(), &host).unwrap();
        assert_eq!(found.block_io, Some(json!({"weight": 80})));
        for (class, why) in [("gone", "known: bad, low, none"), ("none", "no device matches"), ("bad", "needs Devices")] {
            let text = of(&asking("blockio", class), &pod, &runtimes(), &host).unwrap_err().chain();
            assert!(text.contains(why), "{text}");
        }
        assert_eq!(of(&cri::ContainerConfig::new(), &pod, &runtimes(), &host).unwrap(), Classes::default());
    }

    #[test]
    fn without_the_means_a_class_is_refused_unless_the_config_says_otherwise() {
        let (host, pod) = (Host::plain(), cri::PodSandboxConfig::new());
        for (kind, why) in [("rdt", "RDT is not enabled"), ("blockio", "blockio is not enabled")] {
            assert!(of(&asking(kind, "gold"), &pod, &runtimes(), &host).unwrap_err().chain().contains(why));
            let mut lax = runtimes();
            (lax.ignore_rdt_not_enabled_errors, lax.ignore_blockio_not_enabled_errors) = (true, true);
            let found = of(&asking(kind, "gold"), &pod, &lax, &host).unwrap();
            assert!(found.warnings[0].contains("gold") && found.rdt.is_none() && found.block_io.is_none());
        }
    }

    #[test]
    fn rdt_class_is_a_group_of_resctrl() {
        let dir = scratch("rdt");
        std::fs::create_dir(dir.0.join("gold")).unwrap();
        std::fs::write(dir.0.join("gold/schemata"), "").unwrap();
        let host = Host { rdt: true, resctrl: dir.0.clone(), ..Host::plain() };
        let pod = cri::PodSandboxConfig::new();
        let found = of(&asking("rdt", "gold"), &pod, &runtimes(), &host).unwrap();
        assert_eq!(found.rdt.unwrap().clos_id, "gold");
        for bad in ["silver", "..", "gold/x"] {
            assert!(of(&asking("rdt", bad), &pod, &runtimes(), &host).unwrap_err().chain().contains("no such group"), "{bad}");
        }
    }
}
