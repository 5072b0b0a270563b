//! Which nodes a pod selects: `spec.nodeSelector` and node affinity.

use crate::selector::{Labels, Selector};
use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorTerm, Pod};

/// One term of a node selector: labels and fields, all of which must match. A term without any matches nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    labels: Selector,
    fields: Selector,
    empty: bool,
}

impl Term {
    pub fn of(term: &NodeSelectorTerm) -> Term {
        let (mut labels, mut fields) = (Selector::everything(), Selector::everything());
        for e in term.match_expressions.iter().flatten() {
            labels.require(&e.key, &e.operator, e.values.as_deref().unwrap_or_default());
        }
        for e in term.match_fields.iter().flatten() {
            fields.require(&e.key, &e.operator, e.values.as_deref().unwrap_or_default());
        }
        Term { empty: labels.is_empty() && fields.is_empty(), labels, fields }
    }

    pub fn matches(&self, name: &str, labels: Option<&Labels>) -> bool {
        let field = |key: &str| (key == "metadata.name").then(|| name.to_owned());
        !self.empty && self.labels.matches(labels) && self.fields.matches_with(&field)
    }
}

/// Any of the terms must match.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms(Vec<Term>);

impl Terms {
    pub fn of(selector: &NodeSelector) -> Terms {
        Terms(selector.node_selector_terms.iter().map(Term::of).collect())
    }

    pub fn matches(&self, name: &str, labels: Option<&Labels>) -> bool {
        self.0.iter().any(|t| t.matches(name, labels))
    }
}

/// What a pod demands of its node.
#[derive(Clone, Debug, PartialEq)]
pub struct RequiredNodes {
    selector: Selector,
    terms: Option<Terms>,
}

impl RequiredNodes {
    pub fn of(pod: &Pod) -> RequiredNodes {
        let spec = pod.spec.as_ref();
        let selector = Selector::of_map(spec.and_then(|s| s.node_selector.as_ref()).into_iter().flatten());
        let terms = spec
            .and_then(|s| s.affinity.as_ref()?.node_affinity.as_ref())
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
            .map(Terms::of);
        RequiredNodes { selector, terms }
    }

    /// Whether every node is acceptable.
    pub fn is_any(&self) -> bool {
        self.selector.is_empty() && self.terms.is_none()
    }

    pub fn matches(&self, node: &Node) -> bool {
        let labels = node.metadata.labels.as_ref();
        let name = node.metadata.name.as_deref().unwrap_or("");
        self.selector.matches(labels) && self.terms.as_ref().is_none_or(|t| t.matches(name, labels))
    }
}

/// The preferred terms of a pod with their weights.
pub fn preferred(pod: &Pod) -> Vec<(i64, Term)> {
    pod.spec
        .as_ref()
        .and_then(|s| s.affinity.as_ref()?.node_affinity.as_ref())
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .flatten()
        .map(|p| (i64::from(p.weight), Term::of(&p.preference)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::NodeSelectorRequirement;

    #[test]
    fn an_empty_term_matches_nothing_and_fields_match_the_name() {
        let term = |key: &str, value: &str| NodeSelectorTerm {
            match_fields: Some(vec![NodeSelectorRequirement {
                key: key.into(),
                operator: "In".into(),
                values: Some(vec![value.into()]),
            }]),
            ..Default::default()
        };
        assert!(!Term::of(&NodeSelectorTerm::default()).matches("n", None));
        assert!(Term::of(&term("metadata.name", "n")).matches("n", None));
        assert!(!Term::of(&term("metadata.name", "m")).matches("n", None));
        let any = NodeSelector {
            node_selector_terms: vec![term("metadata.name", "m"), term("metadata.name", "n")],
        };
        assert!(Terms::of(&any).matches("n", None));
    }
}
