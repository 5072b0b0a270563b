//! Tolerations that pods get without asking, and the taint that a new node starts with.

use crate::attributes::{Attributes, Operation};
use crate::chain::{Deps, Plugin};
use crate::live::fetch;
use crate::objects::{annotation, at, items, list_at, text};
use api::registry::Registry;
use api::status::{Result, Status};
use api::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const MEMORY_PRESSURE: &str = "node.kubernetes.io/memory-pressure";
const DEFAULTS_ANNOTATION: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const WHITELIST_ANNOTATION: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";

/// DefaultTolerationSeconds.
pub struct DefaultSeconds {
    not_ready: i64,
    unreachable: i64,
}

impl DefaultSeconds {
    /// `--default-not-ready-toleration-seconds` and `--default-unreachable-toleration-seconds`.
    pub fn new(not_ready: i64, unreachable: i64) -> Self {
        DefaultSeconds { not_ready, unreachable }
    }
}

#[async_trait::async_trait]
impl Plugin for DefaultSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }
    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }
    async fn admit(&self, a: &mut Attributes) -> Result<()> {
        if !a.is_main("", "pods") {
            return Ok(());
        }
        let Some(pod) = a.object.as_mut() else { return Ok(()) };
        let given = items(pod, &["spec", "tolerations"]).to_vec();
        for (key, seconds) in [(NOT_READY, self.not_ready), (UNREACHABLE, self.unreachable)] {
            let covers = |t: &Value| {
                (text(t, &["key"]) == key || text(t, &["key"]).is_empty())
                    && matches!(text(t, &["effect"]), "NoExecute" | "")
            };
            if !given.iter().any(covers) {
                list_at(&mut pod["spec"], "tolerations").push(json!({
                    "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds,
                }));
            }
        }
        Ok(())
    }
}

/// TaintNodesByCondition: a node is not ready until its controller has seen that it is.
pub struct TaintNodes;

#[async_trait::async_trait]
impl Plugin for TaintNodes {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }
    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }
    async fn admit(&self, a: &mut Attributes) -> Result<()> {
        if !a.is_main("", "nodes") {
            return Ok(());
        }
        let Some(node) = a.object.as_mut() else { return Ok(()) };
        let tainted = items(node, &["spec", "taints"])
            .iter()
            .any(|t| text(t, &["key"]) == NOT_READY && text(t, &["effect"]) == "NoSchedule");
        if !tainted {
            if !node["spec"].is_object() {
                node["spec"] = json!({});
            }
            list_at(&mut node["spec"], "taints").push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
        }
        Ok(())
    }
}

/// ExtendedResourceToleration: who asks for a device tolerates the taint of that name.
pub struct ExtendedResources;

/// Neither one of Kubernetes' own resources nor a quota name.
fn is_extended(resource: &str) -> bool {
    let native = !resource.contains('/') || resource.contains("kubernetes.io/");
    !native && !resource.starts_with("requests.")
}

#[async_trait::async_trait]
impl Plugin for ExtendedResources {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }
    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }
    async fn admit(&self, a: &mut Attributes) -> Result<()> {
        if !a.is_main("", "pods") {
            return Ok(());
        }
        let Some(pod) = a.object.as_mut() else { return Ok(()) };
        let wanted: BTreeSet<String> = ["containers", "initContainers"]
            .iter()
            .flat_map(|f| items(pod, &["spec", f]))
            .filter_map(|c| at(c, &["resources", "requests"]).as_object())
            .flat_map(|r| r.keys().filter(|k| is_extended(k)).cloned())
            .collect();
        for resource in wanted {
            let toleration = json!({"key": resource, "operator": "Exists", "effect": "NoSchedule"});
            let list = list_at(&mut pod["spec"], "tolerations");
            let same = |t: &Value| {
                ["key", "operator", "value", "effect"]
                    .iter()
                    .all(|f| text(t, &[f]) == text(&toleration, &[f]))
            };
            if !list.iter().any(same) {
                list.push(toleration);
            }
        }
        Ok(())
    }
}

/// Whether whatever `small` tolerates `big` tolerates too.
fn is_superset(big: &Value, small: &Value) -> bool {
    if big == small {
        return true;
    }
    let field = |t: &Value, f: &str| text(t, &[f]).to_owned();
    let key_open = field(big, "key").is_empty() && field(big, "operator") == "Exists";
    if field(big, "key") != field(small, "key") && !key_open {
        return false;
    }
    if field(big, "effect") != field(small, "effect") && !field(big, "effect").is_empty() {
        return false;
    }
    if field(big, "effect") == "NoExecute"
        && let Some(limit) = at(big, &["tolerationSeconds"]).as_i64()
        && at(small, &["tolerationSeconds"]).as_i64().is_none_or(|s| s > limit)
    {
        return false;
    }
    match field(big, "operator").as_str() {
        "Equal" | "" => {
            matches!(field(small, "operator").as_str(), "Equal" | "")
                && field(big, "value") == field(small, "value")
        }
        "Exists" => true,
        _ => false,
    }
}

/// Both lists without what another entry makes superfluous.
pub fn merge(first: &[Value], second: &[Value]) -> Vec<Value> {
    let all: Vec<&Value> = first.iter().chain(second).collect();
    let mut merged: Vec<Value> = Vec::new();
    for (i, toleration) in all.iter().enumerate() {
        let covered = merged.iter().any(|m| is_superset(m, toleration))
            || all[i + 1..].iter().any(|later| is_superset(later, toleration) && later != toleration);
        if !covered {
            merged.push((*toleration).clone());
        }
    }
    merged
}

/// PodTolerationRestriction: what a namespace adds to its pods' tolerations, and what it allows.
pub struct Restriction {
    registry: Arc<dyn Registry>,
    default: Vec<Value>,
    whitelist: Vec<Value>,
}

impl Restriction {
    pub fn new(deps: &Deps, config: Option<&Value>) -> Self {
        let list = |key: &str| config.map(|c| items(c, &[key]).to_vec()).unwrap_or_default();
        Restriction {
            registry: deps.registry.clone(),
            default: list("default"),
            whitelist: list("whitelist"),
        }
    }

    /// The tolerations in an annotation of the namespace; `None` if it has no such annotation.
    async fn of_namespace(&self, namespace: &str, key: &str) -> Result<Option<Vec<Value>>> {
        let found = fetch(&*self.registry, ("", "namespaces"), "", namespace).await?;
        match annotation(&found, key) {
            None => Ok(None),
            Some("") => Ok(Some(Vec::new())),
            Some(text) => serde_json::from_str(text).map(Some).map_err(Status::internal),
        }
    }
}

#[async_trait::async_trait]
impl Plugin for Restriction {
    fn name(&self) -> &'static str {
        "PodTolerationRestriction"
    }
    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }
    async fn admit(&self, a: &mut Attributes) -> Result<()> {
        if !a.is_main("", "pods") {
            return Ok(());
        }
        let mut extra = Vec::new();
        if a.operation == Operation::Create {
            let own = self.of_namespace(&a.namespace, DEFAULTS_ANNOTATION).await?;
            extra = own.unwrap_or_else(|| self.default.clone());
        }
        let Some(pod) = a.object.as_mut() else { return Ok(()) };
        if kinds::pods::qos_of_spec(&pod["spec"]) != "BestEffort" {
            extra.push(json!({"key": MEMORY_PRESSURE, "operator": "Exists", "effect": "NoSchedule"}));
        }
        if !extra.is_empty() {
            pod["spec"]["tolerations"] = merge(items(pod, &["spec", "tolerations"]), &extra).into();
        }
        self.validate(a).await
    }
    async fn validate(&self, a: &mut Attributes) -> Result<()> {
        if !a.is_main("", "pods") {
            return Ok(());
        }
        let Some(pod) = &a.object else { return Ok(()) };
        let (whitelist, scope) = match self.of_namespace(&a.namespace, WHITELIST_ANNOTATION).await? {
            Some(list) => (list, "namespace"),
            None => (self.whitelist.clone(), "cluster"),
        };
        let allowed = |t: &Value| whitelist.iter().any(|w| is_superset(w, t));
        if whitelist.is_empty() || items(pod, &["spec", "tolerations"]).iter().all(allowed) {
            return Ok(());
        }
        Err(Status::internal(format!(
            "pod tolerations (possibly merged with namespace default tolerations) conflict with its {scope} whitelist"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_drops_what_is_covered() {
        let t = |key: &str, effect: &str, seconds: Option<i64>| {
            let mut t = json!({"key": key, "operator": "Exists", "effect": effect});
            if let Some(s) = seconds {
                t["tolerationSeconds"] = s.into();
            }
            t
        };
        let all = json!({"operator": "Exists"});
        assert_eq!(merge(&[t("a", "NoSchedule", None)], std::slice::from_ref(&all)), [all]);
        let (short, long) = (t("a", "NoExecute", Some(5)), t("a", "NoExecute", Some(50)));
        assert_eq!(merge(std::slice::from_ref(&short), std::slice::from_ref(&long)), [long]);
        assert_eq!(merge(std::slice::from_ref(&short), std::slice::from_ref(&short)), [short]);
    }
}
