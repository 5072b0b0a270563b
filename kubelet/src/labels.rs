//! How pods and containers are marked in the runtime. The marks are upstream's, so that either kubelet knows the
//! containers that the other made.

use std::collections::{BTreeMap, HashMap};

use cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::pod::PodExt;

pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
const HASH: &str = "io.kubernetes.container.hash";
const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
const PORTS: &str = "io.kubernetes.container.ports";
const POD_DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
const POD_TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// The labels of a sandbox: the pod's, and who it is.
pub fn of_pod(pod: &Pod) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = crate::pod::labels(pod).into_iter().collect();
    labels.extend(identity(pod));
    labels
}

fn identity(pod: &Pod) -> [(String, String); 3] {
    [
        (POD_NAME.into(), pod.name().into()),
        (POD_NAMESPACE.into(), pod.namespace().into()),
        (POD_UID.into(), pod.uid().into()),
    ]
}

/// The labels of a container.
pub fn of_container(pod: &Pod, container: &Container) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = identity(pod).into();
    labels.insert(CONTAINER_NAME.into(), container.name.clone());
    labels
}

/// The annotations of a container: what is needed to go on with it after a restart, when the pod may be gone.
pub fn annotations(pod: &Pod, container: &Container, restart_count: u32) -> HashMap<String, String> {
    let mut out = HashMap::from([
        (HASH.to_string(), format!("{:x}", hash(container))),
        (RESTART_COUNT.to_string(), restart_count.to_string()),
        (MESSAGE_PATH.to_string(), container.termination_message_path.clone().unwrap_or_default()),
        (MESSAGE_POLICY.to_string(), container.termination_message_policy.clone().unwrap_or_default()),
    ]);
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            out.insert(key.to_string(), value);
        }
    };
    put(POD_DELETION_GRACE, pod.metadata.deletion_grace_period_seconds.map(|s| s.to_string()));
    put(POD_TERMINATION_GRACE, pod.spec().termination_grace_period_seconds.map(|s| s.to_string()));
    let pre_stop = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref());
    put(PRE_STOP, pre_stop.and_then(|hook| serde_json::to_string(hook).ok()));
    let ports = container.ports.as_ref().filter(|ports| !ports.is_empty());
    put(PORTS, ports.and_then(|ports| serde_json::to_string(ports).ok()));
    out
}

/// The hash by which a change of a container's definition is noticed: of its image and name only. The bytes that
/// are hashed are those of upstream, a Go value's debug form, so that changing kubelets restarts nothing.
pub fn hash(container: &Container) -> u64 {
    let fields = BTreeMap::from([
        ("image", container.image.as_deref().unwrap_or_default()),
        ("name", container.name.as_str()),
    ]);
    let json = go_json(&fields);
    let bytes: Vec<String> = json.bytes().map(|b| b.to_string()).collect();
    let dump = format!("([]uint8)[{}]", bytes.join(" "));
    u64::from(fnv32a(dump.as_bytes()))
}

/// JSON as Go writes it: `<`, `>` and `&` are escaped.
fn go_json(fields: &BTreeMap<&str, &str>) -> String {
    let plain = serde_json::to_string(fields).unwrap_or_default();
    plain.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

fn fnv32a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// The marks of a container, read back.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Marks {
    pub hash: Option<u64>,
    pub restart_count: u32,
    pub message_path: String,
    pub message_policy: String,
    pub deletion_grace: Option<i64>,
    pub termination_grace: Option<i64>,
    pub pre_stop: Option<k8s_openapi::api::core::v1::LifecycleHandler>,
}

/// Reads the marks of a container back.
pub fn marks(annotations: &HashMap<String, String>) -> Marks {
    let get = |key: &str| annotations.get(key).map(String::as_str);
    Marks {
        hash: get(HASH).and_then(|h| u64::from_str_radix(h, 16).ok()),
        restart_count: get(RESTART_COUNT).and_then(|c| c.parse().ok()).unwrap_or(0),
        message_path: get(MESSAGE_PATH).unwrap_or_default().into(),
        message_policy: get(MESSAGE_POLICY).unwrap_or_default().into(),
        deletion_grace: get(POD_DELETION_GRACE).and_then(|s| s.parse().ok()),
        termination_grace: get(POD_TERMINATION_GRACE).and_then(|s| s.parse().ok()),
        pre_stop: get(PRE_STOP).and_then(|json| serde_json::from_str(json).ok()),
    }
}

/// The filter for one pod's containers.
pub fn container_filter(uid: &str) -> v1::ContainerFilter {
    v1::ContainerFilter {
        label_selector: HashMap::from([(POD_UID.into(), uid.into())]),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_upstreams() {
        let container = Container {
            name: "test_container".into(),
            image: Some("foo/image:v1".into()),
            ..Default::default()
        };
        assert_eq!(hash(&container), 0x8e45_cbd0);
    }

    #[test]
    fn marks_come_back() {
        let container: Container = serde_json::from_value(serde_json::json!({"name": "c", "image": "i",
            "terminationMessagePath": "/dev/x", "terminationMessagePolicy": "File",
            "lifecycle": {"preStop": {"sleep": {"seconds": 3}}}}))
        .unwrap();
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"name": "p"},
            "spec": {"containers": [], "terminationGracePeriodSeconds": 7}}))
        .unwrap();
        let marks = marks(&annotations(&pod, &container, 4));
        assert_eq!(marks.restart_count, 4);
        assert_eq!(marks.hash, Some(hash(&container)));
        assert_eq!(marks.termination_grace, Some(7));
        assert_eq!(marks.pre_stop.unwrap().sleep.unwrap().seconds, 3);
    }
}
