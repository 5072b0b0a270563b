//! An informer over a scripted API server.

use bytes::Bytes;
use http::{Request, Response};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::client::Body;
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;

fn map(name: &str, version: u32) -> serde_json::Value {
    serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "ns", "resourceVersion": version.to_string(),
            "managedFields": [{"manager": "m"}]}})
}

fn event(kind: &str, object: serde_json::Value) -> String {
    format!("{}\n", serde_json::json!({"type": kind, "object": object}))
}

fn bookmark(version: u32) -> String {
    event(
        "BOOKMARK",
        serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
        "resourceVersion": version.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}}}),
    )
}

/// A client whose server answers each request by the next body of the script, then hangs.
fn scripted(script: Vec<(u16, String)>) -> (kube::Client, UnboundedReceiver<String>) {
    let (sender, seen) = mpsc::unbounded_channel();
    let script = Arc::new(Mutex::new(script.into_iter()));
    let service = tower::service_fn(move |request: Request<Body>| {
        let _ = sender.send(request.uri().to_string());
        let next = script.lock().next();
        async move {
            let Some((code, body)) = next else { std::future::pending().await };
            let stream = futures::stream::iter([Ok::<_, std::convert::Infallible>(http_body::Frame::data(
                Bytes::from(body),
            ))]);
            let body = http_body_util::StreamBody::new(stream);
            Ok::<_, tower::BoxError>(Response::builder().status(code).body(body).unwrap())
        }
    });
    (kube::Client::new(service, "default"), seen)
}

fn names(events: &mut UnboundedReceiver<Event<ConfigMap>>) -> Vec<String> {
    let mut out = Vec::new();
    while let Ok(event) = events.try_recv() {
        let letter = match &event {
            Event::Added(_) => '+',
            Event::Updated { .. } => '~',
            Event::Deleted(_) => '-',
        };
        out.push(format!("{letter}{}", event.key().name()));
    }
    out
}

#[tokio::test(start_paused = true)]
async fn catches_up_after_a_gap_by_comparing() {
    let first = event("ADDED", map("a", 1)) + &event("ADDED", map("b", 2)) + &bookmark(3);
    let gone = event(
        "ERROR",
        serde_json::json!({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"}),
    );
    let second = event("ADDED", map("a", 1)) + &event("ADDED", map("c", 9)) + &bookmark(9);
    let live = event("MODIFIED", map("c", 10)) + &event("DELETED", map("a", 11));
    let (client, _seen) = scripted(vec![(200, first + &gone), (200, second + &live)]);
    let informer: Informer<ConfigMap> = Informer::new(Api::all(client), watcher::Config::default());
    let mut events = informer.subscribe();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(informer.clone().run(shutdown.clone()));
    let settled = async {
        let latest =
            || informer.store().get(&Key::new("ns", "c")).and_then(|c| c.metadata.resource_version.clone());
        while latest().as_deref() != Some("10") || informer.store().len() != 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), settled).await.expect("settles");
    assert_eq!(names(&mut events), ["+a", "+b", "+c", "-b", "~c", "-a"]);
    assert!(informer.has_synced());
    assert!(informer.store().by_namespace("ns")[0].metadata.managed_fields.is_none());
    assert_eq!(names(&mut informer.subscribe()), ["+c"], "who joins late hears what there is");
    shutdown.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn falls_back_to_lists_where_there_are_no_streaming_lists() {
    let refusal = serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": "Invalid", "code": 422, "message": "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"});
    let list = serde_json::json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "5"}, "items": [map("a", 1)]});
    let (client, mut seen) = scripted(vec![(422, refusal.to_string()), (200, list.to_string())]);
    let informer: Informer<ConfigMap> = Informer::new(Api::all(client), watcher::Config::default());
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(informer.clone().run(shutdown.clone()));
    tokio::time::timeout(Duration::from_secs(60), informer.synced()).await.expect("syncs");
    assert_eq!(informer.store().len(), 1);
    assert!(seen.recv().await.unwrap().contains("sendInitialEvents=true"));
    assert!(!seen.recv().await.unwrap().contains("watch=true"));
    shutdown.cancel();
    task.await.unwrap();
}
