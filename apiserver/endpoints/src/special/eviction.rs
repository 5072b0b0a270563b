//! Eviction: a deletion that asks the pod's disruption budget first.

use super::bindings::{row, set_condition};
use crate::body::Body;
use crate::call::Call;
use crate::delete;
use crate::negotiate::Offers;
use crate::query::DeleteOptions;
use crate::served::Served;
use crate::write::{Preconditions, Target, now, raw_update};
use crate::{admit, respond};
use api::selectors::Selector;
use api::status::{Cause, Result, Status};
use api::{Value, json};
use http::Response;
use std::sync::Arc;

/// Evictions that a budget remembers without having seen their pods go.
const MAX_DISRUPTED: usize = 2000;
const GROUP: &str = "policy";
const VIOLATES: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// Answers a POST of an Eviction.
pub async fn create(call: &Call, pods: &Arc<Served>) -> Result<Response<Body>> {
    let accepted = call.accepted(Offers::PLAIN)?;
    let (mut eviction, options) = super::body_of(call, pods, "eviction").await?;
    let name = call.info.name.as_str();
    if eviction["metadata"]["name"].as_str().unwrap_or_default() != name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let mut how = DeleteOptions::from_value(&eviction["deleteOptions"])?;
    how.dry_run |= options.dry_run;
    let t = Target {
        call,
        served: pods,
        namespace: &call.info.namespace,
        name,
        subresource: "status",
        door: "eviction",
        dry_run: how.dry_run,
        options: "CreateOptions",
        create: false,
    };
    let review = t.review("CREATE");
    admit::mutate(&review, &mut eviction, None).await?;
    admit::validate(&review, &eviction, None).await?;
    evict(&t, how).await?;
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    respond::value(call, 201, &status, accepted)
}

async fn evict(t: &Target<'_>, mut how: DeleteOptions) -> Result<()> {
    let key = t.served.key(t.namespace, t.name)?;
    let found = t.served.stored()?.resource.get(&key, storage::ReadVersion::Consistent).await;
    let object = found.map_err(|e| t.storage_error(e))?.ok_or_else(|| t.served.not_found(t.name))?;
    let pod = t.served.value(&object)?;
    let asked = how.resource_version.is_some();
    if !ignores_budget(&pod) {
        if judge(t, &pod).await? && !asked {
            how.resource_version = pod["metadata"]["resourceVersion"].as_str().map(str::to_owned);
        }
    } else if pod["status"]["phase"] == "Pending" && pod["metadata"]["deletionTimestamp"].is_null() && !asked
    {
        how.resource_version = pod["metadata"]["resourceVersion"].as_str().map(str::to_owned);
    }
    mark_and_delete(t, how).await
}

/// Pods that are over, not begun or already going harm nobody's availability.
fn ignores_budget(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending"))
        || !pod["metadata"]["deletionTimestamp"].is_null()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Asks the budget. True: the pod may go, provided that it is still as it was seen.
async fn judge(t: &Target<'_>, pod: &Value) -> Result<bool> {
    let budgets = t.call.server.registry.list((GROUP, "poddisruptionbudgets"), Some(t.namespace));
    let mut matching = Vec::new();
    for budget in budgets {
        let selector =
            Selector::from_label_selector(budget["spec"].get("selector")).map_err(Status::internal)?;
        if selector.matches(pod) {
            matching.push(budget);
        }
    }
    let budget = match matching.as_slice() {
        [] => return Ok(false),
        [one] => one,
        _ => {
            let text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status::new(500, "", text));
        }
    };
    if !is_ready(pod) {
        let s = &budget["status"];
        let (have, want) =
            (s["currentHealthy"].as_i64().unwrap_or(0), s["desiredHealthy"].as_i64().unwrap_or(0));
        if budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" || (have >= want && want > 0) {
            return Ok(true);
        }
    }
    let name = budget["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let pdbs = row(t.call, GROUP, "poddisruptionbudgets")?;
    let pdb = Target { served: &pdbs, name: &name, subresource: "status", door: "status", ..*t };
    raw_update(&pdb, &Preconditions::default(), |budget| decrement(budget, t.name)).await?;
    Ok(false)
}

/// Takes one disruption from the budget, or says why there is none.
fn decrement(budget: &mut Value, pod: &str) -> Result<()> {
    let name = budget["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let number = |v: &Value| v.as_i64().unwrap_or(0);
    let status = &budget["status"];
    if number(&status["observedGeneration"]) < number(&budget["metadata"]["generation"]) {
        let cause = format!("The disruption budget {name} is still being processed by the server.");
        return Err(too_many(10, cause));
    }
    let forbidden = |why| Err(Status::forbidden(GROUP, "poddisruptionbudget", &name, why));
    let allowed = number(&status["disruptionsAllowed"]);
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if status["disruptedPods"].as_object().is_some_and(|m| m.len() > MAX_DISRUPTED) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        return Err(too_many(0, none_left(&name, status)));
    }
    let status = &mut budget["status"];
    status["disruptionsAllowed"] = (allowed - 1).into();
    if !status["disruptedPods"].is_object() {
        status["disruptedPods"] = json!({});
    }
    status["disruptedPods"][pod] = now().into();
    Ok(())
}

fn none_left(name: &str, status: &Value) -> String {
    let conditions = status["conditions"].as_array();
    let condition =
        conditions.into_iter().flatten().find(|c| c["type"] == "DisruptionAllowed" && c["status"] == "False");
    let said = |k: &str| condition.and_then(|c| c[k].as_str()).unwrap_or_default();
    let (have, want) =
        (status["currentHealthy"].as_i64().unwrap_or(0), status["desiredHealthy"].as_i64().unwrap_or(0));
    let head = format!("The disruption budget {name}");
    match (said("reason"), said("message")) {
        ("SyncFailed", text) if !text.is_empty() => {
            format!("{head} does not allow evicting pods currently because it failed sync: {text}")
        }
        _ if have <= want => format!("{head} needs {want} healthy pods and has {have} currently"),
        (reason, text) if !text.is_empty() => {
            format!("{head} does not allow evicting pods currently ({reason}): {text}")
        }
        _ => format!("{head} does not allow evicting pods currently"),
    }
}

fn too_many(retry: u32, cause: String) -> Status {
    let mut s = Status::too_many_requests(VIOLATES, retry);
    if let Some(d) = s.details.as_mut() {
        d.causes.push(Cause { reason: "DisruptionBudget".into(), message: cause, field: String::new() });
    }
    s
}

async fn mark_and_delete(t: &Target<'_>, mut how: DeleteOptions) -> Result<()> {
    let pre = Preconditions { uid: how.uid.clone(), resource_version: how.resource_version.clone() };
    if !how.dry_run {
        let condition = json!({
            "type": "DisruptionTarget", "status": "True",
            "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
        });
        let marked = raw_update(t, &pre, |pod| {
            set_condition(pod, condition.clone());
            Ok(())
        });
        let marked = marked.await?.value(t.served)?;
        if how.resource_version.is_some() {
            how.resource_version = marked["metadata"]["resourceVersion"].as_str().map(str::to_owned);
        }
    }
    let gone = Target { subresource: "", door: "", options: "DeleteOptions", ..*t };
    delete::delete(&gone, &how).await.map(|_| ())
}
