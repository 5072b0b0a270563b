//! The server: what all requests share, and the stages that each goes through.
//!
//! `authenticate → audit → impersonate → fairness → authorize → route → endpoint`. Each stage is a function
//! that can be read alone; a request that fails in one of them is answered there.

use crate::body::Body;
use crate::call::{Arrival, Call};
use crate::metrics::Metrics;
use crate::negotiate::{Offers, negotiate};
use crate::query::Query;
use crate::request::RequestInfo;
use crate::served::{Routes, Served};
use crate::{respond, routes};
use api::status::{Result, Status};
use arc_swap::ArcSwap;
use auth::authn::PeerCertificates;
use auth::{Attributes, Authorizer, UserInfo};
use futures::FutureExt;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Limits and texts that flags decide.
pub struct Settings {
    pub max_read_only: usize,
    pub max_mutating: usize,
    pub request_timeout: Duration,
    /// Watches live between one and two times this.
    pub min_watch: Duration,
    /// `/version`.
    pub version: api::Value,
    pub profiling: bool,
    pub browsers: crate::browsers::Browsers,
    pub gates: component::gates::Gates,
    /// How likely an HTTP/2 request makes its connection end softly, so that clients spread over servers.
    pub goaway_chance: f64,
    /// Whether requests that come in while others are being finished are told to come back (429).
    pub send_retry_after: bool,
    /// Over which time watches end when the server leaves; zero ends them together.
    pub watch_grace: Duration,
}

/// Everything that requests share.
pub struct Server {
    pub settings: Settings,
    pub routes: Arc<ArcSwap<Routes>>,
    pub table: ArcSwap<api::resources::Table>,
    pub store: Arc<storage::Store>,
    pub authenticator: Arc<auth::authn::Chain>,
    pub authorizer: Arc<dyn Authorizer>,
    /// The server's own view of its objects.
    pub registry: Arc<dyn api::registry::Registry>,
    pub admission: admission::Chain,
    /// Parts of the API that other servers answer for.
    pub aggregation: aggregator::Aggregation,
    pub special: crate::special::Special,
    pub discovery: crate::discovery::Cache,
    pub openapi: crate::openapi::Cache,
    pub metrics: Metrics,
    pub health: crate::health::Health,
    pub audit: Option<Arc<crate::audit::Auditor>>,
    /// Who gets a seat when many want one; without it only the in-flight limits count.
    pub fairness: Option<fairness::Fairness>,
    /// Set when the process is leaving: watches end, `/readyz` fails.
    pub stopping: CancellationToken,
    /// What outlives the request that began it: tunnels, WebSockets.
    pub tasks: TaskTracker,
    pub leaving: AtomicBool,
    /// Set when no new requests are wanted any more.
    pub draining: AtomicBool,
    /// Requests under way that a leaving server waits for: all but those that are meant to last.
    pub requests: TaskTracker,
    /// Open watches, and the sign for them to end one after the other.
    pub watches: TaskTracker,
    pub watches_closing: CancellationToken,
    pub reading: AtomicUsize,
    pub writing: AtomicUsize,
}

/// What the connection knows of its other end.
#[derive(Clone, Default)]
pub struct Peer {
    pub address: Option<SocketAddr>,
    pub certificates: Option<Arc<PeerCertificates>>,
    /// Ends the connection softly: what is under way is finished, the client connects anew.
    pub goaway: CancellationToken,
}

impl Server {
    /// Row of a resource by which the server itself works.
    pub fn storage_row(&self, group: &str, resource: &str) -> Option<Arc<Served>> {
        self.routes.load().storage(group, resource).cloned()
    }

    pub fn random_watch_lifetime(&self) -> Duration {
        crate::watch::random_lifetime(self.settings.min_watch)
    }

    /// Answers one request; never fails, whatever comes in.
    pub async fn serve(self: Arc<Self>, peer: Peer, request: Request<Incoming>) -> Response<Body> {
        let browsers = &self.settings.browsers;
        let origin = browsers.allowed(request.headers());
        let mut response = match browsers.preflight(request.method(), origin.as_ref()) {
            Some(answer) => answer,
            None => self.clone().answer(peer, request).await,
        };
        browsers.tell(origin, response.headers_mut());
        response
    }

    async fn answer(self: Arc<Self>, peer: Peer, request: Request<Incoming>) -> Response<Body> {
        let started = Instant::now();
        let (mut parts, body) = request.into_parts();
        let audit_id = audit_id(&parts.headers);
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let cbor = self.speaks_cbor();
        let media = negotiate(&parts.headers, &query, Offers::PLAIN, cbor).ok();
        let fail = |s: &Status| respond::failure(s, media);
        let info = RequestInfo::parse(&parts.method, parts.uri.path(), &query);
        if let Ok(info) = &info {
            if let Some(refusal) = self.turned_away(info) {
                return finish(refusal, &audit_id);
            }
            self.spread_load(&peer, &parts, info);
        }
        let _under_way = info.as_ref().is_ok_and(|i| !long_running(i)).then(|| self.requests.token());
        let result = match info {
            Err(e) => Err(e),
            Ok(info) => match self.authenticate(&peer, &mut parts, &info).await {
                Err(e) => {
                    if let Some(audit) = &self.audit {
                        audit.refused(&arrived(&audit_id, &parts, &peer, &info));
                    }
                    Err(e)
                }
                Ok(user) => {
                    let record = self.audit.as_ref().and_then(|audit| {
                        let acting = parts.extensions.get::<Acting>().map(|a| a.0.clone());
                        let mut arrived = arrived(&audit_id, &parts, &peer, &info);
                        (arrived.user, arrived.acting) = match &acting {
                            Some(real) => (Some(&**real), Some(&*user)),
                            None => (Some(&*user), None),
                        };
                        audit.begin(&arrived)
                    });
                    if let Some(record) = &record {
                        crate::audit::keep_readable(record, &mut parts.headers);
                    }
                    let arrival = Arrival {
                        record,
                        parts,
                        body: Some(body),
                        query,
                        info,
                        peer: peer.address,
                        audit_id: audit_id.clone(),
                    };
                    let call = Call::new(self.clone(), user, arrival);
                    let place = crate::fairness::place(&call);
                    let stages = self.stages(&call, place.as_ref());
                    let result = std::panic::AssertUnwindSafe(stages).catch_unwind().await;
                    let panicked = result.is_err();
                    let result = result.unwrap_or_else(|_| Ok(apology(&call)));
                    let mut response = result.unwrap_or_else(|e| fail(&e));
                    add_warnings(&call, &mut response);
                    if let Some(record) = &call.record {
                        record.answered(long_running(&call.info), panicked, &mut response);
                    }
                    if let Some(place) = &place {
                        crate::fairness::tell(place, response.headers_mut());
                    }
                    self.metrics.done(&call, &mut response, started);
                    return finish(response, &audit_id);
                }
            },
        };
        finish(result.unwrap_or_else(|e| fail(&e)), &audit_id)
    }

    /// Whether CBOR is among the media types.
    pub fn speaks_cbor(&self) -> bool {
        self.settings.gates.enabled("CBORServingAndStorage")
    }

    /// While the last requests are being finished, new ones are sent elsewhere; probes are still answered.
    fn turned_away(&self, info: &RequestInfo) -> Option<Response<Body>> {
        let probe = ["/healthz", "/livez", "/readyz", "/metrics"].iter().any(|p| info.path.starts_with(p));
        if !self.settings.send_retry_after || probe || !self.draining.load(Ordering::Acquire) {
            return None;
        }
        let mut r = respond::text(429, "The apiserver is shutting down, please try again later.\n");
        r.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("5"));
        r.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
        Some(r)
    }

    fn spread_load(&self, peer: &Peer, parts: &http::request::Parts, info: &RequestInfo) {
        use rand::RngExt;
        let chance = self.settings.goaway_chance;
        let counts = parts.version == http::Version::HTTP_2 && info.verb != "watch";
        if chance > 0.0 && counts && rand::rng().random_range(0.0..1.0) < chance {
            peer.goaway.cancel();
        }
    }

    async fn authenticate(
        &self,
        peer: &Peer,
        parts: &mut http::request::Parts,
        info: &RequestInfo,
    ) -> Result<Arc<UserInfo>> {
        let asked = auth::authn::Request {
            headers: &parts.headers,
            peer: peer.certificates.as_deref(),
            path: &info.path,
        };
        let begun = Instant::now();
        let found = self.authenticator.authenticate(&asked).await;
        let user = found.as_ref().ok().and_then(Option::as_ref).map(|f| &*f.user);
        self.metrics.authenticated(user, begun.elapsed());
        let user = match found {
            Ok(Some(found)) => found.user,
            Ok(None) => return Err(Status::unauthorized()),
            Err(e) => {
                tracing::warn!(error = %e, "Unable to authenticate the request");
                return Err(Status::unauthorized());
            }
        };
        self.authenticator.strip_credentials(&mut parts.headers);
        let acting = auth::impersonation::impersonate(&user, &parts.headers, &*self.authorizer).await?;
        auth::impersonation::strip(&mut parts.headers);
        let Some(acting) = acting else { return Ok(user) };
        parts.extensions.insert(Acting(user));
        Ok(Arc::new(acting))
    }

    async fn stages(&self, call: &Call, place: Option<&fairness::Place>) -> Result<Response<Body>> {
        let _counted = match self.admit_in_flight(call, place.is_none()) {
            Ok(place) => place,
            Err(Full) => return Ok(too_many()),
        };
        let _seat = match place {
            None => None,
            Some(place) => match call.waiting(crate::fairness::seat(call, place)).await {
                Ok(ticket) => ticket,
                Err(refusal) => {
                    tracing::debug!(
                        path = call.info.path,
                        reason = refusal.reason(),
                        "a request was refused"
                    );
                    return Ok(too_many());
                }
            },
        };
        self.authorize(call).await?;
        routes::dispatch(call).await
    }

    /// Counts the requests that are worked on at once, and bounds them where nothing else does. Watches and tunnels
    /// live long and do not count.
    fn admit_in_flight(&self, call: &Call, bounded: bool) -> Result<Option<Place<'_>>, Full> {
        if long_running(&call.info) || call.user.in_group(auth::user::MASTERS) {
            return Ok(None);
        }
        let read_only = matches!(call.info.verb, "get" | "list" | "watch" | "head");
        let (count, max) = if read_only {
            (&self.reading, self.settings.max_read_only)
        } else {
            (&self.writing, self.settings.max_mutating)
        };
        let place = Place::take(count);
        if bounded && max > 0 && place.before >= max {
            self.metrics.dropped(read_only);
            return Err(Full);
        }
        Ok(Some(place))
    }

    async fn authorize(&self, call: &Call) -> Result<()> {
        let attributes = attributes(call);
        let begun = Instant::now();
        let verdict = self.authorizer.authorize(&attributes).await;
        self.metrics.authorized(verdict.allowed(), verdict.error.is_some(), begun.elapsed());
        if let Some(record) = &call.record {
            let decision = if verdict.allowed() { "allow" } else { "forbid" };
            record.annotate("authorization.k8s.io/decision", decision);
            record.annotate("authorization.k8s.io/reason", &verdict.reason);
        }
        if verdict.allowed() {
            return Ok(());
        }
        if let Some(error) = verdict.error {
            tracing::warn!(%error, "authorization failed in part");
        }
        Err(attributes.forbidden(&verdict.reason))
    }
}

/// The user who proved an identity, where another one acts.
#[derive(Clone)]
struct Acting(Arc<UserInfo>);

fn arrived<'a>(
    id: &'a str,
    parts: &'a http::request::Parts,
    peer: &Peer,
    info: &'a RequestInfo,
) -> crate::audit::Arrived<'a> {
    crate::audit::Arrived {
        id,
        uri: parts.uri.path_and_query().map_or("/", |p| p.as_str()),
        headers: &parts.headers,
        peer: peer.address,
        info,
        user: None,
        acting: None,
    }
}

/// As many requests are being worked on as may be.
struct Full;

fn too_many() -> Response<Body> {
    let mut r = respond::text(429, "Too many requests, please try again later.\n");
    r.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
    r
}

/// One broken request is that request's failure, not the server's.
fn apology(call: &Call) -> Response<Body> {
    tracing::error!(method = %call.method, path = %call.info.path, audit_id = %call.audit_id, "a request panicked");
    respond::text(500, "This request caused apiserver to panic. Look in the logs for details.\n")
}

/// The request in the words of authorizers.
pub fn attributes(call: &Call) -> Attributes<'_> {
    let info = &call.info;
    let user = &call.user;
    if !info.is_resource {
        return Attributes::path(user, info.verb, &info.path);
    }
    let mut a = Attributes::resource(user, info.verb, &info.group, &info.resource)
        .version(&info.version)
        .namespace(&info.namespace)
        .name(&info.name)
        .subresource(&info.subresource);
    a.path = &info.path;
    a.field_selector = equalities(&info.field_selector);
    a.label_selector = &info.label_selector;
    a
}

/// The `=` terms of a field selector.
fn equalities(selector: &str) -> Vec<(&str, &str)> {
    selector
        .split(',')
        .filter(|t| !t.contains("!="))
        .filter_map(|t| t.split_once('='))
        .map(|(k, v)| (k.trim(), v.strip_prefix('=').unwrap_or(v).trim()))
        .collect()
}

/// Requests that are meant to last.
pub fn long_running(info: &RequestInfo) -> bool {
    info.verb == "watch"
        || info.verb == "proxy"
        || matches!(info.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward")
}

/// A request's place among those in flight.
struct Place<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

impl<'a> Place<'a> {
    fn take(count: &'a AtomicUsize) -> Self {
        Place { count, before: count.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The client's own id for the audit log, if it sent a usable one.
fn audit_id(headers: &http::HeaderMap) -> String {
    headers
        .get("audit-id")
        .and_then(|v| v.to_str().ok())
        .filter(|v| !v.is_empty() && v.len() <= 64)
        .map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned)
}

fn finish(mut response: Response<Body>, audit_id: &str) -> Response<Body> {
    if let Ok(v) = HeaderValue::from_str(audit_id) {
        response.headers_mut().insert("audit-id", v);
    }
    response
}

fn add_warnings(call: &Call, response: &mut Response<Body>) {
    let mut room = 16 * 1024usize;
    for text in call.take_warnings() {
        let header = format!("299 - {}", quoted(&text));
        let Some(left) = room.checked_sub(header.len()) else { return };
        room = left;
        if let Ok(v) = HeaderValue::from_str(&header) {
            response.headers_mut().append("warning", v);
        }
    }
}

/// A quoted-string of a header; what cannot stand there is left out.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars().filter(|c| !c.is_control()) {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}
