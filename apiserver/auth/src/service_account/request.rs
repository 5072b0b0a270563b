//! The `token` subresource of service accounts.

use super::{EXTENDED_EXPIRATION_SECONDS, Issuer, WARN_ONLY_EXPIRATION_SECONDS};
use crate::user::service_account_username;
use crate::values::{at, strings, text, uid};
use api::field::{self, Path};
use api::registry::Registry;
use api::status::{Result, Status};
use api::{Value, json};
use std::sync::Arc;

const GROUP: &str = "authentication.k8s.io";

/// An answered TokenRequest.
pub struct TokenReply {
    pub object: Value,
    pub warnings: Vec<String>,
    /// Annotations of the audit event.
    pub audit: Vec<(String, String)>,
}

/// From memory, or from etcd if memory has not heard of it yet.
pub(crate) async fn lookup(
    registry: &dyn Registry,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Result<Arc<Value>> {
    match registry.get(("", resource), namespace, name) {
        Some(found) => Ok(found),
        None => registry.get_live(("", resource), namespace, name).await.map(Arc::new),
    }
}

/// Defaults, name and uid checks and validation of a TokenRequest for a service account; what comes
/// out is what admission gets to see and what [`Issuer::complete`] takes.
pub async fn prepare(
    issuer: &Issuer,
    registry: &dyn Registry,
    namespace: &str,
    name: &str,
    mut request: Value,
) -> Result<Value> {
    let mismatch = |child: &str, bad: &str, what: &str| {
        let path = Path::new("metadata").child(child);
        let error =
            field::Error::invalid(&path, bad, format!("must match the service account {what} if specified"));
        Status::invalid(GROUP, "TokenRequest", name, &vec![error])
    };
    let given = text(&request, &["metadata", "name"]);
    if !given.is_empty() && given != name {
        return Err(mismatch("name", given, "name"));
    }
    let given = text(&request, &["metadata", "namespace"]);
    if !given.is_empty() && given != namespace {
        return Err(mismatch("namespace", given, "namespace"));
    }
    let account = lookup(registry, "serviceaccounts", namespace, name).await?;
    let given = uid(&request);
    if !given.is_empty() && given != uid(&account) {
        let why = format!(
            "the UID in the token request ({given}) does not match the UID of the service account ({})",
            uid(&account)
        );
        return Err(Status::conflict(GROUP, "TokenRequest", name, why));
    }
    let account_uid = uid(&account).to_owned();
    if !request["metadata"].is_object() {
        request["metadata"] = json!({});
    }
    if !request["spec"].is_object() {
        request["spec"] = json!({});
    }
    request["metadata"]["name"] = name.into();
    request["metadata"]["namespace"] = namespace.into();
    request["metadata"]["uid"] = account_uid.into();
    request["metadata"]["creationTimestamp"] = rfc3339(jiff::Timestamp::now().as_second()).into();
    request["status"] = json!({"token": "", "expirationTimestamp": null});
    let spec = &mut request["spec"];
    if strings(spec, &["audiences"]).is_empty() {
        spec["audiences"] = json!(issuer.api_audiences);
    }
    if spec.get("expirationSeconds").is_none_or(Value::is_null) {
        spec["expirationSeconds"] = 3600.into();
    }
    validate(spec)?;
    Ok(request)
}

fn validate(spec: &Value) -> Result<()> {
    let path = Path::new("spec").child("expirationSeconds");
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(0);
    let complaint = match seconds {
        i64::MIN..600 => "may not specify a duration less than 10 minutes",
        s if s > 1 << 32 => "may not specify a duration larger than 2^32 seconds",
        _ => return Ok(()),
    };
    Err(Status::invalid(GROUP, "TokenRequest", "", &vec![field::Error::invalid(&path, seconds, complaint)]))
}

/// The object that a token dies with.
enum Bound {
    None,
    Pod { name: String, uid: String, node: Option<(String, String)> },
    Node { name: String, uid: String },
    Secret { name: String, uid: String },
}

async fn bound_object(registry: &dyn Registry, request: &Value) -> Result<Bound> {
    let (account, namespace) =
        (text(request, &["metadata", "name"]), text(request, &["metadata", "namespace"]));
    let reference = at(request, &["spec", "boundObjectRef"]);
    if reference.is_null() {
        return Ok(Bound::None);
    }
    let (kind, version) = (text(reference, &["kind"]), text(reference, &["apiVersion"]));
    let name = text(reference, &["name"]);
    let core = !version.contains('/');
    let (resource, place) = match kind {
        "Pod" if core => ("pods", namespace),
        "Node" if core => ("nodes", ""),
        "Secret" if core => ("secrets", namespace),
        _ => {
            let (group, v) = version.split_once('/').unwrap_or(("", version));
            let gvk = format!("{group}/{v}, Kind={kind}");
            return Err(Status::bad_request(format!("cannot bind token to object of type {gvk}")));
        }
    };
    let object = lookup(registry, resource, place, name).await?;
    if kind == "Pod" && text(&object, &["spec", "serviceAccountName"]) != account {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
        )));
    }
    let (wanted, found) = (text(reference, &["uid"]), uid(&object).to_owned());
    if !wanted.is_empty() && wanted != found {
        let why = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict("", kind, name, why));
    }
    let name = name.to_owned();
    Ok(match kind {
        "Pod" => Bound::Pod { name, uid: found, node: node_of(registry, &object).await? },
        "Node" => Bound::Node { name, uid: found },
        _ => Bound::Secret { name, uid: found },
    })
}

/// Name and uid of a pod's node; a node that is gone has no uid.
async fn node_of(registry: &dyn Registry, pod: &Value) -> Result<Option<(String, String)>> {
    let node = text(pod, &["spec", "nodeName"]);
    if node.is_empty() {
        return Ok(None);
    }
    match lookup(registry, "nodes", "", node).await {
        Ok(found) => Ok(Some((node.to_owned(), uid(&found).to_owned()))),
        Err(e) if e.code == 404 => Ok(Some((node.to_owned(), String::new()))),
        Err(e) => Err(Status::internal(e)),
    }
}

fn reference(name: &str, uid: &str) -> Value {
    if uid.is_empty() { json!({"name": name}) } else { json!({"name": name, "uid": uid}) }
}

pub(super) fn rfc3339(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map(|t| t.to_string()).unwrap_or_default()
}

impl Issuer {
    /// Issues the token of a prepared request.
    pub async fn complete(&self, registry: &dyn Registry, mut request: Value) -> Result<TokenReply> {
        let mut warnings = Vec::new();
        let bound = bound_object(registry, &request).await?;
        let mut seconds = at(&request, &["spec", "expirationSeconds"]).as_i64().unwrap_or(3600);
        if self.max_expiration_seconds > 0 && seconds > self.max_expiration_seconds {
            let max = self.max_expiration_seconds;
            warnings.push(format!("requested expiration of {seconds} seconds shortened to {max} seconds"));
            seconds = max;
            request["spec"]["expirationSeconds"] = max.into();
        }
        let audiences = strings(&request, &["spec", "audiences"]);
        let for_us = audiences.iter().all(|a| self.api_audiences.contains(a));
        let (lifetime, warn_after) = match bound {
            Bound::Pod { .. } if self.extend && for_us && seconds == WARN_ONLY_EXPIRATION_SECONDS => {
                (EXTENDED_EXPIRATION_SECONDS, Some(seconds))
            }
            _ => (seconds, None),
        };
        let now = jiff::Timestamp::now().as_second();
        let id = uuid::Uuid::new_v4().to_string();
        let claims = self.claims(&request, &bound, &audiences, (now, lifetime, warn_after), &id);
        let token =
            self.sign(&claims).map_err(|e| Status::internal(format!("failed to generate token: {e}")))?;
        request["status"] = json!({"token": token, "expirationTimestamp": rfc3339(now + seconds)});
        let audit =
            vec![("authentication.kubernetes.io/issued-credential-id".to_owned(), format!("JTI={id}"))];
        Ok(TokenReply { object: request, warnings, audit })
    }

    fn claims(
        &self,
        request: &Value,
        bound: &Bound,
        audiences: &[String],
        (now, lifetime, warn_after): (i64, i64, Option<i64>),
        id: &str,
    ) -> Value {
        let (name, namespace) =
            (text(request, &["metadata", "name"]), text(request, &["metadata", "namespace"]));
        let mut private = json!({"namespace": namespace, "serviceaccount": reference(name, text(request, &["metadata", "uid"]))});
        match bound {
            Bound::None => {}
            Bound::Pod { name, uid, node } => {
                private["pod"] = reference(name, uid);
                if let Some((node, uid)) = node {
                    private["node"] = reference(node, uid);
                }
            }
            Bound::Node { name, uid } => private["node"] = reference(name, uid),
            Bound::Secret { name, uid } => private["secret"] = reference(name, uid),
        }
        if let Some(after) = warn_after {
            private["warnafter"] = (now + after).into();
        }
        json!({
            "iss": self.issuers.first(),
            "sub": service_account_username(namespace, name),
            "aud": audiences,
            "iat": now,
            "nbf": now,
            "exp": now + lifetime,
            "jti": id,
            "kubernetes.io": private,
        })
    }
}
