//! The key management service's protocol (`v2.KeyManagementService`), over its unix socket.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;

use crate::transform::metrics::METRICS;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StatusResponse {
    #[prost(string, tag = "1")]
    pub(crate) version: String,
    #[prost(string, tag = "2")]
    pub(crate) healthz: String,
    #[prost(string, tag = "3")]
    pub(crate) key_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DecryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(crate) uid: String,
    #[prost(string, tag = "3")]
    pub(crate) key_id: String,
    #[prost(map = "string, bytes", tag = "4")]
    pub(crate) annotations: HashMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DecryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) plaintext: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EncryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) plaintext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(crate) uid: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EncryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(crate) key_id: String,
    #[prost(map = "string, bytes", tag = "3")]
    pub(crate) annotations: HashMap<String, Vec<u8>>,
}

/// A connection that is made at the first call and again when it breaks.
pub(super) struct Client {
    provider: String,
    channel: Channel,
    timeout: Duration,
}

impl Client {
    pub(super) fn new(provider: &str, socket: &str, timeout: Duration) -> Client {
        // The abstract namespace's first byte is zero; people write an @.
        let path = socket.strip_prefix('@').map_or_else(|| socket.to_owned(), |name| format!("\0{name}"));
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { connect(&path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Client { provider: provider.to_owned(), channel, timeout }
    }

    pub(super) async fn status(&self) -> Result<StatusResponse, String> {
        self.call("Status", StatusRequest {}).await
    }

    pub(super) async fn encrypt(&self, request: EncryptRequest) -> Result<EncryptResponse, String> {
        self.call("Encrypt", request).await
    }

    pub(super) async fn decrypt(&self, request: DecryptRequest) -> Result<DecryptResponse, String> {
        self.call("Decrypt", request).await
    }

    async fn call<Q, A>(&self, method: &str, request: Q) -> Result<A, String>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let started = Instant::now();
        let name = format!("/v2.KeyManagementService/{method}");
        let answer = tokio::time::timeout(self.timeout, self.send::<Q, A>(&name, request)).await;
        let answer =
            answer.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("context deadline exceeded")));
        let code = answer.as_ref().map_or_else(|s| format!("{:?}", s.code()), |_| "OK".to_owned());
        METRICS.kms_call(&self.provider, &name, &code, started.elapsed());
        answer.map_err(|s| format!("rpc error: code = {code} desc = {}", crate::etcd::describe(&s)))
    }

    async fn send<Q, A>(&self, name: &str, request: Q) -> Result<A, tonic::Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        let unavailable = |e: &dyn std::fmt::Display| tonic::Status::unavailable(e.to_string());
        grpc.ready().await.map_err(|e| unavailable(&e))?;
        let path = PathAndQuery::try_from(name).map_err(|e| unavailable(&e))?;
        let codec = ProstCodec::<Q, A>::default();
        grpc.unary(tonic::Request::new(request), path, codec).await.map(tonic::Response::into_inner)
    }
}

async fn connect(path: &str) -> std::io::Result<UnixStream> {
    match path.strip_prefix('\0') {
        None => UnixStream::connect(path).await,
        Some(name) => {
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        }
    }
}
