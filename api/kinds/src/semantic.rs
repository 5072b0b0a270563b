//! Whether two objects of a type mean the same: what is a pointer is there or not, whatever it points to; for
//! other fields nothing and zero are one, as are no list and an empty one, and amounts however they are written.

use crate::value::{Get, is_zero, same_amount};
use api::Value;
use api::schema::{Field, Label, Message, Special};

/// By the full name of a message. A type that nobody knows is compared as it stands.
pub fn equal(message: &str, a: &Value, b: &Value) -> bool {
    a == b || api::schema::message(message).is_some_and(|m| fields(m, a, b))
}

/// As [`equal`], of one field of two objects.
pub fn equal_in(message: &str, name: &str, a: &Value, b: &Value) -> bool {
    let found = api::schema::message(message).and_then(|m| m.field(name));
    found.map_or(a == b, |f| field(f, a.at(name), b.at(name)))
}

fn fields(m: &'static Message, a: &Value, b: &Value) -> bool {
    m.flat().iter().all(|f| field(f.field, a.at(f.name), b.at(f.name)))
}

fn field(f: &'static Field, a: &Value, b: &Value) -> bool {
    match f.label {
        Label::List => {
            let (a, b) = (items(a), items(b));
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| element(f, a, b))
        }
        Label::Map => {
            let one = |a: &Value, b: &Value| {
                let mut keys = a.as_object().into_iter().flatten();
                keys.all(|(k, v)| b.as_object().and_then(|b| b.get(k)).is_some_and(|w| element(f, v, w)))
            };
            one(a, b) && one(b, a)
        }
        Label::One if f.nullable && a.is_null() != b.is_null() => false,
        Label::One => element(f, a, b),
    }
}

fn items(v: &Value) -> &[Value] {
    v.as_array().map_or(&[], Vec::as_slice)
}

fn element(f: &'static Field, a: &Value, b: &Value) -> bool {
    if a == b {
        return true;
    }
    match f.message().map(|m| (m, m.special)) {
        Some((m, None)) => fields(m, a, b),
        Some((_, Some(Special::Quantity))) => {
            matches!((a.as_str(), b.as_str()), (Some(a), Some(b)) if same_amount(a, b))
        }
        _ => is_zero(a) && is_zero(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn pointers_are_there_or_not() {
        let spec = "k8s.io.api.core.v1.PodSpec";
        for (a, b, want) in [
            (json!({"affinity": {}}), json!({}), false),
            (json!({"nodeName": "", "hostNetwork": false, "volumes": []}), json!({}), true),
            (json!({"hostnameOverride": ""}), json!({}), false),
            (json!({"nodeSelector": {"a": ""}}), json!({}), false),
            (json!({"nodeSelector": {}}), json!({}), true),
            (json!({"overhead": {"cpu": "1"}}), json!({"overhead": {"cpu": "1000m"}}), true),
            (json!({"containers": [{"name": "a"}]}), json!({"containers": [{"name": "b"}]}), false),
            (
                json!({"containers": [{"name": "a", "resources": {}}]}),
                json!({"containers": [{"name": "a"}]}),
                true,
            ),
        ] {
            assert_eq!(equal(spec, &a, &b), want, "{a} {b}");
            assert_eq!(equal(spec, &b, &a), want, "{b} {a}");
        }
    }
}
