//! Terse access to dynamic objects. An absent field, a null and a field of the wrong type read as
//! the zero value, so that a chain of reads needs no checks on its way.

use api::quantity::Quantity;
use api::{Map, Value};

static NULL: Value = Value::Null;

/// Reading.
pub trait Get {
    /// The field, or `Null`.
    fn at(&self, key: &str) -> &Value;

    /// Present and not null.
    fn has(&self, key: &str) -> bool {
        !self.at(key).is_null()
    }
    fn text(&self, key: &str) -> &str {
        self.at(key).as_str().unwrap_or_default()
    }
    fn opt_text(&self, key: &str) -> Option<&str> {
        self.at(key).as_str()
    }
    fn int(&self, key: &str) -> i64 {
        self.at(key).as_i64().unwrap_or_default()
    }
    fn opt_int(&self, key: &str) -> Option<i64> {
        self.at(key).as_i64()
    }
    fn flag(&self, key: &str) -> bool {
        self.at(key).as_bool().unwrap_or_default()
    }
    fn opt_flag(&self, key: &str) -> Option<bool> {
        self.at(key).as_bool()
    }
    fn list(&self, key: &str) -> &[Value] {
        self.at(key).as_array().map(Vec::as_slice).unwrap_or_default()
    }
    /// The strings of a list of strings.
    fn texts<'a>(&'a self, key: &str) -> impl DoubleEndedIterator<Item = &'a str> + Clone {
        self.list(key).iter().map(|v| v.as_str().unwrap_or_default())
    }
    /// The entries of a map, sorted by key.
    fn entries<'a>(&'a self, key: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.at(key).as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), v))
    }
    fn len(&self, key: &str) -> usize {
        match self.at(key) {
            Value::Array(a) => a.len(),
            Value::Object(m) => m.len(),
            Value::String(s) => s.len(),
            _ => 0,
        }
    }
}

impl Get for Value {
    fn at(&self, key: &str) -> &Value {
        match self {
            Value::Object(m) => m.get(key).unwrap_or(&NULL),
            _ => &NULL,
        }
    }
}

/// Writing. Everything does nothing on a value that is not an object.
pub trait Put {
    fn set(&mut self, key: &str, v: impl Into<Value>);
    fn unset(&mut self, key: &str) -> Option<Value>;
    /// The field, if it is there and not null.
    fn sub(&mut self, key: &str) -> Option<&mut Value>;
    /// The field, made an empty object if it is absent.
    fn ensure(&mut self, key: &str) -> &mut Value;
    /// The items of a list; none if absent.
    fn items(&mut self, key: &str) -> std::slice::IterMut<'_, Value>;
    /// Sets the field if it is absent.
    fn fill(&mut self, key: &str, v: impl Into<Value>);
    /// Sets the field if it is absent or the zero value of its type.
    fn fill_zero(&mut self, key: &str, v: impl Into<Value>);
    /// Takes over the field from another object, or its absence.
    fn copy_from(&mut self, other: &Value, key: &str);
}

impl Put for Value {
    fn set(&mut self, key: &str, v: impl Into<Value>) {
        if let Value::Object(m) = self {
            m.insert(key.to_owned(), v.into());
        }
    }
    fn unset(&mut self, key: &str) -> Option<Value> {
        self.as_object_mut()?.remove(key)
    }
    fn sub(&mut self, key: &str) -> Option<&mut Value> {
        self.as_object_mut()?.get_mut(key).filter(|v| !v.is_null())
    }
    fn ensure(&mut self, key: &str) -> &mut Value {
        // Decoding has made sure that what stands above a field is an object; anything else is overwritten.
        if !self.is_object() {
            *self = Value::Object(Map::new());
        }
        let slot = &mut self[key];
        if slot.is_null() {
            *slot = Value::Object(Map::new());
        }
        slot
    }
    fn items(&mut self, key: &str) -> std::slice::IterMut<'_, Value> {
        match self.sub(key) {
            Some(Value::Array(a)) => a.iter_mut(),
            _ => [].iter_mut(),
        }
    }
    fn fill(&mut self, key: &str, v: impl Into<Value>) {
        if !self.has(key) {
            self.set(key, v);
        }
    }
    fn fill_zero(&mut self, key: &str, v: impl Into<Value>) {
        if is_zero(self.at(key)) {
            self.set(key, v);
        }
    }
    fn copy_from(&mut self, other: &Value, key: &str) {
        match other.at(key) {
            Value::Null => {
                self.unset(key);
            }
            v => self.set(key, v.clone()),
        }
    }
}

/// Null, `""`, `0`, `false`, `[]` or `{}`: what the wire form leaves out.
pub fn is_zero(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(m) => m.is_empty(),
    }
}

/// Fields that hold quantities or maps of them: equal when their amounts are.
const QUANTITIES: &[&str] =
    &["requests", "limits", "capacity", "allocatable", "hard", "overhead", "sizeLimit", "divisor", "used"];

/// Whether two objects mean the same: absent is zero, amounts are compared as amounts.
pub fn same(a: &Value, b: &Value) -> bool {
    a == b || same_in(a, b, false)
}

fn same_in(a: &Value, b: &Value, amounts: bool) -> bool {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let one = |k: &str, v: &Value, other: &Map<String, Value>| match other.get(k) {
                Some(w) => same_in(v, w, amounts || QUANTITIES.contains(&k)),
                None => is_zero(v) || all_zero(v),
            };
            x.iter().all(|(k, v)| one(k, v, y)) && y.iter().all(|(k, v)| x.contains_key(k) || one(k, v, x))
        }
        (Value::Array(x), Value::Array(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(v, w)| same_in(v, w, amounts))
        }
        (Value::String(x), Value::String(y)) => x == y || (amounts && same_amount(x, y)),
        (Value::Null, v) | (v, Value::Null) => is_zero(v) || all_zero(v),
        _ => a == b,
    }
}

/// Whether two decoded values are one: only lists may be absent or empty, and amounts be written
/// in two ways.
pub fn identical(a: &Value, b: &Value) -> bool {
    fn inner(a: &Value, b: &Value, amounts: bool) -> bool {
        let none = |v: &Value| v.is_null() || v.as_array().is_some_and(Vec::is_empty);
        match (a, b) {
            (Value::Object(x), Value::Object(y)) => x.keys().chain(y.keys()).all(|k| {
                let amounts = amounts || QUANTITIES.contains(&k.as_str());
                inner(x.get(k).unwrap_or(&NULL), y.get(k).unwrap_or(&NULL), amounts)
            }),
            (Value::Array(x), Value::Array(y)) => {
                x.len() == y.len() && x.iter().zip(y).all(|(v, w)| inner(v, w, amounts))
            }
            (Value::String(x), Value::String(y)) => x == y || (amounts && same_amount(x, y)),
            _ => a == b || (none(a) && none(b)),
        }
    }
    inner(a, b, false)
}

/// An object whose every field is zero, as decoding and encoding may leave behind.
fn all_zero(v: &Value) -> bool {
    v.as_object().is_some_and(|m| m.values().all(|v| is_zero(v) || all_zero(v)))
}

pub fn same_amount(a: &str, b: &str) -> bool {
    match (amount(a), amount(b)) {
        (Some(x), Some(y)) => x == y,
        _ => false,
    }
}

/// A quantity as an amount of billionths; none if the text is not one.
pub fn amount(text: &str) -> Option<i128> {
    Quantity::parse(text).ok().map(|q| q.nano_value())
}

/// The quantity under a key of a map of quantities.
pub fn amount_of(map: &Value, key: &str) -> Option<i128> {
    amount_value(map.at(key))
}

/// A quantity that is written as text or as a bare number.
pub fn amount_value(v: &Value) -> Option<i128> {
    if v.is_null() { None } else { Quantity::from_value(v).ok().map(|q| q.nano_value()) }
}

/// One whole unit, in billionths.
pub const ONE: i128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn amounts() {
        for (text, want) in [
            ("1", Some(ONE)),
            ("100m", Some(ONE / 10)),
            ("1.5Gi", Some(ONE * (3 << 29))),
            ("1e3", Some(ONE * 1000)),
            ("1E3", Some(ONE * 1000)),
            ("2E", Some(ONE * 2 * 10i128.pow(18))),
            ("-.5", Some(-ONE / 2)),
            ("", None),
            ("1x", None),
            ("1.2.3", None),
        ] {
            assert_eq!(amount(text), want, "{text}");
        }
    }

    #[test]
    fn sameness() {
        assert!(same(&json!({"a": {}, "requests": {"cpu": "1000m"}}), &json!({"requests": {"cpu": "1"}})));
        assert!(same(&json!({"a": [], "b": 0}), &json!({"c": ""})));
        assert!(!same(&json!({"image": "1"}), &json!({"image": "1000m"})));
        assert!(!same(&json!({"a": [1]}), &json!({"a": [1, 2]})));
        assert!(identical(
            &json!({"a": [], "requests": {"cpu": "1000m"}}),
            &json!({"requests": {"cpu": "1"}})
        ));
        assert!(!identical(&json!({"a": {}}), &json!({})));
        assert!(!identical(&json!({"a": false}), &json!({})));
    }
}
