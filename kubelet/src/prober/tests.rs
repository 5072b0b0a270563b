//! Probes of a container that is played by a small HTTP server.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// A readiness probe whose next regular turn is an hour away, with these fields besides.
async fn probe(port: u16, more: Value) -> (Arc<Results>, watch::Sender<Seen>, tokio::task::JoinHandle<()>) {
    let mut probe = json!({"httpGet": {"host": "127.0.0.1", "port": port}, "periodSeconds": 3600});
    probe.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let container = SeenContainer { id: "id".into(), state: State::Running, started_at: 0 };
    let seen = Seen {
        containers: [("c".to_string(), container)].into(),
        ip: Some("127.0.0.1".into()),
        ..Default::default()
    };
    let (state, receiver) = watch::channel(seen);
    let results = Arc::<Results>::default();
    let task = Task {
        pod: Pod::default(),
        kind: Kind::Main,
        container: Container { name: "c".into(), ..Default::default() },
        which: Type::Readiness,
        probe: serde_json::from_value(probe).unwrap(),
        state: receiver,
        results: results.clone(),
        runtime: cri::Runtime::new("unix:///nonexistent.sock", None, Duration::from_secs(1)).unwrap(),
        events: Events::new(None, "node"),
        counts: Arc::default(),
        wake: Arc::default(),
        trusted: None,
    };
    (results, state, tokio::spawn(task.run()))
}

/// Refuses the first request and takes all others; counts them.
async fn server() -> (u16, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::<AtomicU32>::default();
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let code = if count.fetch_add(1, Ordering::SeqCst) == 0 { 503 } else { 200 };
            let answer = format!("HTTP/1.1 {code} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (port, asked)
}

async fn becomes(what: &str, so: impl Fn() -> bool) {
    let wait = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn a_container_that_was_not_ready_at_first_is_asked_again_soon() {
    let (port, asked) = server().await;
    let (results, _state, task) = probe(port, json!({})).await;
    becomes("ready", || results.get("id", Type::Readiness) == Some(Verdict::Success)).await;
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    task.abort();
}

#[tokio::test]
async fn a_probe_that_wants_more_than_one_success_keeps_its_period() {
    let (port, asked) = server().await;
    let (results, _state, task) = probe(port, json!({"successThreshold": 2, "failureThreshold": 1})).await;
    becomes("asked", || asked.load(Ordering::SeqCst) == 1).await;
    let early: Duration = EARLY.iter().sum();
    assert!(
        tokio::time::timeout(early, becomes("asked again", || asked.load(Ordering::SeqCst) > 1))
            .await
            .is_err()
    );
    assert_eq!(results.get("id", Type::Readiness), Some(Verdict::Failure));
    task.abort();
}
