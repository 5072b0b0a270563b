//! Label selectors of typed objects.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use std::collections::BTreeMap;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Whether the selector matches; an empty one matches everything.
pub fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let label = |key: &str| labels.and_then(|l| l.get(key));
    selector.match_labels.iter().flatten().all(|(k, v)| label(k) == Some(v))
        && selector.match_expressions.iter().flatten().all(|r| holds(r, label(&r.key)))
}

/// Whether a plain map of labels (of a service, of a replication controller) matches; an empty one does not.
pub fn map_matches(selector: &Labels, labels: Option<&Labels>) -> bool {
    !selector.is_empty() && selector.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
}

/// An absent selector matches nothing.
pub fn optional_matches(selector: Option<&LabelSelector>, labels: Option<&Labels>) -> bool {
    selector.is_some_and(|s| matches(s, labels))
}

fn holds(requirement: &LabelSelectorRequirement, value: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|v| values.contains(v)),
        "NotIn" => !value.is_some_and(|v| values.contains(v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

/// The text form that `labelSelector=` takes.
pub fn text(selector: &LabelSelector) -> String {
    crate::table::selector_text(&serde_json::to_value(selector).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn matching() {
        let labels: Labels = [("a".to_owned(), "1".to_owned())].into();
        for (selector, want) in [
            (json!({}), true),
            (json!({"matchLabels": {"a": "1"}}), true),
            (json!({"matchLabels": {"a": "2"}}), false),
            (json!({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["1"]}]}), true),
            (json!({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}), false),
        ] {
            let s: LabelSelector = serde_json::from_value(selector.clone()).unwrap();
            assert_eq!(matches(&s, Some(&labels)), want, "{selector}");
        }
        assert!(!map_matches(&Labels::new(), Some(&labels)));
    }
}
