//! The roles and bindings that every cluster has, and keeping them complete: what is missing is
//! added at each start of a server, what an operator added stays, and what an operator has marked
//! with `rbac.authorization.kubernetes.io/autoupdate: "false"` is left alone.

use super::rules::{Rule, rules_of, uncovered};
use crate::authz::rbac::GROUP;
use crate::values::{at, items, name, namespace, text};
use api::registry::Registry;
use api::status::{Result, Status};
use api::{Value, json};

const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
/// A conflict or an unavailable store is tried again this often before the object is given up.
const ATTEMPTS: usize = 4;

/// The objects by resource, in the order in which they are to be made.
pub struct BootstrapPolicy {
    pub objects: Vec<(&'static str, Vec<Value>)>,
}

/// The policy with these feature gates.
pub fn policy(gate: &dyn Fn(&str) -> bool) -> BootstrapPolicy {
    let data: Value = serde_json::from_str(include_str!("bootstrap.json")).unwrap_or(Value::Null);
    let list = |key: &str| items(&data, &[key]).iter().filter_map(|o| gated(o, gate)).collect::<Vec<_>>();
    BootstrapPolicy {
        objects: vec![
            ("clusterroles", list("clusterRoles")),
            ("clusterrolebindings", list("clusterRoleBindings")),
            ("roles", list("roles")),
            ("rolebindings", list("roleBindings")),
        ],
    }
}

/// An object without what its gates switch off, and without the marks of the gates.
fn gated(object: &Value, gate: &dyn Fn(&str) -> bool) -> Option<Value> {
    let on = |v: &Value| v.get("gate").and_then(Value::as_str).is_none_or(gate);
    if !on(object) {
        return None;
    }
    let mut object = object.clone();
    let strip = |v: &mut Value| {
        if let Some(map) = v.as_object_mut() {
            map.remove("gate");
        }
    };
    strip(&mut object);
    if let Some(rules) = object.get_mut("rules").and_then(Value::as_array_mut) {
        rules.retain(on);
        rules.iter_mut().for_each(strip);
    }
    Some(object)
}

/// The rules of every node, which the node authorizer narrows down.
pub fn node_rules(gate: &dyn Fn(&str) -> bool) -> Vec<Rule> {
    let policy = policy(gate);
    let roles = policy.objects.iter().filter(|(r, _)| *r == "clusterroles").flat_map(|(_, o)| o);
    roles.filter(|o| name(o) == "system:node").flat_map(rules_of).collect()
}

/// Creates or completes every object of the policy. Goes on past failures, and returns the first
/// one so that the caller tries again.
pub async fn reconcile(registry: &dyn Registry, gate: &(dyn Fn(&str) -> bool + Sync)) -> Result<()> {
    let plan = policy(gate);
    reconcile_policy(registry, plan).await
}

async fn reconcile_policy(registry: &dyn Registry, plan: BootstrapPolicy) -> Result<()> {
    let mut first_failure = None;
    for (resource, objects) in plan.objects {
        for expected in objects {
            if let Err(error) = reconcile_object(registry, resource, &expected).await {
                tracing::warn!(resource, name = name(&expected), %error, "bootstrap object not reconciled");
                first_failure = first_failure.or(Some(error));
            }
        }
    }
    first_failure.map_or(Ok(()), Err)
}

async fn reconcile_object(registry: &dyn Registry, resource: &'static str, expected: &Value) -> Result<()> {
    let mut last = Status::internal("exceeded maximum attempts");
    for _ in 0..ATTEMPTS {
        match attempt(registry, resource, expected).await {
            Ok(()) => return Ok(()),
            Err(e) if matches!(e.code, 404 | 409 | 503) => last = e,
            Err(e) => return Err(e),
        }
    }
    Err(last)
}

async fn attempt(registry: &dyn Registry, resource: &'static str, expected: &Value) -> Result<()> {
    let gr = (GROUP, resource);
    let existing = match registry.get(gr, namespace(expected), name(expected)) {
        Some(found) => Value::clone(&found),
        None => match registry.get_live(gr, namespace(expected), name(expected)).await {
            Ok(found) => found,
            Err(e) if e.code == 404 => {
                return registry.create(gr, namespace(expected), expected.clone()).await.map(drop);
            }
            Err(e) => return Err(e),
        },
    };
    if text(&existing, &["metadata", "annotations", AUTO_UPDATE]) == "false" {
        return Ok(());
    }
    if resource.ends_with("bindings") && at(&existing, &["roleRef"]) != at(expected, &["roleRef"]) {
        registry.delete(gr, namespace(expected), name(expected)).await?;
        return registry.create(gr, namespace(expected), expected.clone()).await.map(drop);
    }
    match completed(&existing, expected) {
        None => Ok(()),
        // Memory may lag: a conflict comes back as 409 and the next attempt sees the newer object.
        Some(object) => registry.update(gr, "", object).await.map(drop),
    }
}

/// The existing object with what it lacks of the expected one; `None` if it lacks nothing.
fn completed(existing: &Value, expected: &Value) -> Option<Value> {
    let mut out = existing.clone();
    for map in ["annotations", "labels"] {
        for (key, value) in at(expected, &["metadata", map]).as_object().into_iter().flatten() {
            if at(&out, &["metadata", map, key]).is_null() {
                put(&mut out["metadata"], map, key, value.clone());
            }
        }
    }
    if expected.get("roleRef").is_some() {
        complete_list(&mut out, "subjects", items(expected, &["subjects"]), same_subject);
    } else {
        complete_rules(&mut out, expected);
    }
    (out != *existing).then_some(out)
}

fn put(parent: &mut Value, map: &str, key: &str, value: Value) {
    if !parent[map].is_object() {
        parent[map] = json!({});
    }
    parent[map][key] = value;
}

fn complete_list(out: &mut Value, field: &str, wanted: &[Value], same: fn(&Value, &Value) -> bool) {
    let mut list = items(out, &[field]).to_vec();
    let missing: Vec<&Value> = wanted.iter().filter(|w| !list.iter().any(|l| same(l, w))).collect();
    if missing.is_empty() {
        return;
    }
    list.extend(missing.into_iter().cloned());
    out[field] = list.into();
}

fn same_subject(a: &Value, b: &Value) -> bool {
    ["kind", "apiGroup", "name", "namespace"].iter().all(|k| text(a, &[k]) == text(b, &[k]))
}

fn complete_rules(out: &mut Value, expected: &Value) {
    let missing = uncovered(&rules_of(out), &rules_of(expected));
    if !missing.is_empty() {
        let mut rules = items(out, &["rules"]).to_vec();
        rules.extend(missing.iter().map(|r| json!(r)));
        out["rules"] = rules.into();
    }
    let wanted = items(expected, &["aggregationRule", "clusterRoleSelectors"]);
    if at(expected, &["aggregationRule"]).is_null() {
        if let Some(map) = out.as_object_mut() {
            map.remove("aggregationRule");
        }
        return;
    }
    if !out["aggregationRule"].is_object() {
        out["aggregationRule"] = json!({});
    }
    complete_list(&mut out["aggregationRule"], "clusterRoleSelectors", wanted, |a, b| a == b);
}
