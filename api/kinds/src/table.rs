//! Words and shapes of the cells that `kubectl get` shows.

use crate::value::Get;
use api::Value;
pub use api::time::human_duration;
use jiff::Timestamp;
use std::collections::BTreeSet;

pub const NONE: &str = "<none>";
pub const UNSET: &str = "<unset>";

pub fn time(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// How long ago a timestamp was.
pub fn since(text: &str) -> String {
    match time(text) {
        Some(t) => human_duration(seconds_between(t, Timestamp::now())),
        None => "<unknown>".to_owned(),
    }
}

pub fn seconds_between(from: Timestamp, to: Timestamp) -> i64 {
    let nanos = to.as_nanosecond() - from.as_nanosecond();
    i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX)
}

/// The object's age.
pub fn age(object: &Value) -> Value {
    since(object.at("metadata").text("creationTimestamp")).into()
}

pub fn name(object: &Value) -> Value {
    object.at("metadata").text("name").into()
}

/// The text, or `<none>` when it is empty.
pub fn or_none(text: &str) -> Value {
    or(text, NONE)
}

pub fn or(text: &str, otherwise: &str) -> Value {
    if text.is_empty() { otherwise.into() } else { text.into() }
}

/// The text of a field that may be absent, `<unset>` then.
pub fn opt_text(v: Option<&str>) -> Value {
    v.unwrap_or(UNSET).into()
}

/// `a=b,c=d`, or `<none>`.
pub fn labels(map: &Value) -> String {
    let pairs: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() { NONE.to_owned() } else { pairs.join(",") }
}

/// A label selector in its text form; empty for one that selects everything or nothing.
pub fn selector_text(selector: &Value) -> String {
    let mut terms: Vec<(String, String)> = selector
        .entries("matchLabels")
        .map(|(k, v)| (k.to_owned(), format!("{k}={}", v.as_str().unwrap_or_default())))
        .collect();
    for term in selector.list("matchExpressions") {
        let key = term.text("key");
        let mut values: Vec<&str> = term.texts("values").collect();
        values.sort_unstable();
        let values = values.join(",");
        let text = match term.text("operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        };
        terms.push((key.to_owned(), text));
    }
    terms.sort_by(|a, b| a.0.cmp(&b.0));
    terms.into_iter().map(|(_, t)| t).collect::<Vec<_>>().join(",")
}

/// A label selector in its text form, or `<none>`.
pub fn selector(selector: &Value) -> Value {
    or_none(&selector_text(selector))
}

/// Names and images of a pod spec's containers.
pub fn containers(pod_spec: &Value) -> [Value; 2] {
    let join = |field| {
        pod_spec.list("containers").iter().map(|c| c.text(field)).collect::<Vec<_>>().join(",").into()
    };
    [join("name"), join("image")]
}

/// The first three of a list, and how many more there are.
pub fn first_three(items: &[String], empty: &str) -> String {
    match items.len() {
        0 => empty.to_owned(),
        n if n > 3 => format!("{} + {} more...", items[..3].join(","), n - 3),
        _ => items.join(","),
    }
}

/// Addresses of a load balancer, each once, sorted.
pub fn load_balancer(status: &Value) -> String {
    let addresses: BTreeSet<&str> = status
        .at("loadBalancer")
        .list("ingress")
        .iter()
        .map(|i| if i.text("ip").is_empty() { i.text("hostname") } else { i.text("ip") })
        .filter(|a| !a.is_empty())
        .collect();
    addresses.into_iter().collect::<Vec<_>>().join(",")
}

/// An integer or a percentage, printed.
pub fn int_or_string(v: &Value, absent: &str) -> String {
    match v {
        Value::Null => absent.to_owned(),
        Value::String(s) => s.clone(),
        v => v.to_string(),
    }
}

/// A quantity, printed as it stands.
pub fn quantity(v: &Value) -> String {
    int_or_string(v, "0")
}

/// `RWO,ROX,RWX,RWOP`, in that order.
pub fn access_modes(object: &Value) -> String {
    [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ]
    .iter()
    .filter(|(mode, _)| object.texts("accessModes").any(|m| m == *mode))
    .map(|(_, short)| *short)
    .collect::<Vec<_>>()
    .join(",")
}

/// The status of the first condition of that type.
pub fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status.list("conditions").iter().find(|c| c.text("type") == kind)
}

/// Whether the first condition of that type is true.
pub fn condition_true(status: &Value, kind: &str) -> bool {
    condition(status, kind).is_some_and(|c| c.text("status") == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn selectors() {
        let s = json!({"matchLabels": {"b": "1"}, "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "DoesNotExist"}]});
        assert_eq!(selector_text(&s), "a in (x,y),b=1,!c");
        assert_eq!(selector(&json!({})), json!("<none>"));
    }
}
