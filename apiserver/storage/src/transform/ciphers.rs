//! The ciphers of encryption at rest, each in the byte layout that upstream writes.

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use aes_gcm::aead::{Aead, Payload};
use aes_gcm::aes::cipher::consts::U12;
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm, KeyInit};
use crypto_secretbox::XSalsa20Poly1305;
use crypto_secretbox::aead::{Aead as _, KeyInit as _};

const SHORT: &str = "the stored data was shorter than the required size";
const REFUSED: &str = "message authentication failed";

/// AES-GCM with the key size that upstream also takes and the library has no name for.
type Aes192Gcm = AesGcm<aes::Aes192, U12>;

/// One key of one scheme.
pub(super) enum Cipher {
    /// IV, then AES-CBC with PKCS#7 padding. The key is 16, 24 or 32 bytes.
    Cbc(Vec<u8>),
    /// Nonce of 12 bytes, then ciphertext and tag; the etcd key is authenticated.
    Gcm128(Box<Aes128Gcm>),
    /// The same with a key of 24 bytes.
    Gcm192(Box<Aes192Gcm>),
    /// The same with a key of 32 bytes.
    Gcm256(Box<Aes256Gcm>),
    /// Nonce of 24 bytes, then a NaCl secretbox.
    Secretbox(Box<XSalsa20Poly1305>),
}

impl Cipher {
    pub(super) fn cbc(key: &[u8]) -> Result<Cipher, String> {
        match key.len() {
            16 | 24 | 32 => Ok(Cipher::Cbc(key.to_vec())),
            n => Err(length(n, "[16 24 32]")),
        }
    }

    pub(super) fn gcm(key: &[u8]) -> Result<Cipher, String> {
        match key.len() {
            16 => Aes128Gcm::new_from_slice(key).map(|c| Cipher::Gcm128(Box::new(c))),
            24 => Aes192Gcm::new_from_slice(key).map(|c| Cipher::Gcm192(Box::new(c))),
            32 => Aes256Gcm::new_from_slice(key).map(|c| Cipher::Gcm256(Box::new(c))),
            n => return Err(length(n, "[16 24 32]")),
        }
        .map_err(|e| e.to_string())
    }

    pub(super) fn secretbox(key: &[u8]) -> Result<Cipher, String> {
        let cipher = XSalsa20Poly1305::new_from_slice(key).map_err(|_| length(key.len(), "[32]"))?;
        Ok(Cipher::Secretbox(Box::new(cipher)))
    }

    pub(super) fn seal(&self, etcd_key: &str, plain: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Cipher::Cbc(key) => {
                let iv: [u8; 16] = rand::random();
                Ok([&iv[..], &cbc_encrypt(key, &iv, plain)?].concat())
            }
            Cipher::Gcm128(cipher) => gcm_seal(&**cipher, etcd_key, plain),
            Cipher::Gcm192(cipher) => gcm_seal(&**cipher, etcd_key, plain),
            Cipher::Gcm256(cipher) => gcm_seal(&**cipher, etcd_key, plain),
            Cipher::Secretbox(cipher) => {
                let nonce: [u8; 24] = rand::random();
                let sealed =
                    cipher.encrypt(&nonce.into(), plain).map_err(|_| "encryption failed".to_owned())?;
                Ok([&nonce[..], &sealed].concat())
            }
        }
    }

    pub(super) fn open(&self, etcd_key: &str, stored: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Cipher::Cbc(key) => {
                let (iv, msg) = split(stored, 16)?;
                cbc_decrypt(key, iv, msg)
            }
            Cipher::Gcm128(cipher) => gcm_open(&**cipher, etcd_key, stored),
            Cipher::Gcm192(cipher) => gcm_open(&**cipher, etcd_key, stored),
            Cipher::Gcm256(cipher) => gcm_open(&**cipher, etcd_key, stored),
            Cipher::Secretbox(cipher) => {
                let (nonce, msg) = split(stored, 24)?;
                let nonce = <[u8; 24]>::try_from(nonce).map_err(|_| SHORT.to_owned())?;
                cipher.decrypt(&nonce.into(), msg).map_err(|_| REFUSED.to_owned())
            }
        }
    }
}

fn gcm_seal<A: Aead<NonceSize = U12>>(cipher: &A, etcd_key: &str, plain: &[u8]) -> Result<Vec<u8>, String> {
    let nonce: [u8; 12] = rand::random();
    let payload = Payload { msg: plain, aad: etcd_key.as_bytes() };
    let sealed = cipher.encrypt(&nonce.into(), payload).map_err(|_| "encryption failed".to_owned())?;
    Ok([&nonce[..], &sealed].concat())
}

fn gcm_open<A: Aead<NonceSize = U12>>(cipher: &A, etcd_key: &str, stored: &[u8]) -> Result<Vec<u8>, String> {
    let (nonce, msg) = split(stored, 12)?;
    let nonce = <[u8; 12]>::try_from(nonce).map_err(|_| SHORT.to_owned())?;
    cipher.decrypt(&nonce.into(), Payload { msg, aad: etcd_key.as_bytes() }).map_err(|_| REFUSED.to_owned())
}

fn split(stored: &[u8], at: usize) -> Result<(&[u8], &[u8]), String> {
    stored.split_at_checked(at).ok_or_else(|| SHORT.to_owned())
}

pub(super) fn length(got: usize, want: &str) -> String {
    format!("secret is not of the expected length, got {got}, expected one of {want}")
}

fn cbc_encrypt(key: &[u8], iv: &[u8], plain: &[u8]) -> Result<Vec<u8>, String> {
    let bad = |_| "invalid key".to_owned();
    Ok(match key.len() {
        16 => cbc::Encryptor::<aes::Aes128>::new_from_slices(key, iv)
            .map_err(bad)?
            .encrypt_padded_vec::<Pkcs7>(plain),
        24 => cbc::Encryptor::<aes::Aes192>::new_from_slices(key, iv)
            .map_err(bad)?
            .encrypt_padded_vec::<Pkcs7>(plain),
        _ => cbc::Encryptor::<aes::Aes256>::new_from_slices(key, iv)
            .map_err(bad)?
            .encrypt_padded_vec::<Pkcs7>(plain),
    })
}

fn cbc_decrypt(key: &[u8], iv: &[u8], stored: &[u8]) -> Result<Vec<u8>, String> {
    let bad = |_| "invalid key".to_owned();
    match key.len() {
        16 => cbc::Decryptor::<aes::Aes128>::new_from_slices(key, iv)
            .map_err(bad)?
            .decrypt_padded_vec::<Pkcs7>(stored),
        24 => cbc::Decryptor::<aes::Aes192>::new_from_slices(key, iv)
            .map_err(bad)?
            .decrypt_padded_vec::<Pkcs7>(stored),
        _ => cbc::Decryptor::<aes::Aes256>::new_from_slices(key, iv)
            .map_err(bad)?
            .decrypt_padded_vec::<Pkcs7>(stored),
    }
    .map_err(|_| "invalid padding on input".to_owned())
}
