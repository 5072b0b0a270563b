//! Which nodes a pod may be on: selectors, affinity terms, taints and tolerations. Pure functions.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

use crate::meta::MetaExt;

/// Whether a node satisfies a node selector: one of its terms holds.
pub fn selector_matches(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, node))
}

/// An empty term matches nothing; all requirements of a term have to hold.
pub fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if labels.is_empty() && fields.is_empty() {
        return false;
    }
    let none = BTreeMap::new();
    let have = node.metadata.labels.as_ref().unwrap_or(&none);
    labels.iter().all(|r| requirement(r, have.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| r.key == "metadata.name" && requirement(r, Some(node.name())))
}

fn requirement(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = r.values.as_deref().unwrap_or_default();
    let listed = |v: &str| values.iter().any(|x| x == v);
    let compare = |test: fn(i64, i64) -> bool| {
        let wanted = values.first().and_then(|v| v.parse().ok());
        matches!((value.and_then(|v| v.parse().ok()), wanted), (Some(a), Some(b)) if test(a, b))
    };
    match r.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|a, b| a > b),
        "Lt" => compare(|a, b| a < b),
        _ => false,
    }
}

/// Whether the node has the labels and affinity that a pod requires.
pub fn affinity_matches(spec: &PodSpec, node: &Node) -> bool {
    let none = BTreeMap::new();
    let have = node.metadata.labels.as_ref().unwrap_or(&none);
    let wanted = spec.node_selector.as_ref().unwrap_or(&none);
    if !wanted.iter().all(|(k, v)| have.get(k) == Some(v)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|selector| selector_matches(selector, node))
}

/// Whether a toleration covers a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    let (have, want) =
        (taint.value.as_deref().unwrap_or_default(), toleration.value.as_deref().unwrap_or_default());
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && have == want,
        "Lt" => matches!((have.parse::<i64>(), want.parse::<i64>()), (Ok(a), Ok(b)) if a < b),
        "Gt" => matches!((have.parse::<i64>(), want.parse::<i64>()), (Ok(a), Ok(b)) if a > b),
        _ => false,
    }
}

/// The first taint with one of the effects that nothing tolerates.
pub fn untolerated<'a>(
    taints: &'a [Taint],
    tolerations: &[Toleration],
    effects: &[&str],
) -> Option<&'a Taint> {
    let counts = |t: &&Taint| effects.contains(&t.effect.as_str());
    taints.iter().filter(counts).find(|taint| !tolerations.iter().any(|t| tolerates(t, taint)))
}

/// A node's taints.
pub fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default()
}

/// The status of a node's condition.
pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a k8s_openapi::api::core::v1::NodeCondition> {
    crate::condition::find(&node.status.as_ref()?.conditions, kind)
}

/// The node's Ready condition is True.
pub fn ready(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|c| c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn terms_and_requirements() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"zone": "a", "cpu": "8"}}}))
                .unwrap();
        for (term, want) in [
            (json!({}), false),
            (json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}), true),
            (json!({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}), false),
            (json!({"matchExpressions": [{"key": "gpu", "operator": "NotIn", "values": ["a"]}]}), true),
            (json!({"matchExpressions": [{"key": "cpu", "operator": "Gt", "values": ["4"]}]}), true),
            (json!({"matchExpressions": [{"key": "zone", "operator": "Gt", "values": ["4"]}]}), false),
            (json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}), true),
            (json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}), false),
        ] {
            assert_eq!(term_matches(&serde_json::from_value(term.clone()).unwrap(), &node), want, "{term}");
        }
    }

    #[test]
    fn tolerations() {
        let taint: Taint =
            serde_json::from_value(json!({"key": "k", "value": "v", "effect": "NoSchedule"})).unwrap();
        for (toleration, want) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"key": "k", "value": "v"}), true),
            (json!({"key": "k", "operator": "Equal", "value": "w"}), false),
            (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "x", "operator": "Exists"}), false),
        ] {
            assert_eq!(
                tolerates(&serde_json::from_value(toleration.clone()).unwrap(), &taint),
                want,
                "{toleration}"
            );
        }
    }
}
