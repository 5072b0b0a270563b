//! The parameters of a binding: objects of any kind, by name or by labels.

use super::definitions::{Binding, Policy};
use crate::objects::{at, labels, text};
use crate::versions::shown;
use api::registry::Registry;
use api::resources::builtin;
use api::selectors::Selector;
use api::{GroupVersionKind, Value};

/// A kind of parameters, and where its objects are.
struct Place {
    group: String,
    resource: String,
    namespaced: bool,
    kind: GroupVersionKind,
}

fn place(registry: &dyn Registry, api_version: &str, kind: &str) -> Option<Place> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let gvk = GroupVersionKind::new(group, version, kind);
    let main = builtin().iter().find(|r| r.group == group && r.version == version && r.kind == kind);
    if let Some(row) = main {
        return Some(Place {
            group: row.group.clone(),
            resource: row.resource.clone(),
            namespaced: row.namespaced,
            kind: gvk,
        });
    }
    let definitions = registry.list(("apiextensions.k8s.io", "customresourcedefinitions"), None);
    definitions.iter().find_map(|d| {
        let served = |v: &Value| text(v, &["name"]) == version && v["served"] == true;
        let versions = at(d, &["spec", "versions"]).as_array()?;
        let matches = text(d, &["spec", "group"]) == group
            && text(d, &["spec", "names", "kind"]) == kind
            && versions.iter().any(served);
        matches.then(|| Place {
            group: group.to_owned(),
            resource: text(d, &["spec", "names", "plural"]).to_owned(),
            namespaced: text(d, &["spec", "scope"]) == "Namespaced",
            kind: gvk.clone(),
        })
    })
}

/// The parameters with which a policy is evaluated; `None` among them stands for none at all.
pub async fn collect(
    registry: &dyn Registry,
    policy: &Policy,
    binding: &Binding,
    namespace: &str,
) -> Result<Vec<Option<Value>>, String> {
    let (Some((api_version, kind)), Some(reference)) = (&policy.param_kind, &binding.param_ref) else {
        return Ok(vec![None]);
    };
    let Some(place) = place(registry, api_version, kind) else {
        return Err(format!(
            "failed to find resource referenced by paramKind: '{}'",
            described(api_version, kind)
        ));
    };
    let wanted = text(reference, &["namespace"]);
    let namespace = match (place.namespaced, wanted, namespace) {
        (false, "", _) => "",
        (false, _, _) => {
            return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
        }
        (true, "", "") => {
            return Err(
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                    .to_owned(),
            );
        }
        (true, "", own) => own,
        (true, wanted, _) => wanted,
    };
    let gr = (place.group.as_str(), place.resource.as_str());
    registry.awake(gr).await;
    let name = text(reference, &["name"]);
    let found: Vec<_> = if !name.is_empty() {
        registry.get(gr, namespace, name).into_iter().collect()
    } else {
        let selector = Selector::from_label_selector(reference.get("selector")).map_err(|e| e.to_string())?;
        let all = registry.list(gr, place.namespaced.then_some(namespace));
        all.into_iter().filter(|o| selector.matches(&labels(o))).collect()
    };
    if found.is_empty() && text(reference, &["parameterNotFoundAction"]) == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    let typed = |o: &Value| {
        let mut o = shown(o, &place.kind);
        if o.get("kind").is_none_or(Value::is_null) {
            o["kind"] = kind.as_str().into();
            o["apiVersion"] = api_version.as_str().into();
        }
        o
    };
    Ok(found.iter().map(|o| Some(typed(o))).collect())
}

fn described(api_version: &str, kind: &str) -> String {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    format!("{group}/{version}, Kind={kind}")
}
