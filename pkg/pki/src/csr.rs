//! Certificate signing requests: making them (kubelet's bootstrap) and signing them (the CSR signing controller).

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType,
};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::ca::{Ca, subject};
use crate::keys::{self, KeyPair};
use crate::{Error, Result};

/// How Kubernetes names key usages (`certificates.k8s.io` `spec.usages`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// A basic key usage bit.
    Key(KeyUsagePurposeName),
    /// An extended key usage.
    Extended(ExtendedName),
}

/// Basic key usages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum KeyUsagePurposeName {
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
        use KeyUsagePurposeName as K;
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

    fn apply(self, params: &mut CertificateParams) {
        match self {
            Usage::Key(k) => push_once(&mut params.key_usages, basic(k)),
            Usage::Extended(e) => push_once(&mut params.extended_key_usages, extended(e)),
        }
    }
}

fn push_once<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

fn basic(name: KeyUsagePurposeName) -> KeyUsagePurpose {
    use KeyUsagePurposeName as K;
    match name {
        K::DigitalSignature => KeyUsagePurpose::DigitalSignature,
        K::ContentCommitment => KeyUsagePurpose::ContentCommitment,
        K::KeyEncipherment => KeyUsagePurpose::KeyEncipherment,
        K::DataEncipherment => KeyUsagePurpose::DataEncipherment,
        K::KeyAgreement => KeyUsagePurpose::KeyAgreement,
        K::CertSign => KeyUsagePurpose::KeyCertSign,
        K::CrlSign => KeyUsagePurpose::CrlSign,
        K::EncipherOnly => KeyUsagePurpose::EncipherOnly,
        K::DecipherOnly => KeyUsagePurpose::DecipherOnly,
    }
}

fn extended(name: ExtendedName) -> ExtendedKeyUsagePurpose {
    use ExtendedName as E;
    let other = |oid: &[u64]| ExtendedKeyUsagePurpose::Other(oid.to_vec());
    match name {
        E::Any => ExtendedKeyUsagePurpose::Any,
        E::ServerAuth => ExtendedKeyUsagePurpose::ServerAuth,
        E::ClientAuth => ExtendedKeyUsagePurpose::ClientAuth,
        E::CodeSigning => ExtendedKeyUsagePurpose::CodeSigning,
        E::EmailProtection => ExtendedKeyUsagePurpose::EmailProtection,
        E::TimeStamping => ExtendedKeyUsagePurpose::TimeStamping,
        E::OcspSigning => ExtendedKeyUsagePurpose::OcspSigning,
        E::IpsecEndSystem => other(&[1, 3, 6, 1, 5, 5, 7, 3, 5]),
        E::IpsecTunnel => other(&[1, 3, 6, 1, 5, 5, 7, 3, 6]),
        E::IpsecUser => other(&[1, 3, 6, 1, 5, 5, 7, 3, 7]),
        E::MicrosoftSgc => other(&[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
        E::NetscapeSgc => other(&[2, 16, 840, 1, 113730, 4, 1]),
    }
}

/// Makes a signing request with a fresh key: `(csr_pem, key_pem)`.
pub fn create(cn: &str, orgs: &[String], dns: &[String], ips: &[IpAddr]) -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    Ok((create_with_key(&key, cn, orgs, dns, ips)?, key.serialize_pem()))
}

fn create_with_key(
    key: &KeyPair,
    cn: &str,
    orgs: &[String],
    dns: &[String],
    ips: &[IpAddr],
) -> Result<String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(cn, orgs);
    for name in dns {
        let name = name.as_str().try_into().map_err(Error::Generate)?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params.subject_alt_names.extend(ips.iter().map(|ip| SanType::IpAddress(*ip)));
    Ok(params.serialize_request(key)?.pem()?)
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
        create_with_key(&keys::parse(key_pem)?, cn, orgs, dns, ips)
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
        let block = pem::parse(csr_pem)?;
        if block.tag() != "CERTIFICATE REQUEST" && block.tag() != "NEW CERTIFICATE REQUEST" {
            return Err(Error::Parse("PEM block type must be CERTIFICATE REQUEST".to_owned()));
        }
        let (_, csr) =
            X509CertificationRequest::from_der(block.contents()).map_err(|e| Error::Parse(e.to_string()))?;
        csr.verify_signature().map_err(|e| Error::Parse(e.to_string()))?;
        Ok(read(&csr))
    }
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
        Csr::parse(csr_pem)?;
        let mut csr = CertificateSigningRequestParams::from_pem(csr_pem)?;
        let now = std::time::SystemTime::now();
        let params = &mut csr.params;
        params.not_before = (now - options.backdate).into();
        params.not_after = (now + options.ttl).into();
        if let Some(end) = self.not_after() {
            let end = std::time::UNIX_EPOCH + Duration::from_secs(u64::try_from(end).unwrap_or_default());
            params.not_after = std::cmp::min(now + options.ttl, end).into();
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages.clear();
        params.extended_key_usages.clear();
        params.custom_extensions.clear();
        params.use_authority_key_identifier_extension = true;
        options.usages.iter().for_each(|u| u.apply(params));
        Ok(csr.signed_by(self.issuer())?.pem())
    }
}
