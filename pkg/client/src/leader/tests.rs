//! Candidates over a one-lease API server in memory, under a paused clock.

use std::sync::Arc;

use http::{Method, Request, Response};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::Value;

use super::*;

#[derive(Default)]
struct Server {
    lease: Option<Value>,
    version: u64,
    broken: bool,
}

fn client(server: Arc<Mutex<Server>>) -> kube::Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = server.clone();
        async move {
            let method = request.method().clone();
            let bytes = request.into_body().collect_bytes().await.unwrap();
            let (code, body) = answer(&mut server.lock(), &method, &bytes);
            Ok::<_, tower::BoxError>(
                Response::builder().status(code).body(Body::from(body.to_string().into_bytes())).unwrap(),
            )
        }
    });
    kube::Client::new(service, "default")
}

fn answer(server: &mut Server, method: &Method, body: &[u8]) -> (u16, Value) {
    let status = |code: u16| {
        (
            code,
            serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "message": "", "reason": ""}),
        )
    };
    if server.broken {
        return status(500);
    }
    match (method, &server.lease) {
        (&Method::GET, Some(lease)) => (200, lease.clone()),
        (&Method::GET, None) => status(404),
        (_, current) => {
            let mut new: Value = serde_json::from_slice(body).unwrap();
            let version = |v: &Value| v["metadata"]["resourceVersion"].clone();
            if current.as_ref().is_some_and(|c| version(c) != version(&new)) {
                return status(409);
            }
            server.version += 1;
            new["metadata"]["resourceVersion"] = server.version.to_string().into();
            server.lease = Some(new.clone());
            (200, new)
        }
    }
}

fn spec(server: &Mutex<Server>, field: &str) -> Value {
    server.lock().lease.as_ref().unwrap()["spec"][field].clone()
}

#[tokio::test(start_paused = true)]
async fn the_second_takes_over_when_the_first_lets_go() {
    let server = Arc::new(Mutex::new(Server::default()));
    let stop = CancellationToken::new();
    let start = |id: &str, stop: CancellationToken| {
        let config = Config { release_on_cancel: true, ..Config::new("l", "kube-system", id.into()) };
        tokio::spawn(run(config, client(server.clone()), stop, |t| async move {
            t.cancelled().await;
            Ok(())
        }))
    };
    let first = start("a", stop.clone());
    sleep(Duration::from_secs(1)).await;
    assert_eq!((spec(&server, "holderIdentity"), spec(&server, "leaseTransitions")), ("a".into(), 0.into()));
    let stop_b = CancellationToken::new();
    let second = start("b", stop_b.clone());
    sleep(Duration::from_secs(60)).await;
    assert_eq!(spec(&server, "holderIdentity"), "a", "a leader that renews stays");
    stop.cancel();
    first.await.unwrap().unwrap();
    assert_eq!(spec(&server, "holderIdentity"), "");
    sleep(Duration::from_secs(5)).await;
    assert_eq!((spec(&server, "holderIdentity"), spec(&server, "leaseTransitions")), ("b".into(), 1.into()));
    stop_b.cancel();
    second.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_ends() {
    let server = Arc::new(Mutex::new(Server::default()));
    let config = Config::new("l", "kube-system", "a".into());
    let begin = Instant::now();
    let task = tokio::spawn(run(config, client(server.clone()), CancellationToken::new(), |t| async move {
        t.cancelled().await;
        Ok(())
    }));
    sleep(Duration::from_secs(1)).await;
    server.lock().broken = true;
    let error =
        tokio::time::timeout(Duration::from_secs(60), task).await.expect("ends").unwrap().unwrap_err();
    assert_eq!(error.to_string(), "leaderelection lost");
    assert!(begin.elapsed() < Duration::from_secs(15), "before the lease runs out for others");
}
