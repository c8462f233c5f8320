//! Results of ADD, in every CNI version from 0.1 to 1.1, as one set of interfaces and addresses.
use crate::error::{Error, Result};
use serde_json::Value;
use std::net::IpAddr;

/// Which address of a pod comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IpPreference {
    /// The first IPv4 address.
    #[default]
    Ipv4,
    /// The first IPv6 address.
    Ipv6,
    /// As the plugins said.
    Cni,
}

impl IpPreference {
    /// Reads the config's `ip_pref`.
    pub fn parse(text: &str) -> Result<IpPreference> {
        match text {
            "" | "ipv4" => Ok(IpPreference::Ipv4),
            "ipv6" => Ok(IpPreference::Ipv6),
            "cni" => Ok(IpPreference::Cni),
            _ => Err(Error::invalid(format!("ip_pref \"{text}\" is none of ipv4, ipv6, cni"))),
        }
    }
    /// Moves the preferred address to the front; the others keep their order.
    pub fn sort(self, ips: &mut [IpAddr]) {
        let first = match self {
            IpPreference::Ipv4 => ips.iter().position(IpAddr::is_ipv4),
            IpPreference::Ipv6 => ips.iter().position(IpAddr::is_ipv6),
            IpPreference::Cni => None,
        };
        if let Some(first) = first {
            ips[..=first].rotate_right(1);
        }
    }
}

/// An interface that a plugin made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: String,
    /// The namespace's path; empty = on the node.
    pub sandbox: String,
    /// Its addresses with their prefix length and gateway.
    pub addresses: Vec<Address>,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Bits of the network.
    pub prefix: u8,
    /// The way out.
    pub gateway: Option<IpAddr>,
}

/// What one network reported.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reported {
    /// Interfaces, the pod's and the node's.
    pub interfaces: Vec<Interface>,
}

/// Reads a result; addresses that name no interface belong to `ifname`.
pub(super) fn parse(result: &Value, ifname: &str) -> Result<Reported> {
    let mut interfaces: Vec<Interface> = list(result, "interfaces")?.iter().map(interface).collect();
    let declared = interfaces.len();
    let mut put = |index: Option<usize>, address: Address| match index {
        Some(index) if index < declared => interfaces[index].addresses.push(address),
        _ => match interfaces.iter_mut().find(|i| i.name == ifname) {
            Some(own) => own.addresses.push(address),
            None => interfaces.push(Interface { name: ifname.into(), addresses: vec![address], ..Interface::default() }),
        },
    };
    // Versions before 0.3 know one address of each family and no interfaces.
    for old in ["ip4", "ip6"].iter().filter_map(|k| result.get(k)).filter(|v| !v.is_null()) {
        put(None, address(old, "ip")?);
    }
    for ip in list(result, "ips")? {
        put(ip.get("interface").and_then(Value::as_u64).map(|i| i as usize), address(ip, "address")?);
    }
    Ok(Reported { interfaces })
}

fn list<'a>(result: &'a Value, key: &str) -> Result<&'a [Value]> {
    match result.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(list)) => Ok(list),
        Some(_) => Err(Error::internal(format!("\"{key}\" of a CNI result is no list"))),
    }
}

fn interface(value: &Value) -> Interface {
    let text = |key| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    Interface { name: text("name"), mac: text("mac"), sandbox: text("sandbox"), addresses: vec![] }
}

fn address(value: &Value, key: &str) -> Result<Address> {
    let text = value.get(key).and_then(Value::as_str).unwrap_or_default();
    let wrong = || Error::internal(format!("\"{text}\" of a CNI result is no address with a prefix length"));
    let (ip, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let gateway = value.get("gateway").and_then(Value::as_str).and_then(|g| g.parse().ok());
    Ok(Address { ip: ip.parse().map_err(|_| wrong())?, prefix: prefix.parse().map_err(|_| wrong())?, gateway })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ips(result: Value) -> Vec<(String, String)> {
        let reported = parse(&result, "eth0").unwrap();
        reported.interfaces.iter().flat_map(|i| i.addresses.iter().map(|a| (i.name.clone(), format!("{}/{}", a.ip, a.prefix)))).collect()
    }

    #[test]
    fn every_version_of_a_result_is_read() {
        let old = json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.2/16", "gateway": "10.1.0.1"}, "ip6": {"ip": "fd00::2/64"}});
        assert_eq!(ips(old), [("eth0".into(), "10.1.0.2/16".into()), ("eth0".into(), "fd00::2/64".into())]);
        let middle = json!({"cniVersion": "0.4.0", "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/x", "mac": "a:b"}],
            "ips": [{"version": "4", "interface": 1, "address": "10.1.0.3/16"}]});
        assert_eq!(ips(middle), [("eth0".into(), "10.1.0.3/16".into())]);
        let bare = json!({"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.4/16"}, {"address": "fd00::4/64"}], "dns": {}});
        assert_eq!(ips(bare).len(), 2);
        assert!(parse(&json!({"ips": [{"address": "10.1.0.4"}]}), "eth0").is_err());
    }

    #[test]
    fn the_preferred_family_comes_first_and_the_rest_keeps_its_order() {
        let all: Vec<IpAddr> = ["fd00::1", "fd00::2", "10.0.0.1", "10.0.0.2"].map(|t| t.parse().unwrap()).to_vec();
        let sorted = |by: &str| {
            let mut ips = all.clone();
            IpPreference::parse(by).unwrap().sort(&mut ips);
            ips.iter().map(IpAddr::to_string).collect::<Vec<_>>()
        };
        assert_eq!(sorted(""), ["10.0.0.1", "fd00::1", "fd00::2", "10.0.0.2"]);
        assert_eq!(sorted("ipv6"), ["fd00::1", "fd00::2", "10.0.0.1", "10.0.0.2"]);
        assert_eq!(sorted("cni"), ["fd00::1", "fd00::2", "10.0.0.1", "10.0.0.2"]);
        assert!(IpPreference::parse("ipx").is_err());
    }
}
