//! `/healthz`, `/livez`, `/readyz`, their checks one by one, and `/metrics`.

use crate::body::Body;
use crate::call::Call;
use crate::respond;
use futures::future::BoxFuture;
use http::Response;
use parking_lot::RwLock;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

type Check = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Named checks in the order of their registration; some count only for readiness.
#[derive(Default)]
pub struct Health {
    checks: RwLock<Vec<Entry>>,
}

#[derive(Clone)]
struct Entry {
    name: String,
    readiness_only: bool,
    check: Check,
}

impl Health {
    /// A check of all three endpoints.
    pub fn add<F>(&self, name: &str, check: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.push(name, false, check);
    }

    /// A check of `/readyz` alone.
    pub fn add_readiness<F>(&self, name: &str, check: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.push(name, true, check);
    }

    fn push<F>(&self, name: &str, readiness_only: bool, check: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let check: Check = Arc::new(move || Box::pin(check()));
        self.checks.write().push(Entry { name: name.to_owned(), readiness_only, check });
    }

    fn entries(&self, endpoint: &str) -> Vec<Entry> {
        self.checks.read().iter().filter(|e| endpoint == "readyz" || !e.readiness_only).cloned().collect()
    }
}

/// Answers a path of this module; `None` for any other.
pub async fn serve(call: &Call) -> Option<Response<Body>> {
    if call.info.path == "/metrics" {
        let s = &call.server;
        s.metrics.load(s.reading.load(Ordering::Relaxed), s.writing.load(Ordering::Relaxed));
        let text = component::metrics::registry().render();
        let mut response = respond::text(200, text);
        response.headers_mut().insert(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static(component::metrics::CONTENT_TYPE),
        );
        return Some(response);
    }
    let mut parts = call.info.path.trim_matches('/').splitn(2, '/');
    let endpoint = match parts.next()? {
        "healthz" => "healthz",
        "livez" => "livez",
        "readyz" => "readyz",
        _ => return None,
    };
    match parts.next() {
        None => Some(all(call, endpoint).await),
        Some(name) => one(call, endpoint, name).await,
    }
}

async fn one(call: &Call, endpoint: &str, name: &str) -> Option<Response<Body>> {
    if name == "ping" {
        return Some(respond::text(200, "ok"));
    }
    let entry = call.server.health.entries(endpoint).into_iter().find(|e| e.name == name)?;
    Some(match (entry.check)().await {
        Ok(()) => respond::text(200, "ok"),
        Err(why) => respond::text(500, format!("internal server error: {why}\n")),
    })
}

async fn all(call: &Call, endpoint: &str) -> Response<Body> {
    let excluded: Vec<&str> =
        call.query.all("exclude").flat_map(|v| v.split(',')).filter(|v| !v.is_empty()).collect();
    let verbose = call.query.get("verbose").is_some();
    let entries = call.server.health.entries(endpoint);
    let mut report = String::from("[+]ping ok\n");
    let mut failed = Vec::new();
    for e in &entries {
        if excluded.contains(&e.name.as_str()) {
            let _ = writeln!(report, "[+]{} excluded: ok", e.name);
            continue;
        }
        match (e.check)().await {
            Ok(()) => {
                let _ = writeln!(report, "[+]{} ok", e.name);
            }
            Err(why) => {
                let _ = writeln!(report, "[-]{} failed: reason withheld", e.name);
                failed.push(format!("{}: {why}", e.name));
            }
        }
    }
    let unknown: Vec<String> = excluded
        .iter()
        .filter(|x| **x != "ping" && !entries.iter().any(|e| e.name == **x))
        .map(|x| format!("{x:?}"))
        .collect();
    if !unknown.is_empty() {
        let _ = writeln!(
            report,
            "warn: some health checks cannot be excluded: no matches for {}",
            unknown.join(",")
        );
    }
    match (failed.is_empty(), verbose) {
        (false, _) => {
            tracing::info!(endpoint, failed = failed.join(", "), "health check failed");
            respond::text(500, format!("{report}{endpoint} check failed\n"))
        }
        (true, true) => respond::text(200, format!("{report}{endpoint} check passed\n")),
        (true, false) => respond::text(200, "ok"),
    }
}
