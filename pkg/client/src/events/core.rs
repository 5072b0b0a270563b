//! core/v1 Events with upstream's correlation: at most 25 an object in a burst (then one in five minutes), more than ten
//! different messages of one kind combined, repeats counted in the first event.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{REMEMBERED, Record, Source, event_name, namespace, path, retry};
use crate::{TokenBucket, is_not_found};

const SPAM_BURST: u32 = 25;
const SPAM_QPS: f64 = 1.0 / 300.0;
const SIMILAR: usize = 10;
const SIMILAR_WINDOW: Duration = Duration::from_secs(600);

/// What was sent under a key.
struct Sent {
    name: String,
    namespace: String,
    count: i32,
}

/// The different messages of one kind of event.
struct Group {
    since: Instant,
    messages: Vec<String>,
}

/// What to do with a record.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Too many of this object.
    Drop,
    /// Send under this key, with this message.
    Send { key: String, message: String },
}

/// Remembers enough to combine and drop.
#[derive(Default)]
pub(super) struct Correlator {
    spam: HashMap<String, TokenBucket>,
    groups: HashMap<String, Group>,
}

impl Correlator {
    pub(super) fn step(&mut self, record: &Record) -> Step {
        let object =
            format!("{}|{}", path(&record.regarding), record.regarding.uid.as_deref().unwrap_or_default());
        let group_key = format!("{object}|{}|{}|{}", record.kind, record.reason, record.action);
        bound(&mut self.groups);
        let group = self
            .groups
            .entry(group_key.clone())
            .or_insert_with(|| Group { since: Instant::now(), messages: Vec::new() });
        if group.since.elapsed() > SIMILAR_WINDOW {
            group.messages.clear();
        }
        group.since = Instant::now();
        if !group.messages.contains(&record.message) && group.messages.len() < SIMILAR {
            group.messages.push(record.message.clone());
        }
        let many = group.messages.len() >= SIMILAR;
        bound(&mut self.spam);
        let bucket = self.spam.entry(object).or_insert_with(|| TokenBucket::new(SPAM_QPS, SPAM_BURST));
        if !bucket.try_take() {
            return Step::Drop;
        }
        let (key, message) = match many {
            true => (group_key, format!("(combined from similar events): {}", record.message)),
            // The same of another part of the object, such as a container, is another event.
            false => {
                let part = record.regarding.field_path.as_deref().unwrap_or_default();
                (format!("{group_key}|{part}|{}", record.message), record.message.clone())
            }
        };
        Step::Send { key, message }
    }
}

fn bound<V>(map: &mut HashMap<String, V>) {
    if map.len() >= REMEMBERED {
        map.clear();
    }
}

pub(super) async fn send(client: kube::Client, source: Arc<Source>, mut records: mpsc::Receiver<Record>) {
    let mut correlator = Correlator::default();
    let mut sent: HashMap<String, Sent> = HashMap::new();
    let params = PostParams::default();
    while let Some(record) = records.recv().await {
        let Step::Send { key, message } = correlator.step(&record) else { continue };
        bound(&mut sent);
        if let Some(earlier) = sent.get_mut(&key)
            && count_up(&client, earlier, &message).await
        {
            continue;
        }
        let event = new_event(&record, &source, &message);
        let name = event.metadata.name.clone().unwrap_or_default();
        let namespace = namespace(&record.regarding);
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        match retry(|| api.create(&params, &event)).await {
            Ok(_) => drop(sent.insert(key, Sent { name, namespace, count: 1 })),
            Err(error) => {
                tracing::warn!(%error, object = path(&record.regarding), reason = record.reason, "Server rejected event (will not retry!)")
            }
        }
    }
}

/// Counts a repeat in the first event; false if that is gone.
async fn count_up(client: &kube::Client, earlier: &mut Sent, message: &str) -> bool {
    let api: Api<Event> = Api::namespaced(client.clone(), &earlier.namespace);
    let patch = serde_json::json!({
        "count": earlier.count.saturating_add(1), "lastTimestamp": now(), "message": message,
    });
    let (params, patch) = (PatchParams::default(), Patch::Strategic(&patch));
    match retry(|| api.patch(&earlier.name, &params, &patch)).await {
        Ok(_) => {
            earlier.count = earlier.count.saturating_add(1);
            true
        }
        Err(error) if is_not_found(&error) => false,
        Err(error) => {
            tracing::warn!(%error, event = earlier.name, "Server rejected event (will not retry!)");
            true
        }
    }
}

fn now() -> Time {
    // Times on the wire have no fractions of a second.
    let now = jiff::Timestamp::now();
    Time(jiff::Timestamp::from_second(now.as_second()).unwrap_or(now))
}

fn new_event(record: &Record, source: &Source, message: &str) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(event_name(&record.regarding)),
            namespace: Some(namespace(&record.regarding)),
            annotations: Some(record.annotations.clone()).filter(|a| !a.is_empty()),
            ..ObjectMeta::default()
        },
        involved_object: record.regarding.clone(),
        related: record.related.clone(),
        type_: Some(record.kind.clone()),
        reason: Some(record.reason.clone()),
        message: Some(message.to_owned()),
        count: Some(1),
        first_timestamp: Some(now()),
        last_timestamp: Some(now()),
        source: Some(EventSource {
            component: Some(source.component.clone()),
            host: Some(source.host.clone()).filter(|h| !h.is_empty()),
        }),
        reporting_component: Some(source.component.clone()),
        reporting_instance: Some(source.host.clone()),
        ..Event::default()
    }
}
