//! Texts: CEL's string extensions, `find`, and `format`.

use super::own;
use crate::error::{Fault, Result};
use crate::patterns;
use crate::value::Val;

/// The most that one call may make.
const MAX_RESULT: usize = 8 * 1024 * 1024;

fn too_large() -> Fault {
    Fault::Budget
}

pub fn call<'a>(name: &str, args: &[Val<'a>]) -> Result<Val<'a>> {
    match (name, args) {
        ("join", [list]) => join(list, ""),
        ("join", [list, Val::Str(by)]) => join(list, by),
        ("format", [Val::Str(s), list]) => {
            let items = list.items().ok_or_else(Fault::no_such_overload)?;
            format(s, &items).map(Val::str)
        }
        (_, [Val::Str(s), rest @ ..]) => on_string(name, s, rest),
        _ => Err(Fault::no_such_overload()),
    }
}

fn on_string<'a>(name: &str, s: &str, rest: &[Val<'a>]) -> Result<Val<'a>> {
    match (name, rest) {
        ("lowerAscii", []) => Ok(Val::str(s.to_ascii_lowercase())),
        ("upperAscii", []) => Ok(Val::str(s.to_ascii_uppercase())),
        ("trim", []) => Ok(own(s.trim())),
        ("charAt", [Val::Int(at)]) => {
            let count = s.chars().count();
            match usize::try_from(*at) {
                Ok(at) if at < count => Ok(Val::str(s.chars().nth(at).map(String::from).unwrap_or_default())),
                Ok(at) if at == count => Ok(Val::str("")),
                _ => Err(Fault::error(format!("index out of range: {at}"))),
            }
        }
        ("indexOf", [Val::Str(of)]) => Ok(Val::Int(index_of(s, of, 0))),
        ("indexOf", [Val::Str(of), Val::Int(from)]) => Ok(Val::Int(index_of(s, of, within(s, *from)?))),
        ("lastIndexOf", [Val::Str(of)]) => Ok(Val::Int(last_index_of(s, of, s.chars().count()))),
        ("lastIndexOf", [Val::Str(of), Val::Int(to)]) => Ok(Val::Int(last_index_of(s, of, within(s, *to)?))),
        ("substring", [Val::Int(from)]) => {
            let from = within(s, *from)?;
            Ok(Val::str(s.chars().skip(from).collect::<String>()))
        }
        ("substring", [Val::Int(from), Val::Int(to)]) => {
            let (a, b) = (within(s, *from)?, within(s, *to)?);
            if a > b {
                return Err(Fault::error(format!("invalid substring range. start: {from}, end: {to}")));
            }
            Ok(Val::str(s.chars().skip(a).take(b - a).collect::<String>()))
        }
        ("replace", [Val::Str(from), Val::Str(to)]) => replace(s, from, to, -1),
        ("replace", [Val::Str(from), Val::Str(to), Val::Int(n)]) => replace(s, from, to, *n),
        ("split", [Val::Str(by)]) => Ok(split(s, by, -1)),
        ("split", [Val::Str(by), Val::Int(n)]) => Ok(split(s, by, *n)),
        ("find", [Val::Str(pattern)]) => {
            let pattern = patterns::compiled(pattern).map_err(Fault::error)?;
            Ok(own(pattern.find(s).map_or("", |m| m.as_str())))
        }
        ("findAll", [Val::Str(pattern)]) => find_all(s, pattern, -1),
        ("findAll", [Val::Str(pattern), Val::Int(n)]) => find_all(s, pattern, *n),
        _ => Err(Fault::no_such_overload()),
    }
}

fn find_all<'a>(s: &str, pattern: &str, limit: i64) -> Result<Val<'a>> {
    let pattern = patterns::compiled(pattern).map_err(Fault::error)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(Val::list(pattern.find_iter(s).take(limit).map(|m| own(m.as_str())).collect()))
}

fn within(s: &str, at: i64) -> Result<usize> {
    let count = s.chars().count();
    usize::try_from(at)
        .ok()
        .filter(|at| *at <= count)
        .ok_or_else(|| Fault::error(format!("index out of range: {at}")))
}

fn byte_at(s: &str, chars: usize) -> usize {
    s.char_indices().nth(chars).map_or(s.len(), |(i, _)| i)
}

fn index_of(s: &str, of: &str, from: usize) -> i64 {
    let start = byte_at(s, from);
    match s[start..].find(of) {
        Some(i) => s[..start + i].chars().count() as i64,
        None => -1,
    }
}

fn last_index_of(s: &str, of: &str, to: usize) -> i64 {
    let end = (byte_at(s, to) + of.len()).min(s.len());
    let end = (end..=s.len()).find(|i| s.is_char_boundary(*i)).unwrap_or(s.len());
    s[..end].rfind(of).map_or(-1, |i| s[..i].chars().count() as i64)
}

fn replace<'a>(s: &str, from: &str, to: &str, n: i64) -> Result<Val<'a>> {
    let times = if n < 0 { usize::MAX } else { usize::try_from(n).unwrap_or(usize::MAX) };
    let found = s.matches(from).take(times).count();
    if found.saturating_mul(to.len()).saturating_add(s.len()) > MAX_RESULT {
        return Err(too_large());
    }
    Ok(Val::str(s.replacen(from, to, times)))
}

fn split<'a>(s: &str, by: &str, n: i64) -> Val<'a> {
    if n == 0 {
        return Val::list(Vec::new());
    }
    let limit = if n < 0 { usize::MAX } else { usize::try_from(n).unwrap_or(usize::MAX) };
    if by.is_empty() {
        let mut parts: Vec<Val<'a>> = Vec::new();
        let mut rest = s;
        while let Some(c) = rest.chars().next() {
            if parts.len() + 1 == limit {
                parts.push(own(rest));
                break;
            }
            parts.push(own(&rest[..c.len_utf8()]));
            rest = &rest[c.len_utf8()..];
        }
        return Val::list(parts);
    }
    Val::list(s.splitn(limit, by).map(own).collect())
}

fn join<'a>(list: &Val<'a>, by: &str) -> Result<Val<'a>> {
    let items = list.items().ok_or_else(Fault::no_such_overload)?;
    let mut text = String::new();
    for (i, item) in items.iter().enumerate() {
        let Val::Str(s) = item else { return Err(Fault::no_such_overload()) };
        if i > 0 {
            text.push_str(by);
        }
        text.push_str(s);
        if text.len() > MAX_RESULT {
            return Err(too_large());
        }
    }
    Ok(Val::str(text))
}

/// In quotes, with escapes.
pub fn quote(s: &str) -> String {
    let mut text = String::with_capacity(s.len() + 2);
    text.push('"');
    for c in s.chars() {
        match c {
            '\u{7}' => text.push_str("\\a"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{b}' => text.push_str("\\v"),
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

/// `'…'.format([…])`: %s, %d, %f, %e, %b, %o, %x and %X.
fn format(template: &str, args: &[Val<'_>]) -> Result<String> {
    let mut text = String::new();
    let mut chars = template.chars().peekable();
    let mut next = 0;
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            text.push('%');
            continue;
        }
        let mut precision = None;
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(d) = chars.peek().filter(|d| d.is_ascii_digit()) {
                digits.push(*d);
                chars.next();
            }
            let n: usize = digits.parse().map_err(|_| Fault::error("invalid precision in format string"))?;
            precision = Some(n.min(100));
        }
        let Some(verb) = chars.next() else {
            return Err(Fault::error("unexpected end of format string"));
        };
        let arg = args.get(next).ok_or_else(|| Fault::error(format!("index {next} out of range")))?;
        next += 1;
        text.push_str(&clause(verb, precision, arg)?);
        if text.len() > MAX_RESULT {
            return Err(too_large());
        }
    }
    Ok(text)
}

fn clause(verb: char, precision: Option<usize>, v: &Val<'_>) -> Result<String> {
    let wrong = |wanted: &str| {
        Fault::error(format!(
            "error during formatting: {wanted} clause can only be used on {}, was given {}",
            match verb {
                'd' => "integers",
                'f' | 'e' => "doubles",
                'b' => "integers and bools",
                'o' => "integers",
                _ => "integers, byte buffers, and strings",
            },
            v.type_of()
        ))
    };
    Ok(match (verb, v) {
        ('s', v) => shown(v),
        ('d', Val::Int(i)) => i.to_string(),
        ('d', Val::Uint(u)) => u.to_string(),
        ('d', Val::Double(d)) if !d.is_finite() => shown(v),
        ('f', Val::Double(d)) if d.is_finite() => format!("{:.*}", precision.unwrap_or(6), d),
        ('f', Val::Int(i)) => format!("{:.*}", precision.unwrap_or(6), *i as f64),
        ('f', Val::Uint(u)) => format!("{:.*}", precision.unwrap_or(6), *u as f64),
        ('f', Val::Double(_)) => shown(v),
        ('e', Val::Double(d)) if d.is_finite() => {
            let text = format!("{:.*e}", precision.unwrap_or(6), d);
            match text.split_once('e') {
                Some((digits, exponent)) => {
                    let n: i32 = exponent.parse().unwrap_or_default();
                    format!("{digits}e{}{:02}", if n < 0 { '-' } else { '+' }, n.abs())
                }
                None => text,
            }
        }
        ('b', Val::Int(i)) if *i < 0 => format!("-{:b}", i.unsigned_abs()),
        ('b', Val::Int(i)) => format!("{i:b}"),
        ('b', Val::Uint(u)) => format!("{u:b}"),
        ('b', Val::Bool(b)) => u8::from(*b).to_string(),
        ('o', Val::Int(i)) if *i < 0 => format!("-{:o}", i.unsigned_abs()),
        ('o', Val::Int(i)) => format!("{i:o}"),
        ('o', Val::Uint(u)) => format!("{u:o}"),
        ('x' | 'X', v) => {
            let text = match v {
                Val::Int(i) if *i < 0 => format!("-{:x}", i.unsigned_abs()),
                Val::Int(i) => format!("{i:x}"),
                Val::Uint(u) => format!("{u:x}"),
                Val::Str(s) => s.bytes().map(|b| format!("{b:02x}")).collect(),
                Val::Bytes(b) => b.iter().map(|b| format!("{b:02x}")).collect(),
                _ => return Err(wrong("hex")),
            };
            if verb == 'X' { text.to_uppercase() } else { text }
        }
        ('d', _) => return Err(wrong("decimal")),
        ('f', _) => return Err(wrong("fixed-point")),
        ('e', _) => return Err(wrong("scientific")),
        ('b', _) => return Err(wrong("binary")),
        ('o', _) => return Err(wrong("octal")),
        (other, _) => {
            return Err(Fault::error(format!(
                "could not parse formatting clause: unrecognized formatting clause \"{other}\""
            )));
        }
    })
}

/// A value as `%s` shows it.
fn shown(v: &Val<'_>) -> String {
    match v {
        Val::Null => "null".to_owned(),
        Val::Bool(b) => b.to_string(),
        Val::Int(i) => i.to_string(),
        Val::Uint(u) => u.to_string(),
        Val::Double(d) if d.is_nan() => "NaN".to_owned(),
        Val::Double(d) if d.is_infinite() => if *d > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        Val::Double(d) => super::convert::double_text(*d),
        Val::Str(s) => s.to_string(),
        Val::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
        Val::Timestamp(t) => t.to_string(),
        Val::Duration(d) => crate::time::duration_text(*d),
        Val::Type(t) => t.to_string().split('(').next().unwrap_or_default().to_owned(),
        list if list.is_list() => {
            let items: Vec<String> = list.items().unwrap_or_default().iter().map(shown).collect();
            format!("[{}]", items.join(", "))
        }
        map if map.is_map() => {
            let mut entries: Vec<String> = map
                .entries()
                .unwrap_or_default()
                .iter()
                .map(|(k, v)| format!("{}: {}", shown(k), shown(v)))
                .collect();
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
        other => other.to_json().map(|j| j.to_string()).unwrap_or_default(),
    }
}
