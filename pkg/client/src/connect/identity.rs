//! A client certificate that is read again when its files change (kubelet rotates its own).

use std::sync::Arc;

use component::serve::tls::Watched;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;

#[derive(Debug)]
pub(super) struct RotatingIdentity {
    pair: Watched,
}

impl RotatingIdentity {
    pub(super) fn files(cert: &str, key: &str) -> anyhow::Result<RotatingIdentity> {
        Ok(RotatingIdentity { pair: Watched::files(cert, key)? })
    }

    /// The pair as it is now.
    pub(super) fn current(&self) -> Arc<CertifiedKey> {
        self.pair.get()
    }
}

impl ResolvesClientCert for RotatingIdentity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.pair.get())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
