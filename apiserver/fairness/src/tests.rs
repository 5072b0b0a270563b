use super::*;
use api::json;
use std::collections::HashMap;
use std::time::Instant;

fn level(name: &str, shares: u32, response: Value) -> Arc<Value> {
    Arc::new(
        json!({"metadata": {"name": name, "uid": format!("uid-{name}")}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": shares, "lendablePercent": 0, "limitResponse": response}}}),
    )
}

fn queues(queues: u32, hand: u32, length: u32) -> Value {
    json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length}})
}

fn schema(name: &str, level: &str, precedence: u32, subject: Value) -> Arc<Value> {
    Arc::new(json!({"metadata": {"name": name, "uid": name}, "spec": {
        "matchingPrecedence": precedence, "distinguisherMethod": {"type": "ByUser"},
        "priorityLevelConfiguration": {"name": level},
        "rules": [{"subjects": [subject], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]}]}}))
}

fn anybody() -> Value {
    json!({"kind": "Group", "group": {"name": "*"}})
}

fn exempt() -> Arc<Value> {
    Arc::new(json!({"metadata": {"name": "exempt"}, "spec": {"type": "Exempt"}}))
}

/// One limited level, which everybody is in but the exempt user `root`.
fn one(total: usize, response: Value) -> Fairness {
    let fairness = Fairness::new(total, Duration::from_secs(5));
    let root = json!({"kind": "User", "user": {"name": "root"}});
    let schemas = [schema("all", "l", 100, anybody()), schema("exempt", "exempt", 1, root)];
    fairness.configure(&[level("l", 10, response), exempt()], &schemas);
    fairness
}

fn by(user: &str) -> Digest<'_> {
    Digest { user, verb: "get", path: "/x", ..Digest::default() }
}

async fn ask(fairness: &Fairness, user: &str) -> Result<Ticket, Refusal> {
    let place = fairness.classify(&by(user)).unwrap();
    fairness.admit(&place, &by(user), Width::ONE).await
}

/// Waits until it is so; a while, not for ever.
async fn until(what: &str, so: impl Fn() -> bool) {
    let wait = async {
        while !so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn a_full_level_refuses_and_the_exempt_pass() {
    let fairness = one(2, json!({"type": "Reject"}));
    let held = [ask(&fairness, "a").await.unwrap(), ask(&fairness, "b").await.unwrap()];
    assert_eq!(ask(&fairness, "c").await.unwrap_err(), Refusal::ConcurrencyLimit);
    assert!(ask(&fairness, "root").await.is_ok());
    drop(held);
    assert!(ask(&fairness, "c").await.is_ok());
}

#[tokio::test]
async fn those_who_wait_get_their_turn_and_full_queues_refuse() {
    let fairness = Arc::new(one(1, queues(1, 1, 2)));
    let held = ask(&fairness, "a").await.unwrap();
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let f = fairness.clone();
            tokio::spawn(async move { ask(&f, "b").await.map(drop) })
        })
        .collect();
    until("2 wait", || fairness.levels()[1].0.picture().waiting >= 2).await;
    assert_eq!(ask(&fairness, "c").await.unwrap_err(), Refusal::QueueFull);
    assert!(dump::requests(&fairness, true).contains("all,"));
    drop(held);
    for w in waiting {
        assert_eq!(w.await.unwrap(), Ok(()));
    }
    let picture = fairness.levels()[1].0.picture();
    assert_eq!(
        (picture.waiting, picture.executing, picture.counts.dispatched, picture.counts.rejected),
        (0, 0, 3, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn patience_ends_and_who_is_gone_waits_no_more() {
    let fairness = one(1, queues(4, 2, 10));
    let held = ask(&fairness, "a").await.unwrap();
    assert_eq!(ask(&fairness, "b").await.unwrap_err(), Refusal::TimeOut);
    let gone = tokio::time::timeout(Duration::from_secs(1), ask(&fairness, "c")).await;
    assert!(gone.is_err());
    let counts = fairness.levels()[1].0.picture().counts;
    assert_eq!((counts.timed_out, counts.cancelled), (1, 1));
    drop(held);
    assert!(ask(&fairness, "d").await.is_ok());
}

/// Many requests of one user do not push aside the few of another.
#[tokio::test]
async fn flows_are_served_alike() {
    let fairness = Arc::new(one(1, queues(64, 4, 1000)));
    let held = ask(&fairness, "first").await.unwrap();
    let order = Arc::<Mutex<Vec<&'static str>>>::default();
    let mut all = Vec::new();
    for (user, n) in [("mouse", 4), ("elephant", 200)] {
        for _ in 0..n {
            let (f, order) = (fairness.clone(), order.clone());
            all.push(tokio::spawn(async move {
                let ticket = ask(&f, user).await.unwrap();
                order.lock().push(user);
                // The request's work: nothing waits for this time to pass.
                std::thread::sleep(Duration::from_millis(1));
                drop(ticket);
            }));
        }
    }
    until("204 wait", || fairness.levels()[1].0.picture().waiting >= 204).await;
    drop(held);
    for one in all {
        one.await.unwrap();
    }
    let last = order.lock().iter().rposition(|u| *u == "mouse").unwrap();
    assert!(last < 60, "the last of four came {last}th of 204");
}

#[tokio::test]
async fn the_first_schema_that_fits_decides() {
    let fairness = Fairness::new(100, Duration::from_secs(1));
    let levels = [level("a", 10, queues(4, 2, 5)), level("b", 30, json!({"type": "Reject"}))];
    let account = json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "ns", "name": "*"}});
    let schemas = [
        schema("late", "a", 900, anybody()),
        schema("dangling", "nothing", 1, anybody()),
        schema("z", "b", 10, account.clone()),
        schema("y", "b", 10, account),
    ];
    fairness.configure(&levels, &schemas);
    for (user, want) in
        [("system:serviceaccount:ns:x", "y"), ("system:serviceaccount:other:x", "late"), ("u", "late")]
    {
        assert_eq!(fairness.classify(&by(user)).unwrap().schema.name, want, "{user}");
    }
    assert_eq!(fairness.classify(&by("u")).unwrap().level_uid(), "uid-a");
}

#[tokio::test]
async fn a_level_that_is_gone_finishes_what_it_began() {
    let fairness = one(2, json!({"type": "Reject"}));
    let held = ask(&fairness, "a").await.unwrap();
    fairness.configure(&[exempt()], &[]);
    assert!(fairness.classify(&by("a")).is_none());
    assert!(dump::levels(&fairness).lines().any(|l| l.starts_with("l,") && l.contains("true")));
    drop(held);
    fairness.rebalance();
    assert!(!dump::levels(&fairness).lines().any(|l| l.starts_with("l,")));
}

#[tokio::test]
async fn idle_levels_lend_their_seats() {
    let fairness = Fairness::new(20, Duration::from_millis(1));
    let lender = Arc::new(json!({"metadata": {"name": "lender"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 10, "lendablePercent": 90, "limitResponse": {"type": "Reject"}}}}));
    fairness
        .configure(&[lender, level("busy", 10, queues(2, 1, 50))], &[schema("all", "busy", 1, anybody())]);
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(ask(&fairness, "a").await.unwrap());
    }
    assert_eq!(ask(&fairness, "a").await.unwrap_err(), Refusal::TimeOut);
    fairness.rebalance();
    let limits: HashMap<String, usize> =
        fairness.levels().iter().map(|(l, _)| (l.name().to_owned(), l.limit())).collect();
    assert!(limits["busy"] > 10 && limits["lender"] >= 1, "{limits:?}");
    let before = Instant::now();
    assert!(ask(&fairness, "a").await.is_ok(), "{:?}", before.elapsed());
}
