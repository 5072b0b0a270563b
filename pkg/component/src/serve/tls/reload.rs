//! Files that are read again when they change, looked at when somebody needs them.
//!
//! There is no task and no timer: a handshake looks at the files' metadata, at most once a second, so that a rotated
//! certificate is in use a second after the rotation and an idle server does nothing.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::Instant;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What tells one version of a file from the next.
pub(super) type Stamp = Option<(SystemTime, u64, u64)>;

pub(super) fn stamp(path: &str) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len(), meta.ino()))
}

/// Remembers the stamps of files and says when they may have changed.
#[derive(Debug)]
pub(super) struct Watch {
    paths: Vec<String>,
    seen: Mutex<(Instant, Vec<Stamp>)>,
}

impl Watch {
    pub(super) fn new(paths: &[&str]) -> Watch {
        let stamps = paths.iter().map(|p| stamp(p)).collect();
        Watch {
            paths: paths.iter().map(|p| (*p).to_owned()).collect(),
            seen: Mutex::new((Instant::now(), stamps)),
        }
    }

    /// Whether a file has changed since the last look; looks at most once a second.
    pub(super) fn changed(&self) -> bool {
        let Some(mut seen) = self.seen.try_lock() else { return false };
        if self.paths.is_empty() || seen.0.elapsed() < LOOK_EVERY {
            return false;
        }
        seen.0 = Instant::now();
        let now: Vec<Stamp> = self.paths.iter().map(|p| stamp(p)).collect();
        let changed = now != seen.1;
        seen.1 = now;
        changed
    }
}

/// A certificate and key, from files that may change or from memory.
#[derive(Debug)]
pub struct Watched {
    files: Option<(String, String)>,
    watch: Watch,
    current: ArcSwap<CertifiedKey>,
}

impl Watched {
    /// From files; they must be good now.
    pub fn files(cert: &str, key: &str) -> anyhow::Result<Watched> {
        let watch = Watch::new(&[cert, key]);
        let current = ArcSwap::from_pointee(load(cert, key)?);
        Ok(Watched { files: Some((cert.to_owned(), key.to_owned())), watch, current })
    }

    /// From memory.
    pub fn pem(cert: &str, key: &str) -> anyhow::Result<Watched> {
        let current = ArcSwap::from_pointee(certified(cert.as_bytes(), key.as_bytes())?);
        Ok(Watched { files: None, watch: Watch::new(&[]), current })
    }

    /// The pair as it is now. A pair that cannot be read (half written, mismatched) leaves the old one in use.
    pub fn get(&self) -> Arc<CertifiedKey> {
        if let Some((cert, key)) = &self.files
            && self.watch.changed()
        {
            match load(cert, key) {
                Ok(fresh) => {
                    tracing::info!(cert, "Reloaded certificate");
                    self.current.store(Arc::new(fresh));
                }
                Err(error) => tracing::error!(cert, %error, "Cannot reload certificate, keeping the old one"),
            }
        }
        self.current.load_full()
    }
}

fn load(cert: &str, key: &str) -> anyhow::Result<CertifiedKey> {
    let read = |path: &str| std::fs::read(path).with_context(|| format!("open {path}"));
    certified(&read(cert)?, &read(key)?).with_context(|| format!("certificate {cert} and key {key}"))
}

fn certified(cert: &[u8], key: &[u8]) -> anyhow::Result<CertifiedKey> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(cert).collect::<Result<_, _>>().context("bad certificate PEM")?;
    anyhow::ensure!(!chain.is_empty(), "no certificate found");
    let key = PrivateKeyDer::from_pem_slice(key).context("bad private key PEM")?;
    let pair = CertifiedKey::new(chain, any_supported_type(&key)?);
    match pair.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(pair),
        Err(e) => Err(e.into()),
    }
}

/// Chooses the certificate of a handshake by the server name the client asks for.
#[derive(Debug)]
pub struct ReloadingResolver {
    default: Watched,
    sni: Vec<(Vec<String>, Watched)>,
}

impl ReloadingResolver {
    /// A resolver with a default pair and pairs for given names (their own if the list is empty).
    pub fn new(default: Watched, sni: Vec<(Vec<String>, Watched)>) -> ReloadingResolver {
        ReloadingResolver { default, sni }
    }
}

impl ResolvesServerCert for ReloadingResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let Some(name) = hello.server_name() else { return Some(self.default.get()) };
        for (names, pair) in &self.sni {
            let pair_now = pair.get();
            let fits = match names.is_empty() {
                false => names.iter().any(|n| matches(n, name)),
                true => own_name(&pair_now, name),
            };
            if fits {
                return Some(pair_now);
            }
        }
        Some(self.default.get())
    }
}

fn own_name(pair: &CertifiedKey, name: &str) -> bool {
    let Some(leaf) = pair.cert.first() else { return false };
    let Ok((_, cert)) = x509_parser::parse_x509_certificate(leaf) else { return false };
    let Ok(Some(san)) = cert.subject_alternative_name() else { return false };
    san.value.general_names.iter().any(|g| match g {
        x509_parser::extensions::GeneralName::DNSName(n) => matches(n, name),
        _ => false,
    })
}

/// A name or a `*.` pattern of one label.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(rest) => name.split_once('.').is_some_and(|(_, n)| n.eq_ignore_ascii_case(rest)),
        None => pattern.eq_ignore_ascii_case(name),
    }
}
