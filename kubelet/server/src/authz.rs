//! Who may use which endpoint: every path stands for a subresource of this Node (`nodes/proxy`, `nodes/stats`, …), and
//! the apiserver is asked whether the caller may use it (KEP-2862 for the finer ones).

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use component::delegated::{Attributes, Auth, AuthError};
use component::serve::ConnInfo;
use http::{Method, StatusCode};
use std::sync::Arc;

/// The authenticator and the name of the Node that is being asked about.
#[derive(Clone)]
pub struct Guard {
    pub auth: Arc<Auth>,
    pub node_name: Arc<str>,
}

/// The subresources any of which opens the path, the one to be named in a refusal first.
pub fn subresources(path: &str) -> &'static [&'static str] {
    let under =
        |prefix: &str| path == prefix || path.strip_prefix(prefix).is_some_and(|r| r.starts_with('/'));
    match path {
        _ if under("/stats") => &["stats"],
        _ if under("/metrics") => &["metrics"],
        _ if under("/logs") => &["log"],
        _ if under("/checkpoint") => &["checkpoint"],
        _ if under("/statusz") => &["statusz"],
        _ if under("/flagz") => &["configz"],
        _ if under("/pods") || under("/runningpods") => &["pods", "proxy"],
        _ if under("/healthz") => &["healthz", "proxy"],
        _ if under("/configz") => &["configz", "proxy"],
        _ => &["proxy"],
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::GET => "get",
        // Upstream has no word for the others either: only those who may do everything may do them.
        _ => "",
    }
}

/// Middleware in front of every route.
pub async fn guard(State(guard): State<Guard>, request: Request<Body>, next: Next) -> Response {
    let unauthorized = || (StatusCode::UNAUTHORIZED, "Unauthorized").into_response();
    let Some(info) = request.extensions().get::<ConnInfo>().cloned() else { return unauthorized() };
    let user = match guard.auth.authenticate(&info, request.headers()).await {
        Ok(user) => user,
        Err(e) => {
            if let AuthError::Unavailable(why) = &e {
                tracing::error!(error = why, "Unable to authenticate the request due to an error");
            }
            return unauthorized();
        }
    };
    let verb = verb(request.method());
    let wanted = subresources(request.uri().path());
    for subresource in wanted {
        let attributes = Attributes::Resource {
            verb: verb.to_owned(),
            group: String::new(),
            version: "v1".to_owned(),
            resource: "nodes".to_owned(),
            subresource: (*subresource).to_owned(),
            name: guard.node_name.to_string(),
        };
        match guard.auth.authorize(&user, &attributes).await {
            Ok(decision) if decision.allowed => return next.run(request).await,
            Ok(_) => {}
            Err(e) => {
                tracing::error!(error = %e, user = user.name, "Authorization error");
                let text = format!(
                    "Authorization error (user={}, verb={verb}, resource=nodes, subresource={subresource})",
                    user.name
                );
                return (StatusCode::INTERNAL_SERVER_ERROR, text).into_response();
            }
        }
    }
    let text =
        format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)={wanted:?})\n", user.name);
    (StatusCode::FORBIDDEN, text.replace("\", \"", " ").replace('"', "")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stand_for_subresources() {
        for (path, expected) in [
            ("/stats/summary", &["stats"][..]),
            ("/statsx", &["proxy"]),
            ("/metrics/cadvisor", &["metrics"]),
            ("/logs/", &["log"]),
            ("/exec/ns/pod/c", &["proxy"]),
            ("/pods", &["pods", "proxy"]),
            ("/healthz/ping", &["healthz", "proxy"]),
            ("/statusz", &["statusz"]),
            ("/flagz", &["configz"]),
        ] {
            assert_eq!(subresources(path), expected, "{path}");
        }
        assert_eq!((verb(&Method::POST), verb(&Method::HEAD)), ("create", ""));
    }
}
