//! A list of keys: writes with the first, reads with whichever a value names.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::ciphers::Cipher;
use super::kms::Provider;
use super::{Transformed, Transformer};

/// How a value of one prefix is sealed and opened.
pub(super) enum Scheme {
    /// A key of the configuration.
    Key(Cipher),
    /// A key management service.
    Kms(Arc<Provider>),
    /// Not at all.
    Plain,
}

/// A prefix that stored values carry, and what is behind it.
pub(super) struct Entry {
    pub(super) prefix: Arc<str>,
    pub(super) scheme: Scheme,
}

/// The providers of a resource in their order.
#[derive(Default)]
pub(super) struct Keyed {
    pub(super) entries: Vec<Arc<Entry>>,
}

impl Keyed {
    /// The entries that a value may have been written with, and their places.
    fn matching<'a>(&'a self, stored: &'a [u8]) -> impl Iterator<Item = (usize, &'a Entry)> {
        self.entries.iter().map(|e| &**e).enumerate().filter(|(_, e)| match e.scheme {
            Scheme::Plain => !stored.starts_with(b"k8s:enc:"),
            _ => stored.starts_with(e.prefix.as_bytes()),
        })
    }
}

impl Entry {
    fn open(&self, key: &str, stored: &Bytes) -> Result<(Bytes, bool), String> {
        let body = &stored[self.prefix.len()..];
        match &self.scheme {
            Scheme::Plain => Ok((stored.clone(), false)),
            Scheme::Key(cipher) => Ok((cipher.open(key, body)?.into(), false)),
            Scheme::Kms(provider) => provider.open(key, body),
        }
    }
}

impl Transformer for Keyed {
    fn transform_from_storage(&self, key: &str, stored: Bytes) -> Result<Transformed, String> {
        let mut error = "no matching prefix found".to_owned();
        // Two keys may have the same name while one takes the other's place.
        for (place, entry) in self.matching(&stored) {
            match entry.open(key, &stored) {
                Ok((bytes, stale)) => return Ok(Transformed { bytes, stale: stale || place > 0 }),
                Err(e) => error = e,
            }
        }
        Err(error)
    }

    fn transform_to_storage(&self, key: &str, plain: Bytes) -> Result<Bytes, String> {
        let Some(entry) = self.entries.first() else { return Ok(plain) };
        let sealed = match &entry.scheme {
            Scheme::Plain => return Ok(plain),
            Scheme::Key(cipher) => cipher.seal(key, &plain)?,
            Scheme::Kms(provider) => provider.seal(key, &plain)?,
        };
        Ok([entry.prefix.as_bytes(), &sealed].concat().into())
    }

    fn prepare(&self, stored: &[u8]) -> Option<BoxFuture<'static, ()>> {
        self.matching(stored).find_map(|(_, entry)| match &entry.scheme {
            Scheme::Kms(provider) => provider.clone().fetch(&stored[entry.prefix.len()..]),
            _ => None,
        })
    }
}
