//! From one type to another.

use crate::error::{Fault, Result};
use crate::time;
use crate::value::Val;

fn range() -> Fault {
    Fault::error("integer overflow")
}

fn bad(value: &Val<'_>, to: &str) -> Fault {
    let from = value.type_of();
    Fault::error(format!("type conversion error from '{from}' to '{to}'"))
}

pub fn convert<'a>(to: &str, args: &[Val<'a>]) -> Result<Val<'a>> {
    let [v] = args else { return Err(Fault::no_such_overload()) };
    converted(to, v).map_err(|why| match why {
        Fault::Error(text) if text == "no such overload" => {
            Fault::error(format!("no such overload: {to}({})", v.type_name()))
        }
        other => other,
    })
}

fn converted<'a>(to: &str, v: &Val<'a>) -> Result<Val<'a>> {
    match to {
        "bool" => match v {
            Val::Bool(_) => Ok(v.clone()),
            Val::Str(s) => match &**s {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Val::Bool(true)),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Val::Bool(false)),
                _ => Err(bad(v, to)),
            },
            _ => Err(Fault::no_such_overload()),
        },
        "bytes" => match v {
            Val::Bytes(_) => Ok(v.clone()),
            Val::Str(s) => Ok(Val::Bytes(s.as_bytes().into())),
            _ => Err(Fault::no_such_overload()),
        },
        "double" => match v {
            Val::Double(_) => Ok(v.clone()),
            Val::Int(i) => Ok(Val::Double(*i as f64)),
            Val::Uint(u) => Ok(Val::Double(*u as f64)),
            Val::Str(s) => s.parse().map(Val::Double).map_err(|_| bad(v, to)),
            _ => Err(Fault::no_such_overload()),
        },
        "duration" => match v {
            Val::Duration(_) => Ok(v.clone()),
            Val::Str(s) => time::parse_duration(s).map(Val::Duration).ok_or_else(|| bad(v, to)),
            _ => Err(Fault::no_such_overload()),
        },
        "timestamp" => match v {
            Val::Timestamp(_) => Ok(v.clone()),
            Val::Int(i) => {
                time::from_seconds(*i).map(Val::Timestamp).ok_or_else(|| Fault::error("timestamp overflow"))
            }
            Val::Str(s) => time::parse_timestamp(s).map(Val::Timestamp).ok_or_else(|| bad(v, to)),
            _ => Err(Fault::no_such_overload()),
        },
        "int" => int(v),
        "uint" => match v {
            Val::Uint(_) => Ok(v.clone()),
            Val::Int(i) => {
                u64::try_from(*i).map(Val::Uint).map_err(|_| Fault::error("unsigned integer overflow"))
            }
            Val::Double(d) if (0.0..1.8e19).contains(d) => Ok(Val::Uint(*d as u64)),
            Val::Double(_) => Err(Fault::error("unsigned integer overflow")),
            Val::Str(s) => s.parse().map(Val::Uint).map_err(|_| bad(v, to)),
            _ => Err(Fault::no_such_overload()),
        },
        _ => text(v),
    }
}

fn int<'a>(v: &Val<'a>) -> Result<Val<'a>> {
    match v {
        Val::Int(_) => Ok(v.clone()),
        Val::Uint(u) => i64::try_from(*u).map(Val::Int).map_err(|_| range()),
        Val::Double(d) if d.abs() < 9.2e18 => Ok(Val::Int(*d as i64)),
        Val::Double(_) => Err(range()),
        Val::Duration(d) => Ok(Val::Int(*d)),
        Val::Timestamp(t) => Ok(Val::Int(time::seconds(*t))),
        Val::Str(s) => s.parse().map(Val::Int).map_err(|_| bad(v, "int")),
        _ => Err(Fault::no_such_overload()),
    }
}

fn text<'a>(v: &Val<'a>) -> Result<Val<'a>> {
    Ok(match v {
        Val::Str(_) => v.clone(),
        Val::Bool(b) => Val::str(b.to_string()),
        Val::Int(i) => Val::str(i.to_string()),
        Val::Uint(u) => Val::str(u.to_string()),
        Val::Double(d) => Val::str(double_text(*d)),
        Val::Duration(d) => Val::str(time::duration_text(*d)),
        Val::Timestamp(t) => Val::str(time::text(*t)),
        Val::Bytes(b) => match std::str::from_utf8(b) {
            Ok(s) => super::own(s),
            Err(_) => return Err(Fault::error("invalid UTF-8 in bytes, cannot convert to string")),
        },
        Val::Ip(ip) => Val::str(ip.to_string()),
        Val::Cidr(c) => Val::str(c.to_string()),
        _ => return Err(Fault::no_such_overload()),
    })
}

/// As short as it can be read back.
pub fn double_text(d: f64) -> String {
    if d.is_nan() {
        "NaN".to_owned()
    } else if d.is_infinite() {
        if d > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() }
    } else if d != 0.0 && !(1e-4..1e6).contains(&d.abs()) {
        let text = format!("{d:e}");
        match text.split_once('e') {
            Some((digits, exponent)) => {
                let n: i32 = exponent.parse().unwrap_or_default();
                format!("{digits}e{}{:02}", if n < 0 { '-' } else { '+' }, n.abs())
            }
            None => text,
        }
    } else {
        d.to_string()
    }
}
