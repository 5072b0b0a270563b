//! `'…'.format([…])`: %s, %d, %f, %e, %b, %o, %x and %X.

use super::MAX_RESULT;
use crate::error::{Fault, Result};
use crate::library::convert::double_text;
use crate::time;
use crate::types::Type;
use crate::value::{Val, type_name};

/// A piece of a template.
pub enum Piece {
    Text(String),
    /// The verb, and how many digits it asks for.
    Clause(char, Option<usize>),
}

/// The pieces of a template.
pub fn pieces(template: &str) -> Result<Vec<Piece>> {
    let (mut pieces, mut text) = (Vec::new(), String::new());
    let mut chars = template.chars().peekable();
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
            while let Some(d) = chars.next_if(char::is_ascii_digit) {
                digits.push(d);
            }
            let n: usize = digits.parse().map_err(|_| {
                Fault::error("could not parse formatting clause: error while parsing precision: could not find end of precision specifier")
            })?;
            precision = Some(n.min(100));
        }
        let verb = chars.next().ok_or_else(|| Fault::error("unexpected end of string"))?;
        if !"sdfebxXo".contains(verb) {
            return Err(Fault::error(format!(
                "could not parse formatting clause: unrecognized formatting clause \"{verb}\""
            )));
        }
        pieces.push(Piece::Text(std::mem::take(&mut text)));
        pieces.push(Piece::Clause(verb, precision));
    }
    pieces.push(Piece::Text(text));
    Ok(pieces)
}

pub fn format(template: &str, args: &[Val<'_>]) -> Result<String> {
    let (mut text, mut next) = (String::new(), 0);
    for piece in pieces(template)? {
        match piece {
            Piece::Text(t) => text.push_str(&t),
            Piece::Clause(verb, precision) => {
                let arg = args.get(next).ok_or_else(|| Fault::error(format!("index {next} out of range")))?;
                next += 1;
                text.push_str(&clause(verb, precision, arg)?);
            }
        }
        if text.len() > MAX_RESULT {
            return Err(Fault::Budget);
        }
    }
    Ok(text)
}

/// What a verb is called, and what it takes.
fn takes(verb: char) -> (&'static str, &'static str) {
    match verb {
        's' => {
            ("string", "strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps")
        }
        'd' => ("decimal", "integers"),
        'f' => ("fixed-point", "doubles"),
        'e' => ("scientific", "doubles"),
        'b' => ("binary", "integers and bools"),
        'o' => ("octal", "integers"),
        _ => ("hex", "integers, byte buffers, and strings"),
    }
}

fn unfit(verb: char, given: &str) -> Fault {
    let (name, wanted) = takes(verb);
    Fault::error(format!(
        "error during formatting: {name} clause can only be used on {wanted}, was given {given}"
    ))
}

/// Whether a verb takes values of a type, as far as that is known.
pub fn accepts(verb: char, of: &Type) -> Result<()> {
    let fits = match verb {
        _ if of.is_dyn_or_error() || matches!(of, Type::Param(_)) => true,
        's' => true,
        'd' | 'o' => matches!(of, Type::Int | Type::Uint) || verb == 'd' && matches!(of, Type::Double),
        'f' | 'e' => matches!(of, Type::Double | Type::Int | Type::Uint | Type::String),
        'b' => matches!(of, Type::Int | Type::Uint | Type::Bool),
        _ => matches!(of, Type::Int | Type::Uint | Type::String | Type::Bytes),
    };
    if fits { Ok(()) } else { Err(unfit(verb, &type_name(of))) }
}

fn clause(verb: char, precision: Option<usize>, v: &Val<'_>) -> Result<String> {
    let digits = precision.unwrap_or(6);
    let signed = |i: i64, text: String| if i < 0 { format!("-{text}") } else { text };
    Ok(match (verb, v) {
        ('s', v) => shown(v, true)?,
        ('d', Val::Int(i)) => i.to_string(),
        ('d', Val::Uint(u)) => u.to_string(),
        ('d' | 'f' | 'e', Val::Double(d)) if !d.is_finite() => infinite(*d).to_owned(),
        ('f', Val::Double(d)) => format!("{d:.digits$}"),
        ('f', Val::Int(i)) => format!("{:.digits$}", *i as f64),
        ('f', Val::Uint(u)) => format!("{:.digits$}", *u as f64),
        ('e', Val::Double(d)) => scientific(*d, digits),
        ('e', Val::Int(i)) => scientific(*i as f64, digits),
        ('e', Val::Uint(u)) => scientific(*u as f64, digits),
        ('b', Val::Int(i)) => signed(*i, format!("{:b}", i.unsigned_abs())),
        ('b', Val::Uint(u)) => format!("{u:b}"),
        ('b', Val::Bool(b)) => u8::from(*b).to_string(),
        ('o', Val::Int(i)) => signed(*i, format!("{:o}", i.unsigned_abs())),
        ('o', Val::Uint(u)) => format!("{u:o}"),
        ('x' | 'X', v) => {
            let text = match v {
                Val::Int(i) => signed(*i, format!("{:x}", i.unsigned_abs())),
                Val::Uint(u) => format!("{u:x}"),
                Val::Str(s) => s.bytes().map(|b| format!("{b:02x}")).collect(),
                Val::Bytes(b) => b.iter().map(|b| format!("{b:02x}")).collect(),
                _ => return Err(unfit(verb, &v.type_name())),
            };
            if verb == 'X' { text.to_uppercase() } else { text }
        }
        _ => return Err(unfit(verb, &v.type_name())),
    })
}

fn infinite(d: f64) -> &'static str {
    match d {
        d if d.is_nan() => "NaN",
        d if d > 0.0 => "Infinity",
        _ => "-Infinity",
    }
}

/// As English writes it: `1.5×10⁰³`.
fn scientific(d: f64, digits: usize) -> String {
    const RAISED: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let text = format!("{d:.digits$e}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let n: i32 = exponent.parse().unwrap_or_default();
    let raised: String =
        format!("{:02}", n.abs()).bytes().map(|b| RAISED[usize::from(b - b'0') % 10]).collect();
    format!("{mantissa}×10{}{raised}", if n < 0 { "⁻" } else { "" })
}

/// A value as `%s` shows it; inside of lists and maps texts are quoted.
fn shown(v: &Val<'_>, outside: bool) -> Result<String> {
    Ok(match v {
        Val::Null => "null".to_owned(),
        Val::Bool(b) => b.to_string(),
        Val::Int(i) => i.to_string(),
        Val::Uint(u) => u.to_string(),
        Val::Double(d) if outside => double_text(*d),
        Val::Double(d) if !d.is_finite() => format!("{:?}", infinite(*d)),
        Val::Double(d) => format!("{d:.6}"),
        Val::Str(s) if outside => s.to_string(),
        Val::Str(s) => format!("{:?}", &**s),
        Val::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
        Val::Timestamp(t) if outside => time::text(*t),
        Val::Timestamp(t) => format!("timestamp({:?})", time::text(*t)),
        Val::Duration(d) if outside => time::duration_text(*d),
        Val::Duration(d) => format!("duration({:?})", time::duration_text(*d)),
        Val::Type(t) => type_name(t),
        list if list.is_list() => {
            let items = list.items().unwrap_or_default();
            let items: Vec<String> = items.iter().map(|v| shown(v, false)).collect::<Result<_>>()?;
            format!("[{}]", items.join(", "))
        }
        map if map.is_map() => {
            let entries = map.entries().unwrap_or_default();
            let mut entries: Vec<String> = entries
                .iter()
                .map(|(k, v)| Ok(format!("{}:{}", shown(k, false)?, shown(v, false)?)))
                .collect::<Result<_>>()?;
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
        other => return Err(unfit('s', &other.type_name())),
    })
}
