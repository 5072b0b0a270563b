//! Quantities of resources: `500Mi`, `1.5k`.

use crate::error::{Fault, Result};
use crate::value::Val;
use api::quantity::{Format, Quantity};

pub fn call<'a>(name: &str, args: &[Val<'a>]) -> Result<Val<'a>> {
    let of = |v: &Val<'a>| match v {
        Val::Quantity(q) => Some(*q),
        Val::Int(i) => Some(Quantity::new(*i, Format::DecimalSI)),
        _ => None,
    };
    match (name, args) {
        ("isQuantity", [Val::Str(s)]) => Ok(Val::Bool(Quantity::parse(s).is_ok())),
        ("quantity", [Val::Str(s)]) => Quantity::parse(s).map(Val::Quantity).map_err(|_| {
            Fault::error(
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            )
        }),
        ("sign", [Val::Quantity(q)]) => Ok(Val::Int(q.sign().into())),
        ("isInteger", [Val::Quantity(q)]) => Ok(Val::Bool(q.is_integer())),
        ("asInteger", [Val::Quantity(q)]) if q.is_integer() && q.as_f64().abs() < 9.2e18 => {
            Ok(Val::Int(q.value()))
        }
        ("asInteger", [Val::Quantity(_)]) => Err(Fault::error("cannot convert value to integer")),
        ("asApproximateFloat", [Val::Quantity(q)]) => Ok(Val::Double(q.as_f64())),
        ("isGreaterThan", [Val::Quantity(a), Val::Quantity(b)]) => Ok(Val::Bool(a > b)),
        ("isLessThan", [Val::Quantity(a), Val::Quantity(b)]) => Ok(Val::Bool(a < b)),
        ("compareTo", [Val::Quantity(a), Val::Quantity(b)]) => Ok(Val::Int(match a.partial_cmp(b) {
            Some(std::cmp::Ordering::Less) => -1,
            Some(std::cmp::Ordering::Greater) => 1,
            _ => 0,
        })),
        ("add" | "sub", [Val::Quantity(a), b]) => {
            let b = of(b).ok_or_else(Fault::no_such_overload)?;
            Ok(Val::Quantity(if name == "add" { a.add(b) } else { a.sub(b) }))
        }
        _ => Err(Fault::no_such_overload()),
    }
}
