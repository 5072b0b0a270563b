//! A key management service for tests: keeps its keys in memory and can be made to fail or rotate.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::{Request, Response};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic_prost::ProstCodec;

use crate::transform::kms::client::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};

/// A running service; it ends when dropped.
pub struct Kms {
    socket: PathBuf,
    shared: Arc<Mutex<Shared>>,
    stop: CancellationToken,
}

struct Shared {
    key: String,
    healthz: String,
    decryptions: usize,
}

impl Kms {
    /// Serves at this path.
    ///
    /// # Panics
    /// If it cannot listen there.
    pub fn start(socket: &Path) -> Kms {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).expect("a socket");
        let stop = CancellationToken::new();
        let shared = Shared { key: "key-1".to_owned(), healthz: "ok".to_owned(), decryptions: 0 };
        let kms = Kms { socket: socket.to_owned(), shared: Arc::new(Mutex::new(shared)), stop: stop.clone() };
        let service = Service(kms.shared.clone());
        tokio::spawn(async move {
            let incoming = futures::stream::unfold(listener, |l| async move {
                let accepted = l.accept().await.map(|(stream, _)| stream);
                Some((accepted, l))
            });
            let server = tonic::transport::Server::builder().add_service(service);
            let _ = server.serve_with_incoming_shutdown(incoming, stop.cancelled()).await;
        });
        kms
    }

    /// Its key from now on; what former keys sealed can still be opened.
    pub fn rotate(&self, key: &str) {
        key.clone_into(&mut self.shared.lock().key);
    }

    /// What it says of its health from now on.
    pub fn say(&self, healthz: &str) {
        healthz.clone_into(&mut self.shared.lock().healthz);
    }

    /// How often it has opened something.
    pub fn decryptions(&self) -> usize {
        self.shared.lock().decryptions
    }
}

impl Drop for Kms {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = std::fs::remove_file(&self.socket);
    }
}

#[derive(Clone)]
struct Service(Arc<Mutex<Shared>>);

impl NamedService for Service {
    const NAME: &'static str = "v2.KeyManagementService";
}

/// Not a cipher that keeps anything secret; different for each key.
fn scramble(key: &str, data: &[u8]) -> Vec<u8> {
    data.iter().zip(key.bytes().cycle()).map(|(a, b)| a ^ b ^ 0x5a).collect()
}

impl Shared {
    fn status(&self) -> StatusResponse {
        StatusResponse { version: "v2".to_owned(), healthz: self.healthz.clone(), key_id: self.key.clone() }
    }

    fn encrypt(&self, request: &EncryptRequest) -> EncryptResponse {
        let annotations = [("kms.example.com/version".replace('/', "."), b"1".to_vec())].into();
        EncryptResponse {
            ciphertext: scramble(&self.key, &request.plaintext),
            key_id: self.key.clone(),
            annotations,
        }
    }

    fn decrypt(&mut self, request: &DecryptRequest) -> DecryptResponse {
        self.decryptions += 1;
        DecryptResponse { plaintext: scramble(&request.key_id, &request.ciphertext) }
    }
}

struct Answer<F>(F);

impl<Q, A, F> UnaryService<Q> for Answer<F>
where
    F: FnMut(Q) -> A,
{
    type Response = A;
    type Future = std::future::Ready<Result<tonic::Response<A>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
        std::future::ready(Ok(tonic::Response::new((self.0)(request.into_inner()))))
    }
}

impl tower::Service<Request<tonic::body::Body>> for Service {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let shared = self.0.clone();
        async move {
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            Ok(match method.as_str() {
                "Status" => {
                    let answer = Answer(move |_: StatusRequest| shared.lock().status());
                    Grpc::new(ProstCodec::<StatusResponse, StatusRequest>::default())
                        .unary(answer, request)
                        .await
                }
                "Encrypt" => {
                    let answer = Answer(move |q: EncryptRequest| shared.lock().encrypt(&q));
                    Grpc::new(ProstCodec::<EncryptResponse, EncryptRequest>::default())
                        .unary(answer, request)
                        .await
                }
                "Decrypt" => {
                    let answer = Answer(move |q: DecryptRequest| shared.lock().decrypt(&q));
                    Grpc::new(ProstCodec::<DecryptResponse, DecryptRequest>::default())
                        .unary(answer, request)
                        .await
                }
                _ => tonic::Status::unimplemented(method).into_http(),
            })
        }
        .boxed()
    }
}
