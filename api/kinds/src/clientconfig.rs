//! How to call a webhook: by URL or through a service.

use crate::names;
use crate::value::Get;
use api::Value;
use api::field::{Error, ErrorList, Path};

/// A `clientConfig` of admission webhooks and of conversion webhooks.
pub fn validate(config: &Value, at: &Path, e: &mut ErrorList) {
    match (config.opt_text("url"), config.has("service")) {
        (Some(address), false) => url(address, &at.child("url"), e),
        (None, true) => service(config.at("service"), &at.child("service"), e),
        _ => e.push(Error::required(at, "exactly one of url or service is required")),
    }
}

fn url(text: &str, at: &Path, e: &mut ErrorList) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (scheme, rest) = match rest.split_once(':') {
        Some(("", _)) => {
            let text = format!("url must be a valid URL: parse {text:?}: missing protocol scheme{FORM}");
            return e.push(Error::required(at, text));
        }
        Some((scheme, rest)) if scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) => {
            (scheme.to_ascii_lowercase(), rest)
        }
        _ => (String::new(), rest),
    };
    let authority = rest.strip_prefix("//").map_or("", |r| r.split('/').next().unwrap_or_default());
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    if scheme != "https" {
        e.push(Error::invalid(at, scheme, format!("'https' is the only allowed URL scheme{FORM}")));
    }
    if host.is_empty() {
        e.push(Error::invalid(at, host, format!("host must be specified{FORM}")));
    }
    if let Some(user) = user {
        e.push(Error::invalid(at, user, "user information is not permitted in the URL"));
    }
    if !fragment.is_empty() {
        e.push(Error::invalid(at, fragment, "fragments are not permitted in the URL"));
    }
    if !query.is_empty() {
        e.push(Error::invalid(at, query, "query parameters are not permitted in the URL"));
    }
}

fn service(service: &Value, at: &Path, e: &mut ErrorList) {
    // Upstream takes one for the other here, and clients see that.
    for (field, shown) in [("name", "namespace"), ("namespace", "name")] {
        if service.len(field) == 0 {
            e.push(Error::required(&at.child(shown), ""));
        }
    }
    let port = service.int("port");
    let wrong = names::port_number(port);
    if !wrong.is_empty() {
        let text = format!("port is not valid: {}", wrong.join(", "));
        e.push(Error::invalid(&at.child("port"), port, text));
    }
    url_path(service.text("path"), &at.child("path"), e);
}

fn url_path(path: &str, at: &Path, e: &mut ErrorList) {
    if path.is_empty() || path == "/" {
        return;
    }
    if path == "//" {
        return e.push(Error::invalid(at, path, "segment[0] may not be empty"));
    }
    if !path.starts_with('/') {
        e.push(Error::invalid(at, path, "must start with a '/'"));
    }
    let inner = path.char_indices().nth(1).map_or("", |(i, _)| &path[i..]);
    for (i, step) in inner.strip_suffix('/').unwrap_or(inner).split('/').enumerate() {
        if step.is_empty() {
            e.push(Error::invalid(at, path, format!("segment[{i}] may not be empty")));
            continue;
        }
        for why in names::dns_subdomain(step) {
            e.push(Error::invalid(at, path, format!("segment[{i}]: {why}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn checked() {
        let service =
            |path: &str| json!({"service": {"name": "a", "namespace": "b", "port": 443, "path": path}});
        for (config, want) in [
            (json!({"url": "https://a.b/c"}), ""),
            (service("/a/b"), ""),
            (json!({}), "c: Required value: exactly one of url or service is required"),
            (json!({"url": "http://a"}), "c.url: Invalid value: \"http\": 'https' is the only allowed"),
            (json!({"url": "https:///a"}), "c.url: Invalid value: \"\": host must be specified"),
            (json!({"url": "https://u@a"}), "c.url: Invalid value: \"u\": user information"),
            (json!({"url": "https://a/#f"}), "c.url: Invalid value: \"f\": fragments"),
            (json!({"url": "https://a/?q=1"}), "c.url: Invalid value: \"q=1\": query"),
            (service("a"), "c.service.path: Invalid value: \"a\": must start with a '/'"),
            (service("/a//b"), "c.service.path: Invalid value: \"/a//b\": segment[1] may not be empty"),
            (
                json!({"service": {"name": "a", "namespace": "b", "port": 0}}),
                "c.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535",
            ),
        ] {
            let mut e = ErrorList::new();
            validate(&config, &Path::new("c"), &mut e);
            let first = e.first().map(ToString::to_string).unwrap_or_default();
            assert!(first.starts_with(want) && first.is_empty() == want.is_empty(), "{first}");
        }
    }
}
