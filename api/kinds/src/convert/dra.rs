//! `resource.k8s.io`: its first beta keeps a claim's exact request inline and a device's properties under `basic`.

use crate::value::Put;
use api::{GroupVersionKind, Map, Value};

/// What the first beta has beside a request's name, and the others in `exactly`.
const EXACT: [&str; 7] =
    ["deviceClassName", "selectors", "allocationMode", "count", "adminAccess", "tolerations", "capacity"];

/// Rewrites what differs between the first beta and all later versions.
pub fn convert(value: &mut Value, from: &GroupVersionKind, to: &GroupVersionKind) {
    let (old, new) = (from.version == "v1beta1", to.version == "v1beta1");
    if old == new {
        return;
    }
    match to.kind.as_str() {
        "ResourceClaim" => requests(value.sub("spec"), new),
        "ResourceClaimTemplate" => requests(value.sub("spec").and_then(|s| s.sub("spec")), new),
        "ResourceSlice" => {
            for device in value.sub("spec").into_iter().flat_map(|s| s.items("devices")) {
                if new { to_basic(device) } else { from_basic(device) }
            }
        }
        _ => {}
    }
}

fn requests(spec: Option<&mut Value>, inline: bool) {
    let Some(devices) = spec.and_then(|s| s.sub("devices")) else { return };
    for request in devices.items("requests") {
        if inline {
            let exact = request.unset("exactly");
            for (key, value) in exact.as_ref().and_then(Value::as_object).into_iter().flatten() {
                request.set(key, value.clone());
            }
        } else {
            let mut exact = Map::new();
            for key in EXACT {
                if let Some(v) = request.unset(key) {
                    exact.insert(key.into(), v);
                }
            }
            if exact.values().any(|v| !empty(v)) {
                request.set("exactly", Value::Object(exact));
            }
        }
    }
}

fn empty(v: &Value) -> bool {
    v.is_null() || v.as_str().is_some_and(str::is_empty) || v.as_i64() == Some(0)
}

fn to_basic(device: &mut Value) {
    let Some(map) = device.as_object_mut() else { return };
    let name = map.remove("name");
    let basic = std::mem::take(map);
    map.extend(name.map(|n| ("name".to_owned(), n)));
    map.insert("basic".into(), Value::Object(basic));
}

fn from_basic(device: &mut Value) {
    let basic = device.unset("basic");
    for (key, value) in basic.as_ref().and_then(Value::as_object).into_iter().flatten() {
        device.set(key, value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn the_first_beta_and_back() {
        let at = |v: &str, kind: &str| GroupVersionKind::new("resource.k8s.io", v, kind);
        let claim = |request: Value| json!({"spec": {"devices": {"requests": [request]}}});
        let slice = |device: Value| json!({"spec": {"devices": [device]}});
        for (kind, beta, stable) in [
            (
                "ResourceClaim",
                claim(
                    json!({"name": "a", "deviceClassName": "c", "allocationMode": "ExactCount", "count": 1}),
                ),
                claim(
                    json!({"name": "a", "exactly": {"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1}}),
                ),
            ),
            (
                "ResourceClaim",
                claim(json!({"name": "a", "firstAvailable": [{"name": "b"}]})),
                claim(json!({"name": "a", "firstAvailable": [{"name": "b"}]})),
            ),
            (
                "ResourceSlice",
                slice(json!({"name": "d", "basic": {"capacity": {"m": {"value": "1Gi"}}, "allNodes": true}})),
                slice(json!({"name": "d", "capacity": {"m": {"value": "1Gi"}}, "allNodes": true})),
            ),
            ("ResourceSlice", slice(json!({"name": "d", "basic": {}})), slice(json!({"name": "d"}))),
        ] {
            let mut v = beta.clone();
            convert(&mut v, &at("v1beta1", kind), &at("v1", kind));
            assert_eq!(v, stable);
            convert(&mut v, &at("v1", kind), &at("v1beta1", kind));
            assert_eq!(v, beta);
            convert(&mut v, &at("v1beta2", kind), &at("v1", kind));
            assert_eq!(v, beta, "later versions are alike");
        }
    }
}
