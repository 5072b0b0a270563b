//! Optional values.

use crate::error::{Fault, Result};
use crate::value::Val;

pub fn make<'a>(name: &str, args: Vec<Val<'a>>) -> Result<Val<'a>> {
    let first = args.into_iter().next();
    match (name, first) {
        ("none", None) => Ok(Val::Optional(None)),
        ("of", Some(v)) => Ok(Val::some(v)),
        ("ofNonZeroValue", Some(v)) if is_zero(&v) => Ok(Val::Optional(None)),
        ("ofNonZeroValue", Some(v)) => Ok(Val::some(v)),
        _ => Err(Fault::no_such_overload()),
    }
}

fn is_zero(v: &Val<'_>) -> bool {
    match v {
        Val::Null => true,
        Val::Bool(b) => !b,
        Val::Int(i) => *i == 0,
        Val::Uint(u) => *u == 0,
        Val::Double(d) => *d == 0.0,
        Val::Duration(d) => *d == 0,
        Val::Optional(of) => of.is_none(),
        other => other.size() == Some(0),
    }
}

pub fn call<'a>(name: &str, args: &[Val<'a>]) -> Result<Val<'a>> {
    match (name, args) {
        ("hasValue", [Val::Optional(of)]) => Ok(Val::Bool(of.is_some())),
        ("value", [Val::Optional(Some(v))]) => Ok((**v).clone()),
        ("value", [Val::Optional(None)]) => Err(Fault::error("optional.none() dereference")),
        _ => Err(Fault::no_such_overload()),
    }
}

/// `or` and `orValue`.
pub fn choose<'a>(name: &str, args: Vec<Val<'a>>) -> Result<Val<'a>> {
    let mut args = args.into_iter();
    match (name, args.next(), args.next()) {
        ("or", Some(Val::Optional(Some(v))), Some(_)) => Ok(Val::Optional(Some(v))),
        ("or", Some(Val::Optional(None)), Some(other @ Val::Optional(_))) => Ok(other),
        ("orValue", Some(Val::Optional(Some(v))), Some(_)) => Ok((*v).clone()),
        ("orValue", Some(Val::Optional(None)), Some(other)) => Ok(other),
        _ => Err(Fault::no_such_overload()),
    }
}

/// The values that are there.
pub fn unwrap<'a>(args: &[Val<'a>]) -> Result<Val<'a>> {
    let items = args.first().and_then(Val::items).ok_or_else(Fault::no_such_overload)?;
    let mut found = Vec::new();
    for item in items {
        match item {
            Val::Optional(of) => found.extend(of.map(|v| (*v).clone())),
            _ => return Err(Fault::no_such_overload()),
        }
    }
    Ok(Val::list(found))
}
