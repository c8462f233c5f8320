//! Where a spec starts: containerd's defaults, or the handler's base_runtime_spec.
use super::oci::{Linux, Mount, Process, Resources, Root, Spec};
use super::{capabilities, devices, mounts};
use crate::error::{Context, Error, Kind, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Largest base spec that is read.
const LIMIT: u64 = 1 << 20;
/// Cannot be read in a container: they tell of the node, or let it be measured (CVE-2020-8694: powercap).
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];
/// Cannot be written in a container.
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The defaults.
pub fn default() -> Spec {
    let own = |list: &[&str]| list.iter().map(|s| s.to_string()).collect();
    Spec {
        root: Some(root()),
        process: Some(Process { cwd: "/".into(), capabilities: Some(capabilities::default()), ..Process::default() }),
        mounts: mounts::defaults(),
        linux: Linux {
            masked_paths: own(&MASKED),
            readonly_paths: own(&READONLY),
            resources: Some(Resources { devices: vec![devices::all(false)], ..Resources::default() }),
            ..Linux::default()
        },
        ..Spec::default()
    }
}

fn root() -> Root {
    // Relative to the bundle.
    Root { path: "rootfs".into(), readonly: false }
}

/// The defaults, or the base spec at `path` if it is not empty. A base spec brings its own limits, filter and capabilities.
pub fn load(path: &str) -> Result<Spec> {
    if path.is_empty() {
        return Ok(default());
    }
    let what = || format!("load base_runtime_spec {path}");
    let mut bytes = Vec::new();
    File::open(Path::new(path)).during(what)?.take(LIMIT + 1).read_to_end(&mut bytes).during(what)?;
    if bytes.len() as u64 > LIMIT {
        return Err(Error::new(Kind::FailedPrecondition, format!("base_runtime_spec {path} is larger than {LIMIT} bytes")));
    }
    let mut spec: Spec = serde_json::from_slice(&bytes).during(what)?;
    spec.root = Some(Root { readonly: spec.root.as_ref().is_some_and(|r| r.readonly), ..root() });
    spec.mounts.retain(|m: &Mount| m.destination != "/run");
    let process = spec.process.get_or_insert_default();
    process.capabilities.get_or_insert_default();
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_mask_what_tells_of_the_node() {
        let spec = default();
        assert!(spec.linux.masked_paths.contains(&"/sys/devices/virtual/powercap".to_owned()));
        assert!(!spec.mounts.iter().any(|m| m.destination == "/run"));
    }

    #[test]
    fn base_spec_keeps_its_rlimits() {
        let path = std::env::temp_dir().join(format!("cradle-spec-base-{}", std::process::id()));
        std::fs::write(&path, r#"{"process":{"cwd":"/","args":[],"user":{"uid":0,"gid":0},"rlimits":[{"type":"RLIMIT_NOFILE","hard":9,"soft":8}]},"mounts":[{"destination":"/run"}]}"#).unwrap();
        let spec = load(path.to_str().unwrap()).unwrap();
        std::fs::remove_file(path).unwrap();
        assert_eq!((spec.process.unwrap().rlimits[0].hard, spec.mounts.len()), (9, 0));
        assert!(load("/nowhere").unwrap_err().chain().contains("base_runtime_spec /nowhere"));
    }
}
