//! Watches: no event lost, repeated or out of order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use storage::testing::Etcd;
use storage::{Config, Error, Event, ListOptions, ReadVersion, WatchOptions, Watcher};
use tokio::time::{Instant, timeout};

use crate::common::*;

#[tokio::test]
async fn watches_see_every_change_once_and_in_order() {
    let etcd = Etcd::start().await;
    let (_store, pods) = open(config(&etcd)).await;
    let a = create(&pods, "ns/a", "").await;
    let mut live = pods.watch(pods.prefix(), after(a.revision)).await.unwrap();
    let mut one = pods.watch(&a.key, after(a.revision)).await.unwrap();
    let mut ns = pods.watch(&key("other/"), after(a.revision)).await.unwrap();
    let b = create(&pods, "other/b", "").await;
    let a2 = update(&pods, &a, "1").await;
    let ab = create(&pods, "ns/ab", "").await;
    let gone = pods.delete(&a.key, a2.revision).await.unwrap();
    let all = [
        format!("+other/b@{}", b.revision),
        format!("~ns/a@{}", a2.revision),
        format!("+ns/ab@{}", ab.revision),
        format!("-ns/a@{gone}"),
    ];
    expect(&mut live, &all).await;
    expect(&mut one, &[all[1].clone(), all[3].clone()]).await;
    expect(&mut ns, &all[..1]).await;
    for (from, want) in [(a.revision, &all[..]), (b.revision, &all[1..]), (gone, &all[4..])] {
        let mut replayed = pods.watch(pods.prefix(), after(from)).await.unwrap();
        expect(&mut replayed, want).await;
        assert!(replayed.try_next().is_none());
    }
    assert_eq!(pods.watchers(), 3);
    drop((live, one, ns));
    assert_eq!(pods.watchers(), 0);
}

#[tokio::test]
async fn selectors_turn_changes_into_comings_and_goings() {
    let etcd = Etcd::start().await;
    let (_store, pods) = open(config(&etcd)).await;
    let start = create(&pods, "ns/0", "app=y").await.revision;
    let select = WatchOptions { predicate: Some(app("x")), ..after(start) };
    let mut live = pods.watch(pods.prefix(), select.clone()).await.unwrap();
    let mut twin = pods.watch(pods.prefix(), select.clone()).await.unwrap();
    let a = create(&pods, "ns/a", "app=x").await;
    let b = update(&pods, &a, "app=x,more=1").await;
    let c = update(&pods, &b, "app=y").await;
    let d = update(&pods, &c, "app=z").await;
    let e = update(&pods, &d, "app=x").await;
    let gone = pods.delete(&e.key, e.revision).await.unwrap();
    let want = [
        format!("+ns/a@{}", a.revision),
        format!("~ns/a@{}", b.revision),
        format!("-ns/a@{}", c.revision),
        format!("+ns/a@{}", e.revision),
        format!("-ns/a@{gone}"),
    ];
    expect(&mut live, &want[..2]).await;
    let Event::Deleted(left) = next(&mut live).await else { panic!() };
    assert_eq!(
        (left.revision, &left.bytes()[..]),
        (c.revision, &b"app=x,more=1"[..]),
        "the state that was selected"
    );
    expect(&mut live, &want[3..]).await;
    expect(&mut twin, &want[..2]).await;
    let Event::Deleted(same) = next(&mut twin).await else { panic!() };
    assert!(Arc::ptr_eq(&left, &same), "shared by all watchers");
    let mut replayed = pods.watch(pods.prefix(), select).await.unwrap();
    expect(&mut replayed, &want).await;
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let etcd = Etcd::start().await;
    let (_store, pods) = open(Config { bookmark_interval: Duration::from_millis(1), ..config(&etcd) }).await;
    let a = create(&pods, "ns/a", "app=x").await;
    create(&pods, "ns/b", "app=y").await;
    let c = create(&pods, "ns/c", "app=x").await;
    let options = WatchOptions {
        initial: true,
        initial_end_bookmark: true,
        bookmarks: true,
        predicate: Some(app("x")),
        ..WatchOptions::default()
    };
    let mut watcher = pods.watch(pods.prefix(), options).await.unwrap();
    let want =
        [format!("+ns/a@{}", a.revision), format!("+ns/c@{}", c.revision), format!("b@{}:true", c.revision)];
    expect(&mut watcher, &want).await;
    // Bookmarks follow the whole store, also when nothing of this resource changes.
    let put = etcd.client().await.put("/elsewhere", "x", None).await.unwrap();
    let revision = put.header().unwrap().revision();
    let deadline = Instant::now() + DEADLINE;
    loop {
        match next(&mut watcher).await {
            Event::Bookmark { revision: r, .. } if r == revision => break,
            Event::Bookmark { .. } => assert!(Instant::now() < deadline),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_slow_watcher_hurts_itself_only() {
    let etcd = Etcd::start().await;
    let (_store, pods) = open(Config { watcher_buffer: 10, ..config(&etcd) }).await;
    let mut o = create(&pods, "ns/a", "").await;
    let start = o.revision;
    let mut slow = pods.watch(pods.prefix(), after(start)).await.unwrap();
    let mut quick = pods.watch(pods.prefix(), after(start)).await.unwrap();
    for i in 0..30 {
        o = update(&pods, &o, &i.to_string()).await;
        expect(&mut quick, &[format!("~ns/a@{}", o.revision)]).await;
    }
    let mut seen = start;
    while let Some(event) = timeout(DEADLINE, slow.next()).await.expect("the end in time") {
        let Event::Modified(o) = event else { panic!() };
        assert!(o.revision > seen);
        seen = o.revision;
    }
    assert_eq!(seen, start + 10, "it gets what was queued, then the end");
    let mut again = pods.watch(pods.prefix(), after(seen)).await.unwrap();
    expect(&mut again, &[format!("~ns/a@{}", seen + 1)]).await;
    assert_eq!(pods.watchers(), 2);
}

#[tokio::test]
async fn history_is_bounded_and_says_so() {
    let etcd = Etcd::start().await;
    let (_store, pods) = open(Config { history_events: 10, ..config(&etcd) }).await;
    let mut o = create(&pods, "ns/a", "").await;
    let start = o.revision;
    for i in 0..20 {
        o = update(&pods, &o, &i.to_string()).await;
    }
    let Err(Error::Expired { message, .. }) = pods.watch(pods.prefix(), after(start)).await else { panic!() };
    assert_eq!(message, format!("too old resource version: {start} ({})", o.revision - 10));
    let mut enough = pods.watch(pods.prefix(), after(o.revision - 10)).await.unwrap();
    expect(&mut enough, &[format!("~ns/a@{}", o.revision - 9)]).await;
}

#[tokio::test]
async fn a_new_server_recalls_history_from_before_its_start() {
    let etcd = Etcd::start().await;
    let (first, pods) = open(config(&etcd)).await;
    let a = create(&pods, "ns/a", "app=x").await;
    let b = update(&pods, &a, "app=y").await;
    etcd.client().await.compact(b.revision, None).await.unwrap();
    let c = update(&pods, &b, "app=x").await;
    let gone = pods.delete(&c.key, c.revision).await.unwrap();
    first.shutdown().await;
    let (_store, pods) = open(config(&etcd)).await;
    let select = WatchOptions { predicate: Some(app("x")), ..after(b.revision) };
    let mut watcher = until(async || pods.watch(pods.prefix(), select.clone()).await).await;
    expect(&mut watcher, &[format!("+ns/a@{}", c.revision), format!("-ns/a@{gone}")]).await;
    assert!(matches!(pods.watch(pods.prefix(), after(a.revision)).await, Err(Error::Expired { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_of_events_equals_every_list_under_load() {
    let etcd = Etcd::start().await;
    let (_s1, one) = open(config(&etcd)).await;
    let (_s2, two) = open(config(&etcd)).await;
    let writers: Vec<_> = (0..8)
        .map(|w| {
            let pods = if w % 2 == 0 { one.clone() } else { two.clone() };
            tokio::spawn(async move {
                for i in 0..60 {
                    let name = format!("ns/{:02}", (w * 7 + i * 3) % 20);
                    match pods.get(&key(&name), ReadVersion::Consistent).await.unwrap() {
                        None => drop(pods.create(&key(&name), "v".into(), None).await),
                        Some(o) if i % 4 == 0 => drop(pods.delete(&o.key, o.revision).await),
                        Some(o) => drop(pods.update(&o.key, o.revision, "w".into(), None).await),
                    }
                }
            })
        })
        .collect();
    let options = WatchOptions { initial: true, initial_end_bookmark: true, ..WatchOptions::default() };
    let mut watcher = two.watch(two.prefix(), options).await.unwrap();
    let (mut model, mut last) = (BTreeMap::new(), 0);
    let mut check = async |target: i64, watcher: &mut Watcher| {
        while last < target {
            match next(watcher).await {
                Event::Added(o) => assert!(model.insert(o.key.to_string(), o.revision).is_none(), "{o:?}"),
                Event::Modified(o) => {
                    assert!(model.insert(o.key.to_string(), o.revision).is_some_and(|r| r < o.revision))
                }
                Event::Deleted(o) => assert!(model.remove(&*o.key).is_some_and(|r| r < o.revision)),
                Event::Bookmark { revision, .. } => last = revision,
                Event::Error(e) => panic!("{e}"),
            }
            last = model.values().copied().max().unwrap_or(0).max(last);
        }
        model.clone()
    };
    for w in writers {
        w.await.unwrap();
    }
    let fence = create(&one, "ns/fence", "").await;
    let model = check(fence.revision, &mut watcher).await;
    let list = one.list(one.prefix(), ListOptions::default()).await.unwrap();
    let listed: BTreeMap<_, _> = list.items.iter().map(|o| (o.key.to_string(), o.revision)).collect();
    assert_eq!(model, listed);
}
