//! Client certificates: as a user's own credential, and as that of a front proxy which vouches for
//! users in headers. The two have separate authorities and one is never taken for the other.

use super::{Authenticated, Authenticator, Error, Outcome, Request, RequestHeaderOptions};
use crate::files::Reloading;
use crate::user::{EXTRA_CREDENTIAL_ID, UserInfo};
use anyhow::Context;
use http::HeaderMap;
use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use x509_parser::prelude::{FromDer, X509Certificate};

/// How long a verified chain is believed before it is verified again.
const BELIEVED: Duration = Duration::from_secs(30);
/// `1.3.6.1.4.1.57683.2`: the subject attribute that carries a user's uid.
const UID_OID: &str = "1.3.6.1.4.1.57683.2";

/// The certificates that a client presented on a connection, not yet believed. One per connection:
/// it remembers what was verified, so that only the first of many requests pays for it.
pub struct PeerCertificates {
    chain: Vec<CertificateDer<'static>>,
    verdicts: Mutex<Vec<Verified>>,
    identity: OnceLock<Result<Identity, Error>>,
}

/// By which bundle, believed until when, with which outcome.
type Verified = (u64, Instant, Result<(), Error>);

#[derive(Clone)]
struct Identity {
    common_name: String,
    user: Option<Arc<UserInfo>>,
}

impl PeerCertificates {
    /// Leaf first, as TLS delivers them.
    pub fn new(chain: Vec<CertificateDer<'static>>) -> Self {
        PeerCertificates { chain, verdicts: Mutex::default(), identity: OnceLock::new() }
    }

    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    fn identity(&self) -> Result<&Identity, Error> {
        let made = self.identity.get_or_init(|| match self.chain.first() {
            Some(leaf) => identity(leaf),
            None => Err(Error::new("no client certificate")),
        });
        made.as_ref().map_err(Clone::clone)
    }

    fn verified_by(&self, bundle: &Bundle) -> Result<(), Error> {
        let mut verdicts = self.verdicts.lock();
        if let Some((_, until, verdict)) = verdicts.iter().find(|(id, ..)| *id == bundle.id)
            && *until > Instant::now()
        {
            return verdict.clone();
        }
        let verdict = bundle.verify(&self.chain);
        verdicts.retain(|(id, until, _)| *id != bundle.id && *until > Instant::now());
        verdicts.push((bundle.id, Instant::now() + BELIEVED, verdict.clone()));
        verdict
    }
}

fn identity(leaf: &CertificateDer<'_>) -> Result<Identity, Error> {
    let broken = || Error::new("the client certificate cannot be parsed");
    let (_, cert) = X509Certificate::from_der(leaf).map_err(|_| broken())?;
    let subject = cert.subject();
    let texts = |attributes: &mut dyn Iterator<Item = &x509_parser::x509::AttributeTypeAndValue<'_>>| {
        attributes.map(|a| a.as_str().map(str::to_owned)).collect::<Result<Vec<_>, _>>().map_err(|_| broken())
    };
    let common_name = texts(&mut subject.iter_common_name())?.pop().unwrap_or_default();
    if common_name.is_empty() {
        return Ok(Identity { common_name, user: None });
    }
    let groups = texts(&mut subject.iter_organization())?;
    let mut uids = texts(&mut subject.iter_attributes().filter(|a| a.attr_type().to_id_string() == UID_OID))?;
    let uid = match uids.len() {
        0 => String::new(),
        1 if uids[0].is_empty() => return Err(Error::new("UID cannot be an empty string")),
        1 => uids.remove(0),
        _ => return Err(Error::new(format!("expected 1 UID, but found multiple: {uids:?}"))),
    };
    let id = format!("X509SHA256={}", hex(&Sha256::digest(leaf)));
    let extra = BTreeMap::from([(EXTRA_CREDENTIAL_ID.to_owned(), vec![id])]);
    let user = UserInfo { name: common_name.clone(), uid, groups, extra };
    Ok(Identity { common_name, user: Some(Arc::new(user)) })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// A set of authorities, with an id of its own per loaded version.
struct Bundle {
    id: u64,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Bundle {
    fn parse(pem: &[u8]) -> anyhow::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut roots = RootCertStore::empty();
        for block in pem::parse_many(pem).context("not PEM")? {
            if block.tag() == "CERTIFICATE" {
                roots
                    .add(block.into_contents().into())
                    .context("a certificate of the bundle is not usable")?;
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .context("no certificate in the bundle")?;
        Ok(Bundle { id: NEXT.fetch_add(1, Ordering::Relaxed), verifier })
    }

    /// Signature chain, validity, and the client authentication usage if usages are restricted.
    fn verify(&self, chain: &[CertificateDer<'static>]) -> Result<(), Error> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(Error::new("no client certificate"));
        };
        self.verifier
            .verify_client_cert(leaf, intermediates, UnixTime::now())
            .map(drop)
            .map_err(|e| Error(format!("verifying the client certificate failed: {e}")))
    }
}

/// `--client-ca-file`: the common name is the user, the organizations are the groups.
pub struct ClientCertificates {
    authorities: Reloading<Bundle>,
}

impl ClientCertificates {
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        Ok(ClientCertificates { authorities: Reloading::open(path, Bundle::parse)? })
    }

    #[cfg(test)]
    pub(super) fn reload(&self) {
        self.authorities.check_now();
    }
}

#[async_trait::async_trait]
impl Authenticator for ClientCertificates {
    async fn authenticate(&self, request: &Request<'_>) -> Outcome {
        let Some(peer) = request.peer.filter(|p| !p.chain.is_empty()) else { return Ok(None) };
        peer.verified_by(&self.authorities.get())?;
        let user = peer.identity()?.user.clone();
        Ok(user.map(|user| Authenticated { user, audiences: Vec::new(), audit: Vec::new() }))
    }
}

/// `--requestheader-*`: a proxy with the right certificate says who the user is.
pub struct RequestHeaders {
    authorities: Reloading<Bundle>,
    options: RequestHeaderOptions,
}

impl RequestHeaders {
    pub fn open(options: &RequestHeaderOptions) -> anyhow::Result<Self> {
        let authorities = Reloading::open(&options.client_ca_file, Bundle::parse)?;
        let mut options = options.clone();
        for prefix in &mut options.extra_headers_prefix {
            prefix.make_ascii_lowercase();
        }
        Ok(RequestHeaders { authorities, options })
    }
}

#[async_trait::async_trait]
impl Authenticator for RequestHeaders {
    async fn authenticate(&self, request: &Request<'_>) -> Outcome {
        let Some(peer) = request.peer.filter(|p| !p.chain.is_empty()) else { return Ok(None) };
        peer.verified_by(&self.authorities.get())?;
        let allowed = &self.options.allowed_names;
        let name = &peer.identity()?.common_name;
        if !allowed.is_empty() && !allowed.contains(name) {
            return Err(Error(format!("x509: subject with cn={name} is not in the allowed list")));
        }
        Ok(user_from_headers(request.headers, &self.options).map(Authenticated::new))
    }
}

fn user_from_headers(headers: &HeaderMap, o: &RequestHeaderOptions) -> Option<UserInfo> {
    let first = |names: &[String]| {
        names
            .iter()
            .filter_map(|n| headers.get(n.as_str()))
            .filter_map(|v| v.to_str().ok())
            .find(|v| !v.is_empty())
            .map(str::to_owned)
    };
    let name = first(&o.username_headers)?;
    let groups = o
        .group_headers
        .iter()
        .flat_map(|n| headers.get_all(n.as_str()))
        .filter_map(|v| v.to_str().ok())
        .filter(|v| !v.is_empty())
        .map(str::to_owned)
        .collect();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for prefix in &o.extra_headers_prefix {
        for (header, value) in headers {
            if let Some(key) = header.as_str().strip_prefix(prefix.as_str())
                && let Ok(value) = value.to_str()
            {
                extra.entry(unescape(key)).or_default().push(value.to_owned());
            }
        }
    }
    Some(UserInfo { name, uid: first(&o.uid_headers).unwrap_or_default(), groups, extra })
}

/// Percent-decoding; a malformed key is kept as it came.
pub(crate) fn unescape(key: &str) -> String {
    let bytes = key.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] != b'%' {
            out.push(bytes[i]);
            i += 1;
            continue;
        }
        let digits = key.get(i + 1..i + 3).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(byte) = digits.and_then(|d| u8::from_str_radix(d, 16).ok()) else { return key.to_owned() };
        out.push(byte);
        i += 3;
    }
    String::from_utf8(out).unwrap_or_else(|_| key.to_owned())
}
