//! Who did what, and what came of it: one record a stage of each request that the policy is interested in.
//!
//! The user of a record is the one who proved an identity; whom they act as stands beside. A request that lasts has a
//! record when its answer begins and one when it ends. Answers that are made while they are sent are not copied into
//! records; objects and short lists are.

mod policy;
mod sink;
mod webhook;

use crate::body::Body;
use crate::call::Call;
use crate::request::RequestInfo;
use crate::served::Served;
use api::decode::{self, Format};
use api::{Value, json};
use auth::UserInfo;
use bytes::Bytes;
use component::Flags;
use component::metrics::prometheus_client::metrics::counter::Counter;
use futures::StreamExt;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, Response};
use parking_lot::Mutex;
use policy::{Policy, Verdict};
use sink::{Format as LineFormat, Sink};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use webhook::Webhook;

pub use policy::{Level, Stage};

/// What a policy looks at.
pub struct Asked<'a> {
    pub user: Option<&'a UserInfo>,
    pub info: &'a RequestInfo,
}

static EVENTS: LazyLock<Counter> = LazyLock::new(|| {
    component::metrics::counter("apiserver_audit_event_total", "[ALPHA] Audit records that were made.")
});

/// The policy, and where records go.
pub struct Auditor {
    policy: Policy,
    log: Option<Sink>,
    webhook: Option<Webhook>,
}

impl Auditor {
    /// Of the `--audit-*` flags; `None` unless there are both a policy and somewhere for records to go.
    pub fn from_flags(flags: &Flags) -> anyhow::Result<Option<Arc<Auditor>>> {
        let (log, webhook) = (Sink::from_flags(flags)?, Webhook::from_flags(flags)?);
        let Some(path) = flags.opt("audit-policy-file") else {
            if log.is_some() {
                tracing::info!("Audit policy file not provided, no events will be recorded for log backend");
            }
            if webhook.is_some() {
                tracing::info!(
                    "Audit policy file not provided, no events will be recorded for webhook backend"
                );
            }
            return Ok(None);
        };
        let policy = Policy::load(Path::new(path))?;
        let some = log.is_some() || webhook.is_some();
        Ok(some.then(|| Arc::new(Auditor { policy, log, webhook })))
    }

    /// Sends what goes elsewhere from now on.
    pub fn start(&self, tasks: &TaskTracker, stopping: CancellationToken) {
        if let Some(webhook) = &self.webhook {
            webhook.start(tasks, stopping);
        }
    }

    fn write(&self, event: &Value) {
        EVENTS.inc();
        if let Some(log) = &self.log {
            log.write(match log.format {
                LineFormat::Json => json_line(event),
                LineFormat::Legacy => legacy_line(event),
            });
        }
        if let Some(webhook) = &self.webhook {
            webhook.write(event.clone());
        }
    }

    /// Begins the record of a request.
    pub fn begin(self: &Arc<Self>, arrived: &Arrived<'_>) -> Option<Arc<Record>> {
        let asked = Asked { user: arrived.user, info: arrived.info };
        let verdict = self.policy.judge(&asked);
        if verdict.level == Level::None {
            return None;
        }
        let event = first(arrived, verdict.level);
        let record = Arc::new(Record { auditor: self.clone(), verdict, event: Mutex::new(event) });
        record.stage(Stage::RequestReceived, None);
        Some(record)
    }

    /// A request of somebody who could not prove who they are.
    pub fn refused(self: &Arc<Self>, arrived: &Arrived<'_>) {
        let asked = Asked { user: None, info: arrived.info };
        let verdict = self.policy.judge(&asked);
        if verdict.level == Level::None {
            return;
        }
        let event = first(arrived, verdict.level);
        let record = Record { auditor: self.clone(), verdict, event: Mutex::new(event) };
        let status = json!({"metadata": {}, "status": "Failure", "code": 401, "reason": "Unauthorized",
            "message": "Authentication failed"});
        record.stage(Stage::ResponseStarted, Some(status));
    }
}

/// A request as it came in.
pub struct Arrived<'a> {
    pub id: &'a str,
    pub uri: &'a str,
    pub headers: &'a HeaderMap,
    pub peer: Option<std::net::SocketAddr>,
    pub info: &'a RequestInfo,
    pub user: Option<&'a UserInfo>,
    /// Whom the user acts as.
    pub acting: Option<&'a UserInfo>,
}

fn now() -> Value {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string().into()
}

fn first(arrived: &Arrived<'_>, level: Level) -> Value {
    let mut event = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": level.name(), "auditID": arrived.id,
        "requestURI": arrived.uri, "verb": arrived.info.verb,
        "user": arrived.user.map_or_else(|| json!({}), UserInfo::to_value),
        "requestReceivedTimestamp": now(),
    });
    if let Some(acting) = arrived.acting {
        event["impersonatedUser"] = acting.to_value();
    }
    let ips = addresses(arrived);
    if !ips.is_empty() {
        event["sourceIPs"] = json!(ips);
    }
    let agent = arrived.headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !agent.is_empty() {
        event["userAgent"] = agent.chars().take(1024).collect::<String>().into();
    }
    if arrived.info.is_resource {
        event["objectRef"] = reference(arrived.info);
    }
    event
}

/// The client, as proxies tell and as the connection shows.
fn addresses(arrived: &Arrived<'_>) -> Vec<String> {
    let listed = |name: &str| -> Vec<String> {
        let all = arrived.headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
        let parts = all.flat_map(|v| v.split(',')).map(str::trim);
        parts.filter(|p| p.parse::<std::net::IpAddr>().is_ok()).map(str::to_owned).collect()
    };
    let mut out = listed("x-forwarded-for");
    if out.is_empty() {
        out = listed("x-real-ip");
    }
    if let Some(peer) = arrived.peer {
        let own = peer.ip().to_canonical().to_string();
        if out.last() != Some(&own) {
            out.push(own);
        }
    }
    out
}

fn reference(info: &RequestInfo) -> Value {
    let mut out = json!({});
    for (key, text) in [
        ("resource", &info.resource),
        ("namespace", &info.namespace),
        ("name", &info.name),
        ("apiGroup", &info.group),
        ("apiVersion", &info.version),
        ("subresource", &info.subresource),
    ] {
        if !text.is_empty() {
            out[key] = text.as_str().into();
        }
    }
    out
}

/// The record of one request.
pub struct Record {
    auditor: Arc<Auditor>,
    verdict: Verdict,
    event: Mutex<Value>,
}

impl Record {
    /// Whether bodies of requests are wanted.
    fn wants_request(&self) -> bool {
        self.verdict.level >= Level::Request
    }

    /// Why the request was let through, and what else those on the way had to say.
    pub fn annotate(&self, key: &str, value: &str) {
        let mut event = self.event.lock();
        if !event["annotations"].is_object() {
            event["annotations"] = json!({});
        }
        event["annotations"][key] = value.into();
    }

    /// The body that the client sent.
    pub fn request(&self, call: &Call, served: Option<&Served>, body: &Bytes) {
        if body.is_empty() {
            return;
        }
        let media = call.content_type();
        let object = match Format::of(&media) {
            Some(Format::Protobuf) => served
                .and_then(|s| decode::decode(Format::Protobuf, body, Some(&s.gvk)).ok())
                .map(|d| d.value),
            Some(format) => decode::parse(format, body).ok().map(|p| p.value),
            None if media.ends_with("+yaml") => decode::parse_yaml(body).ok().map(|p| p.value),
            None if media.ends_with("+cbor") => decode::parse(Format::Cbor, body).ok().map(|p| p.value),
            None => decode::parse_json(body).ok().map(|p| p.value),
        };
        let Some(mut object) = object else { return };
        if call.info.verb != "patch" {
            self.refer(&object);
        }
        if self.wants_request() {
            self.tidy(&mut object);
            self.event.lock()["requestObject"] = object;
        }
    }

    /// What the path does not say of the object, its own metadata may.
    fn refer(&self, object: &Value) {
        let mut event = self.event.lock();
        let reference = &mut event["objectRef"];
        if !reference.is_object() {
            return;
        }
        for key in ["name", "namespace", "uid", "resourceVersion"] {
            let known = reference[key].as_str().is_some_and(|t| !t.is_empty());
            if let (false, Some(text)) = (known, object["metadata"][key].as_str().filter(|t| !t.is_empty())) {
                reference[key] = text.into();
            }
            if reference[key].is_null()
                && let Some(map) = reference.as_object_mut()
            {
                map.remove(key);
            }
        }
    }

    fn tidy(&self, object: &mut Value) {
        if !self.verdict.omit_managed_fields {
            return;
        }
        let forget = |o: &mut Value| {
            if let Some(meta) = o.get_mut("metadata").and_then(Value::as_object_mut) {
                meta.remove("managedFields");
            }
        };
        forget(object);
        object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(forget);
    }

    /// The end of a request, or the begin of an answer that lasts: then the end is recorded with the last of it.
    pub fn answered(self: &Arc<Self>, lasting: bool, panicked: bool, response: &mut Response<Body>) {
        let code = response.status().as_u16();
        let mut status = json!({"metadata": {}, "code": code});
        if let Some(mut object) = object_of(response) {
            let failed = object["kind"] == "Status";
            for key in ["status", "message", "reason", "details"] {
                if failed && !object[key].is_null() {
                    status[key] = object[key].clone();
                }
            }
            if self.verdict.level == Level::RequestResponse {
                self.tidy(&mut object);
                self.event.lock()["responseObject"] = object;
            }
        }
        if panicked {
            return self.stage(Stage::Panic, Some(status));
        }
        if !lasting {
            return self.stage(Stage::ResponseComplete, Some(status));
        }
        self.stage(Stage::ResponseStarted, Some(status));
        let end = End(self.clone());
        let body = std::mem::replace(response.body_mut(), Body::empty());
        *response.body_mut() = match body {
            Body::Live(stream) => Body::live(stream.map(move |piece| {
                let _last = &end;
                piece
            })),
            other => other,
        };
    }

    fn stage(&self, stage: Stage, status: Option<Value>) {
        // Nobody else waits for this lock: a request's stages come one after the other.
        let mut event = self.event.lock();
        if let Some(status) = status {
            event["responseStatus"] = status;
        }
        if self.verdict.omit_stages.contains(&stage) {
            return;
        }
        event["stage"] = stage.name().into();
        event["stageTimestamp"] = now();
        self.auditor.write(&event);
    }
}

/// Records the end when the answer is let go.
struct End(Arc<Record>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.stage(Stage::ResponseComplete, None);
    }
}

/// The object that an answer carries, if it is there as a whole and in a form that can be read.
fn object_of(response: &Response<Body>) -> Option<Value> {
    let Body::Full(bytes) = response.body() else { return None };
    if response.headers().contains_key(CONTENT_ENCODING) || bytes.is_empty() {
        return None;
    }
    let media = response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    match Format::of(media)? {
        Format::Protobuf => {
            let opened = api::protobuf::unenvelope(bytes).ok()?;
            let gvk = opened.gvk();
            let message = api::schema::for_kind(&gvk).or_else(|| {
                api::schema::message(&format!("k8s.io.apimachinery.pkg.apis.meta.v1.{}", gvk.kind))
            })?;
            api::protobuf::to_value(message, Some(&gvk), opened.raw).ok()
        }
        format => decode::parse(format, bytes).ok().map(|p| p.value),
    }
}

fn json_line(event: &Value) -> Vec<u8> {
    let gvk = api::GroupVersionKind::new("audit.k8s.io", "v1", "Event");
    let mut out = Vec::with_capacity(1024);
    match api::schema::for_kind(&gvk) {
        Some(message) => api::json::write_ordered(message, event, &mut out),
        None => api::json::write(event, &mut out),
    }
    out.push(b'\n');
    out
}

fn legacy_line(event: &Value) -> Vec<u8> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let groups = |user: &Value| -> String {
        let all = user["groups"].as_array();
        all.into_iter().flatten().map(|g| format!("{:?}", text(g))).collect::<Vec<_>>().join(",")
    };
    let (user, acting) = (&event["user"], &event["impersonatedUser"]);
    let (name, as_groups) = if acting.is_null() {
        ("<self>".to_owned(), "<lookup>".to_owned())
    } else {
        (text(&acting["username"]), groups(acting))
    };
    let namespace = text(&event["objectRef"]["namespace"]);
    let namespace = if namespace.is_empty() { "<none>".to_owned() } else { namespace };
    let response =
        event["responseStatus"]["code"].as_u64().map_or("<deferred>".to_owned(), |c| c.to_string());
    format!(
        "{} AUDIT: id={:?} stage={:?} ip={:?} method={:?} user={:?} groups={:?} as={:?} asgroups={:?} user-agent={:?} namespace={:?} uri={:?} response={:?}\n",
        text(&event["requestReceivedTimestamp"]),
        text(&event["auditID"]),
        text(&event["stage"]),
        text(&event["sourceIPs"][0]),
        text(&event["verb"]),
        text(&user["username"]),
        groups(user),
        name,
        as_groups,
        text(&event["userAgent"]),
        namespace,
        text(&event["requestURI"]),
        response,
    )
    .into_bytes()
}

/// Records that want the answer must be able to read it: it is then not compressed.
pub fn keep_readable(record: &Record, headers: &mut HeaderMap) {
    if record.verdict.level == Level::RequestResponse {
        headers.remove(ACCEPT_ENCODING);
    }
}
