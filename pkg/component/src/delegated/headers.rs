//! Users that an authenticating front proxy vouches for by request headers.

use std::collections::BTreeMap;

use http::HeaderMap;
use rustls_pki_types::CertificateDer;

use super::User;
use crate::serve::tls::ClientCa;

/// Which proxies are believed, and in which headers they speak.
#[derive(Debug)]
pub struct FrontProxy {
    /// Authorities of the proxies' client certificates; never those of ordinary clients.
    pub ca: ClientCa,
    /// Common names that a proxy may have; any if empty.
    pub allowed_names: Vec<String>,
    /// Headers that hold the user name.
    pub username: Vec<String>,
    /// Headers that hold the UID.
    pub uid: Vec<String>,
    /// Headers that hold groups.
    pub group: Vec<String>,
    /// Prefixes of headers that hold extra facts.
    pub extra_prefix: Vec<String>,
}

impl FrontProxy {
    /// The user whom a proxy names, if the peer is a proxy we believe.
    pub fn user(&self, chain: &[CertificateDer<'static>], headers: &HeaderMap) -> Option<User> {
        let first = |names: &[String]| {
            names
                .iter()
                .find_map(|n| headers.get(n)?.to_str().ok())
                .filter(|v| !v.is_empty())
                .map(str::to_owned)
        };
        let name = first(&self.username)?;
        self.ca.verify(chain).ok()?;
        let proxy = User::from_certificate(chain.first()?)?;
        if !self.allowed_names.is_empty() && !self.allowed_names.contains(&proxy.name) {
            return None;
        }
        let groups = self.group.iter().flat_map(|n| headers.get_all(n)).filter_map(|v| v.to_str().ok());
        Some(User {
            name,
            uid: first(&self.uid).unwrap_or_default(),
            groups: groups.map(str::to_owned).collect(),
            extra: self.extra(headers),
        })
    }

    fn extra(&self, headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
        let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in headers {
            let key =
                self.extra_prefix.iter().find_map(|p| name.as_str().strip_prefix(&p.to_ascii_lowercase()));
            if let (Some(key), Ok(value)) = (key, value.to_str()) {
                out.entry(unescape(key)).or_default().push(value.to_owned());
            }
        }
        out
    }
}

/// Percent-decoding; header names cannot hold every character of a key.
fn unescape(key: &str) -> String {
    let bytes = key.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let code = key.get(i + 1..i + 3).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[i], code) {
            (b'%', Some(code)) => {
                out.push(code);
                i += 3;
            }
            (b, _) => {
                out.push(b);
                i += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| key.to_owned())
}
