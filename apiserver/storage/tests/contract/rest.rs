//! Resources that nobody asks for leave memory, and come back when somebody does.

use crate::common::*;
use std::time::Duration;
use storage::testing::Etcd;
use storage::{Config, Event, ListOptions, ReadVersion, Resource, Store, WatchOptions, WatchStart};
use tokio::time::{Instant, sleep};

async fn until_resting(r: &Resource) {
    let end = Instant::now() + DEADLINE;
    while !r.resting() {
        assert!(Instant::now() < end, "it never rests");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn idle_resources_leave_memory_until_somebody_asks() {
    let etcd = Etcd::start().await;
    let config = Config { bookmark_interval: Duration::from_millis(1), ..config(&etcd) };
    let store = Store::open(config).await.unwrap();
    let spec = spec("/registry/pods/").resting(Duration::from_millis(100));
    let pods = store.resource(spec);
    store.wait_ready().await;
    let first = create(&pods, "ns/a", "app=x;spec.nodeName=n1").await;
    create(&pods, "ns/b", "app=y").await;
    until_resting(&pods).await;
    assert!(store.ready() && !pods.ready(), "it holds up nobody's readiness");

    // Counted while it rests: one changes, one goes, two come.
    update(&pods, &first, "app=z;spec.nodeName=n2").await;
    for name in ["ns/c", "ns/d"] {
        create(&pods, name, "app=x").await;
    }
    let b = pods.get_live(&key("ns/b")).await.unwrap().unwrap();
    pods.delete(&b.key, b.revision).await.unwrap();
    let end = Instant::now() + DEADLINE;
    while pods.len() != 3 {
        assert!(pods.resting() && Instant::now() < end, "{}", pods.len());
        sleep(Duration::from_millis(20)).await;
    }

    // Whoever asks gets all of it, whatever the question.
    let options = || ListOptions { version: ReadVersion::Any, ..ListOptions::default() };
    let list = pods.list("/registry/pods/", options()).await.unwrap();
    let names: Vec<&str> = list.items.iter().map(|o| &*o.key).collect();
    assert_eq!(names, ["/registry/pods/ns/a", "/registry/pods/ns/c", "/registry/pods/ns/d"]);
    until_resting(&pods).await;
    assert!(pods.get(&key("ns/c"), ReadVersion::Consistent).await.unwrap().is_some());
    until_resting(&pods).await;
    pods.awake().await;
    assert_eq!(pods.snapshot_by_index("spec.nodeName", "n2").unwrap().len(), 1);

    // A watcher keeps it awake, and misses nothing.
    until_resting(&pods).await;
    let start = WatchStart::State(ReadVersion::Consistent);
    let options = WatchOptions { start, initial: true, bookmarks: true, ..Default::default() };
    let mut watcher = pods.watch("/registry/pods/", options).await.unwrap();
    for _ in 0..3 {
        assert!(matches!(watcher.next().await, Some(Event::Added(_))));
    }
    // A bookmark comes when the store looks round: twice it could have gone to rest.
    for _ in 0..2 {
        assert!(matches!(watcher.next().await, Some(Event::Bookmark { .. })));
    }
    assert!(!pods.resting());
    create(&pods, "ns/e", "app=x").await;
    let added = loop {
        match watcher.next().await {
            Some(Event::Added(o)) => break o,
            Some(Event::Bookmark { .. }) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(&*added.key, "/registry/pods/ns/e");
    drop(watcher);
    until_resting(&pods).await;
    assert_eq!(pods.len(), 4);
    store.shutdown().await;
}
