//! Plan: what is asked of both, from `tests/parity/requests.json`.
use serde_json::{Map, Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// All that is asked.
pub struct Plan {
    file: Value,
    /// Stands where the requests say `$DIR`.
    dir: String,
    /// Parent of all cgroups.
    cgroup_parent: String,
}

/// One container to be created.
#[derive(Clone)]
pub struct Request {
    pub name: String,
    pub pod: String,
    /// Another container runs beside it, whose processes it shall see.
    pub target: bool,
    pub container: Value,
}

impl Plan {
    /// Reads the requests, and puts the files that they speak of below `dir`.
    pub fn read(dir: &Path, cgroup_parent: &str) -> Plan {
        let file: Value = serde_json::from_str(&super::data("requests.json")).unwrap();
        let plan = Plan { file, dir: dir.display().to_string(), cgroup_parent: cgroup_parent.into() };
        plan.set_up(dir);
        plan
    }
    fn set_up(&self, dir: &Path) {
        let setup = &self.file["setup"];
        for name in setup["dirs"].as_array().unwrap() {
            std::fs::create_dir_all(dir.join(name.as_str().unwrap())).unwrap();
        }
        for (name, text) in setup["files"].as_object().unwrap() {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text.as_str().unwrap().replace("$DIR", &self.dir)).unwrap();
        }
        for (name, target) in setup["links"].as_object().unwrap() {
            std::os::unix::fs::symlink(target.as_str().unwrap(), dir.join(name)).unwrap();
        }
        for (name, of) in setup["nodes"].as_object().unwrap() {
            let [major, minor, mode]: [u32; 3] = serde_json::from_value(of.clone()).unwrap();
            let (path, mode_text) = (dir.join(name).display().to_string(), format!("{mode:o}"));
            crate::harness::run_ok("mknod", &["-m", &mode_text, &path, "c", &major.to_string(), &minor.to_string()]);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    }
    /// Images by name, with the keys of their configs that are not as usual.
    pub fn images(&self) -> &Map<String, Value> {
        self.file["images"].as_object().unwrap()
    }
    /// Pods by name: handler and request.
    pub fn pods(&self, logs: &Path, image: &dyn Fn(&str) -> String) -> Vec<(String, String, Value)> {
        let pods = self.file["pods"].as_object().unwrap().iter().map(|(name, over)| {
            let handler = over["handler"].as_str().unwrap_or("runc").to_string();
            let mut config = json!({
                "metadata": {"name": name, "namespace": "parity", "uid": format!("uid-{name}")},
                "hostname": "parity",
                "log_directory": logs.join(name),
                "linux": {"cgroup_parent": self.cgroup_parent, "security_context": {"namespace_options": {}}},
            });
            merge(&mut config, over);
            config.as_object_mut().unwrap().remove("handler");
            (name.clone(), handler, self.real(config, image))
        });
        pods.collect()
    }
    /// The containers.
    pub fn requests(&self, image: &dyn Fn(&str) -> String) -> Vec<Request> {
        self.file["requests"].as_array().unwrap().iter().map(|entry| self.request(entry, image)).collect()
    }
    fn request(&self, entry: &Value, image: &dyn Fn(&str) -> String) -> Request {
        let name = entry["name"].as_str().unwrap();
        let pod = entry["pod"].as_str().unwrap_or("plain");
        let mut config = json!({
            "metadata": {"name": name},
            "image": {"image": format!("$IMAGE/{}", entry["image"].as_str().unwrap_or("plain"))},
            "command": ["/bin/sleep", "3600"],
            "log_path": format!("{name}.log"),
            "linux": {"security_context": {"namespace_options": {}}},
        });
        merge(&mut config, &entry["container"]);
        if !entry["security"].is_null() {
            merge(&mut config, &json!({"linux": {"security_context": entry["security"]}}));
        }
        if entry["userns"] == true {
            let of_pod = &self.file["pods"][pod]["linux"]["security_context"]["namespace_options"]["userns_options"];
            merge(&mut config, &json!({"linux": {"security_context": {"namespace_options": {"userns_options": of_pod}}}}));
        }
        Request { name: name.into(), pod: pod.into(), target: entry["target"] == true, container: self.real(config, image) }
    }
    fn real(&self, value: Value, image: &dyn Fn(&str) -> String) -> Value {
        super::fields::each_text(value, &|text| match text.strip_prefix("$IMAGE/") {
            Some(name) => image(name),
            None => text.replace("$DIR", &self.dir),
        })
    }
}

/// Objects are merged, `null` takes away, anything else replaces.
fn merge(into: &mut Value, over: &Value) {
    for (key, value) in over.as_object().into_iter().flatten() {
        let into = into.as_object_mut().unwrap();
        match (value, into.get_mut(key)) {
            (Value::Null, _) => drop(into.remove(key)),
            (Value::Object(_), Some(found @ Value::Object(_))) => merge(found, value),
            _ => drop(into.insert(key.clone(), value.clone())),
        }
    }
}
