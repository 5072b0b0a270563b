//! What a list and a watch mean by `resourceVersion`, `resourceVersionMatch`, `limit`, `continue` and
//! `sendInitialEvents`: every cell of the tables in the API's documentation.

use anyhow::{Context, Result};
use futures::future::try_join_all;
use integration::{Answer, Server};
use serde_json::{Value, json};

const PATH: &str = "/api/v1/namespaces/kube-public/configmaps";
/// Only ours: others write ConfigMaps too.
const OURS: &str = "labelSelector=app%3Dours";

/// A collection with a history: five objects, then one changed and one deleted.
struct History {
    server: Server,
    /// The revision at which all five were as they were made.
    five: String,
    /// The revision after the last change.
    last: String,
}

impl History {
    async fn new() -> Result<History> {
        let server = Server::start().await?;
        let mut five = String::new();
        for i in 0..5 {
            let body = json!({"metadata": {"name": format!("c{i}"), "labels": {"app": "ours"}}});
            let made = server.send("POST", PATH, &body).await?;
            anyhow::ensure!(made.status == 201, "{}", made.text);
            five = version(&made.body)?;
        }
        let patch = json!({"data": {"changed": "yes"}});
        let changed = server.send("PATCH", &format!("{PATH}/c0"), &patch).await?;
        anyhow::ensure!(changed.status == 200, "{}", changed.text);
        server.send("DELETE", &format!("{PATH}/c1"), &Value::Null).await?;
        let now = server.get(&format!("{PATH}?{OURS}")).await?;
        Ok(History { server, five, last: version(&now.body)? })
    }

    async fn list(&self, query: &str) -> Result<Answer> {
        self.server.get(&format!("{PATH}?{OURS}&{}", query.replace("@", &self.five))).await
    }

    /// The events of a watch of one second.
    async fn watch(&self, query: &str) -> Result<(u16, Vec<Value>)> {
        let query = query.replace("@", &self.five);
        let path = format!("{PATH}?{OURS}&watch=true&timeoutSeconds=1&{query}");
        let answer = self.server.get(&path).await?;
        let lines = answer.text.lines().filter_map(|l| serde_json::from_str(l).ok());
        Ok((answer.status, lines.collect()))
    }
}

fn version(object: &Value) -> Result<String> {
    Ok(object["metadata"]["resourceVersion"].as_str().context("no resourceVersion")?.to_owned())
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().into_iter().flatten().filter_map(|i| i["metadata"]["name"].as_str()).collect()
}

/// What a list must answer.
#[derive(Debug)]
enum Want {
    /// The state of the moment.
    Now,
    /// Exactly the state of `N`.
    Then,
    /// As many of the state of the moment, and a token for the rest.
    NowPage(usize),
    ThenPage(usize),
    /// 422 with this text, or 400.
    Refused(u16, &'static str),
}

use Want::{Now, NowPage, Refused, Then, ThenPage};

const WITHOUT: &str =
    "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided";
const ZERO: &str =
    "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";

const LISTS: &[(&str, Want)] = &[
    ("", Now),
    ("resourceVersion=0", Now),
    ("resourceVersion=@", Now),
    ("limit=2", NowPage(2)),
    // Any state will do, and that is in memory as a whole.
    ("limit=2&resourceVersion=0", Now),
    ("limit=2&resourceVersion=@", ThenPage(2)),
    ("resourceVersionMatch=Exact", Refused(422, WITHOUT)),
    ("resourceVersionMatch=Exact&resourceVersion=0", Refused(422, ZERO)),
    ("resourceVersionMatch=Exact&resourceVersion=@", Then),
    ("limit=2&resourceVersionMatch=Exact", Refused(422, WITHOUT)),
    ("limit=2&resourceVersionMatch=Exact&resourceVersion=0", Refused(422, ZERO)),
    ("limit=2&resourceVersionMatch=Exact&resourceVersion=@", ThenPage(2)),
    ("resourceVersionMatch=NotOlderThan", Refused(422, WITHOUT)),
    ("resourceVersionMatch=NotOlderThan&resourceVersion=0", Now),
    ("resourceVersionMatch=NotOlderThan&resourceVersion=@", Now),
    ("limit=2&resourceVersionMatch=NotOlderThan", Refused(422, WITHOUT)),
    ("limit=2&resourceVersionMatch=NotOlderThan&resourceVersion=0", Now),
    ("limit=2&resourceVersionMatch=NotOlderThan&resourceVersion=@", NowPage(2)),
    (
        "resourceVersionMatch=Newer&resourceVersion=@",
        Refused(422, "resourceVersionMatch: Unsupported value: \"Newer\""),
    ),
    (
        "sendInitialEvents=true",
        Refused(422, "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"),
    ),
    ("resourceVersion=x", Refused(400, "invalid resource version: resourceVersion: Invalid value: \"x\"")),
];

fn judge(h: &History, query: &str, want: &Want, got: &Answer) -> Result<()> {
    let items = names(&got.body);
    let at = got.body["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let token = got.body["metadata"]["continue"].as_str().unwrap_or_default();
    let now = ["c0", "c2", "c3", "c4"];
    let then = ["c0", "c1", "c2", "c3", "c4"];
    let newer = || at.parse::<i64>().unwrap_or(0) >= h.last.parse().unwrap_or(i64::MAX);
    let changed = got.body["items"][0]["data"]["changed"] == "yes";
    let right = match want {
        Now => items == now && newer() && token.is_empty() && changed,
        Then => items == then && at == h.five && token.is_empty() && !changed,
        NowPage(n) => items == now[..*n] && newer() && !token.is_empty() && changed,
        ThenPage(n) => items == then[..*n] && at == h.five && !token.is_empty() && !changed,
        Refused(code, text) => got.status == *code && got.text.contains(&text.replace('"', "\\\"")),
    };
    anyhow::ensure!(right, "{query}: want {want:?}, got {} {}", got.status, got.text);
    Ok(())
}

#[tokio::test]
async fn lists_by_version_match_and_limit() -> Result<()> {
    let h = History::new().await?;
    for (query, want) in LISTS {
        judge(&h, query, want, &h.list(query).await?)?;
    }
    // A selector hides how many remain; without one it is told.
    let page = h.server.get("/apis/rbac.authorization.k8s.io/v1/clusterroles?limit=2").await?;
    let all = h.server.get("/apis/rbac.authorization.k8s.io/v1/clusterroles").await?;
    assert_eq!(page.body["metadata"]["remainingItemCount"], names(&all.body).len() - 2);
    assert!(h.list("limit=2").await?.body["metadata"].get("remainingItemCount").is_none());
    let future =
        h.server.get(&format!("{PATH}?resourceVersion=1000000000&resourceVersionMatch=NotOlderThan")).await?;
    assert_eq!((future.status, future.reason()), (504, "Timeout"), "{}", future.text);
    assert_eq!(future.body["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    Ok(())
}

#[tokio::test]
async fn continue_tokens_survive_a_restart() -> Result<()> {
    let mut h = History::new().await?;
    for (first, rest) in [("limit=2", &["c3", "c4"][..]), ("limit=2&resourceVersion=@", &["c2", "c3", "c4"])]
    {
        let page = h.list(first).await?;
        let (token, at) = (page.body["metadata"]["continue"].clone(), version(&page.body)?);
        let token = token.as_str().context("a token")?;
        let body = json!({"metadata": {"name": "c9", "labels": {"app": "ours"}}});
        h.server.send("POST", PATH, &body).await?;
        h.server.kill_apiserver();
        h.server.start_apiserver()?;
        h.server.ready().await?;
        for query in [format!("continue={token}"), format!("continue={token}&resourceVersion=0")] {
            let next = h.list(&query).await?;
            assert_eq!((names(&next.body), version(&next.body)?), (rest.to_vec(), at.clone()), "{query}");
        }
        let wrong = h.list(&format!("continue={token}&resourceVersion=@")).await?;
        assert_eq!((wrong.status, wrong.reason()), (400, "BadRequest"), "{}", wrong.text);
        let wrong = h.list(&format!("continue={token}&resourceVersion=@&resourceVersionMatch=Exact")).await?;
        assert_eq!((wrong.status, wrong.reason()), (422, "Invalid"), "{}", wrong.text);
        h.server.send("DELETE", &format!("{PATH}/c9"), &Value::Null).await?;
    }
    let garbled = h.list("continue=%25%25").await?;
    assert_eq!((garbled.status, garbled.reason()), (400, "BadRequest"), "{}", garbled.text);
    Ok(())
}

/// The events of a watch, in short: `+c0` added, `~` modified, `-` deleted, `b` bookmark, `B` the bookmark
/// that ends the initial events, `!CODE` an error.
fn short(events: &[Value]) -> String {
    let one = |e: &Value| {
        let o = &e["object"];
        let name = o["metadata"]["name"].as_str().unwrap_or_default();
        let end = o["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true";
        match e["type"].as_str().unwrap_or_default() {
            "ADDED" => format!("+{name}"),
            "MODIFIED" => format!("~{name}"),
            "DELETED" => format!("-{name}"),
            "BOOKMARK" if end => "B".to_owned(),
            // One may come at the end of a watch, or not.
            "BOOKMARK" => String::new(),
            _ => format!("!{}", o["code"]),
        }
    };
    events.iter().map(one).filter(|s| !s.is_empty()).collect::<Vec<_>>().join(" ")
}

const STATE: &str = "+c0 +c2 +c3 +c4";
const ENDED: &str = "+c0 +c2 +c3 +c4 B";
const SINCE: &str = "~c0 -c1";
const BOOKMARKS: &str = "&allowWatchBookmarks=true";
const NEEDS: &str = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
const ONLY: &str = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";

const WATCHES: &[(&str, &str)] = &[
    ("", STATE),
    ("resourceVersion=0", STATE),
    ("resourceVersion=@", SINCE),
    ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan", ENDED),
    ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=0", ENDED),
    ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=@", ENDED),
    ("sendInitialEvents=false&resourceVersionMatch=NotOlderThan", ""),
    ("sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion=0", ""),
    ("sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion=@", SINCE),
];

const REFUSED: &[(&str, &str)] = &[
    ("resourceVersionMatch=NotOlderThan", ONLY),
    ("resourceVersionMatch=Exact&resourceVersion=@", ONLY),
    ("sendInitialEvents=true", NEEDS),
    ("sendInitialEvents=true&resourceVersion=@", NEEDS),
    ("sendInitialEvents=true&resourceVersionMatch=Exact&resourceVersion=@", "Unsupported value: \"Exact\""),
];

#[tokio::test]
async fn watches_by_version_match_and_initial_events() -> Result<()> {
    let h = History::new().await?;
    let h = &h;
    let all = try_join_all(WATCHES.iter().map(|(query, want)| async move {
        let (status, events) = h.watch(&format!("{query}{BOOKMARKS}")).await?;
        anyhow::ensure!(
            status == 200 && short(&events) == *want,
            "{query}: want {want}, got {status} {} of {events:?}",
            short(&events)
        );
        for e in &events {
            let at: i64 = version(&e["object"])?.parse()?;
            let later = at > h.five.parse::<i64>()?;
            // Objects carry their own revision; deletions and bookmarks that of the moment.
            let own = matches!(e["object"]["metadata"]["name"].as_str(), Some("c2" | "c3" | "c4"));
            anyhow::ensure!(later != own, "{query}: {e}");
        }
        Ok(())
    }));
    all.await?;
    for (query, why) in REFUSED {
        let answer = h
            .server
            .get(&format!("{PATH}?watch=true&timeoutSeconds=1&{}", query.replace("@", &h.five)))
            .await?;
        assert_eq!((answer.status, answer.reason()), (422, "Invalid"), "{query}: {}", answer.text);
        assert!(answer.text.contains(&why.replace('"', "\\\"")), "{query}: {}", answer.text);
    }
    Ok(())
}

/// Everything that a name and selectors let through of a history, in short.
#[tokio::test]
async fn watches_by_name_and_by_selectors() -> Result<()> {
    let h = History::new().await?;
    for (name, patch) in [
        ("c2", json!({"metadata": {"labels": {"app": "theirs"}}})),
        ("c2", json!({"data": {"unseen": "change"}})),
        ("c2", json!({"metadata": {"labels": {"app": "ours"}}})),
        ("c3", json!({"metadata": {"labels": {"app": null}}})),
    ] {
        let changed = h.server.send("PATCH", &format!("{PATH}/{name}"), &patch).await?;
        anyhow::ensure!(changed.status == 200, "{}", changed.text);
    }
    for (query, want) in [
        ("labelSelector=app%3Dours", "~c0 -c1 -c2 +c2 -c3"),
        ("labelSelector=app+notin+(ours)", "+c2 ~c2 -c2 +c3"),
        ("fieldSelector=metadata.name%3Dc2", "~c2 ~c2 ~c2"),
        ("fieldSelector=metadata.name%3Dc2&labelSelector=app%3Dours", "-c2 +c2"),
        ("fieldSelector=metadata.name!%3Dc2,metadata.namespace%3Dkube-public", "~c0 -c1 ~c3"),
        ("fieldSelector=metadata.namespace%3Ddefault", ""),
    ] {
        let path = format!("{PATH}?watch=1&timeoutSeconds=1&resourceVersion={}&{query}", h.five);
        let answer = h.server.get(&path).await?;
        let events: Vec<Value> = answer.text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        assert_eq!(short(&events), want, "{query}: {}", answer.text);
        for e in events.iter().filter(|e| e["type"] == "DELETED") {
            // What left the selection is shown as it was, at the revision at which it left.
            assert!(version(&e["object"])?.parse::<i64>()? > h.five.parse()?, "{e}");
        }
    }
    let one = h.server.get("/api/v1/watch/namespaces/kube-public/configmaps/c2?timeoutSeconds=1").await?;
    let events: Vec<Value> = one.text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(short(&events), "+c2", "{}", one.text);
    Ok(())
}

#[tokio::test]
async fn what_is_compacted_is_gone() -> Result<()> {
    let mut h = History::new().await?;
    let page = h.list("limit=2").await?;
    let token = page.body["metadata"]["continue"].as_str().context("a token")?.to_owned();
    let body = json!({"metadata": {"name": "c9", "labels": {"app": "ours"}}});
    let made = h.server.send("POST", PATH, &body).await?;
    let mut etcd = etcd_client::Client::connect([h.server.etcd_url()], None).await?;
    etcd.compact(version(&made.body)?.parse()?, None).await?;
    // A server that was there remembers for a while; a new one does not.
    h.server.kill_apiserver();
    h.server.start_apiserver()?;
    h.server.ready().await?;
    let gone = h.list(&format!("limit=2&continue={token}")).await?;
    assert_eq!((gone.status, gone.reason()), (410, "Expired"), "{}", gone.text);
    let text = gone.body["message"].as_str().unwrap_or_default();
    assert!(
        text.starts_with("The provided continue parameter is too old to display a consistent list result.")
    );
    let fresh =
        gone.body["metadata"]["continue"].as_str().context("a token that goes on without consistency")?;
    let rest = h.list(&format!("continue={fresh}")).await?;
    assert_eq!(names(&rest.body), ["c3", "c4", "c9"], "{}", rest.text);
    let exact = h.list("resourceVersion=@&resourceVersionMatch=Exact").await?;
    assert_eq!((exact.status, exact.reason()), (410, "Expired"), "{}", exact.text);
    let (status, events) = h.watch("resourceVersion=@").await?;
    assert_eq!((status, short(&events)), (200, "!410".to_owned()), "{events:?}");
    Ok(())
}

/// A watch that asks for them hears at least once a minute how far it has come.
#[tokio::test]
async fn bookmarks_come_each_minute() -> Result<()> {
    let h = History::new().await?;
    let path =
        format!("{PATH}?watch=1&allowWatchBookmarks=true&resourceVersion={}&timeoutSeconds=75", h.last);
    let watch = h.server.get(&path);
    let write = async {
        // Nothing of the watched kind, but the version moves on.
        let made =
            h.server.send("POST", "/api/v1/namespaces", &json!({"metadata": {"name": "later"}})).await?;
        version(&made.body)
    };
    let (seen, moved) = futures::future::try_join(watch, write).await?;
    let events: Vec<Value> = seen.text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let last = events.iter().rfind(|e| e["type"] == "BOOKMARK").context("no bookmark")?;
    assert!(version(&last["object"])?.parse::<i64>()? >= moved.parse()?, "{last}");
    assert_eq!(last["object"]["kind"], "ConfigMap");
    Ok(())
}
