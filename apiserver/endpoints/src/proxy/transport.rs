//! Connections to backends.

use super::target::{Address, Backend, Secure};
use crate::call::Call;
use anyhow::Context;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
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
        let read =
            |path: &PathBuf| std::fs::read(path).with_context(|| format!("reading {}", path.display()));
        let authority = options.certificate_authority.as_ref().map(read).transpose()?;
        let identity = match (&options.client_certificate, &options.client_key) {
            (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
            _ => None,
        };
        let identity = identity.as_ref().map(|(cert, key)| (cert.as_slice(), key.as_slice()));
        // Where upstream names no authority, it believes any certificate.
        let authority = authority.as_deref().map(pki::trust::authorities).transpose();
        let authority = authority.context("--kubelet-certificate-authority")?;
        let tls = pki::trust::client(authority, identity).context("--kubelet-client-certificate")?;
        let unverified = pki::trust::client(None, None)?;
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
