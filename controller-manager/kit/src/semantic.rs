//! Equality as the API means it: an absent field and its zero value are the same.

use serde::Serialize;
use serde_json::Value;

/// Whether two values would be stored alike, taking `null`, `0`, `""`, `false`, `[]` and `{}` for absent.
/// Meant for status objects; a pod template has to be compared exactly (`emptyDir: {}` says something).
pub fn same<T: Serialize>(a: &T, b: &T) -> bool {
    match (serde_json::to_value(a), serde_json::to_value(b)) {
        (Ok(a), Ok(b)) => equal(&a, &b),
        _ => false,
    }
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            x.iter().all(|(k, v)| match y.get(k) {
                Some(w) => equal(v, w),
                None => empty(v),
            }) && y.iter().all(|(k, v)| x.contains_key(k) || empty(v))
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(v, w)| equal(v, w)),
        _ => a == b || (empty(a) && empty(b)),
    }
}

fn empty(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.values().all(empty),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn zero_is_absent_but_values_differ() {
        assert!(same(&json!({"a": 0, "b": {"c": []}}), &json!({})));
        assert!(!same(&json!({"a": 1}), &json!({})));
        assert!(!same(&json!({"a": [0]}), &json!({"a": []})));
        assert!(same(&json!({"a": [{"b": ""}]}), &json!({"a": [{}]})));
    }
}
