//! resolv.conf of a pod, and what a host name may be.
use crate::error::{Error, Result};
use crate::proto::cri;

/// resolv.conf of a DNS config.
pub fn resolv_conf(dns: &cri::DNSConfig) -> String {
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
    text
}

/// Refuses what would become another line or another word of the file.
pub fn check_dns(dns: &cri::DNSConfig) -> Result<()> {
    for (list, field) in [(&dns.servers, "servers"), (&dns.searches, "searches"), (&dns.options, "options")] {
        if let Some(bad) = list.iter().find(|v| v.is_empty() || v.chars().any(|c| c.is_whitespace() || c.is_control())) {
            return Err(Error::invalid(format!("dns_config.{field}: {bad:?} is empty or has a space in it")));
        }
    }
    Ok(())
}

/// Refuses what the kernel or a file of lines would choke on.
pub fn check_hostname(name: &str) -> Result<()> {
    let fits = name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if fits {
        return Ok(());
    }
    Err(Error::invalid(format!("hostname: {name:?} is longer than 64 characters or has others than letters, digits, '-', '.', '_'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_search_servers_and_options_in_this_order() {
        let dns = cri::DNSConfig {
            servers: vec!["10.0.0.1".into(), "fd00::1".into()],
            searches: vec!["a.b".into(), "c".into()],
            options: vec!["ndots:5".into()],
            ..Default::default()
        };
        assert_eq!(resolv_conf(&dns), "search a.b c\nnameserver 10.0.0.1\nnameserver fd00::1\noptions ndots:5\n");
        assert_eq!(resolv_conf(&cri::DNSConfig::new()), "");
        check_dns(&dns).unwrap();
    }

    #[test]
    fn nothing_injects_a_line() {
        let dns = cri::DNSConfig { servers: vec!["1.1.1.1\nnameserver 2.2.2.2".into()], ..Default::default() };
        assert!(check_dns(&dns).unwrap_err().chain().contains("dns_config.servers"));
        assert!(check_hostname("a\nb").is_err() && check_hostname(&"x".repeat(65)).is_err());
        check_hostname("web-0.svc").unwrap();
    }
}
