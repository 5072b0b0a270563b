//! Events about objects: sent in the background, counted up instead of repeated, dropped rather than blocking.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{errors, now, now_time};

/// How many events may wait to be sent.
const BACKLOG: usize = 1000;
/// How many distinct events are remembered to be counted up.
const REMEMBERED: usize = 4096;
/// One object may say this much at once, and then one event each five minutes.
const OBJECT_BURST: u32 = 25;
const OBJECT_REFILL: Duration = Duration::from_secs(300);
/// Events that differ only in their message are merged beyond this number in ten minutes.
const SIMILAR: u32 = 10;
const SIMILAR_FOR: Duration = Duration::from_secs(600);

struct Item {
    component: Arc<str>,
    about: ObjectReference,
    kind: String,
    reason: String,
    message: String,
}

/// The sending end. Cloning is cheap.
#[derive(Clone)]
pub struct Events {
    component: Arc<str>,
    sink: mpsc::Sender<Item>,
}

/// The process's one way to send events.
#[derive(Clone)]
pub struct Broadcaster(mpsc::Sender<Item>);

impl Broadcaster {
    /// Starts the sender; it ends with `shutdown` or when every recorder is gone.
    pub fn start(client: Client, host: Arc<str>, shutdown: CancellationToken) -> (Broadcaster, tokio::task::JoinHandle<()>) {
        let (sink, items) = mpsc::channel(BACKLOG);
        let sender = Sender { client, host, seen: HashMap::new(), similar: HashMap::new(), budget: HashMap::new() };
        (Broadcaster(sink), tokio::spawn(sender.run(items, shutdown)))
    }

    /// A recorder under a component's name.
    pub fn recorder(&self, component: &str) -> Events {
        Events { component: component.into(), sink: self.0.clone() }
    }
}

impl Events {
    /// Something went as it should.
    pub fn normal<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, message: impl Into<String>) {
        self.about(object.object_ref(&()), "Normal", reason, message);
    }

    /// Something needs a user's attention.
    pub fn warning<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, message: impl Into<String>) {
        self.about(object.object_ref(&()), "Warning", reason, message);
    }

    /// An event about an object that is known by reference only.
    pub fn about(&self, about: ObjectReference, kind: &str, reason: &str, message: impl Into<String>) {
        let mut message: String = message.into();
        if message.len() > 1024 {
            let end = (0..=1021).rev().find(|i| message.is_char_boundary(*i)).unwrap_or(0);
            message.truncate(end);
            message.push_str("...");
        }
        let item = Item { component: self.component.clone(), about, kind: kind.into(), reason: reason.into(), message };
        if self.sink.try_send(item).is_err() {
            tracing::debug!(reason, "event dropped, too many wait to be sent");
        }
    }
}

struct Known {
    namespace: String,
    name: String,
    count: i32,
}

struct Sender {
    client: Client,
    host: Arc<str>,
    seen: HashMap<String, Known>,
    similar: HashMap<String, (Instant, u32)>,
    budget: HashMap<String, (Instant, u32)>,
}

impl Sender {
    async fn run(mut self, mut items: mpsc::Receiver<Item>, shutdown: CancellationToken) {
        loop {
            let item = tokio::select! {
                () = shutdown.cancelled() => return,
                item = items.recv() => item,
            };
            let Some(item) = item else { return };
            if let Err(error) = self.send(item).await {
                tracing::debug!(%error, "event not recorded");
            }
        }
    }

    /// Whether the object has not said too much lately.
    fn within_budget(&mut self, source: &str) -> bool {
        if self.budget.len() > REMEMBERED {
            self.budget.retain(|_, (since, _)| since.elapsed() < OBJECT_REFILL);
        }
        let (since, spent) = self.budget.entry(source.to_owned()).or_insert((Instant::now(), 0));
        let refilled = (since.elapsed().as_secs() / OBJECT_REFILL.as_secs()) as u32;
        if refilled > 0 {
            *spent = spent.saturating_sub(refilled);
            *since = Instant::now();
        }
        if *spent >= OBJECT_BURST {
            return false;
        }
        *spent += 1;
        true
    }

    /// Many events of one reason about one object become one.
    fn merge_similar(&mut self, group: &str, message: String) -> String {
        if self.similar.len() > REMEMBERED {
            self.similar.retain(|_, (since, _)| since.elapsed() < SIMILAR_FOR);
        }
        let (since, count) = self.similar.entry(group.to_owned()).or_insert((Instant::now(), 0));
        if since.elapsed() > SIMILAR_FOR {
            (*since, *count) = (Instant::now(), 0);
        }
        *count += 1;
        if *count > SIMILAR { format!("(combined from similar events): {message}") } else { message }
    }

    async fn send(&mut self, item: Item) -> Result<(), kube::Error> {
        let uid = item.about.uid.clone().unwrap_or_default();
        let name = item.about.name.clone().unwrap_or_default();
        let group = format!("{}/{uid}/{name}/{}/{}", item.component, item.kind, item.reason);
        if !self.within_budget(&format!("{}/{uid}/{name}", item.component)) {
            return Ok(());
        }
        let identity = format!("{group}/{}", item.message);
        let repeated = self.seen.contains_key(&identity);
        let message = if repeated { item.message.clone() } else { self.merge_similar(&group, item.message.clone()) };
        let merged = message != item.message;
        let identity = if merged { group } else { identity };
        if let Some(known) = self.seen.get_mut(&identity) {
            known.count += 1;
            let api: Api<Event> = Api::namespaced(self.client.clone(), &known.namespace);
            let patch = json!({"count": known.count, "lastTimestamp": now_time(), "message": message});
            match api.patch(&known.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Err(error) if errors::not_found(&error) => {}
                other => return other.map(|_| ()),
            }
        }
        let event = self.build(item, message);
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let stored = api.create(&PostParams::default(), &event).await?;
        if self.seen.len() >= REMEMBERED {
            self.seen.clear();
        }
        let name = stored.metadata.name.unwrap_or_default();
        self.seen.insert(identity, Known { namespace, name, count: 1 });
        Ok(())
    }

    fn build(&self, item: Item, message: String) -> Event {
        let namespace = item.about.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into());
        let name = format!("{}.{:x}", item.about.name.as_deref().unwrap_or_default(), now().as_nanosecond());
        Event {
            metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() },
            involved_object: item.about,
            type_: Some(item.kind),
            reason: Some(item.reason),
            message: Some(message),
            count: Some(1),
            first_timestamp: Some(now_time()),
            last_timestamp: Some(now_time()),
            source: Some(EventSource { component: Some(item.component.to_string()), host: None }),
            reporting_component: Some(item.component.to_string()),
            reporting_instance: Some(String::new()).filter(|_| !self.host.is_empty()),
            ..Event::default()
        }
    }
}
