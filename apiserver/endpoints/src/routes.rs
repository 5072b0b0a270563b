//! From a request's path to the code that answers it.

use crate::body::Body;
use crate::call::Call;
use crate::served::Served;
use crate::{discovery, health, negotiate, openapi, special, verbs};
use api::status::{Result, Status};
use http::Response;
use std::sync::Arc;
use std::time::Duration;

/// Finds the endpoint and runs it, within the time that a request may take.
pub async fn dispatch(call: &Call) -> Result<Response<Body>> {
    if let Some(service) = call.server.aggregation.of_path(&call.info.path) {
        return elsewhere(call, &service).await;
    }
    if !call.info.is_resource {
        return other(call).await;
    }
    if crate::server::long_running(&call.info) {
        return resource(call).await;
    }
    let limit = match call.query.get("timeout").filter(|t| !t.is_empty()) {
        None => call.server.settings.request_timeout,
        Some(text) => {
            let asked = parse_timeout(text).ok_or_else(|| {
                let number = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
                let why = if number { "missing unit in" } else { "invalid" };
                Status::bad_request(format!(
                    "invalid timeout specified in the request URL - time: {why} duration {text:?}"
                ))
            })?;
            if asked.is_zero() {
                call.server.settings.request_timeout
            } else {
                asked.min(call.server.settings.request_timeout)
            }
        }
    };
    match tokio::time::timeout(limit, resource(call)).await {
        Ok(result) => result,
        Err(_) => Err(Status::timeout("Timeout: request did not complete within the allotted timeout", 0)),
    }
}

/// What another server answers for. Clients look at all discovery documents before they do anything: one that does
/// not come must not hold them up for long.
async fn elsewhere(call: &Call, service: &aggregator::service::Service) -> Result<Response<Body>> {
    if crate::server::long_running(&call.info) {
        return crate::proxy::aggregated(call, service).await;
    }
    let document = !call.info.is_resource && call.info.path.trim_matches('/').split('/').count() == 3;
    let limit = if document { DISCOVERY_LIMIT } else { call.server.settings.request_timeout };
    match tokio::time::timeout(limit, crate::proxy::aggregated(call, service)).await {
        Ok(result) => result,
        Err(_) => Err(Status::timeout("Timeout: request did not complete within the allotted timeout", 0)),
    }
}

/// Time for the discovery document of another server.
const DISCOVERY_LIMIT: Duration = Duration::from_secs(5);

/// Seconds and their like, as Go writes durations.
fn parse_timeout(text: &str) -> Option<Duration> {
    if let Some(rest) = text.strip_prefix('-') {
        // Less than no time is as good as none asked for.
        return parse_timeout(rest).map(|_| Duration::ZERO);
    }
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let split = text.find(|c: char| c.is_ascii_alphabetic())?;
    let n: f64 = text[..split].parse().ok()?;
    let unit = match &text[split..] {
        "ms" => 0.001,
        "s" => 1.0,
        "us" | "µs" => 0.000_001,
        "ns" => 0.000_000_001,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(n * unit).ok()
}

async fn resource(call: &Call) -> Result<Response<Body>> {
    let info = &call.info;
    call.check_path()?;
    let row = call.server.routes.load().find(&info.group, &info.version, &info.resource).cloned();
    let Some(served) = row else { return special::unknown(call).await };
    if !shape_fits(call, &served) {
        return Err(nothing_there());
    }
    // What stands behind a proxy may be asked in any way.
    let proxied = info.subresource == "proxy";
    let old_watch = info.verb_in_path && info.verb == "watch";
    if (call.method == http::Method::HEAD && !proxied) || (old_watch && call.method != http::Method::GET) {
        return Err(verbs::method_not_allowed());
    }
    if info.subresource.is_empty() {
        if !served.has_verb(info.verb)
            || (served.namespaced && info.namespace.is_empty() && !across_namespaces(info.verb))
        {
            return Err(verbs::method_not_allowed());
        }
        verbs::check_target(call)?;
        check_media(call, &served)?;
        verbs::warn_of_end(call, &served);
        return match special::virtual_resource(call, &served).await {
            Some(answer) => answer,
            None => verbs::serve(call, &served).await,
        };
    }
    let Some(sub) = served.subresource(&info.subresource) else { return Err(nothing_there()) };
    let any_way = proxied && matches!(call.method, http::Method::HEAD | http::Method::OPTIONS);
    if !any_way && !sub.verbs.iter().any(|v| v == info.verb) {
        return Err(verbs::method_not_allowed());
    }
    if !CONNECTS.contains(&info.subresource.as_str()) {
        check_media(call, &served)?;
        if sub.kind == served.gvk.kind {
            verbs::warn_of_end(call, &served);
        }
    }
    match special::subresource(call, &served, &info.subresource).await {
        Some(answer) => answer,
        None => verbs::serve(call, &served).await,
    }
}

/// Subresources that answer with whatever their backend says.
const CONNECTS: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];

/// The router's own opinion of a path.
pub fn nothing_there() -> Status {
    let text = "the server could not find the requested resource";
    negotiate::router_status(404, "NotFound", text)
}

/// Media types that the router itself refuses: of patches first, then of answers.
fn check_media(call: &Call, served: &Served) -> Result<()> {
    if call.info.verb == "patch" {
        crate::patch::kind(call, served.message.is_some())?;
    }
    let collection = matches!(call.info.verb, "list" | "watch");
    negotiate::routable(&call.headers, collection, call.server.speaks_cbor())
}

/// What may be asked of all namespaces at once.
fn across_namespaces(verb: &str) -> bool {
    matches!(verb, "list" | "watch")
}

/// A cluster-scoped resource has no path below a namespace, and nothing stands behind a subresource
/// that is not a proxy.
fn shape_fits(call: &Call, served: &Served) -> bool {
    let info = &call.info;
    let own_namespace = served.resource == "namespaces" && served.gvk.group.is_empty();
    if !served.namespaced && !info.namespace.is_empty() && !own_namespace {
        return false;
    }
    if served.namespaced && info.namespace.is_empty() && info.name_in_path() {
        return false;
    }
    let trailing = !info.rest.is_empty() && info.subresource != "proxy";
    let hole = info.path.trim_matches('/').contains("//");
    !trailing && !hole
}

/// Everything that is not a resource.
async fn other(call: &Call) -> Result<Response<Body>> {
    if let Some(answer) = health::serve(call).await {
        return Ok(answer);
    }
    if let Some(answer) = discovery::serve(call)? {
        return Ok(answer);
    }
    if let Some(answer) = openapi::serve(call).await {
        return answer;
    }
    if let Some(answer) = special::path(call).await {
        return answer;
    }
    if discovery::under_served_group(call) {
        return Err(nothing_there());
    }
    Ok(crate::respond::text(404, "404 page not found\n"))
}

/// The row of the request, for handlers that need it again.
pub fn row(call: &Call) -> Option<Arc<Served>> {
    call.server.routes.load().find(&call.info.group, &call.info.version, &call.info.resource).cloned()
}
