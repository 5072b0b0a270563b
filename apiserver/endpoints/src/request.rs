//! What a request asks for, read from its path, method and query alone.
//!
//! [`RequestInfo::parse`] promises the same verb, group, namespace, resource, name and subresource that
//! upstream derives, because authorization rules, audit records and metrics are written in those words.
//! The path is percent-decoded once, before it is split: a slash that was encoded separates segments like
//! any other, so no name with a slash in it ever reaches a handler.

use crate::query::Query;
use api::status::{Result, Status};
use http::Method;
use percent_encoding::percent_decode_str;

/// The attributes of a request before anything is known about what the server serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    pub is_resource: bool,
    /// Decoded path, as authorizers of non-resource URLs see it.
    pub path: String,
    pub verb: &'static str,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// Segments after the subresource (of proxies), already decoded.
    pub rest: Vec<String>,
    /// Raw selectors, for authorizers that look at them.
    pub field_selector: String,
    pub label_selector: String,
    /// `/api/v1/watch/...`: the old form of a watch.
    pub verb_in_path: bool,
}

/// What follows a namespace's name without being a resource of its own.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// Reads method, path and query. Fails only on a path that is not UTF-8 or an unfinished special verb.
    pub fn parse(method: &Method, raw_path: &str, query: &Query) -> Result<Self> {
        let path = percent_decode_str(raw_path)
            .decode_utf8()
            .map_err(|_| Status::bad_request("the request path is not valid UTF-8"))?
            .into_owned();
        let mut info = RequestInfo { verb: http_verb(method), ..Default::default() };
        let mut parts: Vec<&str> = split(&path);
        // A path that begins with two slashes is nobody's.
        if path.starts_with("//") {
            parts.clear();
        }
        let grouped = match parts.first() {
            Some(&"api") if parts.len() >= 3 => false,
            Some(&"apis") if parts.len() >= 4 => true,
            _ => {
                info.path = path;
                return Ok(info);
            }
        };
        parts.remove(0);
        if grouped {
            info.group = parts.remove(0).to_owned();
        }
        info.is_resource = true;
        info.version = parts.remove(0).to_owned();
        info.verb = resource_verb(method);
        if matches!(parts[0], "watch" | "proxy") {
            if parts.len() < 2 {
                return Err(Status::internal(format!(
                    "unable to determine kind and namespace from url, {raw_path}"
                )));
            }
            info.verb = if parts[0] == "watch" { "watch" } else { "proxy" };
            info.verb_in_path = true;
            parts.remove(0);
        }
        info.take_resource(&parts);
        info.refine_verb(query);
        if !info.verb_in_path && matches!(info.verb, "list" | "watch" | "deletecollection") {
            info.field_selector = query.get("fieldSelector").unwrap_or_default().to_owned();
            info.label_selector = query.get("labelSelector").unwrap_or_default().to_owned();
        }
        info.path = path;
        Ok(info)
    }

    fn take_resource(&mut self, mut parts: &[&str]) {
        if parts[0] == "namespaces"
            && let Some(ns) = parts.get(1)
        {
            self.namespace = (*ns).to_owned();
            if parts.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&parts[2]) {
                parts = &parts[2..];
            }
        }
        self.resource = parts[0].to_owned();
        if let Some(name) = parts.get(1) {
            self.name = (*name).to_owned();
        }
        if parts.len() >= 3 && self.verb != "proxy" {
            self.subresource = parts[2].to_owned();
            self.rest = parts[3..].iter().map(|s| (*s).to_owned()).collect();
        }
    }

    /// A `get` without a name is a list or a watch; a `delete` without one deletes the collection.
    fn refine_verb(&mut self, query: &Query) {
        if self.name.is_empty() && self.verb == "get" {
            self.verb = if query.flag("watch") { "watch" } else { "list" };
            if let Some(name) = query.get("fieldSelector").and_then(exact_name) {
                self.name = name;
            }
        }
        if self.name.is_empty() && self.verb == "delete" {
            self.verb = "deletecollection";
        }
    }

    /// Whether the name came from the path rather than from a field selector.
    pub fn name_in_path(&self) -> bool {
        !self.name.is_empty() && !matches!(self.verb, "list" | "deletecollection") && !self.watch_of_one()
    }

    fn watch_of_one(&self) -> bool {
        self.verb == "watch" && !self.verb_in_path
    }
}

/// The name of a selector that demands exactly one, e.g. `metadata.name=web`.
fn exact_name(selector: &str) -> Option<String> {
    selector.split(',').find_map(|term| {
        let value = term.trim().strip_prefix("metadata.name=")?;
        let value = value.strip_prefix('=').unwrap_or(value);
        (!value.is_empty() && is_path_segment(value)).then(|| value.to_owned())
    })
}

/// Whether text can be one segment of a path (and so of a key in etcd).
pub fn is_path_segment(name: &str) -> bool {
    path_segment_error(name).is_none()
}

/// Why a name cannot be a path segment, in upstream's words.
pub fn path_segment_error(name: &str) -> Option<String> {
    if name == "." || name == ".." {
        return Some(format!("may not be '{name}'"));
    }
    ['/', '%'].iter().find(|c| name.contains(**c)).map(|c| format!("may not contain '{c}'"))
}

/// Splits a decoded path the way routes are written; inner empty segments are kept and match nothing.
fn split(path: &str) -> Vec<&str> {
    let path = path.trim_matches('/');
    if path.is_empty() { Vec::new() } else { path.split('/').collect() }
}

fn http_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        Method::CONNECT => "connect",
        _ => "",
    }
}

fn resource_verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: Method, uri: &str) -> RequestInfo {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        RequestInfo::parse(&method, path, &Query::parse(query)).unwrap()
    }

    #[test]
    fn paths_become_the_words_of_rbac() {
        // method, path, verb, group, namespace, resource, subresource, name
        let table = [
            (Method::GET, "/api/v1/namespaces", "list", "", "", "namespaces", "", ""),
            (Method::GET, "/api/v1/namespaces/a", "get", "", "a", "namespaces", "", "a"),
            (Method::PUT, "/api/v1/namespaces/a/finalize", "update", "", "a", "namespaces", "finalize", "a"),
            (Method::GET, "/api/v1/namespaces/a/pods", "list", "", "a", "pods", "", ""),
            (Method::GET, "/api/v1/pods?watch=1", "watch", "", "", "pods", "", ""),
            (Method::GET, "/api/v1/pods?watch=false", "list", "", "", "pods", "", ""),
            (Method::GET, "/api/v1/watch/namespaces/a/pods/x", "watch", "", "a", "pods", "", "x"),
            (Method::GET, "/api/v1/namespaces/a/pods/x/log", "get", "", "a", "pods", "log", "x"),
            (
                Method::POST,
                "/apis/apps/v1/namespaces/a/deployments",
                "create",
                "apps",
                "a",
                "deployments",
                "",
                "",
            ),
            (
                Method::DELETE,
                "/apis/apps/v1/namespaces/a/deployments",
                "deletecollection",
                "apps",
                "a",
                "deployments",
                "",
                "",
            ),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                "patch",
                "apps",
                "a",
                "deployments",
                "scale",
                "d",
            ),
            (Method::GET, "/api/v1/pods?fieldSelector=metadata.name%3Dx", "list", "", "", "pods", "", "x"),
            (Method::GET, "/api/v1/namespaces/a%2Fpods", "list", "", "a", "pods", "", ""),
        ];
        for (m, uri, verb, group, ns, res, sub, name) in table {
            let i = info(m, uri);
            assert_eq!(
                (i.verb, &*i.group, &*i.namespace, &*i.resource, &*i.subresource, &*i.name),
                (verb, group, ns, res, sub, name),
                "{uri}"
            );
            assert!(i.is_resource, "{uri}");
        }
    }

    #[test]
    fn what_is_no_resource() {
        for uri in ["/", "/api", "/api/v1", "/apis/apps/v1", "/healthz/etcd", "/version", "/apis"] {
            let i = info(Method::GET, uri);
            assert!(!i.is_resource, "{uri}");
            assert_eq!(i.verb, "get");
        }
        assert!(RequestInfo::parse(&Method::GET, "/api/v1/watch", &Query::parse("")).is_err());
        assert!(RequestInfo::parse(&Method::GET, "/api/%ff/x", &Query::parse("")).is_err());
    }

    #[test]
    fn segments_that_would_walk_are_refused() {
        for bad in [".", "..", "a/b", "a%b"] {
            assert!(!is_path_segment(bad), "{bad}");
        }
        assert!(is_path_segment("a.b") && is_path_segment("system:node"));
    }
}
