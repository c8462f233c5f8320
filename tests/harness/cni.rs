//! CNI confs of real plugins, on a bridge and a subnet of the daemon's own.
use serde_json::{Value, json};
use std::path::Path;

/// The network of one test daemon.
#[derive(Clone, Debug)]
pub struct Net {
    /// Network and bridge name.
    pub name: String,
    /// `10.<a>.<b>`: three quarters of the subnet.
    pub prefix: String,
}

impl Net {
    /// By the daemon's number.
    pub fn numbered(number: u32) -> Net {
        Net { name: format!("crt{number}"), prefix: format!("10.{}.{}", 100 + number / 250, number % 250) }
    }
    /// The conf list: bridge, host-local, portmap.
    pub fn conflist(&self, ipam_dir: &Path) -> Value {
        json!({
            "cniVersion": "1.0.0", "name": self.name,
            "plugins": [
                {
                    "type": "bridge", "bridge": self.name, "isGateway": true, "ipMasq": true, "hairpinMode": true,
                    "ipam": {
                        "type": "host-local", "dataDir": ipam_dir, "routes": [{ "dst": "0.0.0.0/0" }],
                        "ranges": [[{ "subnet": format!("{}.0/24", self.prefix) }]],
                    },
                },
                { "type": "portmap", "capabilities": { "portMappings": true } },
            ],
        })
    }
    /// Writes it where the daemon looks, in one step, as an installer does.
    pub fn write(&self, conf_dir: &Path, ipam_dir: &Path) {
        put(conf_dir, "10-test.conflist", &self.conflist(ipam_dir));
    }
}

/// A conf appears in one step.
pub fn put(conf_dir: &Path, name: &str, conf: &Value) {
    let draft = conf_dir.join(format!(".{name}.new"));
    std::fs::write(&draft, conf.to_string()).unwrap();
    std::fs::rename(draft, conf_dir.join(name)).unwrap();
}

/// A plugin of our own: a shell script in the bin dir.
pub fn script(bin_dir: &Path, name: &str, text: &str) {
    let path = bin_dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}")).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}
