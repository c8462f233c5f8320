//! DNS: a pod's resolv.conf.
use crate::error::{Error, Result};
use crate::proto::cri::DNSConfig;

/// The file's text. A line break in any value could smuggle in a line of its own.
pub fn resolv_conf(dns: &DNSConfig) -> Result<String> {
    let all = [("servers", &dns.servers), ("searches", &dns.searches), ("options", &dns.options)];
    for (field, values) in all {
        if let Some(bad) = values.iter().find(|v| v.contains(['\n', '\r', '\0'])) {
            return Err(Error::invalid(format!("dns_config.{field}: line break in {bad:?}")));
        }
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_a_line_a_server_and_refuses_line_breaks() {
        let mut dns = DNSConfig { servers: vec!["10.0.0.10".into(), "8.8.8.8".into()], ..DNSConfig::default() };
        dns.searches = vec!["a.svc".into(), "svc".into()];
        dns.options = vec!["ndots:5".into()];
        assert_eq!(resolv_conf(&dns).unwrap(), "search a.svc svc\nnameserver 10.0.0.10\nnameserver 8.8.8.8\noptions ndots:5\n");
        assert_eq!(resolv_conf(&DNSConfig::default()).unwrap(), "");
        dns.searches = vec!["a\nnameserver 6.6.6.6".into()];
        assert!(resolv_conf(&dns).unwrap_err().chain().contains("dns_config.searches"));
    }
}
