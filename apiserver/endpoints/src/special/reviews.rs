//! Questions about identity and permission: TokenReview, the access reviews, SelfSubjectReview.

use crate::body::Body;
use crate::call::Call;
use crate::managed::{self, Write};
use crate::negotiate::Offers;
use crate::query::WriteOptions;
use crate::served::Served;
use crate::{admit, input, respond, verbs};
use api::status::{Result, Status};
use api::{Value, json};
use auth::{Attributes, Decision, UserInfo};
use http::Response;
use std::collections::BTreeMap;
use std::sync::Arc;

async fn body(call: &Call, served: &Arc<Served>) -> Result<Value> {
    let options = WriteOptions::from_query(&call.query, "CreateOptions")?;
    let mut value = input::object(call, &served.gvk, options.validation).await?;
    let mut t = verbs::target(call, served, "CreateOptions");
    t.dry_run = options.dry_run;
    verbs::match_namespace(&t, &mut value)?;
    let manager = call.manager(&options.field_manager);
    let own = crate::managed::Write { manager: &manager, subresource: "" };
    crate::managed::record(served, None, &mut value, &own);
    let review = t.review("CREATE");
    admit::mutate(&review, &mut value, None).await?;
    admit::validate(&review, &value, None).await?;
    let own = Write { manager: &call.manager(&options.field_manager), subresource: "" };
    managed::record(served, None, &mut value, &own);
    Ok(value)
}

fn answer(call: &Call, mut review: Value, status: Value) -> Result<Response<Body>> {
    review["status"] = status;
    respond::value(call, 201, &review, call.accepted(Offers::PLAIN)?)
}

fn strings(v: &Value) -> Vec<String> {
    v.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// TokenReview: whose token is it?
pub async fn token(call: &Call, served: &Arc<Served>) -> Result<Response<Body>> {
    let review = body(call, served).await?;
    let token = review["spec"]["token"].as_str().unwrap_or_default().to_owned();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences = strings(&review["spec"]["audiences"]);
    let status = match call.server.authenticator.authenticate_token(&token, &audiences).await {
        Ok(Some(found)) => {
            let mut s = json!({"authenticated": true, "user": found.user.to_value()});
            if !found.audiences.is_empty() {
                s["audiences"] = json!(found.audiences);
            }
            s
        }
        Ok(None) => json!({"user": {}, "error": "invalid bearer token"}),
        Err(e) => json!({"user": {}, "error": e.to_string()}),
    };
    answer(call, review, status)
}

/// SelfSubjectReview: who am I?
pub async fn self_subject(call: &Call, served: &Arc<Served>) -> Result<Response<Body>> {
    let mut review = body(call, served).await?;
    review["metadata"]["creationTimestamp"] = crate::write::now().into();
    answer(call, review, json!({"userInfo": call.user.to_value()}))
}

/// SelfSubjectRulesReview: what may I do here?
pub async fn rules(call: &Call, served: &Arc<Served>) -> Result<Response<Body>> {
    let review = body(call, served).await?;
    let namespace = review["spec"]["namespace"].as_str().unwrap_or_default();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let rules = call.server.authorizer.rules_for(&call.user, namespace);
    let status = rules.unwrap_or_default().to_status();
    // The answer says nothing of the question.
    let blank = json!({"kind": served.gvk.kind, "apiVersion": served.api_version,
        "metadata": {"creationTimestamp": null}, "spec": {}});
    answer(call, blank, status)
}

/// SubjectAccessReview, LocalSubjectAccessReview and SelfSubjectAccessReview.
pub async fn access(call: &Call, served: &Arc<Served>) -> Result<Response<Body>> {
    let review = body(call, served).await?;
    let own = served.gvk.kind == "SelfSubjectAccessReview";
    let local = served.gvk.kind == "LocalSubjectAccessReview";
    let spec = &review["spec"];
    let errors = kinds::reviews::access(&served.gvk.kind, &review);
    if !errors.is_empty() {
        return Err(Status::invalid("authorization.k8s.io", "", "", &errors));
    }
    if local && spec["resourceAttributes"]["namespace"] != review["metadata"]["namespace"] {
        let ns = review["metadata"]["namespace"].as_str().unwrap_or_default();
        return Err(Status::bad_request(format!(
            "spec.resourceAttributes.namespace must match namespace: {ns}"
        )));
    }
    let other;
    let user: &UserInfo = if own {
        &call.user
    } else {
        other = subject(spec);
        &other
    };
    let status = decide(call, user, spec).await;
    answer(call, review, status)
}

fn subject(spec: &Value) -> UserInfo {
    let extra: BTreeMap<String, Vec<String>> =
        spec["extra"].as_object().into_iter().flatten().map(|(k, v)| (k.clone(), strings(v))).collect();
    UserInfo {
        name: spec["user"].as_str().unwrap_or_default().to_owned(),
        uid: spec["uid"].as_str().unwrap_or_default().to_owned(),
        groups: strings(&spec["groups"]),
        extra,
    }
}

async fn decide(call: &Call, user: &UserInfo, spec: &Value) -> Value {
    let at = |k: &str| spec["resourceAttributes"][k].as_str().unwrap_or_default();
    let attributes = if spec["resourceAttributes"].is_object() {
        Attributes::resource(user, at("verb"), at("group"), at("resource"))
            .version(at("version"))
            .namespace(at("namespace"))
            .name(at("name"))
            .subresource(at("subresource"))
    } else {
        let at = |k: &str| spec["nonResourceAttributes"][k].as_str().unwrap_or_default();
        Attributes::path(user, at("verb"), at("path"))
    };
    let verdict = call.server.authorizer.authorize(&attributes).await;
    let mut status = json!({"allowed": verdict.decision == Decision::Allow});
    if verdict.decision == Decision::Deny {
        status["denied"] = true.into();
    }
    if !verdict.reason.is_empty() {
        status["reason"] = verdict.reason.as_ref().into();
    }
    if let Some(error) = verdict.error {
        status["evaluationError"] = error.into();
    }
    status
}
