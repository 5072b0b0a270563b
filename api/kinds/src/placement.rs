//! Where pods may go: taints and tolerations, node selectors and affinity.

use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};
use std::collections::BTreeMap;

/// Whether the toleration covers the taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let covers =
        |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w.is_empty() || w == is);
    if !covers(&toleration.effect, &taint.effect) || !covers(&toleration.key, &taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => {
            toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        "Exists" => true,
        _ => false,
    }
}

/// The first taint with one of the effects that nothing tolerates.
pub fn untolerated<'a>(
    taints: impl IntoIterator<Item = &'a Taint>,
    tolerations: &[Toleration],
    effects: &[&str],
) -> Option<&'a Taint> {
    taints
        .into_iter()
        .filter(|t| effects.contains(&t.effect.as_str()))
        .find(|taint| !tolerations.iter().any(|t| tolerates(t, taint)))
}

/// Whether the node is one that the pod's `nodeSelector` and required node affinity allow.
pub fn node_allowed(pod: &PodSpec, node: &Node) -> bool {
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let selected = pod.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let required = pod
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|s| node_selector_matches(s, node))
}

/// Whether any term of the selector matches; one without terms matches nothing.
pub fn node_selector_matches(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|t| node_term_matches(t, node))
}

/// Whether all requirements of the term hold; an empty term matches nothing.
pub fn node_term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|l| l.get(key)).map(String::as_str);
    let field = |key: &str| match key {
        "metadata.name" => node.metadata.name.as_deref(),
        _ => None,
    };
    expressions.iter().all(|r| requirement_holds(r, label(&r.key)))
        && fields.iter().all(|r| requirement_holds(r, field(&r.key)))
}

fn requirement_holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |v: &str| values.iter().any(|w| w == v);
    let compare = |greater: bool| {
        let (Some(Ok(is)), [bound]) = (value.map(str::parse::<i64>), values) else { return false };
        bound.parse::<i64>().is_ok_and(|b| if greater { is > b } else { is < b })
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(true),
        "Lt" => compare(false),
        _ => false,
    }
}

/// The priority that admission has noted on the pod.
pub fn priority(pod: &PodSpec) -> i32 {
    pod.priority.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    fn from<T: serde::de::DeserializeOwned>(v: api::Value) -> T {
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn tolerations() {
        let taint: Taint = from(json!({"key": "k", "value": "v", "effect": "NoSchedule"}));
        for (toleration, want) in [
            (json!({"key": "k", "value": "v"}), true),
            (json!({"key": "k", "value": "w"}), false),
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "x", "operator": "Exists"}), false),
        ] {
            assert_eq!(tolerates(&from(toleration.clone()), &taint), want, "{toleration}");
        }
        assert!(untolerated([&taint], &[], &["NoExecute"]).is_none());
        assert!(untolerated([&taint], &[], &["NoSchedule"]).is_some());
    }

    #[test]
    fn node_selection() {
        let node: Node = from(json!({"metadata": {"name": "n", "labels": {"zone": "a", "cpus": "8"}}}));
        for (term, want) in [
            (json!({}), false),
            (json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}), true),
            (json!({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}), false),
            (json!({"matchExpressions": [{"key": "none", "operator": "NotIn", "values": ["a"]}]}), true),
            (json!({"matchExpressions": [{"key": "cpus", "operator": "Gt", "values": ["4"]}]}), true),
            (json!({"matchExpressions": [{"key": "cpus", "operator": "Lt", "values": ["4"]}]}), false),
            (json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}), true),
        ] {
            assert_eq!(node_term_matches(&from(term.clone()), &node), want, "{term}");
        }
    }
}
