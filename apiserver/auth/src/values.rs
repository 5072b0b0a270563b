//! Short ways to read objects.

use api::Value;

static NULL: Value = Value::Null;

/// The value at a path of keys, or null.
pub fn at<'a>(v: &'a Value, path: &[&str]) -> &'a Value {
    let mut v = v;
    for key in path {
        v = v.get(*key).unwrap_or(&NULL);
    }
    v
}

pub fn text<'a>(v: &'a Value, path: &[&str]) -> &'a str {
    at(v, path).as_str().unwrap_or("")
}

pub fn items<'a>(v: &'a Value, path: &[&str]) -> &'a [Value] {
    at(v, path).as_array().map_or(&[], Vec::as_slice)
}

/// The strings of a list; other elements are left out.
pub fn strings(v: &Value, path: &[&str]) -> Vec<String> {
    items(v, path).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

pub fn name(v: &Value) -> &str {
    text(v, &["metadata", "name"])
}

pub fn namespace(v: &Value) -> &str {
    text(v, &["metadata", "namespace"])
}

pub fn uid(v: &Value) -> &str {
    text(v, &["metadata", "uid"])
}

/// Deleted for longer than the clocks of a cluster may differ.
pub fn deleted_before(v: &Value, instant: jiff::Timestamp) -> bool {
    match at(v, &["metadata", "deletionTimestamp"]).as_str() {
        None => false,
        Some(t) => t.parse::<jiff::Timestamp>().is_ok_and(|t| t < instant),
    }
}
