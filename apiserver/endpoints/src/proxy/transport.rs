//! Connections to backends.

use super::target::{Address, Backend, Secure};
use crate::call::Call;
use anyhow::Context;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// `--kubelet-*`.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub certificate_authority: Option<PathBuf>,
    pub client_certificate: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    pub preferred_address_types: Vec<String>,
    pub timeout: Duration,
}

/// How to reach kubelets.
pub struct Kubelets {
    pub(super) options: Options,
    tls: Arc<ClientConfig>,
    unverified: Arc<ClientConfig>,
}

impl Kubelets {
    /// Reads the files now, so that mistakes show at start.
    pub fn open(options: Options) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = || {
            ClientConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .context("TLS versions")
        };
        let unsure = Arc::new(AnyCertificate(provider.clone()));
        let verified = match &options.certificate_authority {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                let read = CertificateDer::pem_file_iter(path)
                    .with_context(|| format!("reading {}", path.display()))?;
                for cert in read {
                    roots.add(cert.with_context(|| format!("in {}", path.display()))?)?;
                }
                builder()?.with_root_certificates(roots)
            }
            None => builder()?.dangerous().with_custom_certificate_verifier(unsure.clone()),
        };
        let tls = match (&options.client_certificate, &options.client_key) {
            (Some(cert), Some(key)) => {
                let chain = CertificateDer::pem_file_iter(cert)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .with_context(|| format!("reading {}", cert.display()))?;
                let key = PrivateKeyDer::from_pem_file(key)
                    .with_context(|| format!("reading {}", key.display()))?;
                verified.with_client_auth_cert(chain, key)?
            }
            _ => verified.with_no_client_auth(),
        };
        let unverified =
            builder()?.dangerous().with_custom_certificate_verifier(unsure).with_no_client_auth();
        Ok(Kubelets { options, tls: Arc::new(tls), unverified: Arc::new(unverified) })
    }
}

/// A stream to a backend.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Connects, within the time that kubelets are given.
pub async fn open(call: &Call, backend: &Backend) -> anyhow::Result<Box<dyn Io>> {
    let kubelets = call.server.special.kubelet.as_ref().context("this server has no way to nodes")?;
    let limit =
        if kubelets.options.timeout.is_zero() { Duration::from_secs(5) } else { kubelets.options.timeout };
    let connecting = async {
        let (stream, name) = match &backend.address {
            Address::Socket(address) => (TcpStream::connect(address).await?, ServerName::from(address.ip())),
            Address::Name(host, port) => {
                let name = ServerName::try_from(host.clone())?;
                (TcpStream::connect((host.as_str(), *port)).await?, name)
            }
        };
        let _ = stream.set_nodelay(true);
        let config = match backend.secure {
            Secure::No => return Ok(Box::new(stream) as Box<dyn Io>),
            Secure::Unverified => kubelets.unverified.clone(),
            Secure::Kubelet => kubelets.tls.clone(),
        };
        Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?) as Box<dyn Io>)
    };
    tokio::time::timeout(limit, connecting).await.context("dial timed out")?
}

/// Believes any certificate, as upstream does where no authority was named; signatures are still checked.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
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
