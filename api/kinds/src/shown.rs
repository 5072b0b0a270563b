//! Values as error texts print them: upstream prints its internal structs, which name fields as Go
//! does and leave nothing out. Worked out from the field table, so that no type is spelled out here.

use api::schema::{Field, Kind, Label, Message, Special};
use api::{Map, Value};

/// Field names that are not simply the JSON name with a capital letter.
const NAMES: &[(&str, &str)] = &[
    ("apiVersion", "APIVersion"),
    ("fsType", "FSType"),
    ("ip", "IP"),
    ("uid", "UID"),
    ("podIPs", "PodIPs"),
    ("csi", "CSI"),
    ("nfs", "NFS"),
    ("exitCodes", "ExitCodes"),
];

/// The value as the internal struct of that message would print.
pub fn internal(message: &str, v: &Value) -> String {
    let mut out = String::new();
    match api::schema::message(message) {
        Some(m) => object(m, v, &mut out),
        None => out.push_str(&v.to_string()),
    }
    out
}

/// The value with its fields in the order of the table, as types that have JSON tags print.
pub fn external(message: &str, v: &Value) -> String {
    match (api::schema::message(message), v) {
        (Some(m), Value::Object(map)) => tagged(m, map),
        (_, Value::Array(list)) => {
            let items: Vec<String> = list.iter().map(|v| external(message, v)).collect();
            format!("[{}]", items.join(","))
        }
        _ => v.to_string(),
    }
}

fn tagged(m: &'static Message, map: &Map<String, Value>) -> String {
    let mut fields = Vec::new();
    for f in m.fields.iter() {
        let Some(v) = map.get(f.json) else { continue };
        let text = match f.message().filter(|m| m.special.is_none()) {
            Some(inner) if f.label != Label::Map => external(inner.name, v),
            _ => v.to_string(),
        };
        fields.push(format!("{:?}:{text}", f.json));
    }
    format!("{{{}}}", fields.join(","))
}

fn go_name(json: &str) -> String {
    if let Some((_, name)) = NAMES.iter().find(|(j, _)| *j == json) {
        return (*name).to_owned();
    }
    let mut name = json.to_owned();
    if let Some(first) = name.get_mut(0..1) {
        first.make_ascii_uppercase();
    }
    name
}

fn object(m: &'static Message, v: &Value, out: &mut String) {
    // Upstream has no internal form of what all groups share; that has JSON tags.
    if m.name.starts_with("k8s.io.apimachinery.") {
        return out.push_str(&external(m.name, v));
    }
    out.push('{');
    for (i, f) in m.fields.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(&format!("{:?}:", go_name(f.json)));
        field(f, v.get(f.json).unwrap_or(&Value::Null), out);
    }
    out.push('}');
}

fn field(f: &Field, v: &Value, out: &mut String) {
    let inner = f.message().filter(|m| m.special.is_none());
    match (f.label, inner, v) {
        (Label::List, Some(m), Value::Array(list)) => {
            out.push('[');
            for (i, item) in list.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                object(m, item, out);
            }
            out.push(']');
        }
        (Label::One, Some(m), v) if !v.is_null() || !f.nullable => object(m, v, out),
        (Label::One, _, Value::Null) if !f.nullable => out.push_str(zero(f)),
        (_, _, v) => out.push_str(&v.to_string()),
    }
}

fn zero(f: &Field) -> &'static str {
    match f.kind {
        Kind::String => "\"\"",
        Kind::Bool => "false",
        Kind::Int32 | Kind::Int64 | Kind::Double => "0",
        Kind::Bytes => "null",
        Kind::Message(_) => match f.message().and_then(|m| m.special) {
            Some(Special::Quantity) => "\"0\"",
            Some(Special::IntOrString) => "0",
            _ => "null",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn as_go_prints() {
        let claim = "k8s.io.api.core.v1.PodResourceClaim";
        assert_eq!(
            internal(claim, &json!({"name": "a"})),
            r#"{"Name":"a","ResourceClaimName":null,"ResourceClaimTemplateName":null}"#
        );
        let owner = "k8s.io.apimachinery.pkg.apis.meta.v1.OwnerReference";
        let v = json!([{"uid": "u", "kind": "K", "controller": true, "name": "n", "apiVersion": "v1"}]);
        assert_eq!(
            external(owner, &v),
            r#"[{"apiVersion":"v1","kind":"K","name":"n","uid":"u","controller":true}]"#
        );
    }
}
