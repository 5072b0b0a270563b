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
    at: At,
    check: Check,
}

/// Which endpoints a check counts for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Everywhere,
    Alive,
    Ready,
}

impl Health {
    /// A check of all three endpoints.
    pub fn add<F>(&self, name: &str, check: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.push(name, At::Everywhere, check);
    }

    /// A check of `/healthz` and `/livez`.
    pub fn add_liveness<F>(&self, name: &str, check: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.push(name, At::Alive, check);
    }

    /// The paths of all checks.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        for endpoint in ["healthz", "livez", "readyz"] {
            out.push(format!("/{endpoint}"));
            out.push(format!("/{endpoint}/ping"));
            out.extend(self.entries(endpoint).iter().map(|e| format!("/{endpoint}/{}", e.name)));
        }
        out
    }

    /// A check of `/readyz` alone.
    pub fn add_readiness<F>(&self, name: &str, check: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.push(name, At::Ready, check);
    }

    fn push<F>(&self, name: &str, at: At, check: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let check: Check = Arc::new(move || Box::pin(check()));
        self.checks.write().push(Entry { name: name.to_owned(), at, check });
    }

    fn entries(&self, endpoint: &str) -> Vec<Entry> {
        let other = if endpoint == "readyz" { At::Alive } else { At::Ready };
        self.checks.read().iter().filter(|e| e.at != other).cloned().collect()
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
    let mut parts = call.info.path.strip_prefix('/')?.splitn(2, '/');
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

/// Single checks do not say that their type is not to be guessed.
fn plain_ok() -> Response<Body> {
    respond::bytes(200, "text/plain; charset=utf-8", bytes::Bytes::from_static(b"ok"))
}

async fn one(call: &Call, endpoint: &str, name: &str) -> Option<Response<Body>> {
    if name == "ping" {
        return Some(plain_ok());
    }
    let entry = call.server.health.entries(endpoint).into_iter().find(|e| e.name == name)?;
    Some(match (entry.check)().await {
        Ok(()) => plain_ok(),
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
