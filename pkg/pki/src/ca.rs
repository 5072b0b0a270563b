//! Certificate authorities and the certificates they issue.

use std::net::IpAddr;

use rcgen::{KeyPair, PublicKeyData};
use x509_parser::extensions::ParsedExtension;

use crate::csr::{ExtendedName, KeyUsageName};
use crate::x509::{self, Certificate, Signer};
use crate::{Error, Result};

/// kubeadm's lifetime of a certificate authority.
const CA_DAYS: u32 = 3650;
/// Clocks of nodes differ a little: a certificate is valid from a few minutes before it was made.
const BACKDATE: i64 = 300;

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub struct Cert {
    /// The certificate, PEM.
    pub cert_pem: String,
    /// Its private key, PEM.
    pub key_pem: String,
}

impl std::fmt::Debug for Cert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cert").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// What a certificate is asked to say.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Common name: the user name of a client certificate.
    pub cn: String,
    /// Organizations: the groups of a client certificate.
    pub orgs: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
    /// IP addresses.
    pub ips: Vec<IpAddr>,
    /// May authenticate a server.
    pub server: bool,
    /// May authenticate a client.
    pub client: bool,
    /// Days of validity; 0 means a year.
    pub days: u32,
}

/// A certificate authority that can sign.
pub struct Ca {
    cert_pem: String,
    key_pem: String,
    key: KeyPair,
    subject: Vec<u8>,
    key_id: Option<Vec<u8>>,
    not_after: i64,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

impl Ca {
    /// A new self-signed authority, valid for ten years.
    pub fn new(cn: &str) -> Result<Ca> {
        let key = KeyPair::generate()?;
        let (subject, public_key) = (x509::subject(cn, &[]), key.subject_public_key_info());
        let key_id = x509::key_id(&public_key);
        let (from, to) = validity(CA_DAYS);
        let certificate = Certificate {
            subject: subject.clone(),
            public_key,
            names: x509::alt_names(&[cn.to_owned()], &[]),
            key_usage: [
                KeyUsageName::DigitalSignature,
                KeyUsageName::KeyEncipherment,
                KeyUsageName::CertSign,
            ]
            .map(KeyUsageName::bit)
            .to_vec(),
            extended: Vec::new(),
            authority: true,
            validity: (from, to),
        };
        let signer = Signer { subject: &subject, key_id: None, key: &key };
        let cert_pem = x509::sign(&certificate, &signer)?;
        Ok(Ca { cert_pem, key_pem: key.serialize_pem(), key, subject, key_id: Some(key_id), not_after: to })
    }

    /// An authority read from its certificate and key (PKCS#8, PKCS#1 or SEC1 PEM); they must belong together.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Ca> {
        let key = crate::keys::parse(key_pem)?;
        let bad = |e: &dyn std::fmt::Display| Error::Parse(format!("certificate authority: {e}"));
        let (_, block) = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes()).map_err(|e| bad(&e))?;
        let cert = block.parse_x509().map_err(|e| bad(&e))?;
        if cert.public_key().raw != key.subject_public_key_info() {
            return Err(bad(&"the key is not the certificate's"));
        }
        let key_id = cert.extensions().iter().find_map(|e| match e.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        let (subject, not_after) = (cert.subject().as_raw().to_vec(), cert.validity().not_after.timestamp());
        Ok(Ca { cert_pem: cert_pem.to_owned(), key_pem: key_pem.to_owned(), key, subject, key_id, not_after })
    }

    /// Reads an authority's files.
    pub fn load(cert_file: &str, key_file: &str) -> Result<Ca> {
        Ca::from_pem(&crate::files::read(cert_file)?, &crate::files::read(key_file)?)
    }

    /// The authority's certificate, PEM.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The authority's private key, PEM.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// When the authority's own certificate ends, seconds since the epoch.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Issues a certificate with a fresh ECDSA P-256 key.
    pub fn issue(&self, request: Request) -> Result<Cert> {
        let key = KeyPair::generate()?;
        let mut extended = Vec::new();
        if request.server {
            extended.push(ExtendedName::ServerAuth.oid());
        }
        if request.client {
            extended.push(ExtendedName::ClientAuth.oid());
        }
        let certificate = Certificate {
            subject: x509::subject(&request.cn, &request.orgs),
            public_key: key.subject_public_key_info(),
            names: x509::alt_names(&request.dns, &request.ips),
            key_usage: [KeyUsageName::DigitalSignature, KeyUsageName::KeyEncipherment]
                .map(KeyUsageName::bit)
                .to_vec(),
            extended,
            authority: false,
            validity: validity(if request.days == 0 { 365 } else { request.days }),
        };
        Ok(Cert { cert_pem: self.sign(&certificate)?, key_pem: key.serialize_pem() })
    }

    pub(crate) fn sign(&self, certificate: &Certificate<'_>) -> Result<String> {
        x509::sign(
            certificate,
            &Signer { subject: &self.subject, key_id: self.key_id.as_deref(), key: &self.key },
        )
    }
}

fn validity(days: u32) -> (i64, i64) {
    let now = x509::now();
    (now - BACKDATE, now + i64::from(days) * 86_400)
}

/// A self-signed serving certificate for `host`, as a daemon makes for itself when it was given none.
///
/// The result is a chain of the leaf and the short-lived authority that signed it.
pub fn self_signed(host: &str, dns: &[String], ips: &[IpAddr]) -> Result<Cert> {
    let stamp = x509::now();
    let ca = Ca::new(&format!("{host}-ca@{stamp}"))?;
    let mut all_ips = ips.to_vec();
    let mut all_dns = dns.to_vec();
    match host.parse() {
        Ok(ip) => all_ips.push(ip),
        Err(_) => all_dns.push(host.to_owned()),
    }
    let leaf = ca.issue(Request {
        cn: format!("{host}@{stamp}"),
        dns: all_dns,
        ips: all_ips,
        server: true,
        days: 365,
        ..Request::default()
    })?;
    Ok(Cert { cert_pem: leaf.cert_pem + ca.cert_pem(), key_pem: leaf.key_pem })
}

impl From<pem::PemError> for Error {
    fn from(e: pem::PemError) -> Error {
        Error::Parse(e.to_string())
    }
}
