//! Lists and sets.

use crate::error::{Fault, Result};
use crate::ops::{compare, equal};
use crate::value::Val;
use std::cmp::Ordering;

/// The most elements that `range` and `flatten` may make.
const MAX_ITEMS: usize = 1_000_000;

pub fn call<'a>(name: &str, args: &[Val<'a>]) -> Result<Val<'a>> {
    let items = args.first().and_then(Val::items).ok_or_else(Fault::no_such_overload)?;
    match (name, &args[1..]) {
        ("isSorted", []) => {
            for pair in items.windows(2) {
                if ordered(&pair[0], &pair[1])?.is_gt() {
                    return Ok(Val::Bool(false));
                }
            }
            Ok(Val::Bool(true))
        }
        ("sum", []) => sum(items),
        ("min" | "max", []) => extreme(name, items),
        ("indexOf", [of]) => Ok(position(items.iter().position(|x| equal(x, of)))),
        ("lastIndexOf", [of]) => Ok(position(items.iter().rposition(|x| equal(x, of)))),
        ("slice", [Val::Int(from), Val::Int(to)]) => slice(&items, *from, *to),
        ("flatten", []) => flatten(items, 1),
        ("flatten", [Val::Int(depth)]) if *depth >= 0 => flatten(items, (*depth).min(100)),
        ("flatten", [Val::Int(_)]) => Err(Fault::error("level must be non-negative")),
        ("distinct", []) => {
            let mut seen: Vec<Val<'a>> = Vec::new();
            for item in items {
                if !seen.iter().any(|x| equal(x, &item)) {
                    seen.push(item);
                }
            }
            Ok(Val::list(seen))
        }
        ("reverse", []) => Ok(Val::list(items.into_iter().rev().collect())),
        ("first", []) => Ok(Val::Optional(items.into_iter().next().map(Into::into))),
        ("last", []) => Ok(Val::Optional(items.into_iter().next_back().map(Into::into))),
        ("sort", []) => sorted(items.clone(), &items),
        ("@sortByAssociatedKeys", [keys]) => {
            let keys = keys.items().ok_or_else(Fault::no_such_overload)?;
            sorted(items, &keys)
        }
        _ => Err(Fault::no_such_overload()),
    }
}

fn position<'a>(at: Option<usize>) -> Val<'a> {
    Val::Int(at.map_or(-1, |i| i as i64))
}

fn ordered(a: &Val<'_>, b: &Val<'_>) -> Result<Ordering> {
    compare(a, b).ok_or_else(Fault::no_such_overload)
}

fn sum<'a>(items: Vec<Val<'a>>) -> Result<Val<'a>> {
    let mut items = items.into_iter();
    let Some(mut total) = items.next() else { return Ok(Val::Int(0)) };
    let overflow = || Fault::error("integer overflow");
    for item in items {
        total = match (total, item) {
            (Val::Int(a), Val::Int(b)) => Val::Int(a.checked_add(b).ok_or_else(overflow)?),
            (Val::Uint(a), Val::Uint(b)) => Val::Uint(a.checked_add(b).ok_or_else(overflow)?),
            (Val::Double(a), Val::Double(b)) => Val::Double(a + b),
            (Val::Duration(a), Val::Duration(b)) => Val::Duration(a.checked_add(b).ok_or_else(overflow)?),
            _ => return Err(Fault::no_such_overload()),
        };
    }
    Ok(total)
}

fn extreme<'a>(name: &str, items: Vec<Val<'a>>) -> Result<Val<'a>> {
    let mut items = items.into_iter();
    let Some(mut best) = items.next() else {
        return Err(Fault::error(format!("{name} called on empty list")));
    };
    for item in items {
        let order = ordered(&item, &best)?;
        if name == "min" && order.is_lt() || name == "max" && order.is_gt() {
            best = item;
        }
    }
    Ok(best)
}

fn slice<'a>(items: &[Val<'a>], from: i64, to: i64) -> Result<Val<'a>> {
    let wrong = |why: &str| Err(Fault::error(format!("cannot slice({from}, {to}), {why}")));
    match (usize::try_from(from), usize::try_from(to)) {
        (Ok(a), Ok(b)) if a > b => wrong("start index must be less than or equal to end index"),
        (Ok(_), Ok(b)) if b > items.len() => wrong(&format!("list is length {}", items.len())),
        (Ok(a), Ok(b)) => Ok(Val::list(items[a..b].to_vec())),
        _ => wrong("negative indexes not supported"),
    }
}

fn flatten<'a>(items: Vec<Val<'a>>, depth: i64) -> Result<Val<'a>> {
    let mut flat = items;
    for _ in 0..depth {
        if !flat.iter().any(Val::is_list) {
            break;
        }
        let mut next = Vec::new();
        for item in flat {
            match item.items() {
                Some(inner) => next.extend(inner),
                None => next.push(item),
            }
            if next.len() > MAX_ITEMS {
                return Err(Fault::Budget);
            }
        }
        flat = next;
    }
    Ok(Val::list(flat))
}

fn sorted<'a>(items: Vec<Val<'a>>, keys: &[Val<'a>]) -> Result<Val<'a>> {
    if items.len() != keys.len() {
        return Err(Fault::no_such_overload());
    }
    for pair in keys.windows(2) {
        ordered(&pair[0], &pair[1]).map_err(|_| Fault::error("list elements must have the same type"))?;
    }
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by(|a, b| compare(&keys[*a], &keys[*b]).unwrap_or(Ordering::Equal));
    Ok(Val::list(order.into_iter().map(|i| items[i].clone()).collect()))
}

pub fn range<'a>(args: &[Val<'a>]) -> Result<Val<'a>> {
    match args {
        [Val::Int(n)] if *n as usize > MAX_ITEMS && *n > 0 => Err(Fault::Budget),
        [Val::Int(n)] => Ok(Val::list((0..*n).map(Val::Int).collect())),
        _ => Err(Fault::no_such_overload()),
    }
}

pub fn sets<'a>(name: &str, args: &[Val<'a>]) -> Result<Val<'a>> {
    let [a, b] = args else { return Err(Fault::no_such_overload()) };
    let (Some(a), Some(b)) = (a.items(), b.items()) else { return Err(Fault::no_such_overload()) };
    let has = |all: &[Val<'a>], x: &Val<'a>| all.iter().any(|y| equal(x, y));
    Ok(Val::Bool(match name {
        "contains" => b.iter().all(|x| has(&a, x)),
        "equivalent" => b.iter().all(|x| has(&a, x)) && a.iter().all(|x| has(&b, x)),
        "intersects" => b.iter().any(|x| has(&a, x)),
        _ => return Err(Fault::no_such_overload()),
    }))
}
