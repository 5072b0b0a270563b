//! `/healthz`, `/livez`, `/readyz`, their checks one by one, `/metrics`, and what became of checks: `/metrics/slis`.

mod slis;

use crate::body::Body;
use crate::call::Call;
use crate::respond;
use futures::future::BoxFuture;
use http::Response;
use parking_lot::RwLock;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

type Check = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Named checks in the order of their registration; some count only for readiness.
pub struct Health {
    checks: RwLock<Vec<Entry>>,
    slis: slis::Slis,
    started: Instant,
    /// `--livez-grace-period`: so long does being alive not depend on having started.
    grace: Duration,
}

#[derive(Clone)]
struct Entry {
    name: String,
    at: At,
    /// It is about the server's start.
    start: bool,
    check: Check,
}

/// Which endpoints a check counts for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Everywhere,
    Alive,
    Ready,
    /// `/healthz` and `/readyz`: what no restart would mend.
    ButAlive,
}

impl Health {
    /// No checks yet.
    pub fn new(grace: Duration) -> Health {
        let (checks, slis) = (RwLock::default(), slis::Slis::default());
        Health { checks, slis, started: Instant::now(), grace }
    }

    /// A check of all three endpoints.
    pub fn add<F>(&self, name: &str, check: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.push(name, At::Everywhere, false, check);
    }

    /// A check of all three endpoints that something was done once the server had started.
    pub fn add_start<F>(&self, name: &str, check: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.push(name, At::Everywhere, true, check);
    }

    /// A check of `/healthz` and `/livez`.
    pub fn add_liveness<F>(&self, name: &str, check: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.push(name, At::Alive, false, check);
    }

    /// A check of `/healthz` and `/readyz`.
    pub fn add_but_alive<F>(&self, name: &str, check: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.push(name, At::ButAlive, false, check);
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
        self.push(name, At::Ready, false, check);
    }

    fn push<F>(&self, name: &str, at: At, start: bool, check: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let check: Check = Arc::new(move || Box::pin(check()));
        self.checks.write().push(Entry { name: name.to_owned(), at, start, check });
    }

    fn entries(&self, endpoint: &str) -> Vec<Entry> {
        let counts = |at: At| match endpoint {
            "readyz" => at != At::Alive,
            "livez" => matches!(at, At::Everywhere | At::Alive),
            _ => at != At::Ready,
        };
        self.checks.read().iter().filter(|e| counts(e.at)).cloned().collect()
    }

    async fn result(&self, endpoint: &'static str, entry: &Entry) -> Result<(), String> {
        let result = match entry.start && endpoint == "livez" && self.started.elapsed() < self.grace {
            true => Ok(()),
            false => (entry.check)().await,
        };
        self.slis.observe(endpoint, &entry.name, result.is_ok());
        result
    }
}

/// Answers a path of this module; `None` for any other.
pub async fn serve(call: &Call) -> Option<Response<Body>> {
    if call.info.path == "/metrics" {
        let s = &call.server;
        s.metrics.load(s.reading.load(Ordering::Relaxed), s.writing.load(Ordering::Relaxed));
        return Some(scraped(call, component::metrics::registry().render()));
    }
    if call.info.path == "/metrics/slis" {
        return Some(scraped(call, call.server.health.slis.render()));
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

/// Metrics, compressed for whoever reads that: a scrape is long and alike line by line.
fn scraped(call: &Call, text: String) -> Response<Body> {
    respond::gzipped(call, component::metrics::CONTENT_TYPE, text.into())
}

/// Single checks do not say that their type is not to be guessed.
fn plain_ok() -> Response<Body> {
    respond::bytes(200, "text/plain; charset=utf-8", bytes::Bytes::from_static(b"ok"))
}

async fn one(call: &Call, endpoint: &'static str, name: &str) -> Option<Response<Body>> {
    if name == "ping" {
        return Some(plain_ok());
    }
    let entry = call.server.health.entries(endpoint).into_iter().find(|e| e.name == name)?;
    Some(match call.server.health.result(endpoint, &entry).await {
        Ok(()) => plain_ok(),
        Err(why) => respond::text(500, format!("internal server error: {why}\n")),
    })
}

async fn all(call: &Call, endpoint: &'static str) -> Response<Body> {
    let excluded: Vec<&str> =
        call.query.all("exclude").flat_map(|v| v.split(',')).filter(|v| !v.is_empty()).collect();
    let verbose = call.query.get("verbose").is_some();
    let entries = call.server.health.entries(endpoint);
    let mut report = String::from("[+]ping ok\n");
    let mut failed = Vec::new();
    call.server.health.slis.observe(endpoint, "ping", true);
    for e in &entries {
        if excluded.contains(&e.name.as_str()) {
            let _ = writeln!(report, "[+]{} excluded: ok", e.name);
            continue;
        }
        match call.server.health.result(endpoint, e).await {
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
