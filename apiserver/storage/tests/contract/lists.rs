//! Lists: pages, exact revisions, compaction, indexes.

use storage::testing::Etcd;
use storage::{Error, ListOptions, ReadVersion, WatchOptions};

use crate::common::*;

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
