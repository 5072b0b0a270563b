//! The string formats that are checked; others only document.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether a text has a format; `None` for formats that nobody checks.
pub fn has(format: &str, text: &str) -> Option<bool> {
    Some(match format {
        "date-time" | "datetime" => api::time::parse_rfc3339(text).is_some(),
        "date" => text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10,
        "duration" => api::time::parse_duration(text).is_ok(),
        "byte" => base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).is_ok(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uri" => url::Url::parse(text).is_ok(),
        "hostname" => api::names::dns_subdomain(&text.to_lowercase()).is_empty(),
        "email" => is_email(text),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some(3)),
        "uuid4" => is_uuid(text, Some(4)),
        "uuid5" => is_uuid(text, Some(5)),
        "hexcolor" => is_hex_color(text),
        _ => return None,
    })
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let most = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|b| b <= most)
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    matches!(parts.len(), 6 | 8 | 20)
        && parts.iter().all(|p| p.len() == 2 && u8::from_str_radix(p, 16).is_ok())
}

fn is_email(text: &str) -> bool {
    let plain = text.rsplit_once('<').map_or(text, |(_, rest)| rest.trim_end_matches('>'));
    plain.split_once('@').is_some_and(|(user, host)| {
        !user.is_empty() && !host.is_empty() && !plain.contains(char::is_whitespace) && !host.contains('@')
    })
}

fn is_uuid(text: &str, version: Option<usize>) -> bool {
    uuid::Uuid::parse_str(text).is_ok_and(|u| version.is_none_or(|v| u.get_version_num() == v))
}

fn is_hex_color(text: &str) -> bool {
    let digits = text.strip_prefix('#').unwrap_or(text);
    matches!(digits.len(), 3 | 6) && digits.bytes().all(|b| b.is_ascii_hexdigit())
}
