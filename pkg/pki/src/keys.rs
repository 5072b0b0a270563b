//! Private keys: generation, and reading of every PEM form that Kubernetes clusters hold.

use crate::der::tlv;
use crate::{Error, Result};

pub use rcgen::KeyPair;

/// A service-account signing key and the public half that verifies its tokens, both PEM.
#[derive(Clone)]
pub struct ServiceAccountKeys {
    /// `sa.key`
    pub private_pem: String,
    /// `sa.pub`
    pub public_pem: String,
}

/// A new key pair for signing service-account tokens.
pub fn service_account_keys() -> Result<ServiceAccountKeys> {
    let key = KeyPair::generate()?;
    Ok(ServiceAccountKeys { private_pem: key.serialize_pem(), public_pem: key.public_key_pem() })
}

/// Reads a private key from PKCS#8, PKCS#1 (`RSA PRIVATE KEY`) or SEC1 (`EC PRIVATE KEY`) PEM.
pub(crate) fn parse(key_pem: &str) -> Result<KeyPair> {
    Ok(KeyPair::from_pem(&to_pkcs8(key_pem)?)?)
}

/// The same private key as PKCS#8 PEM. Certificates and other blocks in the text are skipped.
pub fn to_pkcs8(key_pem: &str) -> Result<String> {
    for block in pem::parse_many(key_pem)? {
        let der = match block.tag() {
            "PRIVATE KEY" => block.contents().to_vec(),
            "RSA PRIVATE KEY" => wrap(RSA_ENCRYPTION, block.contents()),
            "EC PRIVATE KEY" => {
                let curve = sec1_curve(block.contents())
                    .ok_or_else(|| Error::Parse("EC private key names no curve".to_owned()))?;
                let mut algorithm = EC_PUBLIC_KEY.to_vec();
                algorithm.extend_from_slice(curve);
                wrap(&algorithm, block.contents())
            }
            _ => continue,
        };
        return Ok(pem::encode(&pem::Pem::new("PRIVATE KEY", der)));
    }
    Err(Error::Parse("no private key found".to_owned()))
}

/// OID 1.2.840.113549.1.1.1 with its NULL parameter.
const RSA_ENCRYPTION: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
/// OID 1.2.840.10045.2.1, to be followed by the curve.
const EC_PUBLIC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

/// PrivateKeyInfo ::= SEQUENCE { version 0, algorithm, OCTET STRING key }
fn wrap(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let mut body = vec![0x02, 0x01, 0x00];
    body.extend(tlv(0x30, algorithm));
    body.extend(tlv(0x04, key));
    tlv(0x30, &body)
}

/// The curve's whole OID element out of a SEC1 key's `[0]` parameters.
fn sec1_curve(der: &[u8]) -> Option<&[u8]> {
    const CURVES: [&[u8]; 3] = [
        &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
        &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22],
        &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23],
    ];
    CURVES.into_iter().find(|c| der.windows(c.len()).any(|w| w == *c))
}
