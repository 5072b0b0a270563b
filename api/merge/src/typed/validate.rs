//! Whether an applied configuration is of its type, down to the last scalar, with the texts that clients know.

use super::*;
use api::print;
use api::schema::{Field, Kind, Label, Message, Special};

/// What a place holds.
#[derive(Clone, Copy, PartialEq)]
enum Holds {
    Struct,
    List,
    Text,
    Number,
    Flag,
    /// Any scalar: quantities, times, ports.
    Scalar,
    Anything,
}

fn of_message(m: &Message) -> Holds {
    match m.special {
        None => Holds::Struct,
        Some(
            Special::Quantity
            | Special::Time
            | Special::Timestamp
            | Special::MicroTime
            | Special::IntOrString,
        ) => Holds::Scalar,
        Some(Special::Duration) => Holds::Text,
        Some(_) => Holds::Anything,
    }
}

fn of_item(f: &Field) -> Holds {
    match f.kind {
        Kind::Message(m) => of_message(m.message()),
        Kind::String | Kind::Bytes => Holds::Text,
        Kind::Bool => Holds::Flag,
        Kind::Int32 | Kind::Int64 | Kind::Double => Holds::Number,
    }
}

fn of_schema(s: &Value) -> Holds {
    if s["x-kubernetes-int-or-string"] == true {
        return Holds::Scalar;
    }
    match s["type"].as_str().unwrap_or_default() {
        "string" => Holds::Text,
        "integer" | "number" => Holds::Number,
        "boolean" => Holds::Flag,
        "array" => Holds::List,
        _ => Holds::Anything,
    }
}

fn holds(ty: Type<'_>) -> Holds {
    match ty {
        Type::Message(m) => of_message(m),
        Type::Field(f) => match f.label {
            Label::List => Holds::List,
            Label::Map => Holds::Struct,
            Label::One => of_item(f),
        },
        Type::Item(f) => of_item(f),
        Type::Schema(s) => of_schema(s),
        Type::Custom(_) | Type::Deduced | Type::Atomic => Holds::Anything,
    }
}

/// Checks an applied configuration: unknown fields, wrong shapes and scalars, duplicate or keyless items.
pub(crate) fn validate(ty: Type<'_>, value: &Value, path: &mut String, errors: &mut Vec<String>) {
    let shape = ty.shape(Some(value), None);
    match (&shape, value, holds(ty)) {
        (_, Value::Null, _) => {}
        (Shape::Map, Value::Object(map), _) | (Shape::Leaf, Value::Object(map), Holds::Struct) => {
            fields(ty, map, path, errors)
        }
        (Shape::Set | Shape::Keyed(_), Value::Array(list), _) => items(ty, &shape, list, path, errors),
        (Shape::Leaf, Value::Array(list), Holds::List) => {
            let start = path.len();
            for (i, item) in list.iter().enumerate() {
                path.push_str(&format!("[{i}]"));
                validate(ty.element(), item, path, errors);
                path.truncate(start);
            }
        }
        (Shape::Leaf, v, holds) => {
            if let Some(why) = wrong(holds, v) {
                errors.push(format!("{path}: {why}"));
            }
        }
        (Shape::Map, v, _) => errors.push(format!("{path}: expected map, got {}", Shown(v))),
        (_, v, _) => errors.push(format!("{path}: expected list, got {}", Shown(v))),
    }
}

fn fields(ty: Type<'_>, map: &api::Map<String, Value>, path: &mut String, errors: &mut Vec<String>) {
    let start = path.len();
    for (key, v) in map {
        path.push('.');
        path.push_str(key);
        match ty.child(key) {
            Some(c) => validate(c.ty, v, path, errors),
            None => errors.push(format!("{path}: field not declared in schema")),
        }
        path.truncate(start);
    }
}

/// The items of a list that are told apart.
fn items(ty: Type<'_>, shape: &Shape<'_>, list: &[Value], path: &mut String, errors: &mut Vec<String>) {
    let start = path.len();
    let mut seen: Vec<Key> = Vec::with_capacity(list.len());
    for (i, item) in list.iter().enumerate() {
        let key = match item_key(shape, ty.element(), item) {
            Ok(key) => key,
            Err(e) => {
                errors.push(format!("{path}: element {i}: {e}"));
                continue;
            }
        };
        let mut one = Set::new();
        one.put(key.clone(), Set::leaf());
        let shown = one.paths().pop().unwrap_or_default();
        if seen.contains(&key) {
            errors.push(format!("{path}: duplicate entries for key {shown}"));
        }
        seen.push(key);
        path.push_str(&shown);
        validate(ty.element(), item, path, errors);
        path.truncate(start);
    }
}

/// Why a value is none of what its place holds.
fn wrong(holds: Holds, v: &Value) -> Option<String> {
    let scalar = v.is_string() || v.is_number() || v.is_boolean();
    match holds {
        Holds::Struct => Some(format!("expected map, got {}", Shown(v))),
        Holds::List => Some(format!("expected list, got {}", Shown(v))),
        Holds::Text if !v.is_string() => {
            Some(format!("expected string, got &value.valueUnstructured{{Value:{}}}", print::syntax(v)))
        }
        Holds::Number if !v.is_number() => {
            Some(format!("expected numeric (int or float), got {}", print::type_of(v)))
        }
        Holds::Flag if !v.is_boolean() => Some(format!("expected boolean, got {}", Shown(v))),
        Holds::Scalar if !scalar => Some(format!("expected any scalar, got {}", Shown(v))),
        _ => None,
    }
}

/// A value as the typed errors print it.
struct Shown<'a>(&'a Value);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "&{{{}}}", print::plain(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn every_scalar_is_checked() {
        let pod = Type::of(api::schema::message("k8s.io.api.core.v1.Pod").unwrap());
        for (value, want) in [
            (
                json!({"spec": {"nodeName": "a", "containers": [{"name": "c", "ports": [{"containerPort": 1}]}]}}),
                "",
            ),
            (
                json!({"metadata": {"labels": {"a": 5}}}),
                ".metadata.labels.a: expected string, got &value.valueUnstructured{Value:5}",
            ),
            (json!({"metadata": "x"}), ".metadata: expected map, got &{x}"),
            (
                json!({"spec": {"activeDeadlineSeconds": "1"}}),
                ".spec.activeDeadlineSeconds: expected numeric (int or float), got string",
            ),
            (json!({"spec": {"hostPID": "true"}}), ".spec.hostPID: expected boolean, got &{true}"),
            (
                json!({"spec": {"tolerations": [{"key": true}]}}),
                ".spec.tolerations[0].key: expected string, got &value.valueUnstructured{Value:true}",
            ),
            (
                json!({"spec": {"overhead": {"cpu": {}}}}),
                ".spec.overhead.cpu: expected any scalar, got &{map[]}",
            ),
            (
                json!({"spec": {"containers": [{"name": "c", "command": "sh"}]}}),
                ".spec.containers[name=\"c\"].command: expected list, got &{sh}",
            ),
            (
                json!({"spec": {"containers": [{"name": "c", "livenessProbe": {"httpGet": {"port": [1]}}}]}}),
                ".spec.containers[name=\"c\"].livenessProbe.httpGet.port: expected any scalar, got &{[1]}",
            ),
            (
                json!({"spec": {"tolerations": [{"nothing": 1}]}}),
                ".spec.tolerations[0].nothing: field not declared in schema",
            ),
        ] {
            let mut errors = Vec::new();
            validate(pod, &value, &mut String::new(), &mut errors);
            assert_eq!(errors.join("; "), want, "{value}");
        }
    }
}
