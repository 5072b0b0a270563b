//! RSA and ECDSA keys from PEM files, their ids, and signatures in the form that JWTs use.

mod der;

use anyhow::{Context, Result, bail};
use api::{Value, json};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, RsaKeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    P256,
    P384,
}

impl Curve {
    fn from_oid(oid: &[u8]) -> Result<Self> {
        match oid {
            der::OID_P256 => Ok(Curve::P256),
            der::OID_P384 => Ok(Curve::P384),
            _ => bail!("unsupported elliptic curve, must be P-256 or P-384"),
        }
    }
    fn signing(self) -> &'static signature::EcdsaSigningAlgorithm {
        match self {
            Curve::P256 => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            Curve::P384 => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
        }
    }
    fn verifying(self) -> &'static dyn signature::VerificationAlgorithm {
        match self {
            Curve::P256 => &signature::ECDSA_P256_SHA256_FIXED,
            Curve::P384 => &signature::ECDSA_P384_SHA384_FIXED,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    Ec { curve: Curve, point: Vec<u8> },
}

/// A key that verifies, with the id that tokens name it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    pub id: String,
    material: Material,
}

impl PublicKey {
    fn new(material: Material) -> Self {
        let spki = match &material {
            Material::Rsa { modulus, exponent } => der::rsa_spki(modulus, exponent),
            Material::Ec { curve: Curve::P256, point } => der::ec_spki(der::OID_P256, point),
            Material::Ec { curve: Curve::P384, point } => der::ec_spki(der::OID_P384, point),
        };
        PublicKey { id: URL_SAFE_NO_PAD.encode(Sha256::digest(spki)), material }
    }

    fn from_spki(spki: &[u8]) -> Result<Self> {
        let (algorithm, parameters, bits) = der::read_spki(spki).context("not a public key")?;
        let material = match algorithm {
            der::OID_RSA => {
                let (modulus, exponent) = der::read_rsa_public(bits).context("not an RSA public key")?;
                Material::Rsa { modulus, exponent }
            }
            der::OID_EC => Material::Ec { curve: Curve::from_oid(parameters)?, point: bits.to_vec() },
            _ => bail!("public key is neither RSA nor ECDSA"),
        };
        Ok(Self::new(material))
    }

    /// The JWT algorithm of signatures by this key.
    pub fn algorithm(&self) -> &'static str {
        match self.material {
            Material::Rsa { .. } => "RS256",
            Material::Ec { curve: Curve::P256, .. } => "ES256",
            Material::Ec { curve: Curve::P384, .. } => "ES384",
        }
    }

    pub fn verify(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        if algorithm != self.algorithm() {
            return false;
        }
        match &self.material {
            Material::Rsa { modulus, exponent } => {
                signature::RsaPublicKeyComponents { n: modulus, e: exponent }
                    .verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature)
                    .is_ok()
            }
            Material::Ec { curve, point } => {
                UnparsedPublicKey::new(curve.verifying(), point).verify(message, signature).is_ok()
            }
        }
    }

    /// As a JSON Web Key.
    pub fn to_jwk(&self) -> Value {
        let mut jwk = json!({"use": "sig", "kid": self.id, "alg": self.algorithm()});
        let encode = |b: &[u8]| Value::from(URL_SAFE_NO_PAD.encode(b));
        match &self.material {
            Material::Rsa { modulus, exponent } => {
                jwk["kty"] = "RSA".into();
                jwk["n"] = encode(modulus);
                jwk["e"] = encode(exponent);
            }
            Material::Ec { curve, point } => {
                let half = point.len().saturating_sub(1) / 2;
                jwk["kty"] = "EC".into();
                jwk["crv"] = if *curve == Curve::P256 { "P-256".into() } else { "P-384".into() };
                jwk["x"] = encode(&point[1..=half]);
                jwk["y"] = encode(&point[1 + half..]);
            }
        }
        jwk
    }
}

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
}

/// A key that signs.
pub struct PrivateKey {
    pair: Pair,
    public: PublicKey,
    random: SystemRandom,
}

impl PrivateKey {
    /// The first private key of a PEM text: PKCS#1, PKCS#8 or SEC 1.
    pub fn from_pem(text: &[u8]) -> Result<Self> {
        for block in pem::parse_many(text).context("not PEM")? {
            if let Some(key) = private_block(&block)? {
                return Ok(key);
            }
        }
        bail!("data does not contain a valid RSA or ECDSA private key")
    }

    fn rsa(der: &[u8]) -> Result<Self> {
        let pair = RsaKeyPair::from_der(der).map_err(|e| anyhow::anyhow!("RSA private key rejected: {e}"))?;
        let (modulus, exponent) =
            der::read_rsa_public(pair.public().as_ref()).context("RSA private key without public half")?;
        let public = PublicKey::new(Material::Rsa { modulus, exponent });
        Ok(PrivateKey { pair: Pair::Rsa(pair), public, random: SystemRandom::new() })
    }

    fn ec(contents: &[u8], curve: Option<Curve>) -> Result<Self> {
        let (secret, named, point) = der::read_ec_private(contents).context("not an EC private key")?;
        let curve = match (curve, named) {
            (Some(curve), _) => curve,
            (None, Some(oid)) => Curve::from_oid(oid)?,
            (None, None) => bail!("the EC private key names no curve"),
        };
        let point = point.context("the EC private key lacks its public key")?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_private_key_and_public_key(curve.signing(), secret, point, &random)
            .map_err(|e| anyhow::anyhow!("EC private key rejected: {e}"))?;
        let public = PublicKey::new(Material::Ec { curve, point: point.to_vec() });
        Ok(PrivateKey { pair: Pair::Ec(pair), public, random })
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let failed = |_| anyhow::anyhow!("signing failed");
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut out = vec![0; pair.public().modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, &self.random, message, &mut out).map_err(failed)?;
                Ok(out)
            }
            Pair::Ec(pair) => Ok(pair.sign(&self.random, message).map_err(failed)?.as_ref().to_vec()),
        }
    }
}

fn private_block(block: &pem::Pem) -> Result<Option<PrivateKey>> {
    let der = block.contents();
    Ok(Some(match block.tag() {
        "RSA PRIVATE KEY" => PrivateKey::rsa(der)?,
        "EC PRIVATE KEY" => PrivateKey::ec(der, None)?,
        "PRIVATE KEY" => {
            let (algorithm, parameters, inner) = der::read_pkcs8(der).context("not a PKCS#8 private key")?;
            match algorithm {
                der::OID_RSA => PrivateKey::rsa(inner)?,
                der::OID_EC => PrivateKey::ec(inner, Some(Curve::from_oid(parameters)?))?,
                _ => bail!("private key is neither RSA nor ECDSA"),
            }
        }
        _ => return Ok(None),
    }))
}

/// All keys of a PEM text as verifying keys: public keys, certificates, and private keys' public halves.
pub fn public_keys_from_pem(text: &[u8]) -> Result<Vec<PublicKey>> {
    let mut keys = Vec::new();
    for block in pem::parse_many(text).context("not PEM")? {
        match block.tag() {
            "PUBLIC KEY" => keys.push(PublicKey::from_spki(block.contents())?),
            "RSA PUBLIC KEY" => {
                let (modulus, exponent) =
                    der::read_rsa_public(block.contents()).context("not an RSA public key")?;
                keys.push(PublicKey::new(Material::Rsa { modulus, exponent }));
            }
            "CERTIFICATE" => {
                let (_, cert) = x509_parser::parse_x509_certificate(block.contents())
                    .map_err(|_| anyhow::anyhow!("not a certificate"))?;
                keys.push(PublicKey::from_spki(cert.public_key().raw)?);
            }
            _ => keys.extend(private_block(&block)?.map(|k| k.public)),
        }
    }
    if keys.is_empty() {
        bail!("data does not contain any valid RSA or ECDSA public keys");
    }
    Ok(keys)
}

#[cfg(test)]
mod tests;
