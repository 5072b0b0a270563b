//! The string formats that are checked; others only document.

use api::Value;
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
        "rgbcolor" => is_rgb_color(text),
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()),
        "ssn" => is_ssn(text),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_credit_card(text),
        "password" => true,
        "k8s-short-name" | "k8sshortname" => api::names::dns_label(text).is_empty(),
        "k8s-long-name" | "k8slongname" => api::names::dns_subdomain(text).is_empty(),
        _ => return None,
    })
}

/// Whether a schema has a format that means nothing for its type.
pub fn is_unrecognized(schema: &Value) -> bool {
    let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default();
    match (text("type"), text("format")) {
        (_, "") => false,
        ("" | "string", format) => has(format, "").is_none() && has(&format.replace('-', ""), "").is_none(),
        ("integer", format) => !matches!(format, "int32" | "int64"),
        ("number", format) => !matches!(format, "float" | "double"),
        _ => true,
    }
}

fn digits(text: &str) -> Vec<u32> {
    text.chars().filter_map(|c| c.to_digit(10)).collect()
}

/// Three, two and four digits.
fn is_ssn(text: &str) -> bool {
    let bare: String = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    let at = |i: usize| matches!(text.as_bytes().get(i), Some(b'-' | b' '));
    let separated = match text.len() {
        9 => true,
        10 => at(3) || at(5),
        11 => at(3) && at(6),
        _ => false,
    };
    bare.len() == 9 && bare.bytes().all(|b| b.is_ascii_digit()) && separated
}

fn is_rgb_color(text: &str) -> bool {
    let inner = text.strip_prefix("rgb(").and_then(|t| t.strip_suffix(')')).unwrap_or_default();
    let parts: Vec<&str> = inner.split(',').map(str::trim).collect();
    parts.len() == 3 && parts.iter().all(|p| p.parse::<u8>().is_ok())
}

fn is_isbn10(text: &str) -> bool {
    let bare: String = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    let Some((body, last)) = bare.split_at_checked(9).filter(|(_, last)| last.len() == 1) else {
        return false;
    };
    let check = if last == "X" { Some(10) } else { last.parse().ok() };
    let numbers = digits(body);
    let sum: u32 = numbers.iter().zip(1..).map(|(d, i)| d * i).sum();
    numbers.len() == 9 && check.is_some_and(|c: u32| (sum + 10 * c).is_multiple_of(11))
}

fn is_isbn13(text: &str) -> bool {
    let bare: String = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    let numbers = digits(&bare);
    let sum: u32 = numbers.iter().zip([1, 3].into_iter().cycle()).map(|(d, w)| d * w).sum();
    bare.len() == 13 && numbers.len() == 13 && sum.is_multiple_of(10)
}

/// The lengths and first digits of the known issuers, and the check digit.
fn is_credit_card(text: &str) -> bool {
    let numbers = digits(text);
    let bare: String = numbers.iter().map(u32::to_string).collect();
    let begins = |prefixes: &[&str]| prefixes.iter().any(|p| bare.starts_with(p));
    let issued = match bare.len() {
        13 => begins(&["4"]),
        14 => begins(&["300", "301", "302", "303", "304", "305", "36", "38"]),
        15 => begins(&["34", "37", "2131", "1800"]),
        16 => begins(&["4", "51", "52", "53", "54", "55", "6011", "65", "35"]),
        _ => false,
    };
    let doubled = |d: u32| if d > 4 { 2 * d - 9 } else { 2 * d };
    let sum: u32 =
        numbers.iter().rev().enumerate().map(|(i, d)| if i % 2 == 1 { doubled(*d) } else { *d }).sum();
    issued && sum.is_multiple_of(10)
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

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn texts_have_formats() {
        for (format, good, bad) in [
            ("isbn10", "0321751043", "0321751044"),
            ("isbn13", "978-0321751041", "978-0321751042"),
            ("creditcard", "4111 1111 1111 1111", "4111111111111112"),
            ("ssn", "123-45-6789", "12-345-678"),
            ("rgbcolor", "rgb(1, 2,255)", "rgb(1,2,256)"),
            ("bsonobjectid", "507f1f77bcf86cd799439011", "507f"),
            ("k8s-short-name", "a-b", "a.b"),
            ("k8s-long-name", "a.b", "a_b"),
        ] {
            assert_eq!((has(format, good), has(format, bad)), (Some(true), Some(false)), "{format}");
        }
        for (schema, unrecognized) in [
            (json!({"type": "string", "format": "zzz"}), true),
            (json!({"type": "string", "format": "date-time"}), false),
            (json!({"type": "integer", "format": "int32"}), false),
            (json!({"type": "integer", "format": "uri"}), true),
            (json!({"type": "object", "format": "uri"}), true),
            (json!({"type": "string"}), false),
        ] {
            assert_eq!(is_unrecognized(&schema), unrecognized, "{schema}");
        }
    }
}
