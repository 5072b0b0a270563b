//! What the tests of the contract share.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use storage::testing::Etcd;
use storage::{
    Attributes, Config, Event, IndexHint, Object, Predicate, Resource, Spec, Store, WatchOptions, WatchStart,
    Watcher,
};
use tokio::time::{Instant, timeout};

pub const DEADLINE: Duration = Duration::from_secs(20);

/// Test values are `label=value,label=value;field=value`.
pub fn attributes(key: &str, bytes: &[u8]) -> Attributes {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let (labels, fields) = text.split_once(';').unwrap_or((text, ""));
    let pairs = |t: &str| -> Vec<(String, String)> {
        t.split(',').filter_map(|p| p.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    };
    let mut fields = pairs(fields);
    fields.push(("metadata.name".into(), key.rsplit('/').next().unwrap_or_default().into()));
    Attributes::new(pairs(labels), fields)
}

pub fn config(etcd: &Etcd) -> Config {
    Config {
        compaction_interval: Duration::ZERO,
        request_timeout: Duration::from_secs(5),
        ..Config::new([etcd.url()])
    }
}

pub fn spec(prefix: &str) -> Spec {
    Spec::new(prefix, Arc::new(attributes)).indexed("spec.nodeName")
}

pub async fn open(config: Config) -> (Arc<Store>, Arc<Resource>) {
    let store = Store::open(config).await.unwrap();
    let pods = store.resource(spec("/registry/pods/"));
    timeout(DEADLINE, store.wait_ready()).await.expect("ready");
    (store, pods)
}

pub fn key(name: &str) -> String {
    format!("/registry/pods/{name}")
}

pub async fn create(r: &Resource, name: &str, value: &str) -> Arc<Object> {
    r.create(&key(name), Bytes::from(value.to_owned()), None).await.unwrap()
}

pub async fn update(r: &Resource, old: &Object, value: &str) -> Arc<Object> {
    r.update(&old.key, old.revision, Bytes::from(value.to_owned()), None).await.unwrap()
}

pub fn after(revision: i64) -> WatchOptions {
    WatchOptions { start: WatchStart::After(revision), ..WatchOptions::default() }
}

pub async fn next(w: &mut Watcher) -> Event {
    timeout(DEADLINE, w.next()).await.expect("an event in time").expect("the watch goes on")
}

/// `+name@revision` for Added, `~` Modified, `-` Deleted.
pub fn short(event: &Event) -> String {
    let say = |sign: &str, o: &Object| {
        format!("{sign}{}@{}", o.key.trim_start_matches("/registry/pods/"), o.revision)
    };
    match event {
        Event::Added(o) => say("+", o),
        Event::Modified(o) => say("~", o),
        Event::Deleted(o) => say("-", o),
        Event::Bookmark { revision, initial_events_end } => format!("b@{revision}:{initial_events_end}"),
        Event::Error(e) => format!("!{e}"),
    }
}

pub async fn expect(w: &mut Watcher, want: &[String]) {
    let mut got = Vec::new();
    for _ in want {
        got.push(short(&next(w).await));
    }
    assert_eq!(got, want);
}

pub fn names(list: &storage::List) -> Vec<String> {
    list.items.iter().map(|o| o.key.trim_start_matches("/registry/pods/").to_owned()).collect()
}

pub fn app(value: &'static str) -> Arc<Predicate> {
    Predicate::new(format!("app={value}"), move |o| o.attributes.label("app") == Some(value))
}

pub fn on_node(value: &str) -> Option<IndexHint> {
    Some(IndexHint { field: "spec.nodeName".into(), value: value.into() })
}

/// Tries until it works or the deadline has passed.
pub async fn until<T, E: std::fmt::Debug>(mut attempt: impl AsyncFnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(e) if Instant::now() > deadline => panic!("not within {DEADLINE:?}: {e:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
