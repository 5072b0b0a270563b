//! What only one path or kind has: reviews, bindings, evictions, tokens, scale, proxies.

mod bindings;
pub mod claims;
mod component_statuses;
mod eviction;
mod oidc;
mod reviews;
mod scale;
mod tokens;

use crate::body::Body;
use crate::call::Call;
use crate::served::Served;
use crate::write::Target;
use crate::{proxy, verbs};
use api::Value;
use api::status::{Result, Status};
use http::Response;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A request of which only the head matters.
pub type Bodiless = http::Request<http_body_util::Empty<bytes::Bytes>>;
/// Answers `/statusz` and `/flagz`.
type Answer = Arc<dyn Fn(Bodiless) -> futures::future::BoxFuture<'static, Response<Body>> + Send + Sync>;

/// Those of `/statusz` and `/flagz` that are on.
#[derive(Default)]
pub struct Zpages {
    pub paths: Vec<&'static str>,
    pub answer: Option<Answer>,
}

impl Zpages {
    /// Their paths.
    pub fn paths(&self) -> impl Iterator<Item = String> {
        self.paths.iter().map(|p| (*p).to_owned())
    }
}

/// What these endpoints need beside the server.
#[derive(Default)]
pub struct Special {
    /// `host:port` by which clients reach this server.
    pub external_address: String,
    pub issuer: Option<Arc<auth::service_account::Issuer>>,
    /// For the escalation checks on role writes.
    pub rbac: Option<Arc<auth::authz::rbac::Rbac>>,
    /// Addresses and ports of Services.
    pub pools: Option<crate::allocate::Pools>,
    pub kubelet: Option<Arc<proxy::Kubelets>>,
    pub zpages: Zpages,
    pub aggregated: proxy::Aggregated,
    /// Set once the objects that every cluster has are there.
    pub bootstrapped: AtomicBool,
    /// Set once the APIServices of this server's own groups are there.
    pub registered: AtomicBool,
}

/// A resource that no row describes.
pub async fn unknown(call: &Call) -> Result<Response<Body>> {
    if crate::discovery::under_served_group(call) {
        return Err(crate::routes::nothing_there());
    }
    Ok(crate::respond::text(404, "404 page not found\n"))
}

/// A path that is neither resource nor discovery.
pub async fn path(call: &Call) -> Option<Result<Response<Body>>> {
    let zpages = &call.server.special.zpages;
    if zpages.paths.contains(&call.info.path.as_str())
        && let Some(answer) = &zpages.answer
    {
        let mut request = http::Request::new(http_body_util::Empty::new());
        *request.uri_mut() = call.uri.clone();
        *request.headers_mut() = call.headers.clone();
        let mut response = answer(request).await;
        let fresh = http::HeaderValue::from_static("no-cache, private");
        response.headers_mut().insert(http::header::CACHE_CONTROL, fresh);
        return Some(Ok(response));
    }
    if call.server.settings.profiling && call.info.path == "/debug/flags/v" {
        return Some(verbosity(call).await);
    }
    crate::fairness::serve(call).or_else(|| oidc::serve(call))
}

/// `/debug/flags/v`: how much is logged.
async fn verbosity(call: &Call) -> Result<Response<Body>> {
    if call.method != http::Method::PUT {
        return Ok(crate::respond::bytes(
            406,
            "text/plain",
            bytes::Bytes::from_static(b"unsupported http method\n"),
        ));
    }
    let body = String::from_utf8_lossy(&call.bytes().await?).into_owned();
    Ok(component::serve::set_verbosity(body).await.map(Body::foreign))
}

/// Resources that are answered without storage.
pub async fn virtual_resource(call: &Call, served: &Arc<Served>) -> Option<Result<Response<Body>>> {
    if served.stored.is_some() {
        return None;
    }
    Some(match (served.gvk.group.as_str(), served.resource.as_str()) {
        ("", "bindings") => bindings::create(call, None).await,
        ("", "componentstatuses") => component_statuses::serve(call, served).await,
        ("authentication.k8s.io", "tokenreviews") => reviews::token(call, served).await,
        ("authentication.k8s.io", "selfsubjectreviews") => reviews::self_subject(call, served).await,
        ("authorization.k8s.io", "selfsubjectrulesreviews") => reviews::rules(call, served).await,
        ("authorization.k8s.io", _) => reviews::access(call, served).await,
        _ => Err(Status::no_such_path()),
    })
}

/// Subresources that are more than a part of their resource.
pub async fn subresource(call: &Call, served: &Arc<Served>, name: &str) -> Option<Result<Response<Body>>> {
    Some(match (served.gvk.group.as_str(), served.resource.as_str(), name) {
        ("", "pods", "binding") => bindings::create(call, Some(&call.info.name)).await,
        ("", "pods", "eviction") => eviction::create(call, served).await,
        ("", "serviceaccounts", "token") => tokens::create(call, served).await,
        ("", "pods", "log") => proxy::log(call, served).await,
        ("", "pods", "exec" | "attach" | "portforward") => proxy::stream(call, served, name).await,
        ("", "pods" | "services" | "nodes", "proxy") => proxy::proxy(call, served).await,
        (_, _, "scale") => scale::serve(call, served).await,
        _ => return None,
    })
}

/// Nobody gives away more than they have: roles and bindings are checked before admission.
pub async fn escalation(t: &Target<'_>, new: &Value, old: Option<&Arc<Value>>) -> Result<()> {
    let server = &t.call.server;
    let Some(rbac) = &server.special.rbac else { return Ok(()) };
    if t.served.gvk.group != "rbac.authorization.k8s.io" {
        return Ok(());
    }
    let write = auth::authz::rbac::escalation::Write {
        user: &t.call.user,
        resource: &t.served.resource,
        namespace: t.namespace,
        object: new,
        old: old.map(|o| &**o),
    };
    rbac.escalation_check(&write, &*server.authorizer).await
}

/// The body of a POST to a subresource, as its own kind, with name and namespace of the path.
async fn body_of(
    call: &Call,
    served: &Arc<Served>,
    subresource: &str,
) -> Result<(Value, crate::query::WriteOptions)> {
    let sub = served.subresource(subresource).ok_or_else(Status::no_such_path)?;
    let gvk = api::GroupVersionKind::new(&sub.kind_group, &sub.kind_version, &sub.kind);
    let options = crate::query::WriteOptions::from_query(&call.query, "CreateOptions")?;
    let mut value = crate::input::object(call, &gvk, options.validation).await?;
    let t = verbs::target(call, served, "CreateOptions");
    verbs::match_namespace(&t, &mut value)?;
    Ok((value, options))
}
