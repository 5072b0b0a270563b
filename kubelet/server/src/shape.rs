//! What surrounds the handlers: redirects of paths that are not clean, methods that a path does not know, media types
//! that it cannot give, and pages that do not exist, each as clients of the kubelet know them.
//!
//! [`outer`] stands before authentication, as nothing that it tells is about this node; [`inner`] behind it.

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT, ALLOW, CONTENT_TYPE, LOCATION, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, StatusCode};

/// Single pages, which answer to any method.
const PAGES: [&str; 12] = [
    "/healthz",
    "/healthz/ping",
    "/healthz/log",
    "/healthz/syncloop",
    "/metrics",
    "/metrics/cadvisor",
    "/metrics/probes",
    "/metrics/resource",
    "/metrics/slis",
    "/configz",
    "/flagz",
    "/statusz",
];

/// Folders with the methods that they know; those that end in a slash are only found with it.
const FOLDERS: [(&str, &str); 11] = [
    ("/pods", "GET"),
    ("/stats/", "GET, POST"),
    ("/logs/", "GET"),
    ("/runningpods/", "GET"),
    ("/containerLogs", "GET"),
    ("/exec", "GET, POST"),
    ("/attach", "GET, POST"),
    ("/portForward", "GET, POST"),
    ("/run", "POST"),
    ("/checkpoint/", "POST"),
    ("/debug/pprof/", "GET"),
];

/// Lists that are given as JSON and as nothing else.
const ONLY_JSON: [&str; 3] = ["/pods", "/stats/", "/runningpods/"];

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");

fn folder(path: &str) -> Option<&'static (&'static str, &'static str)> {
    FOLDERS.iter().find(|(root, _)| match root.ends_with('/') {
        true => path.starts_with(root),
        false => path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
    })
}

/// The path without `.`, `..` and repeated slashes, if it is another.
fn cleaned(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            other => parts.push(other),
        }
    }
    let mut clean = format!("/{}", parts.join("/"));
    if path.ends_with('/') && clean != "/" {
        clean.push('/');
    }
    (clean != path).then_some(clean)
}

fn redirect(request: &Request, to: &str) -> Response {
    let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
    let to = format!("{to}{query}");
    let mut response = match *request.method() {
        Method::GET => {
            let shown = to.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&#34;");
            let html = HeaderValue::from_static("text/html; charset=utf-8");
            ([(CONTENT_TYPE, html)], format!("<a href=\"{shown}\">Temporary Redirect</a>.\n\n"))
                .into_response()
        }
        _ => Body::empty().into_response(),
    };
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    if let Ok(to) = HeaderValue::from_str(&to) {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}

fn no_page() -> Response {
    let headers = [(CONTENT_TYPE, TEXT), (X_CONTENT_TYPE_OPTIONS, NO_SNIFF)];
    (StatusCode::NOT_FOUND, headers, "404 page not found\n").into_response()
}

fn refused(status: StatusCode, text: &'static str) -> Response {
    (status, [(CONTENT_TYPE, TEXT)], text).into_response()
}

fn not_allowed(methods: &'static str) -> Response {
    let mut response = refused(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

/// Before anybody is asked who they are.
pub async fn outer(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if let Some(clean) = cleaned(path) {
        return redirect(&request, &clean);
    }
    if let Some((root, _)) = FOLDERS.iter().find(|(root, _)| root.strip_suffix('/') == Some(path)) {
        return redirect(&request, root);
    }
    if PAGES.contains(&path) || path == "/debug/flags/v" || folder(path).is_some() {
        return next.run(request).await;
    }
    no_page()
}

/// Around the handlers.
pub async fn inner(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let known = folder(&path);
    let page = PAGES.contains(&path.as_str());
    if path == "/checkpoint/" {
        return refused(StatusCode::NOT_FOUND, "404: Page Not Found");
    }
    if let Some((_, methods)) = known
        && !methods.split(", ").any(|m| m == request.method().as_str())
    {
        return not_allowed(methods);
    }
    if ONLY_JSON.iter().any(|root| known.is_some_and(|(known, _)| known == root)) && !takes_json(&request) {
        let text = "406: Not Acceptable\n\nAvailable representations: application/json";
        return refused(StatusCode::NOT_ACCEPTABLE, text);
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if path == "/healthz" || path == "/configz" {
        headers.insert(X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    } else if page {
        headers.remove(X_CONTENT_TYPE_OPTIONS);
    }
    match (response.status(), response.headers().contains_key(CONTENT_TYPE), known) {
        (StatusCode::NOT_FOUND, false, Some(_)) => refused(StatusCode::NOT_FOUND, "404: Page Not Found"),
        (StatusCode::NOT_FOUND, false, None) => no_page(),
        (StatusCode::METHOD_NOT_ALLOWED, false, Some((_, methods))) => not_allowed(methods),
        _ => response,
    }
}

fn takes_json(request: &Request) -> bool {
    let Some(accept) = request.headers().get(ACCEPT).and_then(|a| a.to_str().ok()) else { return true };
    let mut kinds = accept.split(',').map(|kind| kind.split(';').next().unwrap_or_default().trim());
    accept.trim().is_empty() || kinds.any(|kind| matches!(kind, "*/*" | "application/json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        for (path, clean) in [
            ("/pods", None),
            ("/pods/", None),
            ("/", None),
            ("//pods", Some("/pods")),
            ("/logs/../etc/passwd", Some("/etc/passwd")),
            ("/containerLogs//x/y/", Some("/containerLogs/x/y/")),
        ] {
            assert_eq!(cleaned(path).as_deref(), clean, "{path}");
        }
        assert_eq!(folder("/pods/x").map(|f| f.1), Some("GET"));
        assert!(folder("/podsx").is_none() && folder("/logs").is_none() && folder("/logs/x").is_some());
    }
}
