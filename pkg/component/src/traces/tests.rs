//! A collector on loopback gets the span of a served request.

use std::convert::Infallible;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn sampled_requests_are_exported() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let (sender, mut seen) = mpsc::unbounded_channel();
    let collector = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let answer = service_fn(move |request: http::Request<Incoming>| {
            let sender = sender.clone();
            async move {
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                sender.send((path, body)).unwrap();
                let response =
                    Response::builder().header("content-type", "application/grpc").header("grpc-status", "0");
                Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).unwrap())
            }
        });
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), answer)
            .await;
    });
    let config = Config { endpoint: Some(endpoint), sampling_rate_per_million: Some(0) };
    start(&config, "kube-test").unwrap();
    let mut headers = HeaderMap::new();
    begin(&http::Method::GET, "/not-sampled", &headers).unwrap().finish(http::StatusCode::OK);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    headers.insert("traceparent", parent.parse().unwrap());
    begin(&http::Method::GET, "/healthz", &headers).unwrap().finish(http::StatusCode::OK);
    tokio::task::spawn_blocking(stop).await.unwrap();
    let (path, body) =
        tokio::time::timeout(std::time::Duration::from_secs(10), seen.recv()).await.unwrap().unwrap();
    assert_eq!(path, "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    let has = |text: &[u8]| body.windows(text.len()).any(|w| w == text);
    assert!(has(b"GET /healthz") && has(b"kube-test") && !has(b"not-sampled"));
    assert!(has(&[0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd]), "the caller's trace goes on");
    collector.abort();
}
