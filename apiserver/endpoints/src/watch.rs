//! WATCH: changes as they happen, in JSON lines, protobuf frames or WebSocket messages.
//!
//! Each event's object is the same shared bytes for every watcher. What is due at one moment goes out in
//! one write.

use crate::body::Body;
use crate::call::Call;
use crate::envelope;
use crate::list::{parse_version, validate};
use crate::negotiate::{Accepted, Media, Offers, Shape};
use crate::query::ListOptions;
use crate::respond;
use crate::select::After;
use crate::served::{Served, encode_json};
use crate::table::{self, Include};
use api::json;
use api::status::{Result, Status};
use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use http::Response;
use rand::RngExt;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use storage::{Event, Object, ReadVersion, WatchOptions, WatchStart, Watcher};
use tokio_util::sync::CancellationToken;

/// Answers a WATCH.
pub async fn watch(call: &Call, served: &Arc<Served>) -> Result<Response<Body>> {
    // The best clause decides, and only then whether it can be a stream.
    let accepted = match call.accepted(Offers::ALL) {
        Ok(a) if a.media == Media::Yaml => {
            return Err(crate::negotiate::no_stream(call.server.speaks_cbor()));
        }
        Ok(a) => a,
        Err(e) => call.accepted(Offers::WATCH).map_err(|_| e)?,
    };
    let mut options = ListOptions::from_query(&call.query)?;
    options.watch = true;
    if call.info.verb_in_path && !call.info.name.is_empty() {
        options.field_selector = format!("metadata.name={}", call.info.name);
    }
    validate(&options)?;
    let include = if accepted.shape == Shape::Table { Include::of(call)? } else { Include::None };
    let opened = open(call, served, &options).await;
    let lifetime = options.timeout.unwrap_or_else(|| call.server.random_watch_lifetime());
    let mut writer = Writer {
        served: served.clone(),
        accepted,
        include,
        columns_sent: false,
        after: None,
        seen: HashMap::new(),
    };
    let watcher = match opened {
        Ok((watcher, after)) => {
            writer.after = after;
            Some(watcher)
        }
        // A watch that cannot begin any more ends as one that was interrupted would.
        Err(e @ storage::Error::Expired { .. }) => return Ok(stream(call, writer, None, lifetime, Some(e))),
        Err(e) => return Err(crate::errors::storage(e, served.group(), &served.resource, "")),
    };
    Ok(stream(call, writer, watcher, lifetime, None))
}

type Opened = (Watcher, Option<After>);

async fn open(call: &Call, served: &Arc<Served>, options: &ListOptions) -> storage::Result<Opened> {
    let bad = |s: Status| storage::Error::InvalidContinue(s.message);
    let stored = served.stored().map_err(bad)?;
    let selector =
        crate::select::compile(served, &options.label_selector, &options.field_selector).map_err(bad)?;
    let (start, initial) = start(options).map_err(bad)?;
    let asked = WatchOptions {
        start,
        initial,
        initial_end_bookmark: options.send_initial_events == Some(true) && options.bookmarks,
        predicate: selector.predicate,
        index: selector.index,
        bookmarks: options.bookmarks,
    };
    let range = served.range(&call.info.namespace).map_err(bad)?;
    Ok((stored.resource.watch(&range, asked).await?, selector.after))
}

/// Where to start, and whether the state there comes first.
fn start(o: &ListOptions) -> Result<(WatchStart, bool)> {
    let revision = parse_version(&o.resource_version)?;
    let state = |n: Option<i64>| match n {
        None => ReadVersion::Consistent,
        Some(0) => ReadVersion::Any,
        Some(n) => ReadVersion::NotOlderThan(n),
    };
    Ok(match (o.send_initial_events, revision) {
        (Some(true), n) => (WatchStart::State(state(n)), true),
        (_, Some(n)) if n > 0 => (WatchStart::After(n), false),
        (Some(false), n) => (WatchStart::State(state(n)), false),
        (None, n) => (WatchStart::State(state(n)), true),
    })
}

/// Writes events in the form that was negotiated.
struct Writer {
    served: Arc<Served>,
    accepted: Accepted,
    include: Include,
    columns_sent: bool,
    /// What of the selector is left to do once objects are converted, and what it said of the objects so far.
    after: Option<After>,
    seen: HashMap<Box<str>, bool>,
}

impl Writer {
    fn media(&self) -> &'static str {
        match self.accepted.media {
            Media::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            Media::Cbor => crate::negotiate::CBOR_SEQ,
            _ => "application/json",
        }
    }

    fn event(&mut self, event: &Event, out: &mut BytesMut) -> Result<()> {
        let (kind, object) = match event {
            Event::Added(o) => ("ADDED", o),
            Event::Modified(o) => ("MODIFIED", o),
            Event::Deleted(o) => ("DELETED", o),
            Event::Bookmark { revision, initial_events_end } => {
                return self.bookmark(*revision, *initial_events_end, out);
            }
            Event::Error(e) => {
                self.error(e.clone(), out);
                return Ok(());
            }
        };
        let Some(kind) = self.selected(kind, object)? else { return Ok(()) };
        let body = self.object(object)?;
        self.frame(kind, &body, out);
        Ok(())
    }

    /// What the event is to this watcher: objects come and go as they begin and cease to be selected.
    fn selected(&mut self, kind: &'static str, object: &Object) -> Result<Option<&'static str>> {
        let Some(after) = &self.after else { return Ok(Some(kind)) };
        if kind == "DELETED" {
            let was = self.seen.remove(&object.key).unwrap_or(true);
            return Ok(was.then_some(kind));
        }
        let is = after.matches(&self.served.value_here(object)?);
        let was = self.seen.insert(object.key.clone(), is);
        Ok(match (was, is) {
            (Some(true), true) => Some("MODIFIED"),
            (Some(false), true) => Some("ADDED"),
            (None, true) => Some(kind),
            (Some(true), false) => Some("DELETED"),
            (None, false) if kind == "MODIFIED" => Some("DELETED"),
            (_, false) => None,
        })
    }

    fn object(&mut self, object: &Object) -> Result<Bytes> {
        match (self.accepted.shape, self.accepted.media) {
            (Shape::Object, Media::Protobuf) => self.served.protobuf(object),
            (Shape::Object, Media::Cbor) => Ok(api::cbor::encode(&self.served.value_here(object)?).into()),
            (Shape::Object, _) => self.served.json(object),
            (Shape::Table, _) => {
                let first = !std::mem::replace(&mut self.columns_sent, true);
                let value = self.served.value_here(object)?;
                let text = table::document(&self.served, &value, self.include, self.accepted.version, first)?;
                self.text(text)
            }
            (Shape::Partial | Shape::PartialList, media) => {
                let partial = crate::list::partial_of(&self.served.value(object)?, self.accepted.version);
                self.partial(&partial, media)
            }
        }
    }

    /// JSON text in the form that was negotiated.
    fn text(&self, json: Vec<u8>) -> Result<Bytes> {
        if self.accepted.media != Media::Cbor {
            return Ok(json.into());
        }
        let value: api::Value = serde_json::from_slice(&json).map_err(Status::internal)?;
        Ok(api::cbor::encode(&value).into())
    }

    fn partial(&self, partial: &api::Value, media: Media) -> Result<Bytes> {
        let gvk = api::GroupVersionKind::new("meta.k8s.io", self.accepted.version, "PartialObjectMetadata");
        let message = api::schema::message("k8s.io.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata");
        match (media, message) {
            (Media::Protobuf, Some(m)) => {
                let raw = api::protobuf::encode(m, partial).map_err(Status::internal)?;
                Ok(envelope::wrap(&gvk.api_version(), &gvk.kind, raw.len(), |o| o.extend_from_slice(&raw)))
            }
            (Media::Cbor, _) => Ok(api::cbor::encode(partial).into()),
            _ => encode_json(message, &gvk, partial).map(Bytes::from),
        }
    }

    fn bookmark(&mut self, revision: i64, initial_end: bool, out: &mut BytesMut) -> Result<()> {
        let mut meta = json!({"resourceVersion": revision.to_string()});
        if initial_end {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let body = match self.accepted.shape {
            Shape::Table => self.text(table::bookmark(self.accepted.version, &meta))?,
            Shape::Partial | Shape::PartialList => self.partial(
                &crate::list::partial_of(&json!({"metadata": meta}), self.accepted.version),
                self.accepted.media,
            )?,
            Shape::Object => {
                let value = json!({"kind": self.served.gvk.kind, "apiVersion": self.served.api_version, "metadata": meta});
                match self.accepted.media {
                    Media::Protobuf => self.served.value_protobuf(&value)?,
                    Media::Cbor => api::cbor::encode(&value).into(),
                    _ => encode_json(self.served.message, &self.served.gvk, &value)?.into(),
                }
            }
        };
        self.frame("BOOKMARK", &body, out);
        Ok(())
    }

    fn error(&self, e: storage::Error, out: &mut BytesMut) {
        let status = crate::errors::storage(e, self.served.group(), &self.served.resource, "");
        self.status(&status, out);
    }

    fn status(&self, status: &Status, out: &mut BytesMut) {
        let value = status.to_value();
        let message = api::schema::message("k8s.io.apimachinery.pkg.apis.meta.v1.Status");
        let gvk = api::GroupVersionKind::new("", "v1", "Status");
        let body = match (self.accepted.media, message) {
            (Media::Protobuf, Some(m)) => api::protobuf::encode(m, &value)
                .map(|raw| envelope::wrap("v1", "Status", raw.len(), |o| o.extend_from_slice(&raw)))
                .unwrap_or_default(),
            (Media::Cbor, _) => api::cbor::encode(&value).into(),
            _ => encode_json(message, &gvk, &value).map(Bytes::from).unwrap_or_default(),
        };
        self.frame("ERROR", &body, out);
    }

    fn frame(&self, kind: &str, body: &[u8], out: &mut BytesMut) {
        if self.accepted.media == Media::Protobuf {
            out.extend_from_slice(&envelope::watch_frame(kind, body));
            return;
        }
        if self.accepted.media == Media::Cbor {
            api::cbor::watch_event(kind, body, out);
            return;
        }
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        out.extend_from_slice(body.strip_suffix(b"\n").unwrap_or(body));
        out.put_slice(b"}\n");
    }
}

/// The live stream of a watch, with all that must go when it ends.
struct Live {
    writer: Writer,
    watcher: Option<Watcher>,
    failed: Option<storage::Error>,
    deadline: tokio::time::Instant,
    stop: CancellationToken,
    /// The server leaves: the watch ends at its share of the time that all watches have.
    closing: CancellationToken,
    grace: Duration,
    _open: tokio_util::task::task_tracker::TaskTrackerToken,
    /// One event an item, for channels that have messages.
    single: bool,
    _running: crate::metrics::Running,
    counted: crate::metrics::Events,
}

fn stream(
    call: &Call,
    writer: Writer,
    watcher: impl Into<Option<Watcher>>,
    lifetime: Duration,
    failed: Option<storage::Error>,
) -> Response<Body> {
    let media = writer.media();
    let live = Live {
        _running: call.server.metrics.watching(&writer.served),
        counted: call.server.metrics.events(&writer.served),
        writer,
        watcher: watcher.into(),
        failed,
        deadline: tokio::time::Instant::now() + lifetime,
        stop: call.server.stopping.clone(),
        closing: call.server.watches_closing.clone(),
        grace: call.server.settings.watch_grace,
        _open: call.server.watches.token(),
        single: crate::websocket::wanted(&call.headers),
    };
    if live.single {
        let media = live.writer.accepted.media;
        return crate::websocket::serve(call, media, events(live));
    }
    respond::bytes(200, media, Body::live(events(live)))
}

/// Bytes to write, one item a write.
fn events(live: Live) -> impl Stream<Item = Bytes> + Send {
    futures::stream::unfold(live, |mut live| async move {
        let mut out = BytesMut::new();
        if let Some(e) = live.failed.take() {
            live.writer.error(e, &mut out);
            live.watcher = None;
            return Some((out.freeze(), live));
        }
        let watcher = live.watcher.as_mut()?;
        let mut next = tokio::select! {
            event = watcher.next() => Some(event?),
            () = shared_end(&live.closing, live.grace) => return None,
            () = tokio::time::sleep_until(live.deadline) => return None,
            () = live.stop.cancelled() => return None,
        };
        while let Some(event) = next {
            let before = out.len();
            if let Err(status) = live.writer.event(&event, &mut out) {
                live.writer.status(&status, &mut out);
                live.watcher = None;
                break;
            }
            live.counted.sent(out.len() - before);
            next = if !live.single && out.len() < crate::body::CHUNK { watcher.try_next() } else { None };
        }
        Some((out.freeze(), live))
    })
}

/// A random moment of the time that watches have to end in.
async fn shared_end(closing: &CancellationToken, grace: Duration) {
    closing.cancelled().await;
    let share = rand::rng().random_range(0.0..0.9);
    tokio::time::sleep(grace.mul_f64(share)).await;
}

/// Between one and two times the least lifetime, so that clients do not all come back at once.
pub fn random_lifetime(least: Duration) -> Duration {
    least.mul_f64(1.0 + rand::rng().random_range(0.0..1.0))
}
