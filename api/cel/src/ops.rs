//! Operators, comparison, and what calls cost.

use crate::error::{Fault, Result};
use crate::shape::ListKind;
use crate::time;
use crate::value::{Key, Val};
use api::Value as Json;
use std::cmp::Ordering;
use std::sync::Arc;

/// Applies an operator; gives the operands back if there is none by that name.
pub fn operator<'a>(
    name: &str,
    mut args: Vec<Val<'a>>,
) -> std::result::Result<Result<Val<'a>>, Vec<Val<'a>>> {
    let two = args.len() == 2;
    Ok(match name {
        "_==_" if two => Ok(Val::Bool(equal(&args[0], &args[1]))),
        "_!=_" if two => Ok(Val::Bool(!equal(&args[0], &args[1]))),
        "_<_" | "_<=_" | "_>_" | "_>=_" if two => order(name, &args[0], &args[1]),
        "@in" if two => contains(&args[0], &args[1]).map(Val::Bool),
        "_[_]" if two => index(&args[0], &args[1]),
        "_[?_]" if two => Ok(optional_index(&args[0], &args[1])),
        "!_" => match args.first() {
            Some(Val::Bool(b)) => Ok(Val::Bool(!b)),
            _ => Err(Fault::no_such_overload()),
        },
        "-_" => negate(&args[0]),
        "_+_" if two => match (args.pop(), args.pop()) {
            (Some(b), Some(a)) => add(a, b),
            _ => Err(Fault::no_such_overload()),
        },
        "_-_" | "_*_" | "_/_" | "_%_" if two => arithmetic(name, &args[0], &args[1]),
        _ => return Err(args),
    })
}

fn overflow() -> Fault {
    Fault::error("integer overflow")
}

fn unsigned_overflow() -> Fault {
    Fault::error("unsigned integer overflow")
}

fn negate<'a>(v: &Val<'a>) -> Result<Val<'a>> {
    match v {
        Val::Int(i) => i.checked_neg().map(Val::Int).ok_or_else(overflow),
        Val::Double(d) => Ok(Val::Double(-d)),
        _ => Err(Fault::no_such_overload()),
    }
}

fn add<'a>(a: Val<'a>, b: Val<'a>) -> Result<Val<'a>> {
    Ok(match (a, b) {
        (Val::Int(a), Val::Int(b)) => Val::Int(a.checked_add(b).ok_or_else(overflow)?),
        (Val::Uint(a), Val::Uint(b)) => Val::Uint(a.checked_add(b).ok_or_else(unsigned_overflow)?),
        (Val::Double(a), Val::Double(b)) => Val::Double(a + b),
        (Val::Str(a), Val::Str(b)) => Val::str(format!("{}{}", &*a, &*b)),
        (Val::Bytes(a), Val::Bytes(b)) => Val::Bytes([&*a, &*b].concat().into()),
        (Val::Duration(a), Val::Duration(b)) => Val::Duration(a.checked_add(b).ok_or_else(overflow)?),
        (Val::Timestamp(t), Val::Duration(d)) | (Val::Duration(d), Val::Timestamp(t)) => {
            Val::Timestamp(time::add(t, d)?)
        }
        (a, b) if a.is_list() && b.is_list() => concat(a, b)?,
        _ => return Err(Fault::no_such_overload()),
    })
}

fn concat<'a>(a: Val<'a>, b: Val<'a>) -> Result<Val<'a>> {
    let kind = match &a {
        Val::Json(_, Some(shape)) => shape.list_kind().clone(),
        _ => ListKind::Atomic,
    };
    let more = b.items().ok_or_else(Fault::no_such_overload)?;
    let mut list = match a {
        Val::List(list) => list,
        other => Arc::new(other.items().ok_or_else(Fault::no_such_overload)?),
    };
    let into = Arc::make_mut(&mut list);
    match kind {
        ListKind::Atomic => into.extend(more),
        ListKind::Set => {
            for item in more {
                if !into.iter().any(|x| equal(x, &item)) {
                    into.push(item);
                }
            }
        }
        ListKind::Map(keys) => {
            for item in more {
                match into.iter_mut().find(|x| same_keys(x, &item, &keys)) {
                    Some(found) => *found = item,
                    None => into.push(item),
                }
            }
        }
    }
    Ok(Val::List(list))
}

fn same_keys(a: &Val<'_>, b: &Val<'_>, keys: &[String]) -> bool {
    keys.iter().all(|k| match (a.field(k), b.field(k)) {
        (Some(x), Some(y)) => equal(&x, &y),
        (None, None) => true,
        _ => false,
    })
}

/// An operator on whole numbers, by the checked operations of their type.
macro_rules! whole {
    ($op:expr, $a:expr, $b:expr, $made:path, $overflow:expr) => {{
        let done = match $op {
            "_-_" => $a.checked_sub($b),
            "_*_" => $a.checked_mul($b),
            "_/_" | "_%_" if $b == 0 => return Err(by_zero($op)),
            "_/_" => $a.checked_div($b),
            _ => $a.checked_rem($b),
        };
        done.map($made).ok_or_else($overflow)
    }};
}

fn arithmetic<'a>(op: &str, a: &Val<'a>, b: &Val<'a>) -> Result<Val<'a>> {
    match (a, b) {
        (Val::Int(a), Val::Int(b)) => whole!(op, a, *b, Val::Int, overflow),
        (Val::Uint(a), Val::Uint(b)) => whole!(op, a, *b, Val::Uint, unsigned_overflow),
        (Val::Double(a), Val::Double(b)) => match op {
            "_-_" => Ok(Val::Double(a - b)),
            "_*_" => Ok(Val::Double(a * b)),
            "_/_" => Ok(Val::Double(a / b)),
            _ => Err(Fault::no_such_overload()),
        },
        (Val::Duration(a), Val::Duration(b)) if op == "_-_" => {
            a.checked_sub(*b).map(Val::Duration).ok_or_else(overflow)
        }
        (Val::Timestamp(t), Val::Duration(d)) if op == "_-_" => {
            Ok(Val::Timestamp(time::add(*t, d.checked_neg().ok_or_else(overflow)?)?))
        }
        (Val::Timestamp(a), Val::Timestamp(b)) if op == "_-_" => {
            let nanos = time::between(*b, *a);
            i64::try_from(nanos).map(Val::Duration).map_err(|_| overflow())
        }
        _ => Err(Fault::no_such_overload()),
    }
}

fn by_zero(op: &str) -> Fault {
    Fault::error(if op == "_/_" { "division by zero" } else { "modulus by zero" })
}

fn order<'a>(op: &str, a: &Val<'a>, b: &Val<'a>) -> Result<Val<'a>> {
    let found = match compare(a, b) {
        Some(found) => found,
        // Not-a-number is in no order.
        None if matches!((a, b), (Val::Double(_), _) | (_, Val::Double(_))) => return Ok(Val::Bool(false)),
        None => return Err(Fault::no_such_overload()),
    };
    Ok(Val::Bool(match op {
        "_<_" => found.is_lt(),
        "_<=_" => found.is_le(),
        "_>_" => found.is_gt(),
        _ => found.is_ge(),
    }))
}

/// The order of two values of ordered types.
pub fn compare(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    match (a, b) {
        (Val::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
        (Val::Str(a), Val::Str(b)) => Some((**a).cmp(&**b)),
        (Val::Bytes(a), Val::Bytes(b)) => Some(a.cmp(b)),
        (Val::Timestamp(a), Val::Timestamp(b)) => Some(a.cmp(b)),
        (Val::Duration(a), Val::Duration(b)) => Some(a.cmp(b)),
        _ => numbers(a, b),
    }
}

fn numbers(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    let whole = |v: &Val<'_>| match v {
        Val::Int(i) => Some(i128::from(*i)),
        Val::Uint(u) => Some(i128::from(*u)),
        _ => None,
    };
    if let (Some(a), Some(b)) = (whole(a), whole(b)) {
        return Some(a.cmp(&b));
    }
    let real = |v: &Val<'_>| match v {
        Val::Double(d) => Some(*d),
        other => whole(other).map(|i| i as f64),
    };
    real(a)?.partial_cmp(&real(b)?)
}

pub fn equal(a: &Val<'_>, b: &Val<'_>) -> bool {
    match (a, b) {
        (Val::Null, Val::Null) | (Val::Variables, Val::Variables) => true,
        (Val::Json(x, p), Val::Json(y, q)) if p.is_none() && q.is_none() => json_equal(x, y),
        (Val::Type(x), Val::Type(y)) => x.same_kind(y),
        (Val::Optional(x), Val::Optional(y)) => match (x, y) {
            (Some(x), Some(y)) => equal(x, y),
            (None, None) => true,
            _ => false,
        },
        (Val::Quantity(x), Val::Quantity(y)) => x == y,
        (Val::Url(x), Val::Url(y)) => x == y,
        (Val::Ip(x), Val::Ip(y)) => x == y,
        (Val::Cidr(x), Val::Cidr(y)) => x == y,
        (Val::Semver(x), Val::Semver(y)) => x == y,
        (Val::Format(x), Val::Format(y)) => x.name == y.name,
        (Val::Authz(x), Val::Authz(y)) => x == y,
        (x, y) if x.is_list() && y.is_list() => lists_equal(x, y),
        (x, y) if x.is_map() && y.is_map() => maps_equal(x, y),
        (x, y) => compare(x, y) == Some(Ordering::Equal),
    }
}

fn json_equal(a: &Json, b: &Json) -> bool {
    std::ptr::eq(a, b) || a == b
}

fn lists_equal(a: &Val<'_>, b: &Val<'_>) -> bool {
    let (Some(x), Some(y)) = (a.items(), b.items()) else { return false };
    if x.len() != y.len() {
        return false;
    }
    let kind = match (a, b) {
        (Val::Json(_, Some(shape)), _) | (_, Val::Json(_, Some(shape))) => shape.list_kind(),
        _ => &ListKind::Atomic,
    };
    match kind {
        ListKind::Atomic => x.iter().zip(&y).all(|(x, y)| equal(x, y)),
        ListKind::Set | ListKind::Map(_) => x.iter().all(|x| y.iter().any(|y| equal(x, y))),
    }
}

fn maps_equal(a: &Val<'_>, b: &Val<'_>) -> bool {
    let (Some(x), Some(y)) = (a.entries(), b.entries()) else { return false };
    x.len() == y.len() && x.iter().all(|(k, v)| b.get(k).is_some_and(|other| equal(v, &other)))
}

fn contains(item: &Val<'_>, of: &Val<'_>) -> Result<bool> {
    if let Val::Optional(_) = of {
        return Err(Fault::no_such_overload());
    }
    if let Some(items) = of.items() {
        return Ok(items.iter().any(|x| equal(x, item)));
    }
    if of.is_map() {
        return Ok(of.get(item).is_some());
    }
    Err(Fault::no_such_overload())
}

fn as_index(v: &Val<'_>) -> Option<i64> {
    match v {
        Val::Int(i) => Some(*i),
        Val::Uint(u) => i64::try_from(*u).ok(),
        Val::Double(d) if d.fract() == 0.0 => Some(*d as i64),
        _ => None,
    }
}

/// The element of a list, without making values of the others.
fn element<'a>(of: &Val<'a>, at: i64) -> Option<Val<'a>> {
    let at = usize::try_from(at).ok()?;
    match of {
        Val::List(l) => l.get(at).cloned(),
        Val::Json(Json::Array(a), shape) => a.get(at).map(|v| Val::shaped(v, shape.and_then(|s| s.items()))),
        _ => None,
    }
}

fn index<'a>(of: &Val<'a>, at: &Val<'a>) -> Result<Val<'a>> {
    match of {
        Val::Optional(None) => Ok(Val::Optional(None)),
        Val::Optional(Some(v)) => Ok(optional_index(v, at)),
        list if list.is_list() => {
            let i = as_index(at).ok_or_else(|| no_index(at))?;
            element(list, i).ok_or_else(|| Fault::error(format!("index out of bounds: {i}")))
        }
        map if map.is_map() => map.get(at).ok_or_else(|| {
            let key = match at {
                Val::Str(s) => s.to_string(),
                other => other.to_json().map(|j| j.to_string()).unwrap_or_default(),
            };
            Fault::error(format!("no such key: {key}"))
        }),
        _ => Err(Fault::error(format!(
            "no such key: {}",
            at.to_json().map(|j| j.to_string()).unwrap_or_default()
        ))),
    }
}

fn no_index(at: &Val<'_>) -> Fault {
    Fault::error(format!("unsupported index type '{}' in list", at.type_name()))
}

fn optional_index<'a>(of: &Val<'a>, at: &Val<'a>) -> Val<'a> {
    let found = match of {
        Val::Optional(None) => None,
        Val::Optional(Some(v)) => return optional_index(v, at),
        list if list.is_list() => as_index(at).and_then(|i| element(list, i)),
        map => map.get(at),
    };
    Val::Optional(found.map(Arc::new))
}

/// A tenth of a length, as passing over a text costs.
fn pass(weight: u64) -> u64 {
    weight.div_ceil(10)
}

fn traversal(v: &Val<'_>) -> u64 {
    match v {
        Val::Str(s) => s.len() as u64 / 10,
        Val::Bytes(b) => b.len() as u64 / 10,
        list if list.is_list() => list.items().unwrap_or_default().iter().map(traversal).sum(),
        map if map.is_map() => {
            map.entries().unwrap_or_default().iter().map(|(k, v)| traversal(k) + traversal(v)).sum()
        }
        _ => 1,
    }
}

/// What comparing all elements of a list with each other costs.
fn compared_with_itself(list: Option<&Val<'_>>) -> u64 {
    let Some(list) = list else { return 0 };
    let n = list.weight();
    let square = n.saturating_mul(n);
    let texts = matches!(element(list, 0), Some(Val::Str(_) | Val::Bytes(_)));
    square.saturating_mul(2).saturating_add(if texts { square / 10 } else { 0 })
}

/// What a call costs, as upstream reckons.
pub fn price(name: &str, args: &[Val<'_>]) -> u64 {
    let weight = |i: usize| args.get(i).map_or(1, Val::weight);
    let regex = || pass(1 + weight(0)) * weight(1).div_ceil(4);
    match name {
        "check" if matches!(args.first(), Some(Val::Authz(_))) => 350_000,
        "fieldSelector" | "labelSelector" => LIST_BASE + pass(weight(1)) + weight(1).div_ceil(2) * 50,
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => args.first().map_or(0, traversal),
        "url"
        | "lowerAscii"
        | "upperAscii"
        | "substring"
        | "trim"
        | "jsonpatch.escapeKey"
        | "cidr"
        | "isIP"
        | "isCIDR"
        | "quantity"
        | "isQuantity"
        | "semver"
        | "isSemver" => pass(weight(0)),
        "ip" if matches!(args.first(), Some(Val::Str(_))) => pass(weight(0)),
        "replace" | "split" | "ip.isCanonical" => pass(2 * weight(0)),
        "find" | "findAll" | "matches" => regex(),
        "containsIP" => {
            pass(2 * weight(0)) + if matches!(args.get(1), Some(Val::Str(_))) { pass(weight(1)) } else { 0 }
        }
        "containsCIDR" => {
            let parse = if matches!(args.get(1), Some(Val::Str(_))) { pass(weight(1)) } else { 0 };
            pass(2 * weight(0)) + pass(weight(0)) + 1 + parse
        }
        "validate" => match args.first() {
            Some(Val::Format(f)) => pass(1 + weight(1)) * f.regex_size.div_ceil(4),
            _ => 1,
        },
        "_==_" | "_!=_" => match args.first() {
            Some(
                Val::Quantity(_)
                | Val::Ip(_)
                | Val::Cidr(_)
                | Val::Format(_)
                | Val::Url(_)
                | Val::Semver(_)
                | Val::Authz(_),
            ) => 1,
            _ => pass(weight(0).min(weight(1))),
        },
        "startsWith" | "endsWith" | "strings.quote" | "format" => pass(weight(0)),
        "bytes" | "string" if matches!(args.first(), Some(Val::Str(_) | Val::Bytes(_))) => pass(weight(0)),
        "@in" if args.get(1).is_some_and(Val::is_list) => weight(1),
        "_<_" | "_<=_" | "_>_" | "_>=_" if matches!(args.first(), Some(Val::Str(_) | Val::Bytes(_))) => {
            pass(weight(0).min(weight(1)))
        }
        "_+_" if matches!(args.first(), Some(Val::Str(_) | Val::Bytes(_))) => pass(weight(0) + weight(1)),
        "contains" => pass(weight(0)) * pass(weight(1)),
        "sets.contains" | "sets.intersects" => 1 + weight(0).saturating_mul(weight(1)),
        "sets.equivalent" => 1 + weight(0).saturating_mul(weight(1)).saturating_mul(2),
        "distinct" | "sort" => 11 + compared_with_itself(args.first()),
        "@sortByAssociatedKeys" => 11 + compared_with_itself(args.get(1)),
        "flatten" => match args.get(1) {
            Some(Val::Int(depth)) => 11 + weight(0).saturating_mul(u64::try_from(*depth).unwrap_or_default()),
            _ => 11 + weight(0),
        },
        "slice" => match (args.get(1), args.get(2)) {
            (Some(Val::Int(a)), Some(Val::Int(b))) => {
                11 + u64::try_from(b.saturating_sub(*a)).unwrap_or_default()
            }
            _ => 11,
        },
        "reverse" if args.first().is_some_and(Val::is_list) => 11 + weight(0),
        "lists.range" => match args.first() {
            Some(Val::Int(n)) => 11 + u64::try_from(*n).unwrap_or_default(),
            _ => 11,
        },
        "join" => 1,
        _ => 1,
    }
}

const LIST_BASE: u64 = 10;

/// The key of a map that a value is.
pub fn key(v: &Val<'_>) -> Result<Key> {
    Key::of(v).ok_or_else(|| Fault::error("unsupported key type"))
}
