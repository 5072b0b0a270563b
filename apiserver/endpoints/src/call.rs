//! One request on its way through the server.

use crate::negotiate::{Accepted, Offers, negotiate};
use crate::query::Query;
use crate::request::{RequestInfo, path_segment_error};
use crate::server::Server;
use api::status::{Result, Status};
use auth::UserInfo;
use bytes::Bytes;
use http::{HeaderMap, Method, Uri, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bodies beyond this are refused with a 413.
pub const MAX_BODY: usize = 3 * 1024 * 1024;
/// What is read and thrown away of a body that is too large, and for how long.
const DISCARD: usize = 64 * 1024 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(10);
/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// A request after authentication, with what later stages add to it.
pub struct Call {
    pub server: Arc<Server>,
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub query: Query,
    pub info: RequestInfo,
    pub user: Arc<UserInfo>,
    pub peer: Option<SocketAddr>,
    pub audit_id: String,
    /// Present if the audit policy is interested in the request.
    pub record: Option<Arc<crate::audit::Record>>,
    pub received: Instant,
    body: Mutex<Option<Incoming>>,
    upgrade: Mutex<Option<hyper::upgrade::OnUpgrade>>,
    warnings: Mutex<Vec<String>>,
    /// Microseconds.
    waited: AtomicU64,
}

/// What [`Call::new`] needs beside the server and the user.
pub struct Arrival {
    pub parts: http::request::Parts,
    pub body: Option<Incoming>,
    pub query: Query,
    pub info: RequestInfo,
    pub peer: Option<SocketAddr>,
    pub audit_id: String,
    pub record: Option<Arc<crate::audit::Record>>,
}

impl Call {
    pub fn new(server: Arc<Server>, user: Arc<UserInfo>, mut arrival: Arrival) -> Self {
        let upgrade = arrival.parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
        Call {
            server,
            method: arrival.parts.method,
            uri: arrival.parts.uri,
            headers: arrival.parts.headers,
            query: arrival.query,
            info: arrival.info,
            user,
            peer: arrival.peer,
            audit_id: arrival.audit_id,
            record: arrival.record,
            received: Instant::now(),
            body: Mutex::new(arrival.body),
            upgrade: Mutex::new(upgrade),
            warnings: Mutex::new(Vec::new()),
            waited: AtomicU64::new(0),
        }
    }

    /// Waits for what is not the request's own work.
    pub async fn waiting<T>(&self, what: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let done = what.await;
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.waited.fetch_add(micros, Ordering::Relaxed);
        done
    }

    /// How long it has waited so.
    pub fn waited(&self) -> Duration {
        Duration::from_micros(self.waited.load(Ordering::Relaxed))
    }

    /// The whole body. Can be taken once; a second reader gets nothing.
    pub async fn bytes(&self) -> Result<Bytes> {
        let Some(body) = self.body.lock().take() else { return Ok(Bytes::new()) };
        match tokio::time::timeout(BODY_TIMEOUT, self.collect(body)).await {
            Err(_) => Err(Status::timeout("request did not complete within the allotted timeout", 0)),
            Ok(result) => result.inspect(|body| {
                if let Some(record) = &self.record {
                    record.request(self, crate::routes::row(self).as_deref(), body);
                }
            }),
        }
    }

    async fn collect(&self, mut body: Incoming) -> Result<Bytes> {
        let announced = self.content_length().unwrap_or(0);
        let mut out = bytes::BytesMut::with_capacity(announced.min(MAX_BODY as u64) as usize);
        let mut large = announced > MAX_BODY as u64;
        while !large && let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|e| Status::bad_request(format!("unable to read the request body: {e}")))?;
            if let Ok(data) = frame.into_data() {
                large = out.len() + data.len() > MAX_BODY;
                if !large {
                    out.extend_from_slice(&data);
                }
            }
        }
        if !large {
            return Ok(out.freeze());
        }
        drop(out);
        // A client that is still sending would not see the answer if the connection closed on it.
        let _ = tokio::time::timeout(DISCARD_TIME, Limited::new(body, DISCARD).collect()).await;
        Err(Status::too_large(format!("Request entity too large: limit is {MAX_BODY}")))
    }

    fn content_length(&self) -> Option<u64> {
        self.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    /// The body as it comes, for proxies.
    pub fn take_body(&self) -> Option<Incoming> {
        self.body.lock().take()
    }

    /// The connection, for protocols that leave HTTP.
    pub fn take_upgrade(&self) -> Option<hyper::upgrade::OnUpgrade> {
        self.upgrade.lock().take()
    }

    /// Media type of the body in lower case, without parameters.
    pub fn content_type(&self) -> String {
        self.content_type_header().split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    /// What the request says of its body's media type, whole.
    pub fn content_type_header(&self) -> &str {
        self.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    pub fn accepted(&self, offers: Offers) -> Result<Accepted> {
        negotiate(&self.headers, &self.query, offers, self.server.speaks_cbor())
    }

    /// Adds a text for a `Warning` header; each is sent once.
    pub fn warn(&self, text: impl Into<String>) {
        let (text, mut all) = (text.into(), self.warnings.lock());
        if !all.contains(&text) {
            all.push(text);
        }
    }

    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock())
    }

    pub fn user_agent(&self) -> &str {
        self.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// Who owns the fields of this write: as asked for, else the first word of the user agent.
    pub fn manager(&self, asked: &str) -> String {
        if !asked.is_empty() {
            return asked.to_owned();
        }
        let agent: String = self
            .user_agent()
            .split('/')
            .next()
            .unwrap_or_default()
            .chars()
            .filter(|c| !c.is_control())
            .collect();
        let mut end = agent.len().min(128);
        while !agent.is_char_boundary(end) {
            end -= 1;
        }
        agent[..end].to_owned()
    }

    /// Names from the path can stand in a key: no segment walks out of its resource.
    pub fn check_path(&self) -> Result<()> {
        for (what, text) in [("Namespace", &self.info.namespace), ("Name", &self.info.name)] {
            if let Some(why) = path_segment_error(text) {
                return Err(Status::bad_request(format!("{what} parameter invalid: {text:?}: {why}")));
            }
        }
        Ok(())
    }
}
