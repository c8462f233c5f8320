//! Proxies from the environment, by curl's and Go's rules: per scheme, NO_PROXY with domains, addresses and networks.
//!
//! ureq's own reading ignores the scheme and knows neither networks nor subdomains in NO_PROXY.
use std::net::IpAddr;

/// The proxy URL for a request to `scheme://host:port`, or none. Loopback is always asked directly.
pub fn for_host(scheme: &str, host: &str, port: u16, env: impl Fn(&str) -> Option<String>) -> Option<String> {
    let either = |upper: &str| env(upper).or_else(|| env(&upper.to_lowercase())).filter(|v| !v.is_empty());
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_lowercase();
    if super::hosts::is_loopback(&bare) {
        return None;
    }
    let proxy = either(if scheme == "https" { "HTTPS_PROXY" } else { "HTTP_PROXY" }).or_else(|| either("ALL_PROXY"))?;
    let skip = either("NO_PROXY").is_some_and(|list| list.split(',').any(|rule| excepts(rule.trim(), &bare, port)));
    if skip {
        return None;
    }
    Some(if proxy.contains("://") { proxy } else { format!("http://{proxy}") })
}

fn excepts(rule: &str, host: &str, port: u16) -> bool {
    let rule = rule.to_lowercase();
    if rule.is_empty() {
        return false;
    }
    if rule == "*" {
        return true;
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        if let Some((net, bits)) = rule.split_once('/') {
            return matches!((net.parse::<IpAddr>(), bits.parse::<u32>()), (Ok(net), Ok(bits)) if in_network(address, net, bits));
        }
        if rule.trim_matches(['[', ']']).parse() == Ok(address) {
            return true;
        }
    }
    let (name, only) = match rule.rsplit_once(':') {
        Some((name, p)) if p.parse::<u16>().is_ok() && !name.contains(':') => (name, p.parse::<u16>().ok()),
        _ => (rule.as_str(), None),
    };
    if only.is_some_and(|p| p != port) {
        return false;
    }
    // `.example.com` and `*.example.com` mean subdomains only, `example.com` itself as well.
    match name.strip_prefix('*').unwrap_or(name) {
        dotted if dotted.starts_with('.') => host.ends_with(dotted),
        name => host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')),
    }
}

fn in_network(address: IpAddr, net: IpAddr, bits: u32) -> bool {
    let same = |a: &[u8], b: &[u8]| {
        let (whole, rest) = ((bits / 8) as usize, bits % 8);
        a[..whole] == b[..whole] && (rest == 0 || (a[whole] ^ b[whole]) >> (8 - rest) == 0)
    };
    match (address, net) {
        (IpAddr::V4(a), IpAddr::V4(b)) if bits <= 32 => same(&a.octets(), &b.octets()),
        (IpAddr::V6(a), IpAddr::V6(b)) if bits <= 128 => same(&a.octets(), &b.octets()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        move |k| pairs.iter().find(|(n, _)| *n == k).map(|(_, v)| v.to_string())
    }

    #[test]
    fn each_scheme_has_its_proxy_and_loopback_none() {
        let e = env(&[("https_proxy", "p:1"), ("HTTP_PROXY", "http://q:2")]);
        assert_eq!(for_host("https", "r.io", 443, &e).as_deref(), Some("http://p:1"));
        assert_eq!(for_host("http", "r.io", 80, &e).as_deref(), Some("http://q:2"));
        assert_eq!(for_host("https", "127.8.8.8", 443, &e), None);
        assert_eq!(for_host("https", "[::1]", 443, &e), None);
    }

    #[test]
    fn no_proxy_knows_domains_ports_and_networks() {
        let e = env(&[("ALL_PROXY", "http://p"), ("NO_PROXY", "r.io, .sub.only,10.0.0.0/8,x.io:5000,192.168.1.1, fd00::/8")]);
        for (host, port, direct) in [
            ("r.io", 443, true),
            ("a.r.io", 443, true),
            ("evilr.io", 443, false),
            ("sub.only", 443, false),
            ("a.sub.only", 443, true),
            ("10.9.8.7", 443, true),
            ("11.9.8.7", 443, false),
            ("x.io", 5000, true),
            ("x.io", 443, false),
            ("192.168.1.1", 1, true),
            ("[fd00::1]", 1, true),
        ] {
            assert_eq!(for_host("https", host, port, &e).is_none(), direct, "{host}:{port}");
        }
    }
}
