//! Certificate authorities and the certificates they issue.

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType,
};

use crate::keys::KeyPair;
use crate::{Error, Result};

/// kubeadm's lifetime of a certificate authority.
const CA_DAYS: u32 = 3650;
/// Clocks of nodes differ a little: a certificate is valid from a few minutes before it was made.
const BACKDATE: Duration = Duration::from_secs(300);

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
    issuer: Issuer<'static, KeyPair>,
    not_after: Option<i64>,
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
        let key_pem = key.serialize_pem();
        let mut params = base_params(cn, &[], CA_DAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyCertSign,
        ];
        params.subject_alt_names = dns_names(&[cn.to_owned()]);
        let cert_pem = params.self_signed(&key)?.pem();
        let not_after = Some(params.not_after.unix_timestamp());
        Ok(Ca { cert_pem, key_pem, issuer: Issuer::new(params, key), not_after })
    }

    /// An authority read from its certificate and key (PKCS#8, PKCS#1 or SEC1 PEM).
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Ca> {
        let key = crate::keys::parse(key_pem)?;
        let not_after = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes())
            .ok()
            .and_then(|(_, pem)| pem.parse_x509().ok().map(|c| c.validity().not_after.timestamp()));
        let issuer = Issuer::from_ca_cert_pem(cert_pem, key)?;
        Ok(Ca { cert_pem: cert_pem.to_owned(), key_pem: key_pem.to_owned(), issuer, not_after })
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
    pub fn not_after(&self) -> Option<i64> {
        self.not_after
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// Issues a certificate with a fresh ECDSA P-256 key.
    pub fn issue(&self, request: Request) -> Result<Cert> {
        let key = KeyPair::generate()?;
        let mut params = leaf_params(&request);
        params.use_authority_key_identifier_extension = true;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Cert { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }
}

/// A self-signed serving certificate for `host`, as a daemon makes for itself when it was given none.
///
/// The result is a chain of the leaf and the short-lived authority that signed it.
pub fn self_signed(host: &str, dns: &[String], ips: &[IpAddr]) -> Result<Cert> {
    let stamp = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map(|d| d.as_secs())
        .unwrap_or_default();
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

/// The parameters of an end-entity certificate.
pub(crate) fn leaf_params(request: &Request) -> CertificateParams {
    let days = if request.days == 0 { 365 } else { request.days };
    let mut params = base_params(&request.cn, &request.orgs, days);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    if request.server {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    if request.client {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.subject_alt_names = dns_names(&request.dns);
    params.subject_alt_names.extend(request.ips.iter().map(|ip| SanType::IpAddress(*ip)));
    params
}

fn base_params(cn: &str, orgs: &[String], days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(cn, orgs);
    let now = std::time::SystemTime::now();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + Duration::from_secs(u64::from(days) * 86_400)).into();
    params
}

/// The subject of a request; the library keeps one value a type, so further organizations go by their bare OID.
pub(crate) fn subject(cn: &str, orgs: &[String]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for (i, org) in orgs.iter().enumerate() {
        let kind = if i == 0 { DnType::OrganizationName } else { DnType::CustomDnType(vec![2, 5, 4, 10]) };
        name.push(kind, org.as_str());
    }
    name.push(DnType::CommonName, cn);
    name
}

/// Names that are valid in a certificate; others are left out rather than failing the whole certificate.
fn dns_names(names: &[String]) -> Vec<SanType> {
    names.iter().filter_map(|n| n.as_str().try_into().ok().map(SanType::DnsName)).collect()
}

impl From<pem::PemError> for Error {
    fn from(e: pem::PemError) -> Error {
        Error::Parse(e.to_string())
    }
}
