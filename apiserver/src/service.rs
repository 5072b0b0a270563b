//! The door: requests of the secure port to the server's stages.

use auth::authn::PeerCertificates;
use component::serve::ConnInfo;
use endpoints::body::Body;
use endpoints::server::{Peer, Server};
use http::{Request, Response};
use hyper::body::Incoming;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

type Chain = [rustls::pki_types::CertificateDer<'static>];

/// A chain that may be gone, and what it proved.
type Known = (Weak<Chain>, Arc<PeerCertificates>);

/// What client certificates proved, remembered as long as their connection lives.
#[derive(Default)]
pub struct Proven {
    by_chain: Mutex<HashMap<usize, Known>>,
}

impl Proven {
    fn of(&self, chain: &Arc<Chain>) -> Option<Arc<PeerCertificates>> {
        if chain.is_empty() {
            return None;
        }
        let key = Arc::as_ptr(chain).cast::<u8>() as usize;
        let mut known = self.by_chain.lock();
        if let Some((weak, proven)) = known.get(&key)
            && weak.upgrade().is_some_and(|live| Arc::ptr_eq(&live, chain))
        {
            return Some(proven.clone());
        }
        if known.len() > 1024 {
            known.retain(|_, (weak, _)| weak.strong_count() > 0);
        }
        let proven = Arc::new(PeerCertificates::new(chain.to_vec()));
        known.insert(key, (Arc::downgrade(chain), proven.clone()));
        Some(proven)
    }
}

/// The service of one server.
#[derive(Clone)]
pub struct Door {
    pub server: Arc<Server>,
    pub proven: Arc<Proven>,
}

impl tower_service::Service<Request<Incoming>> for Door {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let info = request.extensions().get::<ConnInfo>();
        let peer = Peer {
            address: info.map(|i| i.remote),
            certificates: info.and_then(|i| self.proven.of(&i.peer_certs)),
            goaway: info.map(|i| i.goaway.clone()).unwrap_or_default(),
        };
        let server = self.server.clone();
        let span = component::traces::begin(request.method(), "KubernetesAPI", request.headers());
        Box::pin(async move {
            let response = server.serve(peer, request).await;
            if let Some(span) = span {
                span.finish(response.status());
            }
            Ok(response)
        })
    }
}
