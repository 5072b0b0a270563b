//! Writes, and that reads see them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use storage::testing::Etcd;
use storage::{Error, Event, ListOptions, ReadVersion};
use tokio::time::Instant;

use crate::common::*;

#[tokio::test]
async fn writes_compare_and_reads_see_them() {
    let etcd = Etcd::start().await;
    let (store, pods) = open(config(&etcd)).await;
    let a = create(&pods, "ns/a", "app=1").await;
    assert_eq!(a.create_revision, a.revision);
    assert!(matches!(pods.create(&a.key, "x".into(), None).await, Err(Error::AlreadyExists { .. })));
    assert_eq!(
        pods.snapshot().get(&a.key).unwrap().revision,
        a.revision,
        "memory holds what was acknowledged"
    );

    let b = update(&pods, &a, "app=2").await;
    assert_eq!(b.create_revision, a.revision);
    let Err(Error::Conflict { current: Some(current) }) =
        pods.update(&a.key, a.revision, "x".into(), None).await
    else {
        panic!("a stale update must conflict");
    };
    assert_eq!((current.revision, &current.bytes()[..]), (b.revision, &b"app=2"[..]));
    assert!(matches!(pods.delete(&a.key, a.revision).await, Err(Error::Conflict { current: Some(_) })));
    for version in [ReadVersion::Any, ReadVersion::Consistent, ReadVersion::NotOlderThan(b.revision)] {
        assert_eq!(pods.get(&a.key, version).await.unwrap().unwrap().revision, b.revision);
    }
    let gone = pods.delete(&a.key, b.revision).await.unwrap();
    assert!(gone > b.revision);
    assert!(pods.get(&a.key, ReadVersion::Consistent).await.unwrap().is_none());
    assert!(pods.get_live(&a.key).await.unwrap().is_none());
    assert!(matches!(
        pods.update(&a.key, b.revision, "x".into(), None).await,
        Err(Error::Conflict { current: None })
    ));
    assert!(matches!(pods.create("/registry/secrets/x", "x".into(), None).await, Err(Error::Internal(_))));
    let big = Bytes::from(vec![b'x'; 4 << 20]);
    assert!(matches!(pods.create(&key("ns/big"), big, None).await, Err(Error::TooLarge)));
    store.shutdown().await;
}

#[tokio::test]
async fn a_revision_from_the_future_is_refused() {
    let etcd = Etcd::start().await;
    let (_store, pods) = open(config(&etcd)).await;
    let a = create(&pods, "ns/a", "").await;
    let future = a.revision + 100;
    for result in [
        pods.get(&a.key, ReadVersion::NotOlderThan(future)).await.map(drop),
        pods.list(
            pods.prefix(),
            ListOptions { version: ReadVersion::NotOlderThan(future), ..Default::default() },
        )
        .await
        .map(drop),
        pods.watch(pods.prefix(), after(future)).await.map(drop),
    ] {
        let Err(Error::ResourceVersionTooLarge { requested, current }) = result else { panic!("{result:?}") };
        assert_eq!((requested, current), (future, a.revision));
    }
}

#[tokio::test]
async fn two_stores_see_each_others_writes_at_once() {
    let etcd = Etcd::start().await;
    let (_s1, one) = open(config(&etcd)).await;
    let (_s2, two) = open(config(&etcd)).await;
    let mut latest = create(&one, "ns/a", "0").await;
    for i in 0..200 {
        let (writer, reader) = if i % 2 == 0 { (&two, &one) } else { (&one, &two) };
        latest = update(writer, &latest, &i.to_string()).await;
        let read = reader.get(&latest.key, ReadVersion::Consistent).await.unwrap().unwrap();
        assert_eq!(read.revision, latest.revision);
    }
    // A key outside of every resource also moves the revision; consistent reads must not hang on it.
    etcd.client().await.put("/elsewhere", "x", None).await.unwrap();
    let started = Instant::now();
    let list = one.list(one.prefix(), ListOptions::default()).await.unwrap();
    assert!(list.revision > latest.revision && started.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn expired_leases_delete_together() {
    let etcd = Etcd::start().await;
    let (_store, events) = open(config(&etcd)).await;
    let ttl = Some(Duration::from_secs(1));
    let start = create(&events, "ns/keep", "").await.revision;
    let mut watcher = events.watch(events.prefix(), after(start)).await.unwrap();
    for i in 0..3 {
        let o = events.create(&key(&format!("ns/{i}")), "x".into(), ttl).await.unwrap();
        assert_ne!(o.lease, 0);
    }
    let mut left = BTreeMap::new();
    while left.len() < 3 {
        if let Event::Deleted(o) = next(&mut watcher).await {
            left.insert(o.key.clone(), o.revision);
        }
    }
    let list = events.list(events.prefix(), ListOptions::default()).await.unwrap();
    assert_eq!(names(&list), ["ns/keep"]);
}
