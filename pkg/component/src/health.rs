//! Health endpoints: named checks behind `/healthz`, `/livez` and `/readyz`, with upstream's texts.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{Path, RawQuery};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderValue, StatusCode, header};
use parking_lot::RwLock;

type CheckFuture = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
type CheckFn = Arc<dyn Fn() -> CheckFuture + Send + Sync>;

/// A set of named checks; clones share the set, so that checks can be added while the server runs.
#[derive(Clone, Default)]
pub struct Checks {
    list: Arc<RwLock<Vec<(String, CheckFn)>>>,
}

impl Checks {
    /// Only `ping`, which always passes.
    pub fn new() -> Checks {
        Checks::default().add("ping", || Ok(()))
    }

    /// Adds a check that answers at once.
    #[must_use]
    pub fn add(self, name: &str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Checks {
        self.add_async(name, move || std::future::ready(check()))
    }

    /// Adds a check that has to ask somebody.
    #[must_use]
    pub fn add_async<F, Fut>(self, name: &str, check: F) -> Checks
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.push(name, Arc::new(move || Box::pin(check())));
        self
    }

    /// Adds a check that fails until the returned switch is turned on.
    pub fn add_switch(&self, name: &str) -> Switch {
        let switch = Switch(Arc::new(AtomicBool::new(false)));
        let seen = switch.clone();
        let check = move || if seen.get() { Ok(()) } else { Err("not ready".to_owned()) };
        self.push(name, Arc::new(move || Box::pin(std::future::ready(check()))));
        switch
    }

    fn push(&self, name: &str, check: CheckFn) {
        self.list.write().push((name.to_owned(), check));
    }

    /// The result of every check that `query` does not exclude, as the endpoint's answer.
    pub async fn answer(&self, endpoint: &str, query: Option<&str>) -> Response {
        let (verbose, mut excluded) = read_query(query);
        let checks = self.list.read().clone();
        let (mut report, mut failed) = (String::new(), false);
        for (name, check) in checks {
            if excluded.remove(&name) {
                report += &format!("[+]{name} excluded: ok\n");
                continue;
            }
            match check().await {
                Ok(()) => report += &format!("[+]{name} ok\n"),
                Err(reason) => {
                    tracing::warn!(endpoint, check = name, reason, "Health check failed");
                    // The reason is logged, not told: anonymous clients may ask for health.
                    report += &format!("[-]{name} failed: reason withheld\n");
                    failed = true;
                }
            }
        }
        if !excluded.is_empty() {
            let names: Vec<String> = excluded.iter().map(|n| format!("{n:?}")).collect();
            report +=
                &format!("warn: some health checks cannot be excluded: no matches for {}\n", names.join(","));
        }
        match (failed, verbose) {
            (true, _) => {
                plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{report}{endpoint} check failed\n"))
            }
            (false, true) => plain(StatusCode::OK, format!("{report}{endpoint} check passed\n")),
            (false, false) => plain(StatusCode::OK, "ok".to_owned()),
        }
    }

    async fn answer_one(&self, endpoint: &str, name: &str) -> Response {
        let check = self.list.read().iter().find(|(n, _)| n == name).map(|(_, c)| c.clone());
        let Some(check) = check else {
            return plain(StatusCode::NOT_FOUND, "404 page not found\n".to_owned());
        };
        match check().await {
            Ok(()) => plain(StatusCode::OK, "ok".to_owned()),
            Err(reason) => {
                tracing::warn!(endpoint, check = name, reason, "Health check failed");
                plain(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {reason}\n"))
            }
        }
    }

    /// The routes of one endpoint (`healthz`, `livez` or `readyz`) and of each of its checks.
    pub fn routes(&self, endpoint: &'static str) -> Router {
        let (all, one) = (self.clone(), self.clone());
        let whole =
            move |RawQuery(query): RawQuery| async move { all.answer(endpoint, query.as_deref()).await };
        Router::new()
            .route(&format!("/{endpoint}"), get(whole.clone()))
            .route(&format!("/{endpoint}/"), get(whole))
            .route(
                &format!("/{endpoint}/{{*check}}"),
                get(move |Path(name): Path<String>| async move { one.answer_one(endpoint, &name).await }),
            )
    }
}

/// A check's state that its owner turns on and off.
#[derive(Clone, Debug)]
pub struct Switch(Arc<AtomicBool>);

impl Switch {
    /// Turns the check on or off.
    pub fn set(&self, healthy: bool) {
        self.0.store(healthy, Ordering::Release);
    }

    /// Whether the check passes.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

fn read_query(query: Option<&str>) -> (bool, BTreeSet<String>) {
    let (mut verbose, mut excluded) = (false, BTreeSet::new());
    for pair in query.unwrap_or_default().split('&') {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("verbose", _) => verbose = true,
            ("exclude", names) => {
                let names = names.replace("%2C", ",").replace("%2c", ",");
                excluded.extend(names.split(',').filter(|n| !n.is_empty()).map(str::to_owned));
            }
            _ => {}
        }
    }
    (verbose, excluded)
}

/// A plain-text answer as Go's `http.Error` and the health handlers send it.
pub(crate) fn plain(status: StatusCode, body: String) -> Response {
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn text(r: Response) -> (u16, String) {
        let status = r.status().as_u16();
        let bytes = axum::body::to_bytes(r.into_body(), 4096).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn texts_are_upstreams() {
        let checks = Checks::new().add("etcd", || Err("no".to_owned()));
        let ask = async |q| text(checks.answer("readyz", q).await).await;
        assert_eq!(
            ask(None).await,
            (500, "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n".into())
        );
        assert_eq!(ask(Some("exclude=etcd")).await, (200, "ok".into()));
        assert_eq!(
            ask(Some("verbose&exclude=etcd&exclude=x")).await.1,
            "[+]ping ok\n[+]etcd excluded: ok\nwarn: some health checks cannot be excluded: no matches for \"x\"\nreadyz check passed\n"
        );
        let switch = checks.add_switch("late");
        assert_eq!(text(checks.answer_one("readyz", "late").await).await.0, 500);
        switch.set(true);
        assert_eq!(text(checks.answer_one("readyz", "late").await).await, (200, "ok".into()));
    }
}
