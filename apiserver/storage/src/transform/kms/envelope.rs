//! What stands in etcd after `k8s:enc:kms:v2:NAME:`, and the ciphers inside of it.

use std::collections::BTreeMap;

use prost::Message;
use ring::hkdf::{HKDF_SHA256, KeyType, Prk};

use crate::transform::ciphers::Cipher;

/// Random bytes of which, with the seed, the key of one write is derived.
const INFO: usize = 32;
/// Least length of a seed.
const SEED: usize = 32;
const MAX_SOURCE: usize = 1024;
const MAX_KEY_ID: usize = 1024;
const MAX_ANNOTATIONS: usize = 32 * 1024;

/// The data key encrypts directly.
pub(super) const KEY: i32 = 0;
/// The data key is a seed: each write has a key of its own, derived with HKDF.
pub(super) const HKDF_SEED: i32 = 1;

/// One stored value.
#[derive(Clone, PartialEq, Message)]
pub(super) struct EncryptedObject {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) encrypted_data: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) key_id: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) encrypted_dek_source: Vec<u8>,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub(super) annotations: BTreeMap<String, Vec<u8>>,
    #[prost(int32, tag = "5")]
    pub(super) source_type: i32,
}

impl EncryptedObject {
    pub(super) fn read(stored: &[u8]) -> Result<EncryptedObject, String> {
        let object = EncryptedObject::decode(stored).map_err(|e| format!("proto: {e}"))?;
        object.validate()?;
        Ok(object)
    }

    /// Bounds, and the fields without which it cannot be opened again.
    pub(super) fn validate(&self) -> Result<(), String> {
        if !matches!(self.source_type, KEY | HKDF_SEED) {
            return Err(format!("unknown encryptedDEKSourceType: {}", self.source_type));
        }
        if self.encrypted_data.is_empty() {
            return Err("encrypted data is empty".to_owned());
        }
        let source = self.encrypted_dek_source.len();
        if source == 0 || source > MAX_SOURCE {
            let why = match source {
                0 => "encrypted DEK source is empty".to_owned(),
                n => format!("encrypted DEK source is {n} bytes, which exceeds the max size of {MAX_SOURCE}"),
            };
            return Err(format!("failed to validate encrypted DEK source: {why}"));
        }
        key_id(&self.key_id).map_err(|(_, e)| format!("failed to validate key id: {e}"))?;
        let size: usize = self.annotations.iter().map(|(k, v)| k.len() + v.len()).sum();
        if size > MAX_ANNOTATIONS {
            return Err(format!(
                "failed to validate annotations: total size of annotations is {size}, which exceeds the max size of {MAX_ANNOTATIONS}"
            ));
        }
        match self.annotations.keys().find(|k| !qualified(k)) {
            None => Ok(()),
            Some(k) => Err(format!(
                "failed to validate annotations: annotations: Invalid value: {k:?}: should be a domain with at least two segments separated by dots"
            )),
        }
    }

    /// What the data key is found by: all but the data.
    pub(super) fn identity(&self) -> Vec<u8> {
        EncryptedObject { encrypted_data: Vec::new(), ..self.clone() }.encode_to_vec()
    }
}

fn qualified(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |l: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !l.is_empty() && l.len() <= 63 && l.bytes().all(inner) && !l.starts_with('-') && !l.ends_with('-')
    };
    name.len() <= 253 && name.split('.').count() >= 2 && name.split('.').all(label)
}

/// Whether a key ID may be used; else a word for the metric, and why not.
pub(super) fn key_id(id: &str) -> Result<(), (&'static str, String)> {
    match id.len() {
        0 => Err(("empty", "keyID is empty".to_owned())),
        n if n > MAX_KEY_ID => {
            Err(("too_long", format!("keyID is {n} bytes, which exceeds the max size of {MAX_KEY_ID}")))
        }
        _ => Ok(()),
    }
}

/// A data key, opened.
pub(super) enum Dek {
    Key(Cipher),
    Seed(Prk),
}

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        32
    }
}

impl Dek {
    pub(super) fn new(source_type: i32, secret: &[u8]) -> Result<Dek, String> {
        if source_type == KEY {
            return Cipher::gcm(secret).map(Dek::Key);
        }
        if secret.len() < SEED {
            return Err(format!("invalid seed length {} used for key generation", secret.len()));
        }
        Ok(Dek::Seed(Prk::new_less_safe(HKDF_SHA256, secret)))
    }

    pub(super) fn seal(&self, etcd_key: &str, plain: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Dek::Key(cipher) => cipher.seal(etcd_key, plain),
            Dek::Seed(seed) => {
                let info: [u8; INFO] = rand::random();
                Ok([&info[..], &derive(seed, &info)?.seal(etcd_key, plain)?].concat())
            }
        }
    }

    pub(super) fn open(&self, etcd_key: &str, sealed: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Dek::Key(cipher) => cipher.open(etcd_key, sealed),
            Dek::Seed(seed) => {
                let (info, rest) = sealed
                    .split_at_checked(INFO)
                    .ok_or("the stored data was shorter than the required size")?;
                derive(seed, info)?.open(etcd_key, rest)
            }
        }
    }
}

/// The key of one write: HKDF's expand step alone, the seed being random already.
fn derive(seed: &Prk, info: &[u8]) -> Result<Cipher, String> {
    let mut key = [0u8; 32];
    let info = [info];
    let expanded = seed.expand(&info, Length).and_then(|okm| okm.fill(&mut key));
    expanded.map_err(|_| "failed to derive a key from KDF".to_owned())?;
    Cipher::gcm(&key)
}
