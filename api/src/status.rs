//! API errors: one type that becomes a `metav1.Status`.

use crate::field::{self, ErrorList};
use crate::{Value, json};
use std::fmt;

/// A failed request, with everything that the client's `Status` object carries.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    pub details: Option<Box<Details>>,
    /// `metadata.continue`: how to go on with a list whose token has expired.
    pub continue_token: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    pub name: String,
    pub group: String,
    /// For most reasons the resource (plural); for `Invalid` the kind.
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    pub retry_after_seconds: u32,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cause {
    pub reason: String,
    pub message: String,
    pub field: String,
}

pub type Result<T, E = Status> = std::result::Result<T, E>;

fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

impl Status {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Status { code, reason, message: message.into(), details: None, continue_token: String::new() }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        self.details = Some(Box::new(Details {
            name: name.into(),
            group: group.into(),
            kind: kind.into(),
            ..Default::default()
        }));
        self
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }
    /// `why` is the authorizer's or admission plugin's own sentence.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: impl fmt::Display) -> Self {
        let q = qualified(group, resource);
        let message = match (q.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{q} is forbidden: {why}"),
            (false, false) => format!("{q} {name:?} is forbidden: {why}"),
        };
        Self::new(403, "Forbidden", message).about(group, resource, name)
    }
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", qualified(group, resource)))
            .about(group, resource, name)
    }
    /// No such path at all (unknown group, version or resource).
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }
    pub fn method_not_supported(group: &str, resource: &str, verb: &str) -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            format!("{verb} is not supported on resources of kind {:?}", qualified(group, resource)),
        )
        .about(group, resource, "")
    }
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        Self::new(
            406,
            "NotAcceptable",
            format!("only the following media types are accepted: {}", accepted.join(", ")),
        )
    }
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {name:?} already exists", qualified(group, resource)))
            .about(group, resource, name)
    }
    pub fn conflict(group: &str, resource: &str, name: &str, why: impl fmt::Display) -> Self {
        Self::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(group, resource)),
        )
        .about(group, resource, name)
    }
    /// The conflict that every optimistic writer retries on.
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        Self::conflict(
            group,
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Gone", message)
    }
    /// 410 with the reason that makes clients list again.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {}",
                accepted.join(", ")
            ),
        )
    }
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &ErrorList) -> Self {
        let q = qualified(group, kind);
        // What is wrong twice is said once, though it has two causes.
        let mut texts: Vec<String> = Vec::with_capacity(errors.len());
        for text in errors.iter().map(field::Error::to_string) {
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let body = match texts.as_slice() {
            [] => String::new(),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let mut s =
            Self::new(422, "Invalid", format!("{q} {name:?} is invalid: {body}")).about(group, kind, name);
        if let Some(d) = s.details.as_mut() {
            d.causes = errors
                .iter()
                .map(|e| Cause { reason: e.kind.reason().into(), message: e.body(), field: e.field.clone() })
                .collect();
        }
        s
    }
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut s = Self::new(429, "TooManyRequests", message);
        s.details = Some(Box::new(Details { retry_after_seconds, ..Default::default() }));
        s
    }
    pub fn internal(cause: impl fmt::Display) -> Self {
        let mut s = Self::new(500, "InternalError", format!("Internal error occurred: {cause}"));
        s.details = Some(Box::new(Details {
            causes: vec![Cause { message: cause.to_string(), ..Default::default() }],
            ..Default::default()
        }));
        s
    }
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }
    pub fn timeout(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut s = Self::new(504, "Timeout", message);
        s.details = Some(Box::new(Details { retry_after_seconds, ..Default::default() }));
        s
    }

    /// The `metav1.Status` object.
    pub fn to_value(&self) -> Value {
        let mut v = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            v["reason"] = self.reason.into();
        }
        if !self.continue_token.is_empty() {
            v["metadata"]["continue"] = self.continue_token.as_str().into();
        }
        if let Some(d) = &self.details {
            let mut out = serde_json::Map::new();
            for (k, text) in [("name", &d.name), ("group", &d.group), ("kind", &d.kind), ("uid", &d.uid)] {
                if !text.is_empty() {
                    out.insert(k.into(), text.as_str().into());
                }
            }
            if !d.causes.is_empty() {
                out.insert("causes".into(), d.causes.iter().map(Cause::to_value).collect());
            }
            if d.retry_after_seconds > 0 {
                out.insert("retryAfterSeconds".into(), d.retry_after_seconds.into());
            }
            v["details"] = out.into();
        }
        v
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut out = serde_json::Map::new();
        for (k, text) in [("reason", &self.reason), ("message", &self.message), ("field", &self.field)] {
            if !text.is_empty() {
                out.insert(k.into(), text.as_str().into());
            }
        }
        out.into()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}
