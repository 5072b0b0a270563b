//! What browsers are told: which pages of other origins may read answers, and to come back by TLS only.

use crate::body::Body;
use crate::respond;
use anyhow::{Context, bail};
use http::{HeaderMap, HeaderValue, Method, Response, header};
use regex::Regex;

/// `--cors-allowed-origins` and `--strict-transport-security-directives`.
#[derive(Debug, Default)]
pub struct Browsers {
    origins: Vec<Regex>,
    transport: Option<HeaderValue>,
}

/// The headers of a request that decide about its origin.
const ORIGIN_ANSWERS: [(&str, &str); 4] = [
    ("access-control-allow-methods", "POST, GET, OPTIONS, PUT, DELETE, PATCH"),
    (
        "access-control-allow-headers",
        "Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, Authorization, X-Requested-With, If-Modified-Since",
    ),
    ("access-control-expose-headers", "Date"),
    ("access-control-allow-credentials", "true"),
];

impl Browsers {
    /// Checks what the flags say.
    pub fn new(origins: &[String], directives: &[String]) -> anyhow::Result<Browsers> {
        let origins = origins.iter().map(|o| origin(o)).collect::<anyhow::Result<_>>()?;
        for directive in directives {
            match directive.trim() {
                "" => bail!("empty value in strict-transport-security-directives"),
                "includeSubDomains" | "preload" => {}
                age if age.strip_prefix("max-age=").is_some_and(|a| !a.contains('=')) => {}
                _ => bail!(
                    "--strict-transport-security-directives invalid, allowed values: max-age=expireTime, \
                     includeSubDomains, preload. see https://tools.ietf.org/html/rfc6797#section-6.1 for more \
                     information"
                ),
            }
        }
        let transport = match directives {
            [] => None,
            some => Some(
                HeaderValue::from_str(&some.join("; ")).context("strict-transport-security-directives")?,
            ),
        };
        Ok(Browsers { origins, transport })
    }

    /// The origin of a page that may read the answer.
    pub fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        let text = origin.to_str().ok().filter(|o| !o.is_empty())?;
        self.origins.iter().any(|r| r.is_match(text)).then(|| origin.clone())
    }

    /// What a page asks before it asks for anything: answered before anybody has to say who they are.
    pub fn preflight(&self, method: &Method, origin: Option<&HeaderValue>) -> Option<Response<Body>> {
        (origin.is_some() && method == Method::OPTIONS).then(|| {
            let mut response = respond::bytes(204, "text/plain", bytes::Bytes::new());
            response.headers_mut().clear();
            response
        })
    }

    /// Adds to an answer what a browser has to know.
    pub fn tell(&self, origin: Option<HeaderValue>, headers: &mut HeaderMap) {
        if let Some(transport) = &self.transport {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, transport.clone());
        }
        let Some(origin) = origin else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        for (name, value) in ORIGIN_ANSWERS {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}

/// An expression that does not pin both ends of a host would let others in that contain it (CVE-2022-1996).
fn origin(expression: &str) -> anyhow::Result<Regex> {
    let parsed = Regex::new(expression).with_context(|| format!("--cors-allowed-origins {expression:?}"))?;
    let start = expression.starts_with('^') || expression.contains("//");
    let end = expression.ends_with('$') || expression.contains("(:|$)");
    if !(start && end) {
        bail!(
            "regular expression does not pin to start/end of host in the origin header: {expression:?}, see \
             --cors-allowed-origins"
        );
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_that_match_are_let_in_and_told_so() {
        let of = |s: &[&str]| s.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let flags = of(&["^https://ui\\.example\\.org$", "//[^/]+\\.test(:|$)"]);
        let browsers = Browsers::new(&flags, &of(&["max-age=300", "preload"])).unwrap();
        for (origin, allowed) in [
            ("https://ui.example.org", true),
            ("https://ui.example.org.evil", false),
            ("http://a.test:8080", true),
            ("", false),
        ] {
            let mut asked = HeaderMap::new();
            asked.insert(header::ORIGIN, HeaderValue::from_static(origin));
            let found = browsers.allowed(&asked);
            assert_eq!(found.is_some(), allowed, "{origin}");
            assert_eq!(browsers.preflight(&Method::OPTIONS, found.as_ref()).is_some(), allowed);
            assert!(browsers.preflight(&Method::GET, found.as_ref()).is_none());
            let mut told = HeaderMap::new();
            browsers.tell(found, &mut told);
            assert_eq!(told[header::STRICT_TRANSPORT_SECURITY], "max-age=300; preload");
            assert_eq!(told.contains_key("access-control-allow-credentials"), allowed);
        }
    }

    #[test]
    fn flags_that_would_let_in_too_many_are_refused() {
        let of = |s: &str| vec![s.to_owned()];
        for origin in ["example.org", "^example", "("] {
            assert!(Browsers::new(&of(origin), &[]).is_err(), "{origin}");
        }
        for directive in ["", "max-age", "foo", "max-age=1=2"] {
            assert!(Browsers::new(&[], &of(directive)).is_err(), "{directive}");
        }
    }
}
