//! URLs: absolute ones, and absolute paths.

use crate::error::{Fault, Result};
use crate::value::{Key, Val};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    host: String,
    path: String,
    query: String,
}

/// A URL as a request line may have it.
pub fn parse(text: &str) -> Option<Url> {
    if text.is_empty() || text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return None;
    }
    let (scheme, rest) = match text.strip_prefix('/') {
        Some(_) => (String::new(), text),
        None => {
            let (scheme, rest) = text.split_once(':')?;
            let mut chars = scheme.chars();
            let starts = chars.next()?.is_ascii_alphabetic();
            if !starts || !chars.all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) {
                return None;
            }
            (scheme.to_ascii_lowercase(), rest)
        }
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (host, path) = match rest.strip_prefix("//") {
        Some(rest) if !scheme.is_empty() => {
            let end = rest.find('/').unwrap_or(rest.len());
            let authority = &rest[..end];
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            (host.to_owned(), rest[end..].to_owned())
        }
        _ => (String::new(), rest.to_owned()),
    };
    if host.contains(' ') || !good_escapes(&path) || !good_port(&host) {
        return None;
    }
    Some(Url { scheme, host, path: escaped(&path), query: query.to_owned() })
}

fn good_port(host: &str) -> bool {
    let after = match host.rfind(']') {
        Some(i) => &host[i + 1..],
        None => host,
    };
    match after.rsplit_once(':') {
        Some((_, port)) => port.bytes().all(|b| b.is_ascii_digit()),
        None => true,
    }
}

fn good_escapes(text: &str) -> bool {
    let hex = |b: Option<&u8>| b.is_some_and(u8::is_ascii_hexdigit);
    let bytes = text.as_bytes();
    bytes.iter().enumerate().all(|(i, b)| *b != b'%' || hex(bytes.get(i + 1)) && hex(bytes.get(i + 2)))
}

fn escaped(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for b in path.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => text.push(b.into()),
            b'-' | b'_' | b'.' | b'~' | b'$' | b'&' | b'+' | b',' | b'/' | b':' | b';' | b'=' | b'@'
            | b'%' | b'!' | b'\'' | b'(' | b')' | b'*' | b'[' | b']' => text.push(b.into()),
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

impl Url {
    fn split_host(&self) -> (&str, &str) {
        if let Some(rest) = self.host.strip_prefix('[') {
            let (name, after) = rest.split_once(']').unwrap_or((rest, ""));
            return (name, after.strip_prefix(':').unwrap_or_default());
        }
        self.host.rsplit_once(':').unwrap_or((&self.host, ""))
    }

    fn query<'a>(&self) -> Val<'a> {
        let mut found: BTreeMap<Key, Vec<Val<'a>>> = BTreeMap::new();
        for pair in self.query.split('&').filter(|p| !p.is_empty() && !p.contains(';')) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if let (Some(key), Some(value)) = (unescaped(key), unescaped(value)) {
                found.entry(Key::Str(key.into())).or_default().push(Val::str(value));
            }
        }
        Val::Map(Arc::new(found.into_iter().map(|(k, v)| (k, Val::list(v))).collect()))
    }
}

fn unescaped(text: &str) -> Option<String> {
    if !good_escapes(text) {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        match b {
            b'+' => bytes.push(b' '),
            b'%' => {
                let (a, b) = (char::from(rest.next()?), char::from(rest.next()?));
                bytes.push(u8::try_from(a.to_digit(16)? * 16 + b.to_digit(16)?).ok()?);
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).ok()
}

pub fn call<'a>(name: &str, args: &[Val<'a>]) -> Result<Val<'a>> {
    match (name, args) {
        ("isURL", [Val::Str(s)]) => Ok(Val::Bool(parse(s).is_some())),
        ("url", [Val::Str(s)]) => match parse(s) {
            Some(url) => Ok(Val::Url(Arc::new(url))),
            None => Err(Fault::error(format!(
                "URL parse error during conversion from string: parse \"{}\": invalid URI for request",
                &**s
            ))),
        },
        ("getScheme", [Val::Url(u)]) => Ok(Val::str(u.scheme.clone())),
        ("getHost", [Val::Url(u)]) => Ok(Val::str(u.host.clone())),
        ("getHostname", [Val::Url(u)]) => Ok(Val::str(u.split_host().0)),
        ("getPort", [Val::Url(u)]) => Ok(Val::str(u.split_host().1)),
        ("getEscapedPath", [Val::Url(u)]) => Ok(Val::str(u.path.clone())),
        ("getQuery", [Val::Url(u)]) => Ok(u.query()),
        _ => Err(Fault::no_such_overload()),
    }
}
