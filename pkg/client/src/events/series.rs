//! events.k8s.io/v1 Events: the second of a kind turns the first into a series, further ones are counted and written
//! when the series ends or twice an hour.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{REMEMBERED, Record, Source, event_name, namespace, path, retry};
use crate::is_not_found;

/// A series ends when nothing has been added to it for this long.
const FINISH: Duration = Duration::from_secs(6 * 60);
const REFRESH: Duration = Duration::from_secs(30 * 60);

struct Known {
    event: Event,
    count: i32,
    /// What the server knows.
    written: i32,
    last: Instant,
    last_time: MicroTime,
    refreshed: Instant,
}

pub(super) async fn send(client: kube::Client, source: Arc<Source>, mut records: mpsc::Receiver<Record>) {
    let mut known: HashMap<String, Known> = HashMap::new();
    let mut tick = interval(FINISH);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            record = records.recv() => match record {
                Some(record) => handle(&client, &source, &mut known, record).await,
                None => break,
            },
            _ = tick.tick(), if !known.is_empty() => sweep(&client, &mut known).await,
        }
    }
}

fn key(record: &Record) -> String {
    let uid = record.regarding.uid.as_deref().unwrap_or_default();
    let related = record.related.as_ref().map(path).unwrap_or_default();
    format!("{}|{uid}|{related}|{}|{}|{}", path(&record.regarding), record.kind, record.reason, record.action)
}

async fn handle(client: &kube::Client, source: &Source, known: &mut HashMap<String, Known>, record: Record) {
    let key = key(&record);
    let now = MicroTime(jiff::Timestamp::now());
    if let Some(entry) = known.get_mut(&key) {
        entry.count = entry.count.saturating_add(1);
        entry.last = Instant::now();
        entry.last_time = now;
        // The second occurrence makes it a series; the rest is counted here until the sweep.
        if entry.count == 2 && !write(client, entry).await {
            known.remove(&key);
        } else {
            return;
        }
    }
    if known.len() >= REMEMBERED {
        known.clear();
    }
    let event = new_event(&record, source);
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace(&record.regarding));
    let params = PostParams::default();
    match retry(|| api.create(&params, &event)).await {
        Ok(_) => {
            let at = Instant::now();
            let last_time = MicroTime(jiff::Timestamp::now());
            known.insert(key, Known { event, count: 1, written: 1, last: at, last_time, refreshed: at });
        }
        Err(error) => {
            tracing::warn!(%error, object = path(&record.regarding), reason = record.reason, "Server rejected event (will not retry!)")
        }
    }
}

/// Writes what has been counted and forgets what has ended.
async fn sweep(client: &kube::Client, known: &mut HashMap<String, Known>) {
    let mut gone = Vec::new();
    for (key, entry) in known.iter_mut() {
        let over = entry.last.elapsed() >= FINISH;
        let due = entry.count > entry.written && (over || entry.refreshed.elapsed() >= REFRESH);
        let lost = due && !write(client, entry).await;
        if lost || over {
            gone.push(key.clone());
        }
    }
    known.retain(|k, _| !gone.contains(k));
}

/// Whether the event is still there.
async fn write(client: &kube::Client, entry: &mut Known) -> bool {
    let meta = &entry.event.metadata;
    let (name, namespace) =
        (meta.name.clone().unwrap_or_default(), meta.namespace.clone().unwrap_or_default());
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let series = EventSeries { count: entry.count, last_observed_time: entry.last_time.clone() };
    let patch = serde_json::json!({"series": series});
    let (params, patch) = (PatchParams::default(), Patch::Strategic(&patch));
    entry.refreshed = Instant::now();
    match retry(|| api.patch(&name, &params, &patch)).await {
        Ok(_) => {
            entry.written = entry.count;
            true
        }
        Err(error) => {
            tracing::debug!(%error, event = name, "Cannot write event series");
            !is_not_found(&error)
        }
    }
}

fn new_event(record: &Record, source: &Source) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(event_name(&record.regarding)),
            namespace: Some(namespace(&record.regarding)),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(jiff::Timestamp::now())),
        reporting_controller: Some(source.component.clone()),
        reporting_instance: Some(source.host.clone()),
        action: Some(record.action.clone()),
        reason: Some(record.reason.clone()),
        regarding: Some(record.regarding.clone()),
        related: record.related.clone(),
        note: Some(record.message.clone()),
        type_: Some(record.kind.clone()),
        ..Event::default()
    }
}
