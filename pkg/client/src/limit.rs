//! A client's rate limit and metrics, as a layer around its transport.

use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use component::metrics::{CounterVec, HistogramVec, counter_vec, histogram_vec};
use http::{Request, Response};
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

/// A token bucket that hands out reservations: whoever comes waits his turn, in order.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    state: Arc<Mutex<State>>,
    qps: f64,
    burst: f64,
}

#[derive(Debug)]
struct State {
    tokens: f64,
    at: Instant,
}

impl TokenBucket {
    /// `qps` tokens a second, `burst` at once. A rate of zero or less is no limit.
    pub fn new(qps: f64, burst: u32) -> TokenBucket {
        let burst = f64::from(burst.max(1));
        TokenBucket { state: Arc::new(Mutex::new(State { tokens: burst, at: Instant::now() })), qps, burst }
    }

    /// Takes a token and says how long to wait before using it.
    pub fn reserve(&self) -> Duration {
        if self.qps <= 0.0 {
            return Duration::ZERO;
        }
        let mut state = self.state.lock();
        self.refill(&mut state);
        state.tokens -= 1.0;
        if state.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-state.tokens / self.qps) }
    }

    /// Takes a token if there is one now.
    pub fn try_take(&self) -> bool {
        if self.qps <= 0.0 {
            return true;
        }
        let mut state = self.state.lock();
        self.refill(&mut state);
        let there = state.tokens >= 1.0;
        if there {
            state.tokens -= 1.0;
        }
        there
    }

    /// Waits for a token.
    pub async fn wait(&self) {
        let wait = self.reserve();
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    fn refill(&self, state: &mut State) {
        let now = Instant::now();
        let gained = now.duration_since(state.at).as_secs_f64() * self.qps;
        state.tokens = (state.tokens + gained).min(self.burst);
        state.at = now;
    }
}

static REQUESTS: LazyLock<CounterVec> = LazyLock::new(|| {
    let help = "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host.";
    counter_vec("rest_client_requests_total", help, &["code", "host", "method"])
});
static DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    const BUCKETS: &[f64] = &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];
    let help = "[ALPHA] Request latency in seconds. Broken down by verb, and host.";
    histogram_vec("rest_client_request_duration_seconds", help, &["host", "verb"], BUCKETS)
});

/// Adds the limit and the metrics to a transport.
#[derive(Clone)]
pub(crate) struct LimitLayer {
    pub(crate) bucket: TokenBucket,
    pub(crate) host: Arc<str>,
}

impl<S> Layer<S> for LimitLayer {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited { inner, bucket: self.bucket.clone(), host: self.host.clone() }
    }
}

#[derive(Clone)]
pub(crate) struct Limited<S> {
    inner: S,
    bucket: TokenBucket,
    host: Arc<str>,
}

impl<S, A, B> Service<Request<A>> for Limited<S>
where
    S: Service<Request<A>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    A: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        // The service that was polled ready is the one to use.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let (bucket, host) = (self.bucket.clone(), self.host.clone());
        Box::pin(async move {
            bucket.wait().await;
            let method = method_label(request.method());
            let begin = Instant::now();
            let result = inner.call(request).await.map_err(Into::into);
            let code =
                result.as_ref().map_or_else(|_| "<error>".to_owned(), |r| r.status().as_u16().to_string());
            REQUESTS.with(&[&code, &host, method]).inc();
            DURATION.with(&[&host, method]).observe(begin.elapsed().as_secs_f64());
            result
        })
    }
}

fn method_label(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "OTHER",
    }
}
