//! Told: requests as JSON for people and tools that read verbose status; the names are CRI's own fields.
use crate::proto::cri::{ContainerConfig, LinuxContainerResources, PodSandboxConfig};
use serde_json::{Map, Value, json};

/// Limits; what is not set is left out.
pub fn resources(of: &LinuxContainerResources) -> Value {
    let pages: Vec<Value> = of.hugepage_limits.iter().map(|l| json!({"page_size": l.page_size, "limit": l.limit})).collect();
    set(json!({
        "cpu_period": of.cpu_period,
        "cpu_quota": of.cpu_quota,
        "cpu_shares": of.cpu_shares,
        "memory_limit_in_bytes": of.memory_limit_in_bytes,
        "memory_swap_limit_in_bytes": of.memory_swap_limit_in_bytes,
        "oom_score_adj": of.oom_score_adj,
        "cpuset_cpus": of.cpuset_cpus,
        "cpuset_mems": of.cpuset_mems,
        "hugepage_limits": pages,
        "unified": of.unified,
    }))
}

/// A pod's request.
pub fn pod(config: &PodSandboxConfig) -> Value {
    let (metadata, linux) = (config.metadata.get_or_default(), config.linux.get_or_default());
    let ports = config.port_mappings.iter().map(|p| {
        json!({"protocol": format!("{:?}", p.protocol.enum_value_or_default()), "container_port": p.container_port,
            "host_port": p.host_port, "host_ip": p.host_ip})
    });
    let dns = config.dns_config.as_ref().map(|d| json!({"servers": d.servers, "searches": d.searches, "options": d.options}));
    set(json!({
        "metadata": {"name": metadata.name, "uid": metadata.uid, "namespace": metadata.namespace, "attempt": metadata.attempt},
        "hostname": config.hostname,
        "log_directory": config.log_directory,
        "dns_config": dns,
        "port_mappings": ports.collect::<Vec<_>>(),
        "labels": config.labels,
        "annotations": config.annotations,
        "linux": set(json!({
            "cgroup_parent": linux.cgroup_parent,
            "sysctls": linux.sysctls,
            "overhead": resources(linux.overhead.get_or_default()),
            "resources": resources(linux.resources.get_or_default()),
        })),
    }))
}

/// A container's request.
pub fn container(config: &ContainerConfig) -> Value {
    let (metadata, image) = (config.metadata.get_or_default(), config.image.get_or_default());
    let envs = config.envs.iter().map(|e| json!({"key": e.key, "value": e.value}));
    let mounts = config.mounts.iter().map(|m| {
        set(json!({
            "container_path": m.container_path,
            "host_path": m.host_path,
            "image": m.image.get_or_default().image,
            "readonly": m.readonly,
            "selinux_relabel": m.selinux_relabel,
            "propagation": format!("{:?}", m.propagation.enum_value_or_default()),
        }))
    });
    set(json!({
        "metadata": {"name": metadata.name, "attempt": metadata.attempt},
        "image": {"image": image.image, "user_specified_image": image.user_specified_image},
        "command": config.command,
        "args": config.args,
        "working_dir": config.working_dir,
        "envs": envs.collect::<Vec<_>>(),
        "mounts": mounts.collect::<Vec<_>>(),
        "labels": config.labels,
        "annotations": config.annotations,
        "log_path": config.log_path,
        "stdin": config.stdin,
        "stdin_once": config.stdin_once,
        "tty": config.tty,
        "linux": {"resources": resources(config.linux.get_or_default().resources.get_or_default())},
    }))
}

/// Without what is not set.
fn set(value: Value) -> Value {
    let is_set = |value: &Value| match value {
        Value::Null => false,
        Value::Bool(set) => *set,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    };
    match value {
        Value::Object(map) => map.into_iter().filter(|(_, v)| is_set(v)).collect::<Map<_, _>>().into(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_is_not_told() {
        assert_eq!(resources(&LinuxContainerResources::default()), json!({}));
        let of = LinuxContainerResources { cpu_quota: -1, cpuset_cpus: "0".into(), ..Default::default() };
        assert_eq!(resources(&of), json!({"cpu_quota": -1, "cpuset_cpus": "0"}));
        let config = PodSandboxConfig { hostname: "h".into(), ..Default::default() };
        assert_eq!(pod(&config)["hostname"], "h");
        assert_eq!(pod(&config).get("annotations"), None);
    }
}
