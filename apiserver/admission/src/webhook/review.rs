//! The AdmissionReview that goes out, and what comes back.

use crate::attributes::Attributes;
use crate::matching::Match;
use crate::objects::{at, strings, text};
use crate::scene;
use crate::versions::shown;
use api::status::{Details, Status};
use api::{Value, json};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A request as one hook sees it.
pub struct Invocation {
    /// Without the objects.
    pub attributes: Attributes,
    object: Option<Value>,
    old_object: Option<Value>,
    seen_as: Match,
}

impl Invocation {
    pub fn new(a: &Attributes, seen_as: Match) -> Self {
        let object = a.object.as_ref().map(|o| shown(o, &seen_as.kind));
        let old_object = a.old_object.as_deref().map(|o| shown(o, &seen_as.kind));
        Invocation { attributes: a.shallow(), object, old_object, seen_as }
    }

    pub fn uid(&self) -> String {
        uuid::Uuid::new_v4().to_string()
    }
    pub fn into_object(self) -> Option<Value> {
        self.object
    }
}

pub fn request(uid: &str, version: &str, invocation: &Invocation) -> Value {
    let mut request = scene::request(&invocation.attributes, &invocation.seen_as);
    request["uid"] = uid.into();
    request["object"] = json!(invocation.object);
    request["oldObject"] = json!(invocation.old_object);
    json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": request})
}

/// A well-formed answer.
#[derive(Debug)]
pub struct Answer {
    allowed: bool,
    status: Value,
    pub patch: Option<Vec<u8>>,
    pub warnings: Vec<String>,
    pub annotations: Vec<(String, String)>,
}

/// Checks an answer against the contract.
pub fn answer(uid: &str, version: &str, mutating: bool, body: &Value) -> Result<Answer, String> {
    let response = at(body, &["response"]);
    if !response.is_object() {
        return Err("webhook response was absent".into());
    }
    let encoded = text(response, &["patch"]);
    let patch_type = at(response, &["patchType"]).as_str();
    if version == "v1" {
        check_v1(uid, mutating, body, encoded, patch_type)?;
    }
    let patch = match encoded {
        "" => None,
        _ if !mutating => None,
        _ => Some(STANDARD.decode(encoded).map_err(|e| format!("undecodable response.patch: {e}"))?),
    };
    let annotations = at(response, &["auditAnnotations"]).as_object();
    Ok(Answer {
        allowed: at(response, &["allowed"]) == &Value::Bool(true),
        status: at(response, &["status"]).clone(),
        patch,
        warnings: strings(response, &["warnings"]),
        annotations: annotations
            .into_iter()
            .flatten()
            .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
            .collect(),
    })
}

fn check_v1(
    uid: &str,
    mutating: bool,
    body: &Value,
    patch: &str,
    patch_type: Option<&str>,
) -> Result<(), String> {
    let given = text(body, &["response", "uid"]);
    if given != uid {
        return Err(format!("expected response.uid={uid:?}, got {given:?}"));
    }
    let (version, kind) = (text(body, &["apiVersion"]), text(body, &["kind"]));
    if (version, kind) != ("admission.k8s.io/v1", "AdmissionReview") {
        let (group, v) = version.split_once('/').unwrap_or(("", version));
        return Err(format!(
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {group}/{v}, Kind={kind}"
        ));
    }
    match (mutating, patch.is_empty(), patch_type) {
        (true, false, None) => Err("webhook returned response.patch but not response.patchType".into()),
        (true, true, Some(_)) => Err("webhook returned response.patchType but not response.patch".into()),
        (true, false, Some(t)) if t != "JSONPatch" => {
            Err(format!("webhook returned invalid response.patchType of {t:?}"))
        }
        (false, false, _) => Err("validating webhook may not return response.patch".into()),
        (false, _, Some(_)) => Err("validating webhook may not return response.patchType".into()),
        _ => Ok(()),
    }
}

impl Answer {
    /// The error of a request that the hook does not allow.
    pub fn refusal(&self, hook: &str) -> Option<Status> {
        if self.allowed {
            return None;
        }
        let denied = format!("admission webhook {hook:?} denied the request");
        let (message, reason) = (text(&self.status, &["message"]), text(&self.status, &["reason"]));
        let text = match (message, reason) {
            ("", "") => format!("{denied} without explanation"),
            ("", reason) => format!("{denied}: {reason}"),
            (message, _) => format!("{denied}: {message}"),
        };
        let code = at(&self.status, &["code"]).as_u64().and_then(|c| u16::try_from(c).ok()).unwrap_or(0);
        let code = if (400..600).contains(&code) { code } else { 400 };
        let mut status = Status::new(code, known_reason(reason), text);
        let details = at(&self.status, &["details"]);
        if details.is_object() {
            let of = |key: &str| text_of(details, key);
            status.details = Some(Box::new(Details {
                name: of("name"),
                group: of("group"),
                kind: of("kind"),
                uid: of("uid"),
                ..Default::default()
            }));
        }
        Some(status)
    }
}

fn text_of(v: &Value, key: &str) -> String {
    text(v, &[key]).to_owned()
}

/// Reasons are a closed set here; one that is not in it travels in the message only.
fn known_reason(reason: &str) -> &'static str {
    const KNOWN: [&str; 18] = [
        "Unauthorized",
        "Forbidden",
        "NotFound",
        "AlreadyExists",
        "Conflict",
        "Gone",
        "Invalid",
        "ServerTimeout",
        "Timeout",
        "TooManyRequests",
        "BadRequest",
        "MethodNotAllowed",
        "NotAcceptable",
        "RequestEntityTooLarge",
        "UnsupportedMediaType",
        "InternalError",
        "Expired",
        "ServiceUnavailable",
    ];
    KNOWN.into_iter().find(|k| *k == reason).unwrap_or("")
}
