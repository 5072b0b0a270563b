//! The connections under a client, and their end when the client's certificate is replaced.
//!
//! The API server judges a connection's certificate at every request: a connection that was made with the old one would
//! stop working the moment that runs out. So a new certificate gets new connections; what is under way on the old
//! ones (watches) ends by itself.

use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use http::Request;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error, ResponseFuture};
use kube::client::Body;
use rustls::sign::CertifiedKey;
use tower::Service;

use super::identity::RotatingIdentity;

/// A pool of connections.
pub(super) type Http = Client<HttpsConnector<HttpConnector>, Body>;

struct Generation {
    identity: Option<Arc<CertifiedKey>>,
    http: Http,
}

struct Shared {
    identity: Option<Arc<RotatingIdentity>>,
    make: Box<dyn Fn() -> Http + Send + Sync>,
    current: ArcSwap<Generation>,
}

/// Sends requests over the pool of the current certificate.
#[derive(Clone)]
pub(super) struct Transport {
    shared: Arc<Shared>,
}

impl Transport {
    pub(super) fn new(
        identity: Option<Arc<RotatingIdentity>>,
        make: impl Fn() -> Http + Send + Sync + 'static,
    ) -> Transport {
        let first = Generation { identity: identity.as_ref().map(|i| i.current()), http: make() };
        let current = ArcSwap::from_pointee(first);
        Transport { shared: Arc::new(Shared { identity, make: Box::new(make), current }) }
    }

    fn http(&self) -> Http {
        let current = self.shared.current.load();
        let Some(identity) = &self.shared.identity else { return current.http.clone() };
        let now = identity.current();
        if current.identity.as_ref().is_some_and(|i| Arc::ptr_eq(i, &now)) {
            return current.http.clone();
        }
        tracing::info!("Client certificate has changed, opening new connections");
        let http = (self.shared.make)();
        self.shared.current.store(Arc::new(Generation { identity: Some(now), http: http.clone() }));
        http
    }
}

impl Service<Request<Body>> for Transport {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        self.http().request(request)
    }
}
