//! The client's side of TLS: whom it believes, and who it says it is.

use crate::{Error, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::sync::Arc;

/// Where Debian keeps the authorities that the machine itself believes.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The authorities of a file that an operator named: each certificate in it must be usable.
pub fn authorities(pem: &[u8]) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(pem) {
        roots.add(cert.map_err(|e| bad(&e))?).map_err(|e| bad(&e))?;
    }
    Ok(roots)
}

/// The authorities of an object's `caBundle`, or the system's if it names none. Blocks that are no usable certificate
/// are passed over, as upstream passes over them; a bundle of nothing else is refused.
pub fn authorities_or_system(bundle: &[u8]) -> Result<RootCertStore> {
    if bundle.is_empty() {
        return Ok(usable(&std::fs::read(SYSTEM_ROOTS).unwrap_or_default()));
    }
    let roots = usable(bundle);
    if roots.is_empty() {
        return Err(Error::Parse("unable to load root certificates".to_owned()));
    }
    Ok(roots)
}

fn usable(pem: &[u8]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).filter_map(|c| c.ok()));
    roots
}

/// A client that believes servers of these authorities (none: any server) and shows this certificate and key (PEM)
/// where one is asked for.
pub fn client(authorities: Option<RootCertStore>, identity: Option<(&[u8], &[u8])>) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(&e))?;
    let builder = match authorities {
        None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider))),
        Some(roots) => builder.with_root_certificates(roots),
    };
    let Some((chain, key)) = identity else { return Ok(builder.with_no_client_auth()) };
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>().map_err(|e| bad(&e))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| bad(&e))?;
    builder.with_client_auth_cert(chain, key).map_err(|e| bad(&e))
}

fn bad(e: &dyn std::fmt::Display) -> Error {
    Error::Parse(e.to_string())
}

/// Believes any certificate, where no authority was named; that the server holds its key is still checked.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
