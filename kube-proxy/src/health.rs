//! The proxy's own health: `/healthz` for load balancers (is this node a good place to send traffic to), `/livez` for
//! those who watch the process.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::get;
use http::{HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::metrics::METRICS;
use crate::model::Family;

/// Shared between the proxier, which reports, and the server, which answers.
#[derive(Clone)]
pub struct Health {
    state: Arc<Mutex<State>>,
    timeout: Duration,
}

#[derive(Default)]
struct State {
    updated: HashMap<Family, jiff::Timestamp>,
    /// When the oldest change that is not in the rules yet was asked for.
    pending: HashMap<Family, Instant>,
    eligible: bool,
}

impl Health {
    /// Healthy as long as no change waits for longer than `timeout`.
    pub fn new(timeout: Duration) -> Health {
        Health { state: Arc::default(), timeout }
    }

    /// A change has been asked for.
    pub fn queued(&self, family: Family) {
        self.state.lock().pending.entry(family).or_insert_with(Instant::now);
    }

    /// The rules are up to date.
    pub fn updated(&self, family: Family) {
        let mut state = self.state.lock();
        state.pending.remove(&family);
        state.updated.insert(family, jiff::Timestamp::now());
    }

    /// Whether the node may get new traffic: it is there and not on its way out.
    pub fn set_eligible(&self, eligible: bool) {
        self.state.lock().eligible = eligible;
    }

    /// Whether the rules are up to date.
    pub fn healthy(&self) -> bool {
        self.state.lock().pending.values().all(|since| since.elapsed() < self.timeout)
    }

    fn document(&self, healthy: bool) -> Value {
        let state = self.state.lock();
        let now = jiff::Timestamp::now();
        let last = if healthy { Some(now) } else { state.updated.values().max().copied() };
        let late = |f: &Family| state.pending.get(f).is_some_and(|s| s.elapsed() >= self.timeout);
        let status: serde_json::Map<String, Value> = state
            .updated
            .iter()
            .map(|(f, t)| (f.name().to_owned(), json!({"lastUpdated": t, "healthy": !late(f)})))
            .collect();
        json!({
            "lastUpdated": last.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |t| t.to_string()),
            "currentTime": now, "healthy": state.pending.values().all(|s| s.elapsed() < self.timeout), "status": status,
        })
    }

    fn healthz(&self) -> Response {
        let eligible = self.state.lock().eligible;
        let good = self.healthy() && eligible;
        let mut body = self.document(good);
        body["nodeEligible"] = eligible.into();
        METRICS.healthz.with(&[if good { "200" } else { "503" }]).inc();
        answer(good, &body)
    }

    fn livez(&self) -> Response {
        let good = self.healthy();
        METRICS.livez.with(&[if good { "200" } else { "503" }]).inc();
        answer(good, &self.document(good))
    }

    /// `/healthz` and `/livez`.
    pub fn routes(&self) -> Router {
        let (health, live) = (self.clone(), self.clone());
        Router::new()
            .route("/healthz", get(move || std::future::ready(health.healthz())))
            .route("/livez", get(move || std::future::ready(live.livez())))
    }
}

/// A JSON answer, 200 or 503.
pub fn answer(good: bool, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_that_waits_too_long_is_unhealthy() {
        let health = Health::new(Duration::from_secs(60));
        assert_eq!((health.livez().status(), health.healthz().status().as_u16()), (StatusCode::OK, 503));
        health.set_eligible(true);
        health.updated(Family::V4);
        assert_eq!(health.healthz().status(), StatusCode::OK);
        health.queued(Family::V4);
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(health.livez().status().as_u16(), 503);
        health.updated(Family::V4);
        assert_eq!(health.livez().status(), StatusCode::OK);
    }
}
