//! Keys, owner references and label selectors of any object.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Resource;
use kube::core::{Selector, SelectorExt};

/// Namespace and name; the namespace is empty for cluster-scoped objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    /// A key from its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Key {
        Key { namespace: namespace.into(), name: name.into() }
    }

    /// A key of a cluster-scoped object.
    pub fn cluster(name: impl Into<String>) -> Key {
        Key { namespace: String::new(), name: name.into() }
    }

    /// The key of an object.
    pub fn of<K: Resource>(object: &K) -> Key {
        Key::of_meta(object.meta())
    }

    /// The key that an object's metadata spells.
    pub fn of_meta(meta: &ObjectMeta) -> Key {
        Key {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Short cuts to the metadata that every controller reads.
pub trait MetaExt {
    fn m(&self) -> &ObjectMeta;
    fn name(&self) -> &str {
        self.m().name.as_deref().unwrap_or_default()
    }
    fn ns(&self) -> &str {
        self.m().namespace.as_deref().unwrap_or_default()
    }
    fn uid(&self) -> &str {
        self.m().uid.as_deref().unwrap_or_default()
    }
    fn key(&self) -> Key {
        Key::of_meta(self.m())
    }
    fn deleting(&self) -> bool {
        self.m().deletion_timestamp.is_some()
    }
    fn generation(&self) -> i64 {
        self.m().generation.unwrap_or_default()
    }
    fn label(&self, name: &str) -> Option<&str> {
        self.m().labels.as_ref()?.get(name).map(String::as_str)
    }
    fn annotation(&self, name: &str) -> Option<&str> {
        self.m().annotations.as_ref()?.get(name).map(String::as_str)
    }
    fn has_finalizer(&self, name: &str) -> bool {
        self.m().finalizers.as_ref().is_some_and(|all| all.iter().any(|f| f == name))
    }
    fn rv(&self) -> u64 {
        self.m().resource_version.as_deref().and_then(|rv| rv.parse().ok()).unwrap_or_default()
    }
    /// Creation time in milliseconds since the epoch, 0 when the server has not set it yet.
    fn created(&self) -> i64 {
        self.m().creation_timestamp.as_ref().map(|t| t.0.as_millisecond()).unwrap_or_default()
    }
}

impl<K: Resource> MetaExt for K {
    fn m(&self) -> &ObjectMeta {
        self.meta()
    }
}

/// The owner reference that says `controller: true`, if there is one.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
}

/// The owner reference that makes `owner` the managing controller of a new object.
pub fn controller_ref<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A label selector, compiled. `None` and an invalid selector match nothing.
#[derive(Clone, Debug)]
pub struct Labels(Option<Selector>);

impl Labels {
    /// Compiles a `LabelSelector`; an empty one matches everything.
    pub fn new(selector: &LabelSelector) -> Labels {
        Labels(Selector::try_from(selector.clone()).ok())
    }

    /// Compiles an optional selector; an absent one matches nothing.
    pub fn optional(selector: Option<&LabelSelector>) -> Labels {
        selector.map_or(Labels(None), Labels::new)
    }

    /// A selector of exact values, as Services and ReplicationControllers have it.
    pub fn exact(labels: &BTreeMap<String, String>) -> Labels {
        Labels(Some(Selector::from_iter(labels.clone())))
    }

    /// Whether `labels` satisfy every requirement.
    pub fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        let Some(selector) = &self.0 else { return false };
        match labels {
            Some(labels) => selector.matches(labels),
            None => selector.matches(&BTreeMap::new()),
        }
    }

    /// The selector as the `status.selector` of a Scale has it.
    pub fn text(&self) -> String {
        self.0.as_ref().map(ToString::to_string).unwrap_or_default()
    }
}

/// Whether the selector is present but says nothing, which would select every object.
pub fn selects_everything(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_match_as_documented() {
        let cases = [
            (json!({}), json!({"a": "1"}), true),
            (json!({"matchLabels": {"a": "1"}}), json!({"a": "1", "b": "2"}), true),
            (json!({"matchLabels": {"a": "1"}}), json!({"a": "2"}), false),
            (
                json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}),
                json!({}),
                true,
            ),
            (json!({"matchExpressions": [{"key": "a", "operator": "Exists"}]}), json!({"b": ""}), false),
            (json!({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}), json!({"b": ""}), true),
        ];
        for (selector, labels, want) in cases {
            let compiled = Labels::new(&serde_json::from_value(selector.clone()).unwrap());
            let labels: BTreeMap<String, String> = serde_json::from_value(labels).unwrap();
            assert_eq!(compiled.matches(Some(&labels)), want, "{selector} {labels:?}");
        }
        assert!(!Labels::optional(None).matches(None));
    }
}
