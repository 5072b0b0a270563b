//! Events about objects, sent in the background: similar ones are combined, repeated ones counted, floods dropped.
//!
//! Recording never blocks and never fails the caller. Two APIs are spoken, as upstream's daemons do: core/v1 with counts
//! (kubelet, controllers) and events.k8s.io/v1 with series (scheduler, kube-proxy).

mod core;
mod series;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use tokio::sync::mpsc;

/// Events that wait to be sent; further ones are dropped, oldest stay.
const QUEUE: usize = 1000;
/// Bound of every table that remembers earlier events.
const REMEMBERED: usize = 4096;

/// One event as it was recorded.
#[derive(Clone, Debug)]
struct Record {
    regarding: ObjectReference,
    related: Option<ObjectReference>,
    kind: String,
    reason: String,
    action: String,
    message: String,
    annotations: BTreeMap<String, String>,
}

/// Who records.
#[derive(Clone, Debug)]
struct Source {
    component: String,
    host: String,
}

/// Records events; clones share the queue, which is sent until the last clone is dropped.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Record>,
    source: Arc<Source>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Recorder {
    /// A recorder of core/v1 Events.
    pub fn new(client: kube::Client, component: &str, host: &str) -> Recorder {
        let (recorder, receiver) = Recorder::queue(component, host);
        let source = recorder.source.clone();
        // Its owner is the channel: the task ends when the last recorder is gone and the queue is sent.
        tokio::spawn(core::send(client, source, receiver));
        recorder
    }

    /// A recorder of events.k8s.io/v1 Events.
    pub fn series(client: kube::Client, controller: &str, instance: &str) -> Recorder {
        let (recorder, receiver) = Recorder::queue(controller, instance);
        let source = recorder.source.clone();
        tokio::spawn(series::send(client, source, receiver));
        recorder
    }

    fn queue(component: &str, host: &str) -> (Recorder, mpsc::Receiver<Record>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let source = Arc::new(Source { component: component.to_owned(), host: host.to_owned() });
        (Recorder { sender, source }, receiver)
    }

    /// Records an event; `kind` is `Normal` or `Warning`.
    pub fn event(&self, regarding: &ObjectReference, kind: &str, reason: &str, message: &str) {
        self.event_with(regarding, None, kind, reason, reason, message);
    }

    /// Records an event with its action and a second object.
    pub fn event_with(
        &self,
        regarding: &ObjectReference,
        related: Option<&ObjectReference>,
        kind: &str,
        reason: &str,
        action: &str,
        message: &str,
    ) {
        self.record(Record {
            regarding: regarding.clone(),
            related: related.cloned(),
            kind: kind.to_owned(),
            reason: reason.to_owned(),
            action: action.to_owned(),
            message: truncate(message),
            annotations: BTreeMap::new(),
        });
    }

    /// Records an event that carries annotations.
    pub fn annotated_event(
        &self,
        regarding: &ObjectReference,
        annotations: BTreeMap<String, String>,
        kind: &str,
        reason: &str,
        message: &str,
    ) {
        self.record(Record {
            regarding: regarding.clone(),
            related: None,
            kind: kind.to_owned(),
            reason: reason.to_owned(),
            action: reason.to_owned(),
            message: truncate(message),
            annotations,
        });
    }

    fn record(&self, record: Record) {
        let Record { regarding, kind, reason, message, .. } = &record;
        tracing::debug!(object = %path(regarding), kind, reason, message, "Event occurred");
        let reason = reason.clone();
        if self.sender.try_send(record).is_err() {
            tracing::debug!(reason, "Unable to record event: too many queued events, dropped event");
        }
    }
}

/// The API server refuses longer messages.
fn truncate(message: &str) -> String {
    const MAX: usize = 1024;
    if message.len() <= MAX {
        return message.to_owned();
    }
    let end = (0..=MAX - 3).rev().find(|i| message.is_char_boundary(*i)).unwrap_or(0);
    format!("{}...", &message[..end])
}

fn path(r: &ObjectReference) -> String {
    let part = |s: &Option<String>| s.clone().unwrap_or_default();
    format!("{}/{}/{}", part(&r.kind), part(&r.namespace), part(&r.name))
}

/// Events of cluster-scoped objects live in `default`.
fn namespace(r: &ObjectReference) -> String {
    r.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".to_owned())
}

/// `<object>.<time in hex>`, as upstream names events.
fn event_name(r: &ObjectReference) -> String {
    let nanos = jiff::Timestamp::now().as_nanosecond();
    format!("{}.{nanos:x}", r.name.as_deref().unwrap_or_default())
}

/// Whether it is worth sending the event again: the server was not there, rather than that it said no.
fn transient(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code >= 500 || status.code == 429,
        _ => true,
    }
}

/// Tries a few times, some seconds apart.
async fn retry<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, kube::Error>
where
    F: Future<Output = Result<T, kube::Error>>,
{
    let mut left = 12;
    loop {
        match attempt().await {
            Err(error) if transient(&error) && left > 0 => {
                left -= 1;
                tracing::debug!(%error, "Unable to write event (may retry after sleeping)");
                tokio::time::sleep(Duration::from_secs(5).mul_f64(0.5 + rand::random::<f64>())).await;
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests;
