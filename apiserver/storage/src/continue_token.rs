//! The `continue` token: upstream's format, so that a client may go from one server to the other
//! in the middle of a paged list.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

const INVALID: &str = "invalid continue token: continue key is not valid";

/// Where a paged list goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continue {
    /// The revision of the first page; negative: whatever is current.
    pub revision: i64,
    /// The first etcd key that may be in the page.
    pub start: String,
}

#[derive(Serialize, Deserialize)]
struct Token {
    #[serde(rename = "v", default)]
    version: String,
    #[serde(default)]
    rv: i64,
    #[serde(default)]
    start: String,
}

impl Continue {
    /// The token for a list below `prefix`.
    pub fn encode(&self, prefix: &str) -> String {
        let start = self.start.strip_prefix(prefix).unwrap_or(&self.start).to_owned();
        let token = Token { version: "meta.k8s.io/v1".to_owned(), rv: self.revision, start };
        // A struct of strings and integers cannot fail to serialize.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    /// Reads a token; it can only lead to keys below `prefix`, whatever the client put in.
    pub fn decode(token: &str, prefix: &str) -> Result<Continue> {
        let bad = |e: &dyn std::fmt::Display| Error::InvalidContinue(format!("{INVALID}: {e}"));
        let data = URL_SAFE_NO_PAD.decode(token).map_err(|e| bad(&illegal(token, &e)))?;
        let token: Token = serde_json::from_slice(&data).map_err(|e| bad(&e))?;
        if token.version != "meta.k8s.io/v1" {
            return Err(Error::InvalidContinue(format!(
                "{INVALID}: server does not recognize this encoded version {}",
                token.version
            )));
        }
        if token.rv == 0 {
            return Err(Error::InvalidContinue(format!(
                "{INVALID}: incorrect encoded start resourceVersion (version meta.k8s.io/v1)"
            )));
        }
        if token.start.is_empty() {
            return Err(Error::InvalidContinue(format!(
                "{INVALID}: encoded start key empty (version meta.k8s.io/v1)"
            )));
        }
        let start = token.start.strip_prefix('/').unwrap_or(&token.start);
        if start.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(bad(&token.start));
        }
        Ok(Continue { revision: token.rv, start: format!("{prefix}{start}") })
    }
}

/// Where the text stops to be base64, as Go says it.
fn illegal(token: &str, e: &base64::DecodeError) -> String {
    let at = match e {
        base64::DecodeError::InvalidByte(at, _) => *at,
        base64::DecodeError::InvalidLastSymbol { offset, .. } => *offset,
        _ => token.len() / 4 * 4,
    };
    format!("illegal base64 data at input byte {at}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_in_upstream_format() {
        let c = Continue { revision: 7, start: "/registry/pods/default/a\0".into() };
        let token = c.encode("/registry/pods/");
        let json = String::from_utf8(URL_SAFE_NO_PAD.decode(&token).unwrap()).unwrap();
        assert_eq!(json, r#"{"v":"meta.k8s.io/v1","rv":7,"start":"default/a\u0000"}"#);
        assert_eq!(Continue::decode(&token, "/registry/pods/").unwrap(), c);
    }

    #[test]
    fn refuses_what_we_did_not_make() {
        let make = |v: &str| URL_SAFE_NO_PAD.encode(v);
        for (token, want) in [
            ("%%".to_owned(), "invalid continue token: continue key is not valid: "),
            (make("{"), "invalid continue token: continue key is not valid: "),
            (make(r#"{"v":"v2","rv":1,"start":"a"}"#), "recognize this encoded version v2"),
            (make(r#"{"v":"meta.k8s.io/v1","start":"a"}"#), "incorrect encoded start resourceVersion"),
            (make(r#"{"v":"meta.k8s.io/v1","rv":1}"#), "encoded start key empty"),
            (make(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../secrets/a"}"#), "../secrets/a"),
            (make(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"a//b"}"#), "a//b"),
        ] {
            let err = Continue::decode(&token, "/registry/pods/").unwrap_err().to_string();
            assert!(err.contains(want), "{err} lacks {want}");
        }
    }
}
