//! Questions about a pod that many parts ask.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// Where a pod came from: `api`, `file` or `http`.
pub const SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";
/// The hash of a static pod's manifest; on the mirror pod [`MIRROR_ANNOTATION`] repeats it.
pub const HASH_ANNOTATION: &str = "kubernetes.io/config.hash";
/// Marks a mirror pod.
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// When the kubelet first saw the pod.
pub const SEEN_ANNOTATION: &str = "kubernetes.io/config.seen";

/// Pods of this priority and above are critical to the node.
const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// Short questions to a pod.
pub trait PodExt {
    /// Its name.
    fn name(&self) -> &str;
    /// Its namespace.
    fn namespace(&self) -> &str;
    /// Its UID.
    fn uid(&self) -> &str;
    /// An annotation.
    fn annotation(&self, key: &str) -> Option<&str>;
    /// Its spec; an empty one if it has none.
    fn spec(&self) -> &PodSpec;
    /// Comes from a file or URL, not from the apiserver.
    fn is_static(&self) -> bool {
        self.annotation(SOURCE_ANNOTATION).is_some_and(|source| source != "api")
    }
    /// Is the apiserver's picture of a static pod.
    fn is_mirror(&self) -> bool {
        self.annotation(MIRROR_ANNOTATION).is_some()
    }
    /// Uses the node's network.
    fn host_network(&self) -> bool {
        self.spec().host_network.unwrap_or(false)
    }
    /// Someone asked for its deletion.
    fn is_deleting(&self) -> bool;
    /// Its phase as last known by the apiserver.
    fn phase(&self) -> &str;
    /// Has reached a phase that it cannot leave.
    fn is_terminal(&self) -> bool {
        matches!(self.phase(), "Succeeded" | "Failed")
    }
    /// Must not be evicted or pushed aside.
    fn is_critical(&self) -> bool {
        self.is_static()
            || self.is_mirror()
            || self.spec().priority.is_some_and(|priority| priority >= SYSTEM_CRITICAL_PRIORITY)
    }
    /// Name, namespace and UID as in log lines and some errors: `name_namespace(uid)`.
    fn formatted(&self) -> String {
        format!("{}_{}({})", self.name(), self.namespace(), self.uid())
    }
    /// All containers of the spec with their kind, ephemeral ones as ordinary containers.
    fn all_containers(&self) -> Vec<(Kind, Container)>;
    /// A container of the spec.
    fn find_container(&self, name: &str) -> Option<(Kind, Container)> {
        self.all_containers().into_iter().find(|(_, container)| container.name == name)
    }
    /// The init containers.
    fn init_containers(&self) -> &[Container] {
        self.spec().init_containers.as_deref().unwrap_or_default()
    }
    /// What the user gave it to end by itself.
    fn grace_period(&self) -> i64;
    /// Whether containers run again after they ended in failure.
    fn restarts_on_failure(&self) -> bool {
        self.spec().restart_policy.as_deref() != Some("Never")
    }
}

/// What kind of container it is in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Runs to its end before the main ones start.
    Init,
    /// An init container that keeps running.
    Sidecar,
    /// An ordinary one.
    Main,
    /// Added later, for debugging.
    Ephemeral,
}

/// A pod without a spec is not possible, but a type allows it.
static EMPTY_SPEC: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);

impl PodExt for Pod {
    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
    fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or("default")
    }
    fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }
    fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }
    fn spec(&self) -> &PodSpec {
        self.spec.as_ref().unwrap_or(&EMPTY_SPEC)
    }
    fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
    fn phase(&self) -> &str {
        self.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
    }
    fn all_containers(&self) -> Vec<(Kind, Container)> {
        let spec = PodExt::spec(self);
        let init = self.init_containers().iter().map(|c| {
            let kind = if is_sidecar(c) { Kind::Sidecar } else { Kind::Init };
            (kind, c.clone())
        });
        let main = spec.containers.iter().map(|c| (Kind::Main, c.clone()));
        let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| (Kind::Ephemeral, ephemeral(c)));
        init.chain(main).chain(ephemeral).collect()
    }
    fn grace_period(&self) -> i64 {
        let own = PodExt::spec(self).termination_grace_period_seconds.unwrap_or(30);
        self.metadata.deletion_grace_period_seconds.unwrap_or(own)
    }
}

/// Whether an init container keeps running beside the main ones.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// An ephemeral container as an ordinary one; they differ in type only.
pub fn ephemeral(container: &k8s_openapi::api::core::v1::EphemeralContainer) -> Container {
    let c = container.clone();
    Container {
        args: c.args,
        command: c.command,
        env: c.env,
        env_from: c.env_from,
        image: c.image,
        image_pull_policy: c.image_pull_policy,
        lifecycle: c.lifecycle,
        liveness_probe: c.liveness_probe,
        name: c.name,
        ports: c.ports,
        readiness_probe: c.readiness_probe,
        resize_policy: c.resize_policy,
        resources: c.resources,
        restart_policy: c.restart_policy,
        restart_policy_rules: c.restart_policy_rules,
        security_context: c.security_context,
        startup_probe: c.startup_probe,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path,
        termination_message_policy: c.termination_message_policy,
        tty: c.tty,
        volume_devices: c.volume_devices,
        volume_mounts: c.volume_mounts,
        working_dir: c.working_dir,
    }
}

/// The action of the first of a container's rules that an exit code meets.
pub fn restart_rule(container: &Container, exit_code: i32) -> Option<&str> {
    let rule = container.restart_policy_rules.iter().flatten().find(|rule| {
        let Some(codes) = &rule.exit_codes else { return false };
        let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
        match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    });
    rule.map(|rule| rule.action.as_str())
}

/// Whether a container that ended with `exit_code` runs again.
pub fn should_restart(container: &Container, pod: &Pod, exit_code: i32) -> bool {
    // Rules count only beside a policy of the container's own.
    let own = container.restart_policy.as_deref();
    if own.is_some() && matches!(restart_rule(container, exit_code), Some("Restart" | RESTART_ALL)) {
        return true;
    }
    match own.or(PodExt::spec(pod).restart_policy.as_deref()) {
        Some("Never") => false,
        Some("OnFailure") => exit_code != 0,
        _ => true,
    }
}

/// The action of a rule that begins the whole pod anew.
pub const RESTART_ALL: &str = "RestartAllContainers";

/// Whether an end of one of its containers can begin the whole pod anew.
pub fn may_restart_all(pod: &Pod) -> bool {
    let mut containers = PodExt::spec(pod).containers.iter().chain(pod.init_containers());
    containers.any(|c| c.restart_policy_rules.iter().flatten().any(|rule| rule.action == RESTART_ALL))
}

/// How well the pod's resources are known beforehand: `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos(pod: &Pod) -> &'static str {
    use volumes::quantity::get_milli;
    if let Some(class) = pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        match class {
            "Guaranteed" => return "Guaranteed",
            "Burstable" => return "Burstable",
            "BestEffort" => return "BestEffort",
            _ => {}
        }
    }
    let spec = PodExt::spec(pod);
    let mut any = false;
    let mut guaranteed = true;
    let pod_level = spec.resources.iter();
    let per_container =
        spec.containers.iter().chain(pod.init_containers()).filter_map(|c| c.resources.as_ref());
    let counted: Vec<_> = match &spec.resources {
        Some(_) => pod_level.collect(),
        None => per_container.collect(),
    };
    let missing =
        spec.resources.is_none() && counted.len() < spec.containers.len() + pod.init_containers().len();
    for resources in counted {
        for name in ["cpu", "memory"] {
            let request = get_milli(resources.requests.as_ref(), name).filter(|v| *v > 0);
            let limit = get_milli(resources.limits.as_ref(), name).filter(|v| *v > 0);
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|r| Some(r) == limit);
        }
    }
    match (any, guaranteed && !missing) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// The sum that a pod asks of a resource, in thousandths: the larger of what its main containers ask together and
/// what it asks while it is being initialized; sidecars count in both; overhead on top.
pub fn request_milli(pod: &Pod, name: &str) -> i64 {
    use volumes::quantity::get_milli;
    let spec = PodExt::spec(pod);
    let ask = |c: &Container| {
        let resources = c.resources.as_ref();
        let request = get_milli(resources.and_then(|r| r.requests.as_ref()), name);
        request.or_else(|| get_milli(resources.and_then(|r| r.limits.as_ref()), name)).unwrap_or(0)
    };
    let mut sidecars = 0;
    let mut init_peak = 0;
    for container in pod.init_containers() {
        if is_sidecar(container) {
            sidecars += ask(container);
            init_peak = init_peak.max(sidecars);
        } else {
            init_peak = init_peak.max(sidecars + ask(container));
        }
    }
    let mut sum = (spec.containers.iter().map(ask).sum::<i64>() + sidecars).max(init_peak);
    let pod_level = spec.resources.as_ref();
    let own = get_milli(pod_level.and_then(|r| r.requests.as_ref()), name)
        .or_else(|| get_milli(pod_level.and_then(|r| r.limits.as_ref()), name));
    if let Some(own) = own {
        sum = own;
    }
    sum + get_milli(spec.overhead.as_ref(), name).unwrap_or(0)
}

/// The limit of the pod as a whole, in thousandths; `None` if one main container has none.
pub fn limit_milli(pod: &Pod, name: &str) -> Option<i64> {
    use volumes::quantity::get_milli;
    let spec = PodExt::spec(pod);
    let overhead = get_milli(spec.overhead.as_ref(), name).unwrap_or(0);
    if let Some(own) = get_milli(spec.resources.as_ref().and_then(|r| r.limits.as_ref()), name) {
        return Some(own + overhead);
    }
    let limit = |c: &Container| get_milli(c.resources.as_ref()?.limits.as_ref(), name).filter(|v| *v > 0);
    let mut sidecars = 0;
    let mut init_peak = 0;
    for container in pod.init_containers() {
        let own = limit(container)?;
        if is_sidecar(container) {
            sidecars += own;
            init_peak = init_peak.max(sidecars);
        } else {
            init_peak = init_peak.max(sidecars + own);
        }
    }
    let mut sum = sidecars;
    for container in &spec.containers {
        sum += limit(container)?;
    }
    Some(sum.max(init_peak) + overhead)
}

/// Labels of a pod, never absent.
pub fn labels(pod: &Pod) -> BTreeMap<String, String> {
    pod.metadata.labels.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    #[test]
    fn qos_classes() {
        let limits = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        let some = json!({"requests": {"cpu": "1"}});
        for (containers, class) in [
            (json!([{"name": "a"}]), "BestEffort"),
            (json!([{"name": "a", "resources": limits}]), "Guaranteed"),
            (json!([{"name": "a", "resources": limits}, {"name": "b"}]), "Burstable"),
            (json!([{"name": "a", "resources": some}]), "Burstable"),
        ] {
            assert_eq!(qos(&pod(json!({"containers": containers}))), class, "{containers}");
        }
    }

    #[test]
    fn requests() {
        let cpu = |v: &str| json!({"requests": {"cpu": v}});
        let p = pod(json!({
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": cpu("100m")},
                {"name": "i", "resources": cpu("1")}],
            "containers": [{"name": "a", "resources": cpu("300m")}, {"name": "b", "resources": cpu("200m")}],
            "overhead": {"cpu": "10m"}}));
        assert_eq!(request_milli(&p, "cpu"), 1110);
        assert_eq!(limit_milli(&p, "cpu"), None);
    }

    #[test]
    fn restart_rules() {
        let p = pod(json!({"restartPolicy": "Never", "containers": []}));
        let c: Container = serde_json::from_value(json!({"name": "c", "restartPolicy": "Never",
            "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}))
        .unwrap();
        assert!(should_restart(&c, &p, 42));
        assert!(!should_restart(&c, &p, 1));
    }
}
