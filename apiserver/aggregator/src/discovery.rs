//! What an aggregated server says of its resources: an entry of aggregated discovery a version.

use crate::client::Question;
use crate::service::Service;
use api::registry::Reader;
use api::{Value, json};
use std::time::Duration;

const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const V2_BETA: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
const LIMIT: Duration = Duration::from_secs(5);

/// The entry of a server that cannot be asked: what it said before, marked as old.
pub fn stale(before: Option<&Value>, version: &str) -> Value {
    let mut entry = before.cloned().unwrap_or_else(|| json!({"version": version}));
    entry["freshness"] = "Stale".into();
    entry
}

/// The entry of a version, as its server gives it now.
pub async fn read(reader: &dyn Reader, service: &Service, routing: bool) -> Result<Value, String> {
    let client = service.client.as_ref().as_ref().map_err(Clone::clone)?;
    let all = format!("{V2},{V2_BETA}");
    let mut question = Question {
        reader,
        place: &service.place,
        routing,
        path: "/apis",
        accept: &all,
        group: "system:masters",
        limit: LIMIT,
    };
    let said = client.ask(&question).await?;
    if said.status == 503 {
        return Err("the server is unavailable".into());
    }
    let mut entry = if said.status == 200 && said.media.contains("APIGroupDiscoveryList") {
        let list: Value = serde_json::from_slice(&said.body).map_err(|e| e.to_string())?;
        of_list(&list, service)
    } else {
        let path = service.path();
        question.path = &path;
        question.accept = "application/json";
        let said = client.ask(&question).await?;
        if said.status != 200 {
            return Err(format!("failed to download legacy discovery for {path}: {}", said.status));
        }
        let list: Value = serde_json::from_slice(&said.body).map_err(|e| e.to_string())?;
        of_resources(&list, service)
    };
    entry["freshness"] = "Current".into();
    Ok(entry)
}

fn items(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}

fn of_list(list: &Value, service: &Service) -> Value {
    let group = items(&list["items"])
        .find(|g| g["metadata"]["name"].as_str().unwrap_or_default() == service.group.as_str());
    let version =
        group.and_then(|g| items(&g["versions"]).find(|v| v["version"] == service.version.as_str()));
    let mut entry = version.cloned().unwrap_or_else(|| json!({"version": service.version}));
    for r in entry.get_mut("resources").and_then(Value::as_array_mut).into_iter().flatten() {
        // Clients count on a kind being there.
        fill_kind(r);
        if let Some(subresources) = r.get_mut("subresources").and_then(Value::as_array_mut) {
            subresources.iter_mut().for_each(fill_kind);
        }
    }
    entry
}

fn fill_kind(v: &mut Value) {
    if v["responseKind"].is_null() {
        v["responseKind"] = json!({"group": "", "version": "", "kind": ""});
    }
}

/// The older form, in which subresources stand beside their resources.
fn of_resources(list: &Value, service: &Service) -> Value {
    let mut resources: Vec<Value> = Vec::new();
    let kind = |r: &Value| {
        let or = |key: &str, own: &str| match r[key].as_str().unwrap_or_default() {
            "" => own.to_owned(),
            text => text.to_owned(),
        };
        let (group, version) = (or("group", &service.group), or("version", &service.version));
        json!({"group": group, "version": version, "kind": r["kind"]})
    };
    for r in items(&list["resources"]) {
        let name = r["name"].as_str().unwrap_or_default();
        let Some((parent, sub)) = name.split_once('/') else {
            let scope = if r["namespaced"] == true { "Namespaced" } else { "Cluster" };
            let mut entry = json!({
                "resource": name, "responseKind": kind(r), "scope": scope,
                "singularResource": r["singularName"].as_str().unwrap_or_default(), "verbs": r["verbs"],
            });
            for key in ["shortNames", "categories"] {
                if items(&r[key]).next().is_some() {
                    entry[key] = r[key].clone();
                }
            }
            resources.push(entry);
            continue;
        };
        let entry = json!({"subresource": sub, "responseKind": kind(r), "verbs": r["verbs"]});
        if let Some(parent) = resources.iter_mut().find(|p| p["resource"] == parent) {
            match parent["subresources"].as_array_mut() {
                Some(all) => all.push(entry),
                None => parent["subresources"] = json!([entry]),
            }
        }
    }
    json!({"version": service.version, "resources": resources})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Identity;

    fn service() -> Service {
        let object = json!({
            "metadata": {"name": "v1.a.b"},
            "spec": {"group": "a.b", "version": "v1", "service": {"name": "s", "namespace": "n"}},
        });
        Service::of(&object, &Identity::default(), None).unwrap()
    }

    #[test]
    fn the_older_form_says_the_same() {
        let list = json!({"resources": [
            {"name": "cats", "singularName": "cat", "namespaced": true, "kind": "Cat", "verbs": ["get"], "shortNames": ["c"]},
            {"name": "cats/scale", "singularName": "", "namespaced": true, "kind": "Scale", "verbs": ["get"], "group": "autoscaling", "version": "v1"},
        ]});
        let want = json!({"version": "v1", "resources": [{
            "resource": "cats", "singularResource": "cat", "scope": "Namespaced", "verbs": ["get"], "shortNames": ["c"],
            "responseKind": {"group": "a.b", "version": "v1", "kind": "Cat"},
            "subresources": [{"subresource": "scale", "verbs": ["get"],
                "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}}],
        }]});
        assert_eq!(of_resources(&list, &service()), want);
    }

    #[test]
    fn the_version_is_picked_from_all() {
        let list = json!({"items": [
            {"metadata": {"name": "x"}, "versions": [{"version": "v1", "resources": []}]},
            {"metadata": {"name": "a.b"}, "versions": [{"version": "v1", "resources": [{"resource": "cats"}]}]},
        ]});
        let got = of_list(&list, &service());
        assert_eq!(got["resources"][0]["resource"], "cats");
        assert_eq!(got["resources"][0]["responseKind"]["kind"], "");
        assert_eq!(of_list(&json!({}), &service()), json!({"version": "v1"}));
        assert_eq!(stale(Some(&got), "v1")["freshness"], "Stale");
    }
}
