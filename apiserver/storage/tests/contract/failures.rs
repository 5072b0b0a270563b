//! etcd away, restored, compacted, or with a member less.

use std::time::Duration;

use storage::testing::Etcd;
use storage::{Config, Error, Event, ListOptions, ReadVersion, Store, WatchOptions};
use tokio::time::{Instant, timeout};

use crate::common::*;

#[tokio::test]
async fn survives_the_death_of_etcd() {
    let mut etcd = Etcd::start().await;
    let (store, pods) = open(config(&etcd)).await;
    let a = create(&pods, "ns/a", "").await;
    let mut watcher = pods.watch(pods.prefix(), after(a.revision)).await.unwrap();
    etcd.kill();
    let started = Instant::now();
    assert!(pods.create(&key("ns/b"), "".into(), None).await.is_err());
    assert!(pods.get(&a.key, ReadVersion::Consistent).await.is_err());
    assert!(store.healthy(0).await.is_err());
    assert!(started.elapsed() < Duration::from_secs(4), "bounded: {:?}", started.elapsed());
    assert!(pods.get(&a.key, ReadVersion::Any).await.unwrap().is_some(), "memory goes on");

    etcd.restart().await;
    // Written behind our back, while the stream may still be down.
    let put = etcd.client().await.put(key("ns/c"), "", None).await.unwrap();
    expect(&mut watcher, &[format!("+ns/c@{}", put.header().unwrap().revision())]).await;
    until(async || pods.create(&key("ns/d"), "".into(), None).await).await;
    let list = pods.list(pods.prefix(), ListOptions::default()).await.unwrap();
    assert_eq!(names(&list), ["ns/a", "ns/c", "ns/d"]);
    store.shutdown().await;
}

#[tokio::test]
async fn a_gap_in_history_ends_the_watch_and_loads_again() {
    let mut etcd = Etcd::start().await;
    let (_store, pods) = open(config(&etcd)).await;
    for i in 0..20 {
        create(&pods, &format!("ns/{i:02}"), "").await;
    }
    let revision = pods.revision();
    let mut watcher = pods.watch(pods.prefix(), after(revision)).await.unwrap();
    // Restored from nothing: the revision goes back in time.
    etcd.restart_empty().await;
    etcd.client().await.put(key("ns/new"), "", None).await.unwrap();
    loop {
        match timeout(DEADLINE, watcher.next()).await.expect("the end in time") {
            Some(Event::Error(Error::Expired { .. })) => break,
            Some(Event::Added(o)) => assert_eq!(&*o.key, "never", "an event of the other history"),
            other => panic!("{other:?}"),
        }
    }
    assert!(timeout(DEADLINE, watcher.next()).await.unwrap().is_none());
    timeout(DEADLINE, pods.wait_ready()).await.unwrap();
    let list = pods.list(pods.prefix(), ListOptions::default()).await.unwrap();
    assert_eq!(names(&list), ["ns/new"]);
    assert!(list.revision < revision);
    let result = pods.watch(pods.prefix(), after(revision)).await;
    assert!(matches!(result, Err(Error::ResourceVersionTooLarge { .. })), "{result:?}");
}

#[tokio::test]
async fn what_happened_while_the_stream_was_away_is_never_skipped() {
    for (compact, deletion_last) in [(false, false), (true, false), (true, true)] {
        let mut etcd = Etcd::start().await;
        let (_store, pods) = open(config(&etcd)).await;
        let a = create(&pods, "ns/a", "").await;
        let b = create(&pods, "ns/b", "").await;
        let mut watcher = pods.watch(pods.prefix(), after(b.revision)).await.unwrap();
        let url = etcd.restart_hidden().await;
        let mut hidden = etcd_client::Client::connect([url], None).await.unwrap();
        // With a compaction right at the deletion, old versions of etcd forget to tell of it.
        let deleted = hidden.delete(&*a.key, None).await.unwrap().header().unwrap().revision();
        if !deletion_last {
            hidden.put(key("ns/c"), "", None).await.unwrap();
        }
        if compact {
            hidden.compact(deleted, None).await.unwrap();
        }
        etcd.restart().await;
        let mut told = Vec::new();
        while told.is_empty() || (!compact && told.len() < 2) {
            told.push(short(&next(&mut watcher).await));
        }
        let expired = told[0].starts_with('!');
        let deletion = format!("-ns/a@{deleted}");
        assert!(told[0] == deletion || (compact && expired), "{told:?}");
        let options = ListOptions { version: ReadVersion::NotOlderThan(deleted), ..Default::default() };
        let list = until(async || pods.list(pods.prefix(), options.clone()).await).await;
        let mut want = vec!["ns/b"];
        want.extend((!deletion_last).then_some("ns/c"));
        assert_eq!(names(&list), want);
    }
}

#[tokio::test]
async fn one_member_down_is_not_noticed() {
    let etcd = Etcd::start().await;
    let dead = format!("http://127.0.0.1:{}", storage::testing::free_port());
    let endpoints = vec![dead, etcd.url()];
    let (_store, pods) = open(Config { endpoints, ..config(&etcd) }).await;
    for i in 0..50 {
        let o = create(&pods, &format!("ns/{i}"), "").await;
        assert!(pods.get(&o.key, ReadVersion::Consistent).await.unwrap().is_some());
        assert!(pods.get_live(&o.key).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn opens_without_etcd_and_is_ready_when_it_comes() {
    let mut etcd = Etcd::start().await;
    etcd.client().await.put(key("ns/a"), "", None).await.unwrap();
    etcd.kill();
    let store = Store::open(config(&etcd)).await.unwrap();
    let pods = store.resource(spec("/registry/pods/"));
    assert!(!store.ready());
    assert!(matches!(pods.get(&key("ns/a"), ReadVersion::Any).await, Err(Error::NotReady)));
    etcd.restart().await;
    timeout(DEADLINE, store.wait_ready()).await.expect("ready");
    assert!(pods.get(&key("ns/a"), ReadVersion::Any).await.unwrap().is_some());
    // A resource that is registered while everything runs, and one that goes away.
    etcd.client().await.put("/registry/example.com/things/a", "", None).await.unwrap();
    let things = store.resource(spec("/registry/example.com/things/"));
    timeout(DEADLINE, things.wait_ready()).await.unwrap();
    assert_eq!(things.snapshot().len(), 1);
    let mut watcher = things.watch(things.prefix(), WatchOptions::default()).await.unwrap();
    store.remove(things.prefix());
    assert!(timeout(DEADLINE, watcher.next()).await.unwrap().is_none());
}
