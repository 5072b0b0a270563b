//! Client certificates: asked for in the handshake, judged later.
//!
//! As upstream, a handshake never fails because of a client's certificate: a client may carry one that is meant for
//! somebody else and authenticate by token. The handshake only proves that the client holds the key; whether an
//! authority of ours signed the certificate is [`ClientCa`]'s question, asked by the authenticator.

use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwapOption;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::reload::Watch;

/// Asks for a certificate and accepts any whose key the client holds.
#[derive(Debug)]
pub struct AnyClientCert {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyClientCert {
    /// A verifier with the provider's signature algorithms.
    pub fn new(provider: &CryptoProvider) -> AnyClientCert {
        AnyClientCert { algorithms: provider.signature_verification_algorithms }
    }
}

impl ClientCertVerifier for AnyClientCert {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A bundle of authorities that client certificates are verified against; a file is read again when it changes.
#[derive(Debug)]
pub struct ClientCa {
    path: Option<String>,
    watch: Watch,
    verifier: ArcSwapOption<VerifierBox>,
}

#[derive(Debug)]
struct VerifierBox(Arc<dyn ClientCertVerifier>);

impl ClientCa {
    /// From a file; it must be good now.
    pub fn file(path: &str) -> anyhow::Result<ClientCa> {
        let watch = Watch::new(&[path]);
        let verifier = load(path)?;
        Ok(ClientCa { path: Some(path.to_owned()), watch, verifier: ArcSwapOption::from_pointee(verifier) })
    }

    /// Without authorities until [`ClientCa::set_pem`] brings some.
    pub fn empty() -> ClientCa {
        ClientCa { path: None, watch: Watch::new(&[]), verifier: ArcSwapOption::empty() }
    }

    /// Replaces the authorities.
    pub fn set_pem(&self, pem: &[u8]) -> anyhow::Result<()> {
        self.verifier.store(Some(Arc::new(verifier(pem)?)));
        Ok(())
    }

    /// Whether there are any authorities.
    pub fn is_empty(&self) -> bool {
        self.verifier.load().is_none()
    }

    /// Verifies a chain (leaf first) for client authentication, now.
    pub fn verify(&self, chain: &[CertificateDer<'static>]) -> Result<(), Error> {
        let Some((leaf, rest)) = chain.split_first() else { return Err(Error::NoCertificatesPresented) };
        self.refresh();
        match &*self.verifier.load() {
            Some(v) => v.0.verify_client_cert(leaf, rest, UnixTime::now()).map(drop),
            None => Err(Error::General("no certificate authorities".to_owned())),
        }
    }

    fn refresh(&self) {
        let Some(path) = &self.path else { return };
        if !self.watch.changed() {
            return;
        }
        match load(path) {
            Ok(fresh) => self.verifier.store(Some(Arc::new(fresh))),
            Err(error) => {
                tracing::error!(path, %error, "Cannot reload client certificate authorities, keeping the old ones")
            }
        }
    }
}

fn load(path: &str) -> anyhow::Result<VerifierBox> {
    let pem = std::fs::read(path).with_context(|| format!("open {path}"))?;
    verifier(&pem).with_context(|| path.to_owned())
}

fn verifier(pem: &[u8]) -> anyhow::Result<VerifierBox> {
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(pem) {
        roots.add(cert.context("bad certificate PEM")?)?;
    }
    anyhow::ensure!(!roots.is_empty(), "no certificates found");
    let provider = Arc::new(ring::default_provider());
    Ok(VerifierBox(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?))
}
