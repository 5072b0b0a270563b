//! `/scale`: the number of replicas of whatever has one, as `autoscaling/v1 Scale`.

use crate::body::Body;
use crate::call::Call;
use crate::negotiate::Offers;
use crate::patch;
use crate::query::WriteOptions;
use crate::served::Served;
use crate::write::{self, Outcome, Preconditions, Target};
use crate::{input, managed, respond, verbs};
use api::field::{Error, Path};
use api::selectors::Selector;
use api::status::{Result, Status};
use api::{GroupVersionKind, Value, json};
use http::Response;
use std::sync::Arc;

fn gvk() -> GroupVersionKind {
    GroupVersionKind::new("autoscaling", "v1", "Scale")
}

/// Answers GET, PUT and PATCH.
pub async fn serve(call: &Call, served: &Arc<Served>) -> Result<Response<Body>> {
    let accepted = call.accepted(Offers::PLAIN)?;
    let outcome = match call.info.verb {
        "get" => Outcome::Stored(verbs::read(call, served).await?),
        "update" => put(call, served).await?,
        "patch" => patched(call, served).await?,
        _ => return Err(verbs::method_not_allowed()),
    };
    respond::value(call, 200, &scale_of(served, &outcome.value(served)?)?, accepted)
}

const SPEC_REPLICAS: &str = "/spec/replicas";
const STATUS_REPLICAS: &str = "/status/replicas";

fn spec_replicas(served: &Served) -> &str {
    served.scale.as_ref().map_or(SPEC_REPLICAS, |s| &s.spec_replicas)
}

/// The Scale of an object.
fn scale_of(served: &Served, object: &Value) -> Result<Value> {
    let meta = &object["metadata"];
    let status = served.scale.as_ref().map_or(STATUS_REPLICAS, |s| &s.status_replicas);
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64);
    let mut out = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {},
        "spec": {}, "status": {"replicas": number(status).unwrap_or(0)},
    });
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if !meta[field].is_null() {
            out["metadata"][field] = meta[field].clone();
        }
    }
    let wanted = spec_replicas(served);
    match number(wanted) {
        None if served.scale.is_some() => {
            let path = wanted.replace('/', ".");
            return Err(Status::internal(format!("the spec replicas field {path:?} does not exist")));
        }
        None | Some(0) => {}
        Some(n) => out["spec"]["replicas"] = n.into(),
    }
    let text = selector_of(served, object);
    if !text.is_empty() {
        out["status"]["selector"] = text.into();
    }
    Ok(out)
}

fn selector_of(served: &Served, object: &Value) -> String {
    if let Some(custom) = &served.scale {
        let at = custom.selector.as_deref().and_then(|pointer| object.pointer(pointer));
        return at.and_then(Value::as_str).unwrap_or_default().to_owned();
    }
    let selector = &object["spec"]["selector"];
    let structured = selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some();
    match selector.as_object() {
        Some(map) if !structured => Selector::from_map(map).to_string(),
        _ => Selector::from_label_selector(Some(selector)).map(|s| s.to_string()).unwrap_or_default(),
    }
}

/// Sets the number at a pointer, making the objects on the way.
fn set_number(object: &mut Value, pointer: &str, n: i64) {
    let mut at = object;
    for key in pointer.split('/').skip(1) {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[key];
    }
    *at = n.into();
}

fn target<'a>(
    call: &'a Call,
    served: &'a Arc<Served>,
    options: &WriteOptions,
    kind: &'static str,
) -> Target<'a> {
    Target { subresource: "", dry_run: options.dry_run, ..verbs::target(call, served, kind) }
}

async fn put(call: &Call, served: &Arc<Served>) -> Result<Outcome> {
    let options = WriteOptions::from_query(&call.query, "UpdateOptions")?;
    let gvk = gvk();
    let mut scale = input::object(call, &gvk, options.validation).await?;
    let t = target(call, served, &options, "UpdateOptions");
    verbs::match_namespace(&t, &mut scale)?;
    verbs::match_name(&t, &scale)?;
    apply(&t, &options, |_| Ok(scale.clone())).await
}

async fn patched(call: &Call, served: &Arc<Served>) -> Result<Outcome> {
    let options = WriteOptions::of_patch(&call.query, patch::kind(call, true)?.is_apply())?;
    let body = call.bytes().await?;
    let parsed = patch::parse(call, true, &body)?;
    let t = target(call, served, &options, "PatchOptions");
    if let patch::Patch::Apply(document) = &parsed {
        return applied(&t, &options, &document.value).await;
    }
    apply(&t, &options, |old| patch::apply_plain(&parsed, &gvk(), &scale_of(served, old)?)).await
}

/// Server-side apply of a Scale: of the one field of the object that it speaks of.
async fn applied(t: &Target<'_>, options: &WriteOptions, scale: &Value) -> Result<Outcome> {
    let kind = gvk();
    let text = |k: &str| scale[k].as_str().unwrap_or_default();
    if text("apiVersion") != kind.api_version() || text("kind") != kind.kind {
        let slash = if text("apiVersion").contains('/') { "" } else { "/" };
        let (version, kind) = (text("apiVersion"), text("kind"));
        return Err(Status::bad_request(format!("invalid object type: {slash}{version}, Kind={kind}")));
    }
    let manager = t.call.manager(&options.field_manager);
    let own = managed::Write { manager: &manager, subresource: "scale" };
    let mut config =
        json!({"apiVersion": t.served.api_version, "kind": t.served.gvk.kind, "metadata": {"name": t.name}});
    if let Some(n) = scale["spec"]["replicas"].as_i64() {
        set_number(&mut config, spec_replicas(t.served), n);
    }
    let change = |old: Option<&Value>| {
        let old = old.ok_or_else(|| t.served.not_found(t.name))?;
        let here = t.served.from_stored(old.clone())?;
        let new = managed::apply(t.served, Some(&here), &config, &own, options.force.unwrap_or(false))
            .map_err(|e| as_of_scale(t.served, e))?;
        validate(&scale_of(t.served, &new)?, t.name)?;
        t.served.to_stored(new)
    };
    write::update(t, &Preconditions::default(), change).await.map(|(outcome, _)| outcome)
}

/// Conflicts are told in the terms of the Scale.
fn as_of_scale(served: &Served, mut status: Status) -> Status {
    let pointer = spec_replicas(served).replace('/', ".");
    let own = |text: &str| {
        text.replace(&format!("using {}", served.api_version), &format!("using {}", gvk().api_version()))
            .replace(&pointer, ".spec.replicas")
    };
    status.message = own(&status.message);
    for cause in status.details.iter_mut().flat_map(|d| &mut d.causes) {
        cause.message = own(&cause.message);
        cause.field = own(&cause.field);
    }
    status
}

/// Writes what a Scale says of the replicas; `make` computes it from the object as it is.
async fn apply<F>(t: &Target<'_>, options: &WriteOptions, make: F) -> Result<Outcome>
where
    F: Fn(&Value) -> Result<Value> + Sync,
{
    let manager = t.call.manager(&options.field_manager);
    let own = managed::Write { manager: &manager, subresource: "scale" };
    let change = |old: Option<&Value>| {
        let old = old.ok_or_else(|| t.served.not_found(t.name))?;
        let scale = make(old)?;
        validate(&scale, t.name)?;
        let given = |k: &str| scale["metadata"][k].as_str().filter(|s| !s.is_empty());
        if given("uid").is_some_and(|uid| uid != old["metadata"]["uid"]) {
            let (want, have) =
                (given("uid").unwrap_or_default(), old["metadata"]["uid"].as_str().unwrap_or_default());
            return Err(Status::conflict(
                t.served.group(),
                &t.served.resource,
                t.name,
                format!("Precondition failed: UID in precondition: {want}, UID in object meta: {have}"),
            ));
        }
        let mut new = old.clone();
        let wanted = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        set_number(&mut new, spec_replicas(t.served), wanted);
        if let Some(rv) = given("resourceVersion") {
            new["metadata"]["resourceVersion"] = rv.into();
        }
        managed::on_update(t.served, new, old, &own)
    };
    write::update(t, &Preconditions::default(), change).await.map(|(outcome, _)| outcome)
}

fn validate(scale: &Value, name: &str) -> Result<()> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if (0..=i64::from(i32::MAX)).contains(&replicas) {
        return Ok(());
    }
    let path = Path::new("spec").child("replicas");
    let errors = vec![Error::invalid(&path, replicas, "must be greater than or equal to 0")];
    Err(Status::invalid("autoscaling", "Scale", name, &errors))
}
