//! Certificate signing requests: making them (kubelet's bootstrap) and signing them (the CSR signing controller).

use std::net::IpAddr;
use std::time::Duration;

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
use x509_parser::prelude::FromDer;

use crate::ca::Ca;
use crate::keys::{self, KeyPair};
use crate::x509::{self, Certificate};
use crate::{Error, Result};

/// How Kubernetes names key usages (`certificates.k8s.io` `spec.usages`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// A basic key usage bit.
    Key(KeyUsageName),
    /// An extended key usage.
    Extended(ExtendedName),
}

/// Basic key usages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum KeyUsageName {
    DigitalSignature,
    ContentCommitment,
    KeyEncipherment,
    DataEncipherment,
    KeyAgreement,
    CertSign,
    CrlSign,
    EncipherOnly,
    DecipherOnly,
}

/// Extended key usages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ExtendedName {
    Any,
    ServerAuth,
    ClientAuth,
    CodeSigning,
    EmailProtection,
    TimeStamping,
    OcspSigning,
    IpsecEndSystem,
    IpsecTunnel,
    IpsecUser,
    MicrosoftSgc,
    NetscapeSgc,
}

impl Usage {
    /// The usage of a Kubernetes name such as `client auth`; `None` for names that Kubernetes does not know.
    pub fn parse(name: &str) -> Option<Usage> {
        use ExtendedName as E;
        use KeyUsageName as K;
        Some(match name {
            "signing" | "digital signature" => Usage::Key(K::DigitalSignature),
            "content commitment" => Usage::Key(K::ContentCommitment),
            "key encipherment" => Usage::Key(K::KeyEncipherment),
            "data encipherment" => Usage::Key(K::DataEncipherment),
            "key agreement" => Usage::Key(K::KeyAgreement),
            "cert sign" => Usage::Key(K::CertSign),
            "crl sign" => Usage::Key(K::CrlSign),
            "encipher only" => Usage::Key(K::EncipherOnly),
            "decipher only" => Usage::Key(K::DecipherOnly),
            "any" => Usage::Extended(E::Any),
            "server auth" => Usage::Extended(E::ServerAuth),
            "client auth" => Usage::Extended(E::ClientAuth),
            "code signing" => Usage::Extended(E::CodeSigning),
            "email protection" | "s/mime" => Usage::Extended(E::EmailProtection),
            "timestamping" => Usage::Extended(E::TimeStamping),
            "ocsp signing" => Usage::Extended(E::OcspSigning),
            "ipsec end system" => Usage::Extended(E::IpsecEndSystem),
            "ipsec tunnel" => Usage::Extended(E::IpsecTunnel),
            "ipsec user" => Usage::Extended(E::IpsecUser),
            "microsoft sgc" => Usage::Extended(E::MicrosoftSgc),
            "netscape sgc" => Usage::Extended(E::NetscapeSgc),
            _ => return None,
        })
    }
}

impl KeyUsageName {
    /// The usage's bit in a certificate.
    pub(crate) fn bit(self) -> u8 {
        use KeyUsageName as K;
        match self {
            K::DigitalSignature => 0,
            K::ContentCommitment => 1,
            K::KeyEncipherment => 2,
            K::DataEncipherment => 3,
            K::KeyAgreement => 4,
            K::CertSign => 5,
            K::CrlSign => 6,
            K::EncipherOnly => 7,
            K::DecipherOnly => 8,
        }
    }
}

impl ExtendedName {
    /// The usage's object identifier.
    pub(crate) fn oid(self) -> &'static [u64] {
        use ExtendedName as E;
        match self {
            E::Any => &[2, 5, 29, 37, 0],
            E::ServerAuth => &[1, 3, 6, 1, 5, 5, 7, 3, 1],
            E::ClientAuth => &[1, 3, 6, 1, 5, 5, 7, 3, 2],
            E::CodeSigning => &[1, 3, 6, 1, 5, 5, 7, 3, 3],
            E::EmailProtection => &[1, 3, 6, 1, 5, 5, 7, 3, 4],
            E::IpsecEndSystem => &[1, 3, 6, 1, 5, 5, 7, 3, 5],
            E::IpsecTunnel => &[1, 3, 6, 1, 5, 5, 7, 3, 6],
            E::IpsecUser => &[1, 3, 6, 1, 5, 5, 7, 3, 7],
            E::TimeStamping => &[1, 3, 6, 1, 5, 5, 7, 3, 8],
            E::OcspSigning => &[1, 3, 6, 1, 5, 5, 7, 3, 9],
            E::MicrosoftSgc => &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3],
            E::NetscapeSgc => &[2, 16, 840, 1, 113730, 4, 1],
        }
    }
}

/// Makes a signing request with a fresh key: `(csr_pem, key_pem)`.
pub fn create(cn: &str, orgs: &[String], dns: &[String], ips: &[IpAddr]) -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    Ok((x509::request(&key, cn, orgs, dns, ips)?, key.serialize_pem()))
}

impl Csr {
    /// Makes a signing request for a key that exists already, PEM.
    pub fn for_key(
        key_pem: &str,
        cn: &str,
        orgs: &[String],
        dns: &[String],
        ips: &[IpAddr],
    ) -> Result<String> {
        x509::request(&keys::parse(key_pem)?, cn, orgs, dns, ips)
    }
}

/// What a signing request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Csr {
    /// Common name.
    pub cn: String,
    /// Organizations.
    pub orgs: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
    /// IP addresses.
    pub ips: Vec<IpAddr>,
    /// E-mail addresses.
    pub emails: Vec<String>,
    /// URIs.
    pub uris: Vec<String>,
}

impl Csr {
    /// Reads a PEM request and checks that its signature is by the key it carries.
    pub fn parse(csr_pem: &str) -> Result<Csr> {
        with_request(csr_pem, |csr| Ok(read(csr)))
    }
}

/// Parses a request, checks its signature, and hands it on.
fn with_request<T>(csr_pem: &str, f: impl FnOnce(&X509CertificationRequest<'_>) -> Result<T>) -> Result<T> {
    let block = pem::parse(csr_pem)?;
    if block.tag() != "CERTIFICATE REQUEST" && block.tag() != "NEW CERTIFICATE REQUEST" {
        return Err(Error::Parse("PEM block type must be CERTIFICATE REQUEST".to_owned()));
    }
    let (_, csr) =
        X509CertificationRequest::from_der(block.contents()).map_err(|e| Error::Parse(e.to_string()))?;
    csr.verify_signature().map_err(|e| Error::Parse(e.to_string()))?;
    f(&csr)
}

fn read(csr: &X509CertificationRequest<'_>) -> Csr {
    let subject = &csr.certification_request_info.subject;
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().map(str::to_owned).ok();
    let mut out = Csr {
        cn: subject.iter_common_name().filter_map(text).last().unwrap_or_default(),
        orgs: subject.iter_organization().filter_map(text).collect(),
        ..Csr::default()
    };
    for extension in csr.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(san) = extension {
            san.general_names.iter().for_each(|n| add_name(&mut out, n));
        }
    }
    out
}

fn add_name(out: &mut Csr, name: &GeneralName<'_>) {
    match name {
        GeneralName::DNSName(n) => out.dns.push((*n).to_owned()),
        GeneralName::RFC822Name(n) => out.emails.push((*n).to_owned()),
        GeneralName::URI(n) => out.uris.push((*n).to_owned()),
        GeneralName::IPAddress(bytes) => {
            if let Ok(v4) = <[u8; 4]>::try_from(*bytes) {
                out.ips.push(v4.into());
            } else if let Ok(v6) = <[u8; 16]>::try_from(*bytes) {
                out.ips.push(v6.into());
            }
        }
        _ => {}
    }
}

/// How a request is to be signed.
#[derive(Clone, Debug)]
pub struct SignOptions {
    /// How long the certificate is to be valid; cut to the authority's own end.
    pub ttl: Duration,
    /// How far the beginning lies in the past (upstream's signer: five minutes).
    pub backdate: Duration,
    /// What the key may be used for.
    pub usages: Vec<Usage>,
}

impl Ca {
    /// Signs a request: subject, names and key are the request's, everything else is `options`'. Never an authority.
    pub fn sign_csr(&self, csr_pem: &str, options: &SignOptions) -> Result<String> {
        let now = x509::now();
        let seconds = |d: Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX / 4);
        let to = now.saturating_add(seconds(options.ttl)).min(self.not_after());
        let validity = (now - seconds(options.backdate), to);
        with_request(csr_pem, |csr| {
            let info = &csr.certification_request_info;
            let mut certificate = Certificate {
                subject: info.subject.as_raw().to_vec(),
                public_key: info.subject_pki.raw.to_vec(),
                names: requested_names(csr),
                key_usage: Vec::new(),
                extended: Vec::new(),
                authority: false,
                validity,
            };
            for usage in &options.usages {
                match usage {
                    Usage::Key(k) => push_once(&mut certificate.key_usage, k.bit()),
                    Usage::Extended(e) => push_once(&mut certificate.extended, e.oid()),
                }
            }
            self.sign(&certificate)
        })
    }
}

fn push_once<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// The request's alternative names as they stand in it.
fn requested_names(csr: &X509CertificationRequest<'_>) -> Option<Vec<u8>> {
    let attributes = csr.certification_request_info.attributes();
    attributes.iter().find_map(|a| match a.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(request) => {
            let san =
                |e: &&x509_parser::extensions::X509Extension<'_>| e.oid == OID_X509_EXT_SUBJECT_ALT_NAME;
            request.extensions.iter().find(san).map(|e| e.value.to_vec())
        }
        _ => None,
    })
}
