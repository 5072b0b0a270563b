//! The downward API: what a pod may read about itself, in the environment and in files.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::quantity;

/// What the downward API shows that the pod's object may not say yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Downward {
    /// `spec.nodeName`.
    pub node_name: String,
    /// `status.hostIP` and `status.hostIPs`.
    pub host_ips: Vec<String>,
    /// `status.podIP` and `status.podIPs`.
    pub pod_ips: Vec<String>,
    /// Allocatable CPU of the node in thousandths; the limit of a container that has none.
    pub allocatable_milli_cpu: i64,
    /// Allocatable memory of the node in bytes, likewise.
    pub allocatable_memory: i64,
    /// Allocatable local storage of the node in bytes, likewise.
    pub allocatable_storage: i64,
}

/// The value of a field path of a pod.
pub fn value(pod: &Pod, path: &str, downward: &Downward) -> Result<String, String> {
    let meta = &pod.metadata;
    let none = BTreeMap::new();
    let annotations = meta.annotations.as_ref().unwrap_or(&none);
    let labels = meta.labels.as_ref().unwrap_or(&none);
    if let Some((base, key)) = subscript(path) {
        return match base {
            "metadata.annotations" => Ok(annotations.get(key).cloned().unwrap_or_default()),
            "metadata.labels" => Ok(labels.get(key).cloned().unwrap_or_default()),
            _ => Err(format!("fieldPath {path:?} does not support subscript")),
        };
    }
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| Ok(value.cloned().unwrap_or_default());
    match path {
        "metadata.annotations" => Ok(format_map(annotations)),
        "metadata.labels" => Ok(format_map(labels)),
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "spec.nodeName" => Ok(downward.node_name.clone()),
        "spec.serviceAccountName" => text(spec.and_then(|s| s.service_account_name.as_ref())),
        "status.hostIP" => text(downward.host_ips.first()),
        "status.hostIPs" => Ok(downward.host_ips.join(",")),
        "status.podIP" => text(downward.pod_ips.first()),
        "status.podIPs" => Ok(downward.pod_ips.join(",")),
        _ => Err(format!("unsupported fieldPath: {path}")),
    }
}

/// Splits `metadata.labels['key']` into path and key.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_suffix("']")?;
    let at = rest.find("['")?;
    Some((&rest[..at], &rest[at + 2..]))
}

/// Labels or annotations as lines of `key="value"`.
fn format_map(map: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> =
        map.iter().map(|(key, value)| format!("{key}={}", api::field::quoted(value))).collect();
    lines.join("\n")
}

/// The value of a container's resource. A limit that is not set is the node's allocatable, as upstream.
pub fn resource(
    selector: &ResourceFieldSelector,
    container: &Container,
    downward: &Downward,
) -> Result<String, String> {
    let name = selector.resource.as_str();
    let unsupported = || format!("unsupported container resource : {name}");
    let (limits, resource) = match name.split_once('.') {
        Some(("limits", resource)) => (true, resource),
        Some(("requests", resource)) => (false, resource),
        _ => return Err(unsupported()),
    };
    let resources = container.resources.as_ref();
    let limit_list = resources.and_then(|r| r.limits.as_ref());
    let list = if limits { limit_list } else { resources.and_then(|r| r.requests.as_ref()) };
    let divisor =
        selector.divisor.as_ref().and_then(|d| quantity::milli(&d.0)).filter(|d| *d != 0).unwrap_or(1000);
    let milli = match resource {
        "cpu" => {
            let set = quantity::get_milli(list, "cpu").filter(|v| *v != 0);
            set.unwrap_or(if limits { downward.allocatable_milli_cpu } else { 0 })
        }
        "memory" | "ephemeral-storage" => {
            let node =
                if resource == "memory" { downward.allocatable_memory } else { downward.allocatable_storage };
            let set = quantity::get(list, resource).filter(|v| *v != 0);
            set.unwrap_or(if limits { node } else { 0 }).saturating_mul(1000)
        }
        r if r.starts_with("hugepages-") => quantity::get(list, r).unwrap_or(0).saturating_mul(1000),
        _ => return Err(unsupported()),
    };
    let value = i128::from(milli);
    let rounded = value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0);
    Ok(rounded.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    #[test]
    fn fields() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {
            "name": "p", "namespace": "n", "uid": "u", "labels": {"b": "2", "a": "x\"y"}, "annotations": {"k/z": "v"}}}))
        .unwrap();
        let downward = Downward { pod_ips: vec!["1.2.3.4".into(), "fd::1".into()], ..Default::default() };
        for (path, expected) in [
            ("metadata.name", Ok("p")),
            ("metadata.labels", Ok("a=\"x\\\"y\"\nb=\"2\"")),
            ("metadata.labels['b']", Ok("2")),
            ("metadata.annotations['k/z']", Ok("v")),
            ("status.podIP", Ok("1.2.3.4")),
            ("status.podIPs", Ok("1.2.3.4,fd::1")),
            ("spec.x", Err("unsupported fieldPath: spec.x")),
            ("spec.x['y']", Err("fieldPath \"spec.x['y']\" does not support subscript")),
        ] {
            let got = value(&pod, path, &downward);
            assert_eq!(got.as_deref().map_err(String::as_str), expected, "{path}");
        }
    }

    #[test]
    fn resources() {
        let container: Container = serde_json::from_value(serde_json::json!({"name": "c",
            "resources": {"limits": {"cpu": "1250m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}}))
        .unwrap();
        let downward = Downward { allocatable_storage: 5, ..Default::default() };
        for (resource_name, divisor, expected) in [
            ("limits.cpu", None, "2"),
            ("limits.cpu", Some("1m"), "1250"),
            ("requests.cpu", Some("1m"), "250"),
            ("limits.memory", Some("1Mi"), "64"),
            ("limits.ephemeral-storage", None, "5"),
            ("requests.memory", None, "0"),
        ] {
            let selector = ResourceFieldSelector {
                resource: resource_name.into(),
                divisor: divisor.map(|d: &str| Quantity(d.into())),
                container_name: None,
            };
            assert_eq!(resource(&selector, &container, &downward).unwrap(), expected, "{resource_name}");
        }
    }
}
