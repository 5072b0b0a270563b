//! X.509 certificates and PKCS #10 requests, built field by field.
//!
//! Subjects may have any number of organizations (they are a user's groups), and a request's subject, key and names go
//! into its certificate byte by byte.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{KeyPair, PublicKeyData, SigningKey};
use sha2::{Digest, Sha256};

use crate::der::{bit_string, integer, named_bits, oid, sequence, set, text, time, tlv, yes};
use crate::{Error, Result};

const COMMON_NAME: &[u64] = &[2, 5, 4, 3];
const ORGANIZATION: &[u64] = &[2, 5, 4, 10];
const SUBJECT_KEY_ID: &[u64] = &[2, 5, 29, 14];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const AUTHORITY_KEY_ID: &[u64] = &[2, 5, 29, 35];
const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];
const EXTENSION_REQUEST: &[u64] = &[1, 2, 840, 113549, 1, 9, 14];

/// Everything a certificate says.
pub(crate) struct Certificate<'a> {
    /// DER of the subject.
    pub(crate) subject: Vec<u8>,
    /// DER of the public key with its algorithm.
    pub(crate) public_key: Vec<u8>,
    /// Content of the subject alternative names, if there are any.
    pub(crate) names: Option<Vec<u8>>,
    /// Bits of the key usage.
    pub(crate) key_usage: Vec<u8>,
    /// Extended key usages.
    pub(crate) extended: Vec<&'a [u64]>,
    /// May sign certificates.
    pub(crate) authority: bool,
    /// Beginning and end, seconds since the epoch.
    pub(crate) validity: (i64, i64),
}

/// Who signs.
pub(crate) struct Signer<'a> {
    /// DER of the signer's subject.
    pub(crate) subject: &'a [u8],
    /// The signer's subject key id, if it has one.
    pub(crate) key_id: Option<&'a [u8]>,
    /// The signer's key.
    pub(crate) key: &'a KeyPair,
}

/// Seconds since the epoch, now.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A subject: organizations, then the common name.
pub(crate) fn subject(cn: &str, orgs: &[String]) -> Vec<u8> {
    let rdn = |kind: &[u64], value: &str| set(&sequence(&[&oid(kind), &text(value)]));
    let mut parts: Vec<u8> = orgs.iter().flat_map(|o| rdn(ORGANIZATION, o)).collect();
    if !cn.is_empty() {
        parts.extend(rdn(COMMON_NAME, cn));
    }
    tlv(0x30, &parts)
}

/// Alternative names, if there are any. Only ASCII can be in them.
pub(crate) fn alt_names(dns: &[String], ips: &[IpAddr]) -> Option<Vec<u8>> {
    let mut content: Vec<u8> =
        dns.iter().filter(|n| n.is_ascii()).flat_map(|n| tlv(0x82, n.as_bytes())).collect();
    for ip in ips {
        content.extend(match ip {
            IpAddr::V4(v4) => tlv(0x87, &v4.octets()),
            IpAddr::V6(v6) => tlv(0x87, &v6.octets()),
        });
    }
    (!content.is_empty()).then(|| tlv(0x30, &content))
}

/// The id of a public key: half of its hash, as RFC 7093 has it.
pub(crate) fn key_id(public_key: &[u8]) -> Vec<u8> {
    Sha256::digest(public_key)[..20].to_vec()
}

fn extension(kind: &[u64], critical: bool, content: &[u8]) -> Vec<u8> {
    let critical = if critical { yes() } else { Vec::new() };
    sequence(&[&oid(kind), &critical, &tlv(0x04, content)])
}

/// The certificate, signed, PEM.
pub(crate) fn sign(certificate: &Certificate<'_>, signer: &Signer<'_>) -> Result<String> {
    let algorithm = signature_algorithm(signer.key)?;
    let mut serial = [0u8; 16];
    rand::Rng::fill_bytes(&mut rand::rng(), &mut serial);
    serial[0] = serial[0] & 0x7f | 0x40;
    let (from, to) = certificate.validity;
    let extensions = tlv(0xa3, &tlv(0x30, &extensions(certificate, signer)));
    let body = sequence(&[
        &tlv(0xa0, &integer(&[2])),
        &integer(&serial),
        &algorithm,
        signer.subject,
        &sequence(&[&time(from), &time(to)]),
        &certificate.subject,
        &certificate.public_key,
        &extensions,
    ]);
    let signature = bit_string(&signer.key.sign(&body)?);
    Ok(encode("CERTIFICATE", sequence(&[&body, &algorithm, &signature])))
}

fn extensions(c: &Certificate<'_>, signer: &Signer<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    if !c.key_usage.is_empty() {
        out.extend(extension(KEY_USAGE, true, &named_bits(&c.key_usage)));
    }
    if !c.extended.is_empty() {
        let list: Vec<u8> = c.extended.iter().flat_map(|o| oid(o)).collect();
        out.extend(extension(EXTENDED_KEY_USAGE, false, &tlv(0x30, &list)));
    }
    let authority = if c.authority { yes() } else { Vec::new() };
    out.extend(extension(BASIC_CONSTRAINTS, true, &tlv(0x30, &authority)));
    if c.authority {
        out.extend(extension(SUBJECT_KEY_ID, false, &tlv(0x04, &key_id(&c.public_key))));
    }
    if let Some(id) = signer.key_id {
        out.extend(extension(AUTHORITY_KEY_ID, false, &tlv(0x30, &tlv(0x80, id))));
    }
    if let Some(names) = &c.names {
        // Critical where the subject says nothing, as RFC 5280 asks.
        out.extend(extension(SUBJECT_ALT_NAME, c.subject == tlv(0x30, &[]), names));
    }
    out
}

/// A signing request, PEM.
pub(crate) fn request(
    key: &KeyPair,
    cn: &str,
    orgs: &[String],
    dns: &[String],
    ips: &[IpAddr],
) -> Result<String> {
    let attributes = match alt_names(dns, ips) {
        None => tlv(0xa0, &[]),
        Some(names) => {
            let extensions = tlv(0x30, &extension(SUBJECT_ALT_NAME, false, &names));
            tlv(0xa0, &sequence(&[&oid(EXTENSION_REQUEST), &set(&extensions)]))
        }
    };
    let public_key = key.subject_public_key_info();
    let body = sequence(&[&integer(&[0]), &subject(cn, orgs), &public_key, &attributes]);
    let signature = bit_string(&key.sign(&body)?);
    Ok(encode("CERTIFICATE REQUEST", sequence(&[&body, &signature_algorithm(key)?, &signature])))
}

fn encode(tag: &str, der: Vec<u8>) -> String {
    pem::encode_config(
        &pem::Pem::new(tag, der),
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    )
}

fn signature_algorithm(key: &KeyPair) -> Result<Vec<u8>> {
    let null = tlv(0x05, &[]);
    let plain = |arcs: &[u64]| sequence(&[&oid(arcs)]);
    let known = key.algorithm();
    if *known == rcgen::PKCS_ECDSA_P256_SHA256 {
        Ok(plain(&[1, 2, 840, 10045, 4, 3, 2]))
    } else if *known == rcgen::PKCS_ECDSA_P384_SHA384 {
        Ok(plain(&[1, 2, 840, 10045, 4, 3, 3]))
    } else if *known == rcgen::PKCS_RSA_SHA256 {
        Ok(sequence(&[&oid(&[1, 2, 840, 113549, 1, 1, 11]), &null]))
    } else if *known == rcgen::PKCS_ED25519 {
        Ok(plain(&[1, 3, 101, 112]))
    } else {
        Err(Error::Parse(format!("keys of type {known:?} cannot sign here")))
    }
}
