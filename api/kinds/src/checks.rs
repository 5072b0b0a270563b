//! Small checks that many kinds share, with upstream's texts.

use crate::names;
use crate::value::{Get, ONE, amount_value};
use api::Value;
use api::field::{Error, ErrorList, Path};
use std::net::{IpAddr, Ipv6Addr};

pub const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
pub const POSITIVE: &str = "must be greater than zero";

/// One error for each text.
pub fn texts(value: impl Into<Value>, messages: Vec<String>, at: &Path, e: &mut ErrorList) {
    if messages.is_empty() {
        return;
    }
    let value = value.into();
    e.extend(messages.into_iter().map(|m| Error::invalid(at, value.clone(), m)));
}

/// The field must be there and not empty.
pub fn required(v: &Value, key: &str, at: &Path, e: &mut ErrorList) -> bool {
    let there = v.len(key) > 0;
    if !there {
        e.push(Error::required(&at.child(key), ""));
    }
    there
}

/// The value must be one of a few.
pub fn one_of(value: &str, known: &[&str], at: &Path, e: &mut ErrorList) {
    if !known.contains(&value) {
        e.push(Error::not_supported(at, value, known));
    }
}

/// As [`one_of`]; the error lists the values as they are given here.
pub fn listed(value: &str, known: &[&str], at: &Path, e: &mut ErrorList) {
    if !known.contains(&value) {
        e.push(Error::not_listed(at, value, known));
    }
}

/// A pointer to one of a few: it must be there, and an empty text is a wrong one.
pub fn one_of_pointed(v: &Value, key: &str, known: &[&str], at: &Path, e: &mut ErrorList) {
    match v.opt_text(key) {
        Some(value) => one_of(value, known, &at.child(key), e),
        None => e.push(Error::required(&at.child(key), "")),
    }
}

/// As [`one_of`], but an empty one is called missing.
pub fn one_of_required(value: &str, known: &[&str], at: &Path, e: &mut ErrorList) {
    if value.is_empty() {
        e.push(Error::required(at, ""));
    } else {
        one_of(value, known, at, e);
    }
}

/// As [`one_of`], for a field that is missing if empty, and the known values in their own order.
pub fn one_of_in_order(value: &str, known: &[&str], at: &Path, e: &mut ErrorList) {
    if value.is_empty() {
        e.push(Error::required(at, ""));
    } else if !known.contains(&value) {
        e.push(Error::not_supported_in_order(at, value, known));
    }
}

/// An optional field that must be one of a few.
pub fn opt_one_of(v: &Value, key: &str, known: &[&str], at: &Path, e: &mut ErrorList) {
    if let Some(value) = v.opt_text(key) {
        one_of(value, known, &at.child(key), e);
    }
}

pub fn non_negative(v: &Value, key: &str, at: &Path, e: &mut ErrorList) {
    let n = v.int(key);
    if n < 0 {
        e.push(Error::invalid(&at.child(key), n, NOT_NEGATIVE));
    }
}

pub fn positive(n: i64, at: &Path, e: &mut ErrorList) {
    if n <= 0 {
        e.push(Error::invalid(at, n, POSITIVE));
    }
}

pub fn label(value: &str, at: &Path, e: &mut ErrorList) {
    texts(value, names::dns_label(value), at, e);
}

pub fn subdomain(value: &str, at: &Path, e: &mut ErrorList) {
    texts(value, names::dns_subdomain(value), at, e);
}

pub fn qualified(value: &str, at: &Path, e: &mut ErrorList) {
    texts(value, names::qualified_name(value), at, e);
}

/// `example.com/path`: a path in a domain.
pub fn domain_prefixed_path(text: &str, at: &Path, e: &mut ErrorList) {
    if text.is_empty() {
        e.push(Error::required(at, ""));
        return;
    }
    let Some((host, path)) = text.split_once('/').filter(|(h, p)| !h.is_empty() && !p.is_empty()) else {
        let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        e.push(Error::invalid(at, text, why));
        return;
    };
    subdomain(host, at, e);
    let known = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !path.bytes().all(known) {
        let why = names::regex_error("Invalid path", "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+", &[]);
        e.push(Error::invalid(at, path, why));
    }
}

/// A port by number or by name.
pub fn port(value: &Value, at: &Path, e: &mut ErrorList) {
    match value {
        Value::String(name) => texts(name.as_str(), names::port_name(name), at, e),
        other => {
            let n = other.as_i64().unwrap_or_default();
            texts(n, names::port_number(n), at, e);
        }
    }
}

/// A path that stays below where it starts.
pub fn descending_path(path: &str, at: &Path, e: &mut ErrorList) {
    if path.starts_with('/') {
        e.push(Error::invalid(at, path, "must be a relative path"));
    }
    no_backsteps(path, at, e);
}

pub fn no_backsteps(path: &str, at: &Path, e: &mut ErrorList) {
    if path.split('/').any(|part| part == "..") {
        e.push(Error::invalid(at, path, "must not contain '..'"));
    }
}

/// A relative path that is none of the writer's own (`..data` and such).
pub fn local_path(path: &str, at: &Path, e: &mut ErrorList) {
    descending_path(path, at, e);
    if path.starts_with("..") && !path.starts_with("../") {
        e.push(Error::invalid(at, path, "must not start with '..'"));
    }
}

fn strip_zeros(text: &str) -> String {
    text.split('.')
        .map(|part| match part.trim_start_matches('0') {
            "" if !part.is_empty() => "0",
            rest => rest,
        })
        .collect::<Vec<_>>()
        .join(".")
}

/// The address that older releases read out of a text that is not quite one.
pub fn sloppy_ip(text: &str) -> Option<IpAddr> {
    match text.parse() {
        Ok(IpAddr::V6(v6)) => Some(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)),
        Ok(v4) => Some(v4),
        Err(_) => strip_zeros(text).parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// The address if it is written well; else errors.
pub fn ip(text: &str, at: &Path, e: &mut ErrorList) -> Option<IpAddr> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            e.push(Error::invalid(at, text, "must not be an IPv4-mapped IPv6 address"));
            None
        }
        Ok(address) => Some(address),
        Err(_) if strip_zeros(text).parse::<std::net::Ipv4Addr>().is_ok() => {
            e.push(Error::invalid(at, text, "must not have leading 0s"));
            None
        }
        Err(_) => {
            let text_ = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            e.push(Error::invalid(at, text, text_));
            None
        }
    }
}

/// An address as [`ip`], in the one form it should have.
pub fn canonical_ip(text: &str, at: &Path, e: &mut ErrorList) -> Option<IpAddr> {
    let address = ip(text, at, e)?;
    if address.to_string() != text {
        e.push(Error::invalid(at, text, format!("must be in canonical form (\"{address}\")")));
    }
    Some(address)
}

/// An address that is accepted as stored before.
pub fn legacy_ip(text: &str, stored: &[&str], at: &Path, e: &mut ErrorList) {
    if !stored.contains(&text) {
        ip(text, at, e);
    }
}

/// A network, accepted as stored before.
pub fn legacy_cidr(text: &str, stored: &[&str], at: &Path, e: &mut ErrorList) -> Option<ipnet::IpNet> {
    if stored.contains(&text) {
        return text.parse().ok();
    }
    let Ok(net) = text.parse::<ipnet::IpNet>() else {
        let sloppy = text.split_once('/').is_some_and(|(address, length)| {
            strip_zeros(address).parse::<std::net::Ipv4Addr>().is_ok()
                && length.parse::<u8>().is_ok_and(|l| l <= 32)
        });
        let why = if sloppy {
            "must not have leading 0s in IP or prefix length"
        } else {
            "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
        };
        e.push(Error::invalid(at, text, why));
        return None;
    };
    let mapped = matches!(net, ipnet::IpNet::V6(n) if Ipv6Addr::to_ipv4_mapped(&n.addr()).is_some());
    if mapped {
        e.push(Error::invalid(at, text, "must not have an IPv4-mapped IPv6 address"));
    } else if net.addr() != net.network() {
        e.push(Error::invalid(at, text, "must not have bits set beyond the prefix length"));
    }
    Some(net)
}

/// A network in the one form it should have.
pub fn canonical_cidr(text: &str, at: &Path, e: &mut ErrorList) -> Option<ipnet::IpNet> {
    let before = e.len();
    let net = legacy_cidr(text, &[], at, e)?;
    if e.len() == before && net.to_string() != text {
        e.push(Error::invalid(at, text, format!("must be in canonical form (\"{net}\")")));
    }
    Some(net)
}

/// Exactly one address of each family, or one at all.
pub fn is_dual_stack<'a>(ips: impl IntoIterator<Item = &'a str>) -> bool {
    let (mut v4, mut v6) = (0, 0);
    for ip in ips {
        match ip.parse() {
            Ok(IpAddr::V4(_)) => v4 += 1,
            Ok(IpAddr::V6(_)) => v6 += 1,
            Err(_) => return false,
        }
    }
    v4 > 0 && v6 > 0
}

/// In the namespace of Kubernetes itself: without a prefix, or with its own.
pub fn is_native_resource(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

pub fn is_hugepages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

pub fn is_extended_resource(name: &str) -> bool {
    !is_native_resource(name)
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether requests may be lower than limits.
pub fn is_overcommit_allowed(name: &str) -> bool {
    is_native_resource(name) && !is_hugepages(name)
}

const COUNTED: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

const STANDARD: [&str; 11] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "storage",
    "requests.storage",
];

/// A resource name: qualified, and known if it has no prefix.
pub fn resource_name(name: &str, at: &Path, e: &mut ErrorList) -> bool {
    let messages = names::qualified_name(name);
    if !messages.is_empty() {
        texts(name, messages, at, e);
        return false;
    }
    let known = STANDARD.contains(&name) || COUNTED.contains(&name) || name.starts_with("hugepages-");
    if !name.contains('/') && !known {
        e.push(Error::invalid(at, name, "must be a standard resource type or fully qualified"));
        return false;
    }
    true
}

pub fn is_standard_quota_resource(name: &str) -> bool {
    name != "storage" && (STANDARD.contains(&name) || COUNTED.contains(&name)) || is_hugepages_quota(name)
}

fn is_hugepages_quota(name: &str) -> bool {
    name.starts_with("hugepages-") || name.starts_with("requests.hugepages-")
}

/// An amount of a resource: not negative, whole where only whole ones make sense.
pub fn resource_quantity(name: &str, value: &Value, at: &Path, e: &mut ErrorList) {
    let Some(n) = amount_value(value) else {
        let text =
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
        e.push(Error::invalid(at, value.clone(), text));
        return;
    };
    if n < 0 {
        e.push(Error::invalid(at, value.clone(), NOT_NEGATIVE));
    }
    if n % ONE != 0 && (COUNTED.contains(&name) || is_extended_resource(name)) {
        e.push(Error::invalid(at, value.clone(), "must be an integer"));
    }
}

/// An integer that is not negative, or a percentage.
pub fn positive_int_or_percent(v: &Value, at: &Path, e: &mut ErrorList) {
    match v {
        Value::String(s) => {
            if !names::percent(s).is_empty() {
                let text = "must be an integer or percentage (e.g '5%%')";
                e.push(Error::invalid(at, s.as_str(), text));
            }
        }
        other => {
            let n = other.as_i64().unwrap_or_default();
            if n < 0 {
                e.push(Error::invalid(at, n, NOT_NEGATIVE));
            }
        }
    }
}

/// The number before the `%`, if the value is a percentage.
pub fn percent_of(v: &Value) -> Option<i64> {
    v.as_str()?.strip_suffix('%')?.parse().ok()
}

/// A percentage over 100 makes no sense.
pub fn not_more_than_100_percent(v: &Value, at: &Path, e: &mut ErrorList) {
    if percent_of(v).is_some_and(|p| p > 100) {
        e.push(Error::invalid(at, v.clone(), "must not be greater than 100%"));
    }
}

/// The number of an integer or percentage, percentages bare.
pub fn int_or_percent_number(v: &Value) -> i64 {
    percent_of(v).or(v.as_i64()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, want) in [
            ("10.0.0.1", None),
            ("::1", None),
            ("010.0.0.1", Some("must not have leading 0s")),
            ("::ffff:1.2.3.4", Some("must not be an IPv4-mapped IPv6 address")),
            ("x", Some("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")),
        ] {
            let mut e = ErrorList::new();
            ip(text, &Path::new("ip"), &mut e);
            assert_eq!(e.first().map(|e| e.detail.as_str()), want, "{text}");
        }
        for (text, want) in [
            ("10.0.0.0/8", None),
            ("10.0.0.1/8", Some("must not have bits set beyond the prefix length")),
            ("10.0.0.0", Some("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")),
        ] {
            let mut e = ErrorList::new();
            legacy_cidr(text, &[], &Path::new("cidr"), &mut e);
            assert_eq!(e.first().map(|e| e.detail.as_str()), want, "{text}");
        }
        assert!(is_dual_stack(["10.0.0.1", "::1"]));
        assert!(!is_dual_stack(["10.0.0.1"]));
    }
}
