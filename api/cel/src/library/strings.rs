//! Texts: CEL's string extensions, and `find`; `format` has a file of its own.

pub mod format;

use super::own;
use crate::error::{Fault, Result};
use crate::patterns;
use crate::value::Val;

/// The most that one call may make.
pub(crate) const MAX_RESULT: usize = 8 * 1024 * 1024;

fn too_large() -> Fault {
    Fault::Budget
}

pub fn call<'a>(name: &str, args: &[Val<'a>]) -> Result<Val<'a>> {
    match (name, args) {
        ("join", [list]) => join(list, ""),
        ("join", [list, Val::Str(by)]) => join(list, by),
        ("format", [Val::Str(s), list]) => {
            let items = list.items().ok_or_else(Fault::no_such_overload)?;
            format::format(s, &items).map(Val::str)
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
        ("indexOf", [Val::Str(of), Val::Int(from)]) => match within(s, *from) {
            Err(_) if *from >= 0 => Ok(Val::Int(-1)),
            from => Ok(Val::Int(index_of(s, of, from?))),
        },
        ("lastIndexOf", [Val::Str(of)]) => Ok(Val::Int(last_index_of(s, of, s.chars().count()))),
        ("lastIndexOf", [Val::Str(of), Val::Int(to)]) => match within(s, *to) {
            Err(_) if *to >= 0 => Ok(Val::Int(-1)),
            to => Ok(Val::Int(last_index_of(s, of, to?))),
        },
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
