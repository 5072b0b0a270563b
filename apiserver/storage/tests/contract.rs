//! What the store promises, held against a real etcd.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use storage::testing::Etcd;
use storage::{
    Attributes, Config, Error, Event, IndexHint, ListOptions, Object, Predicate, ReadVersion, Resource, Spec,
    Store, WatchOptions, WatchStart, Watcher,
};
use tokio::time::{Instant, timeout};

const DEADLINE: Duration = Duration::from_secs(20);

/// Test values are `label=value,label=value;field=value`.
fn attributes(key: &str, bytes: &[u8]) -> Attributes {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let (labels, fields) = text.split_once(';').unwrap_or((text, ""));
    let pairs = |t: &str| -> Vec<(String, String)> {
        t.split(',').filter_map(|p| p.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    };
    let mut fields = pairs(fields);
    fields.push(("metadata.name".into(), key.rsplit('/').next().unwrap_or_default().into()));
    Attributes::new(pairs(labels), fields)
}

fn config(etcd: &Etcd) -> Config {
    Config {
        compaction_interval: Duration::ZERO,
        request_timeout: Duration::from_secs(5),
        ..Config::new([etcd.url()])
    }
}

fn spec(prefix: &str) -> Spec {
    Spec::new(prefix, Arc::new(attributes)).indexed("spec.nodeName")
}

async fn open(config: Config) -> (Arc<Store>, Arc<Resource>) {
    let store = Store::open(config).await.unwrap();
    let pods = store.resource(spec("/registry/pods/"));
    timeout(DEADLINE, store.wait_ready()).await.expect("ready");
    (store, pods)
}

fn key(name: &str) -> String {
    format!("/registry/pods/{name}")
}

async fn create(r: &Resource, name: &str, value: &str) -> Arc<Object> {
    r.create(&key(name), Bytes::from(value.to_owned()), None).await.unwrap()
}

async fn update(r: &Resource, old: &Object, value: &str) -> Arc<Object> {
    r.update(&old.key, old.revision, Bytes::from(value.to_owned()), None).await.unwrap()
}

fn after(revision: i64) -> WatchOptions {
    WatchOptions { start: WatchStart::After(revision), ..WatchOptions::default() }
}

async fn next(w: &mut Watcher) -> Event {
    timeout(DEADLINE, w.next()).await.expect("an event in time").expect("the watch goes on")
}

/// `+name@revision` for Added, `~` Modified, `-` Deleted.
fn short(event: &Event) -> String {
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

async fn expect(w: &mut Watcher, want: &[String]) {
    let mut got = Vec::new();
    for _ in want {
        got.push(short(&next(w).await));
    }
    assert_eq!(got, want);
}

fn names(list: &storage::List) -> Vec<String> {
    list.items.iter().map(|o| o.key.trim_start_matches("/registry/pods/").to_owned()).collect()
}

fn app(value: &'static str) -> Arc<Predicate> {
    Predicate::new(format!("app={value}"), move |o| o.attributes.label("app") == Some(value))
}

fn on_node(value: &str) -> Option<IndexHint> {
    Some(IndexHint { field: "spec.nodeName".into(), value: value.into() })
}

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
    assert_eq!((current.revision, &current.bytes[..]), (b.revision, &b"app=2"[..]));
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
async fn lists_page_at_one_revision_from_memory_and_from_etcd() {
    let etcd = Etcd::start().await;
    let (_s1, pods) = open(config(&etcd)).await;
    for i in 0..25 {
        create(&pods, &format!("ns/{i:02}"), if i % 5 == 0 { "app=x" } else { "app=y" }).await;
    }
    create(&pods, "other/a", "app=x").await;
    let (_s2, far) = open(config(&etcd)).await;
    let page = |token: Option<String>| ListOptions { limit: 10, continue_token: token, ..Default::default() };
    let first = pods.list(&key("ns/"), page(None)).await.unwrap();
    assert_eq!((first.items.len(), first.remaining), (10, Some(15)));
    let victim = &first.items[9].key;
    for name in ["ns/10", "ns/11"] {
        let o = pods.get(&key(name), ReadVersion::Any).await.unwrap().unwrap();
        pods.delete(&o.key, o.revision).await.unwrap();
    }
    create(&pods, "ns/099", "new").await;
    // The second store has no view of that revision and has to ask etcd.
    for reader in [&pods, &far] {
        let second = reader.list(&key("ns/"), page(first.next.clone())).await.unwrap();
        assert_eq!((second.revision, second.remaining), (first.revision, Some(5)));
        assert_eq!(names(&second)[0], "ns/10", "after {victim}, and still there at that revision");
        let third = reader.list(&key("ns/"), page(second.next)).await.unwrap();
        assert_eq!((third.items.len(), third.next, third.remaining), (5, None, None));

        let exact = ListOptions { version: ReadVersion::Exact(first.revision), ..Default::default() };
        assert_eq!(reader.list(reader.prefix(), exact).await.unwrap().items.len(), 26);
        let now = reader.list(reader.prefix(), ListOptions::default()).await.unwrap();
        assert_eq!(now.items.len(), 25);

        let selected = ListOptions { limit: 2, predicate: Some(app("x")), ..Default::default() };
        let some = reader.list(reader.prefix(), selected.clone()).await.unwrap();
        assert_eq!((names(&some), some.remaining), (vec!["ns/00".into(), "ns/05".into()], None));
        let rest = ListOptions { limit: 9, continue_token: some.next, ..selected };
        assert_eq!(names(&reader.list(reader.prefix(), rest).await.unwrap()), ["ns/15", "ns/20", "other/a"]);
    }
    let selected = ListOptions {
        version: ReadVersion::Exact(first.revision),
        limit: 2,
        predicate: Some(app("x")),
        ..Default::default()
    };
    let some = far.list(far.prefix(), selected).await.unwrap();
    assert_eq!(names(&some), ["ns/00", "ns/05"]);
    assert!(some.next.is_some());
}

#[tokio::test]
async fn compaction_is_answered_as_gone() {
    let etcd = Etcd::start().await;
    let (_s1, pods) = open(config(&etcd)).await;
    for i in 0..6 {
        create(&pods, &format!("ns/{i}"), "").await;
    }
    let (_s2, far) = open(config(&etcd)).await;
    let first = pods.list(pods.prefix(), ListOptions { limit: 2, ..Default::default() }).await.unwrap();
    let last = create(&pods, "ns/9", "").await;
    etcd.client().await.compact(last.revision, None).await.unwrap();

    let token = ListOptions { limit: 2, continue_token: first.next.clone(), ..Default::default() };
    assert_eq!(
        pods.list(pods.prefix(), token.clone()).await.unwrap().revision,
        first.revision,
        "memory still has it"
    );
    let Err(Error::Expired { message, next: Some(next) }) = far.list(far.prefix(), token).await else {
        panic!()
    };
    assert!(
        message
            .starts_with("The provided continue parameter is too old to display a consistent list result.")
    );
    let inconsistent = ListOptions { continue_token: Some(next), ..Default::default() };
    assert_eq!(
        names(&far.list(far.prefix(), inconsistent).await.unwrap()),
        ["ns/2", "ns/3", "ns/4", "ns/5", "ns/9"]
    );

    let exact = ListOptions { version: ReadVersion::Exact(first.revision - 1), ..Default::default() };
    let Err(Error::Expired { message, next: None }) = far.list(far.prefix(), exact).await else { panic!() };
    assert_eq!(message, "The resourceVersion for the provided list is too old.");
    let Err(Error::Expired { message, .. }) = far.watch(far.prefix(), after(1)).await else { panic!() };
    assert_eq!(message, format!("too old resource version: 1 ({})", first.revision));
}

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
        (left.revision, &left.bytes[..]),
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
async fn an_index_answers_lists_and_wakes_only_its_watchers() {
    let etcd = Etcd::start().await;
    let (_store, pods) = open(config(&etcd)).await;
    let a = create(&pods, "ns/a", ";spec.nodeName=n1").await;
    create(&pods, "ns/b", ";spec.nodeName=n2").await;
    create(&pods, "other/c", ";spec.nodeName=n1").await;
    let d = create(&pods, "ns/d", "").await;
    let list = |prefix: String, node: &'static str| {
        let pods = pods.clone();
        async move {
            names(
                &pods
                    .list(&prefix, ListOptions { index: on_node(node), ..Default::default() })
                    .await
                    .unwrap(),
            )
        }
    };
    assert_eq!(list(key(""), "n1").await, ["ns/a", "other/c"]);
    assert_eq!(list(key("ns/"), "n1").await, ["ns/a"]);
    assert_eq!(list(key(""), "n3").await, Vec::<String>::new());
    assert_eq!(pods.snapshot_by_index("spec.nodeName", "n1").unwrap().len(), 2);
    assert!(pods.snapshot_by_index("status.phase", "x").is_none());

    let watch = |node| WatchOptions { index: on_node(node), ..after(d.revision) };
    let mut n1 = pods.watch(pods.prefix(), watch("n1")).await.unwrap();
    let mut n3 = pods.watch(pods.prefix(), watch("n3")).await.unwrap();
    let d = update(&pods, &d, ";spec.nodeName=n3").await;
    let moved = update(&pods, &a, ";spec.nodeName=n3").await;
    let a = pods.delete(&moved.key, moved.revision).await.unwrap();
    expect(&mut n1, &[format!("-ns/a@{}", moved.revision)]).await;
    let want = [format!("+ns/d@{}", d.revision), format!("+ns/a@{}", moved.revision), format!("-ns/a@{a}")];
    expect(&mut n3, &want).await;
    assert!(n1.try_next().is_none());
    assert_eq!(list(key(""), "n3").await, ["ns/d"]);
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
    let deadline = Instant::now() + DEADLINE;
    let mut watcher = loop {
        match pods.watch(pods.prefix(), select.clone()).await {
            Ok(watcher) => break watcher,
            Err(Error::Expired { .. }) => assert!(Instant::now() < deadline),
            Err(e) => panic!("{e}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    expect(&mut watcher, &[format!("+ns/a@{}", c.revision), format!("-ns/a@{gone}")]).await;
    assert!(matches!(pods.watch(pods.prefix(), after(a.revision)).await, Err(Error::Expired { .. })));
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
    assert!(store.healthy().await.is_err());
    assert!(started.elapsed() < Duration::from_secs(4), "bounded: {:?}", started.elapsed());
    assert!(pods.get(&a.key, ReadVersion::Any).await.unwrap().is_some(), "memory goes on");

    etcd.restart().await;
    // Written behind our back, while the stream may still be down.
    let put = etcd.client().await.put(key("ns/c"), "", None).await.unwrap();
    expect(&mut watcher, &[format!("+ns/c@{}", put.header().unwrap().revision())]).await;
    let deadline = Instant::now() + DEADLINE;
    while pods.create(&key("ns/d"), "".into(), None).await.is_err() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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
        let list = timeout(DEADLINE, async {
            loop {
                match pods.list(pods.prefix(), options.clone()).await {
                    Ok(list) => break list,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        let mut want = vec!["ns/b"];
        want.extend((!deletion_last).then_some("ns/c"));
        assert_eq!(names(&list.await.unwrap()), want);
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
