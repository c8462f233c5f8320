//! Template: a conf list made of a Go template and the pod CIDRs that the kubelet tells, for nodes on which nobody else writes one.
//!
//! Templates are Go's `text/template` with `.PodCIDR`, `.PodCIDRRanges` and `.Routes`, as containerd's users have them.
use super::conf;
use crate::error::{Context, Error, Kind, Result};
use gotmpl::{MissingKey, Template, tmap};
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The conf list's file, as containerd names it.
const FILE: &str = "10-containerd-net.conflist";

/// Writes the template's conf list into a conf directory, whole or not at all; what it is no conf list of is not written.
pub fn write_conf(template: &Path, conf_dir: &Path, cidrs: &[&str]) -> Result<PathBuf> {
    let shown = || format!("CNI conf template {}", template.display());
    let text = fs::read_to_string(template).during(shown)?;
    let conf = render(&text, cidrs).during(shown)?;
    conf::parse_list(&conf, &conf_dir.join(FILE)).during(shown).map_err(|e| e.with_kind(Kind::FailedPrecondition))?;
    let path = conf_dir.join(FILE);
    install(&path, &conf).during(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// The kubelet's comma list, each checked.
pub fn cidrs(list: &str) -> Result<Vec<&str>> {
    let all: Vec<&str> = list.split(',').map(str::trim).collect();
    match all.iter().find(|cidr| address(cidr).is_none()) {
        Some(bad) => Err(Error::invalid(format!(
            "runtime_config.network_config.pod_cidr: \"{bad}\" is no CIDR such as 10.244.1.0/24; several are parted by commas"
        ))),
        None => Ok(all),
    }
}

fn address(cidr: &str) -> Option<IpAddr> {
    let (address, bits) = cidr.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    bits.parse::<u8>().is_ok_and(|bits| bits <= most).then_some(address)
}

fn render(text: &str, cidrs: &[&str]) -> Result<String> {
    let mut routes: Vec<&str> = vec![];
    for address in cidrs.iter().filter_map(|cidr| address(cidr)) {
        let all = if address.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        if !routes.contains(&all) {
            routes.push(all);
        }
    }
    let strings = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<String>>();
    let data = tmap! {
        "PodCIDR" => cidrs.first().copied().unwrap_or_default().to_string(),
        "PodCIDRRanges" => strings(cidrs),
        "Routes" => strings(&routes),
    };
    let template = Template::new("conf").missing_key(MissingKey::Error).parse(text);
    let rendered = template.and_then(|t| t.execute_to_string(&data));
    rendered.map_err(|e| Error::precondition("it cannot be rendered: mend it, its fields are PodCIDR, PodCIDRRanges, Routes").because(e))
}

/// The draft's name is none that a conf directory's readers look at.
fn install(path: &Path, text: &str) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let draft = dir.join(format!(".{FILE}.new"));
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o644).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the templates that containerd's users have are written.
    const TEMPLATE: &str = r#"{"name": "n", "cniVersion": "1.0.0", "plugins": [{"type": "ptp", "mtu": 1460, "first": "{{.PodCIDR}}",
        "ipam": {"type": "host-local",
          "ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
          "routes": [{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}]}}]}"#;

    fn rendered(list: &str) -> serde_json::Value {
        serde_json::from_str(&render(TEMPLATE, &cidrs(list).unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn ranges_and_routes_of_one_and_of_two_families() {
        let one = &rendered("10.1.2.0/24")["plugins"][0];
        assert_eq!(one["first"], "10.1.2.0/24");
        assert_eq!(one["ipam"]["ranges"], serde_json::json!([[{"subnet": "10.1.2.0/24"}]]));
        assert_eq!(one["ipam"]["routes"], serde_json::json!([{"dst": "0.0.0.0/0"}]));
        let two = &rendered("10.1.2.0/24, fd00:1::/64,10.9.0.0/16")["plugins"][0];
        assert_eq!(two["ipam"]["ranges"].as_array().unwrap().len(), 3);
        assert_eq!(two["ipam"]["routes"], serde_json::json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]));
    }

    #[test]
    fn what_is_no_cidr_and_what_is_no_template_is_refused_by_name() {
        for bad in ["10.0.0.0", "10.0.0.0/33", "fd00::/129", "x/8", "10.0.0.0/8,", "10.0.0.0/-1"] {
            assert!(cidrs(bad).unwrap_err().chain().contains("pod_cidr"), "{bad}");
        }
        for bad in ["{{.PodCidr}}", "{{", "{{nofunction}}"] {
            assert!(render(bad, &["10.0.0.0/8"]).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_a_conf_list_is_written_and_in_one_step() {
        let scratch = crate::sys::fs::Scratch::new("cni-template");
        let (template, conf_dir) = (scratch.path.join("t"), scratch.path.join("net.d"));
        fs::write(&template, "{ {{.PodCIDR}} }").unwrap();
        let error = write_conf(&template, &conf_dir, &["10.0.0.0/8"]).unwrap_err();
        assert!(error.kind() == Kind::FailedPrecondition && !conf_dir.exists(), "{}", error.chain());
        fs::write(&template, TEMPLATE).unwrap();
        write_conf(&template, &conf_dir, &["10.0.0.0/8"]).unwrap();
        let names: Vec<_> = fs::read_dir(&conf_dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [FILE]);
    }
}
