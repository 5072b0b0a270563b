//! Semantic versions.

use crate::error::{Fault, Result};
use crate::value::Val;
use std::cmp::Ordering;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    major: u64,
    minor: u64,
    patch: u64,
    pre: Vec<String>,
}

fn number(text: &str) -> Option<u64> {
    let leading = text.len() > 1 && text.starts_with('0');
    if leading || text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        None
    } else {
        text.parse().ok()
    }
}

/// A version; `normalize` also takes a `v` before it, missing parts and leading zeros.
pub fn parse(text: &str, normalize: bool) -> Option<Version> {
    let text = if normalize { text.strip_prefix('v').unwrap_or(text) } else { text };
    let (text, build) = text.split_once('+').map_or((text, None), |(a, b)| (a, Some(b)));
    let (core, pre) = text.split_once('-').map_or((text, None), |(a, b)| (a, Some(b)));
    let identifier = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if build.is_some_and(|b| !b.split('.').all(identifier)) {
        return None;
    }
    let mut parts: Vec<&str> = core.split('.').collect();
    if normalize {
        for part in &mut parts {
            let short = part.trim_start_matches('0');
            *part = if short.is_empty() && !part.is_empty() { "0" } else { short };
        }
        if parts.len() < 3 && (pre.is_some() || build.is_some()) {
            return None;
        }
        parts.resize(parts.len().max(3), "0");
    }
    let [major, minor, patch] = parts.as_slice() else { return None };
    let pre: Vec<String> = pre.map(|p| p.split('.').map(str::to_owned).collect()).unwrap_or_default();
    let good = |p: &String| identifier(p) && (!p.bytes().all(|b| b.is_ascii_digit()) || number(p).is_some());
    if !pre.iter().all(good) {
        return None;
    }
    Some(Version { major: number(major)?, minor: number(minor)?, patch: number(patch)?, pre })
}

impl Version {
    fn order(&self, other: &Version) -> Ordering {
        let core = |v: &Version| (v.major, v.minor, v.patch);
        core(self).cmp(&core(other)).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => pre_order(&self.pre, &other.pre),
        })
    }
}

fn pre_order(a: &[String], b: &[String]) -> Ordering {
    for (x, y) in a.iter().zip(b) {
        let found = match (number(x), number(y)) {
            (Some(x), Some(y)) => x.cmp(&y),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => x.cmp(y),
        };
        if found.is_ne() {
            return found;
        }
    }
    a.len().cmp(&b.len())
}

pub fn call<'a>(name: &str, args: &[Val<'a>]) -> Result<Val<'a>> {
    let int = |n: u64| Ok(Val::Int(i64::try_from(n).unwrap_or(i64::MAX)));
    match (name, args) {
        ("isSemver", [Val::Str(s)]) => Ok(Val::Bool(parse(s, false).is_some())),
        ("isSemver", [Val::Str(s), Val::Bool(n)]) => Ok(Val::Bool(parse(s, *n).is_some())),
        ("semver", [Val::Str(s)]) => made(s, false),
        ("semver", [Val::Str(s), Val::Bool(n)]) => made(s, *n),
        ("major", [Val::Semver(v)]) => int(v.major),
        ("minor", [Val::Semver(v)]) => int(v.minor),
        ("patch", [Val::Semver(v)]) => int(v.patch),
        ("isGreaterThan", [Val::Semver(a), Val::Semver(b)]) => Ok(Val::Bool(a.order(b).is_gt())),
        ("isLessThan", [Val::Semver(a), Val::Semver(b)]) => Ok(Val::Bool(a.order(b).is_lt())),
        ("compareTo", [Val::Semver(a), Val::Semver(b)]) => Ok(Val::Int(a.order(b) as i64)),
        _ => Err(Fault::no_such_overload()),
    }
}

fn made<'a>(text: &str, normalize: bool) -> Result<Val<'a>> {
    match parse(text, normalize) {
        Some(v) => Ok(Val::Semver(Arc::new(v))),
        None if text.is_empty() => Err(Fault::error("Version string empty")),
        None if text.splitn(3, '.').count() != 3 => Err(Fault::error("No Major.Minor.Patch elements found")),
        None => Err(Fault::error(format!("Invalid character(s) found in version {text:?}"))),
    }
}
