//! The value types of flags: what each accepts and how lists split.

/// Go's `strconv.ParseBool`.
pub(super) fn parse_bool(s: &str) -> Option<bool> {
    match s {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Go's base-0 integers: decimal, `0x`, `0o`, `0b`, with `_` between digits.
pub(super) fn parse_int(s: &str) -> Option<i64> {
    let (sign, digits) = match s.strip_prefix('-') {
        Some(d) => (-1, d),
        None => (1, s.strip_prefix('+').unwrap_or(s)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        _ => (10, lower.as_str()),
    };
    i128::from_str_radix(&body.replace('_', ""), radix).ok().and_then(|n| i64::try_from(sign * n).ok())
}

/// Why a value does not fit its flag's type.
pub(super) fn check(kind: &str, value: &str) -> Result<(), String> {
    let syntax = |func: &str| format!("strconv.{func}: parsing {value:?}: invalid syntax");
    let range = |func: &str| format!("strconv.{func}: parsing {value:?}: value out of range");
    match kind {
        "bool" => parse_bool(value).map(drop).ok_or_else(|| syntax("ParseBool")),
        "int" | "int64" | "Level" => parse_int(value).map(drop).ok_or_else(|| syntax("ParseInt")),
        "int32" => match parse_int(value) {
            None => Err(syntax("ParseInt")),
            Some(n) => i32::try_from(n).map(drop).map_err(|_| range("ParseInt")),
        },
        "uint" => parse_int(value).filter(|n| *n >= 0).map(drop).ok_or_else(|| syntax("ParseUint")),
        "float32" | "float64" => value.parse::<f64>().map(drop).map_err(|_| syntax("ParseFloat")),
        "duration" => crate::duration::parse_nanos(value)
            .map(drop)
            .ok_or_else(|| format!("time: invalid duration {value:?}")),
        "ip" => match value.trim() {
            "" => Ok(()),
            ip => {
                ip.parse::<std::net::IpAddr>().map(drop).map_err(|_| format!("failed to parse IP: {value:?}"))
            }
        },
        "mapStringBool" => pairs(value, |v| parse_bool(v).is_some()),
        "mapStringString" | "stringToString" => pairs(value, |_| true),
        "int32Slice" => match split("stringSlice", value).iter().all(|n| parse_int(n).is_some()) {
            true => Ok(()),
            false => Err(syntax("ParseInt")),
        },
        _ => Ok(()),
    }
}

fn pairs(value: &str, good: impl Fn(&str) -> bool) -> Result<(), String> {
    for pair in value.split(',').filter(|p| !p.trim().is_empty()) {
        match pair.split_once('=') {
            None => return Err(format!("malformed pair, expect string=value: {pair}")),
            Some((k, v)) if !good(v.trim()) => {
                return Err(format!(
                    "invalid value of {}: {}, err: strconv.ParseBool: parsing {:?}: invalid syntax",
                    k.trim(),
                    v.trim(),
                    v.trim()
                ));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// The elements of one occurrence of a list flag; CSV quoting keeps commas together.
pub(super) fn split(kind: &str, value: &str) -> Vec<String> {
    if value.is_empty() {
        return Vec::new();
    }
    // These types take one element an occurrence, in which a comma may be part of the element.
    if matches!(kind, "stringArray" | "namedCertKey") {
        return vec![value.to_owned()];
    }
    let mut out = vec![String::new()];
    let mut quoted = false;
    for c in value.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(String::new()),
            _ => {
                if let Some(last) = out.last_mut() {
                    last.push(c);
                }
            }
        }
    }
    out
}

/// The elements of a default, which pflag prints in brackets.
pub(super) fn split_default(kind: &str, default: &str) -> Vec<String> {
    let inner = default.strip_prefix('[').and_then(|d| d.strip_suffix(']')).unwrap_or(default);
    split(if kind == "stringArray" { "stringSlice" } else { kind }, inner)
}
