//! The functions: CEL's own, and Kubernetes' libraries.

pub mod convert;
pub mod formats;
pub mod lists;
pub mod net;
pub mod optional;
pub mod quantity;
pub mod semver;
pub mod strings;
pub mod url;

use crate::error::{Fault, Result};
use crate::patterns;
use crate::time;
use crate::value::{Key, Text, Val};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Calls a function; of a member function the receiver is the first argument.
pub fn call<'a>(name: &str, member: bool, args: Vec<Val<'a>>) -> Result<Val<'a>> {
    if let Some((prefix, rest)) = name.split_once('.') {
        return namespaced(prefix, rest, args);
    }
    match name {
        "size" => match args.first().and_then(Val::size) {
            Some(n) => Ok(Val::Int(n as i64)),
            None => Err(Fault::no_such_overload()),
        },
        "type" => args.first().map(|v| Val::Type(Box::new(v.type_of()))).ok_or_else(Fault::no_such_overload),
        "dyn" => args.into_iter().next().ok_or_else(Fault::no_such_overload),
        "bool" | "bytes" | "double" | "duration" | "int" | "string" | "timestamp" | "uint" if !member => {
            convert::convert(name, &args)
        }
        "contains" | "endsWith" | "startsWith" | "matches" => test(name, &args),
        "url" | "isURL" | "getScheme" | "getHost" | "getHostname" | "getPort" | "getEscapedPath"
        | "getQuery" => url::call(name, &args),
        "quantity" | "isQuantity" | "sign" | "asApproximateFloat" | "asInteger" | "isInteger" | "add"
        | "sub" => quantity::call(name, &args),
        "semver" | "isSemver" | "major" | "minor" | "patch" => semver::call(name, &args),
        "isGreaterThan" | "isLessThan" | "compareTo" => match args.first() {
            Some(Val::Semver(_)) => semver::call(name, &args),
            _ => quantity::call(name, &args),
        },
        "isIP"
        | "isCIDR"
        | "ip"
        | "cidr"
        | "family"
        | "isUnspecified"
        | "isLoopback"
        | "isLinkLocalMulticast"
        | "isLinkLocalUnicast"
        | "isGlobalUnicast"
        | "containsIP"
        | "containsCIDR"
        | "prefixLength"
        | "masked" => net::call(name, &args),
        "validate" => formats::validate(&args),
        "value" | "hasValue" => optional::call(name, &args),
        "unwrapOpt" => optional::unwrap(&args),
        "indexOf" | "lastIndexOf" if args.first().is_some_and(Val::is_list) => lists::call(name, &args),
        "isSorted"
        | "sum"
        | "min"
        | "max"
        | "slice"
        | "flatten"
        | "distinct"
        | "reverse"
        | "first"
        | "last"
        | "sort"
        | "@sortByAssociatedKeys" => lists::call(name, &args),
        _ if name.starts_with("get") => part(name, &args),
        _ => strings::call(name, &args),
    }
}

fn namespaced<'a>(prefix: &str, name: &str, args: Vec<Val<'a>>) -> Result<Val<'a>> {
    match (prefix, name) {
        ("optional", "of" | "none" | "ofNonZeroValue") => optional::make(name, args),
        ("optional", "unwrap") => optional::unwrap(&args),
        ("sets", _) => lists::sets(name, &args),
        ("lists", "range") => lists::range(&args),
        ("strings", "quote") => match args.first() {
            Some(Val::Str(s)) => Ok(Val::str(strings::quote(s))),
            _ => Err(Fault::no_such_overload()),
        },
        ("ip", "isCanonical") => net::call("ip.isCanonical", &args),
        ("format", _) => formats::named(name, &args),
        ("cel", "@mapInsert") => insert(args),
        ("jsonpatch", "escapeKey") => match args.first() {
            Some(Val::Str(s)) => Ok(Val::str(s.replace('~', "~0").replace('/', "~1"))),
            _ => Err(Fault::no_such_overload()),
        },
        _ => Err(Fault::no_such_overload()),
    }
}

/// Adds entries to the map that a macro collects.
fn insert<'a>(args: Vec<Val<'a>>) -> Result<Val<'a>> {
    let mut args = args.into_iter();
    let (Some(Val::Map(mut map)), first, second) = (args.next(), args.next(), args.next()) else {
        return Err(Fault::no_such_overload());
    };
    let into: &mut BTreeMap<Key, Val<'a>> = Arc::make_mut(&mut map);
    let mut put = |k: Val<'a>, v: Val<'a>| {
        let key = crate::ops::key(&k)?;
        match into.insert(key, v) {
            None => Ok(()),
            Some(_) => {
                let shown = k.to_json().map(|j| j.to_string()).unwrap_or_default();
                Err(Fault::error(format!("insert failed: key {shown} already exists")))
            }
        }
    };
    match (first, second) {
        (Some(k), Some(v)) => put(k, v)?,
        (Some(more), None) => {
            for (k, v) in more.entries().ok_or_else(Fault::no_such_overload)? {
                put(k, v)?;
            }
        }
        _ => return Err(Fault::no_such_overload()),
    }
    Ok(Val::Map(map))
}

fn test<'a>(name: &str, args: &[Val<'a>]) -> Result<Val<'a>> {
    let [Val::Str(s), Val::Str(of)] = args else { return Err(Fault::no_such_overload()) };
    Ok(Val::Bool(match name {
        "contains" => s.contains(&**of),
        "endsWith" => s.ends_with(&**of),
        "startsWith" => s.starts_with(&**of),
        _ => patterns::compiled(of).map_err(Fault::error)?.is_match(s),
    }))
}

/// Parts of times and durations.
fn part<'a>(name: &str, args: &[Val<'a>]) -> Result<Val<'a>> {
    match args {
        [Val::Timestamp(t)] => time::part(*t, name, None).map(Val::Int),
        [Val::Timestamp(t), Val::Str(zone)] => time::part(*t, name, Some(zone)).map(Val::Int),
        [Val::Duration(d)] => Ok(Val::Int(match name {
            "getHours" => d / 3_600_000_000_000,
            "getMinutes" => d / 60_000_000_000,
            "getSeconds" => d / 1_000_000_000,
            "getMilliseconds" => d / 1_000_000 % 1000,
            _ => return Err(Fault::no_such_overload()),
        })),
        _ => Err(Fault::no_such_overload()),
    }
}

pub(crate) fn own<'a>(s: &str) -> Val<'a> {
    Val::Str(Text::Own(s.into()))
}
