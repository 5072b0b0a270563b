//! Binding a pod to a node: `pods/binding`, and the older `bindings` resource.

use crate::body::Body;
use crate::call::Call;
use crate::negotiate::Offers;
use crate::query::WriteOptions;
use crate::write::{Preconditions, Target, now, raw_update};
use crate::{admit, input, respond, verbs};
use api::field::{Error, Path};
use api::status::{Result, Status};
use api::{GroupVersionKind, Value, json};
use http::Response;
use std::sync::Arc;

/// Answers a POST of a Binding; `name` is the pod of the path, if the path names one.
pub async fn create(call: &Call, name: Option<&str>) -> Result<Response<Body>> {
    let accepted = call.accepted(Offers::PLAIN)?;
    let options = WriteOptions::from_query(&call.query, "CreateOptions")?;
    let gvk = GroupVersionKind::new("", "v1", "Binding");
    let mut binding = input::object(call, &gvk, options.validation).await?;
    let pods = call.server.routes.load().find("", "v1", "pods").cloned().ok_or_else(Status::no_such_path)?;
    verbs::match_namespace(&verbs::target(call, &pods, "CreateOptions"), &mut binding)?;
    let given = binding["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let name = name.unwrap_or(&given);
    if name != given {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    validate(&binding)?;
    let t = Target {
        call,
        served: &pods,
        namespace: &call.info.namespace,
        name,
        subresource: "binding",
        door: "binding",
        dry_run: options.dry_run,
        options: "CreateOptions",
        create: false,
    };
    let review = t.review("CREATE");
    admit::mutate(&review, &mut binding, None).await?;
    admit::validate(&review, &binding, None).await?;
    assign(&t, &binding).await?;
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    respond::value(call, 201, &status, accepted)
}

fn validate(binding: &Value) -> Result<()> {
    let target = &binding["target"];
    let path = Path::new("target");
    let mut errors = Vec::new();
    let kind = target["kind"].as_str().unwrap_or_default();
    if !kind.is_empty() && kind != "Node" {
        errors.push(Error::not_supported(&path.child("kind"), kind, &["Node", "<empty>"]));
    }
    if target["name"].as_str().unwrap_or_default().is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    }
    let name = binding["metadata"]["name"].as_str().unwrap_or_default();
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("", "Binding", name, &errors)) }
}

async fn assign(t: &Target<'_>, binding: &Value) -> Result<()> {
    let text = |k: &str| binding["metadata"][k].as_str().filter(|s| !s.is_empty()).map(str::to_owned);
    let pre = Preconditions { uid: text("uid"), resource_version: text("resourceVersion") };
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    let done = raw_update(t, &pre, |pod| {
        refuse(t.name, pod)?;
        pod["spec"]["nodeName"] = node.into();
        for what in ["annotations", "labels"] {
            copy(&binding["metadata"][what], &mut pod["metadata"], what);
        }
        if let Some(status) = pod["status"].as_object_mut() {
            status.remove("nominatedNodeName");
        }
        scheduled(pod);
        Ok(())
    });
    done.await.map(|_| ())
}

fn refuse(name: &str, pod: &Value) -> Result<()> {
    let conflict = |why: String| Err(Status::conflict("", "pods/binding", name, why));
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if let Some(node) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
        return conflict(format!("pod {name} is already assigned to node {node:?}"));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    Ok(())
}

fn copy(from: &Value, meta: &mut Value, what: &str) {
    let Some(from) = from.as_object().filter(|m| !m.is_empty()) else { return };
    if !meta[what].is_object() {
        meta[what] = json!({});
    }
    for (k, v) in from {
        meta[what][k] = v.clone();
    }
}

/// The condition `PodScheduled` becomes true.
fn scheduled(pod: &mut Value) {
    set_condition(pod, json!({"type": "PodScheduled", "status": "True"}));
}

/// Sets a pod's condition; its transition time moves only when its status does.
pub fn set_condition(pod: &mut Value, mut condition: Value) {
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    condition["lastTransitionTime"] = now().into();
    let Some(all) = pod["status"]["conditions"].as_array_mut() else { return };
    match all.iter_mut().find(|c| c["type"] == condition["type"]) {
        Some(have) => {
            if have["status"] == condition["status"] {
                condition["lastTransitionTime"] = have["lastTransitionTime"].clone();
            }
            *have = condition;
        }
        None => all.push(condition),
    }
}

/// The row of a resource in the version that the server works with.
pub fn row(call: &Call, group: &str, resource: &str) -> Result<Arc<crate::served::Served>> {
    call.server.storage_row(group, resource).ok_or_else(Status::no_such_path)
}
