//! The body of a PATCH by its media type, and what upstream says when it or its result cannot be read.

use crate::call::Call;
use crate::query::FieldValidation;
use api::decode::{self, Parsed};
use api::field::{Error, Path};
use api::schema::Message;
use api::status::{Result, Status};
use api::{GroupVersionKind, Map, Value};
use bytes::Bytes;
use kinds::shown::{Touched, patched};
use merge::patch::{self, Operations};

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY_YAML: &str = "application/apply-patch+yaml";
const APPLY_CBOR: &str = "application/apply-patch+cbor";

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Json,
    Merge,
    Strategic,
    ApplyYaml,
    ApplyCbor,
}

impl Kind {
    pub fn is_apply(self) -> bool {
        matches!(self, Kind::ApplyYaml | Kind::ApplyCbor)
    }
}

/// How a patch says what to change. Duplicate keys and unknown fields of the document are kept for the strict check.
pub enum Patch {
    Json(Operations, Vec<String>),
    Merge(Parsed),
    Strategic(Parsed),
    Apply(Parsed),
}

/// The kind of patch that a request's media type names. Custom objects have no strategic merge patch.
pub fn kind(call: &Call, builtin: bool) -> Result<Kind> {
    match call.content_type().as_str() {
        JSON_PATCH => Ok(Kind::Json),
        MERGE_PATCH => Ok(Kind::Merge),
        STRATEGIC if builtin => Ok(Kind::Strategic),
        APPLY_YAML => Ok(Kind::ApplyYaml),
        APPLY_CBOR if call.server.speaks_cbor() => Ok(Kind::ApplyCbor),
        found => {
            // Who takes custom objects looks at the media type itself, as does who gets several in one.
            let several = found
                .split(',')
                .any(|t| matches!(t.trim(), JSON_PATCH | MERGE_PATCH | STRATEGIC | APPLY_YAML));
            if !builtin || several {
                let mut names = vec![JSON_PATCH, MERGE_PATCH];
                names.extend(builtin.then_some(STRATEGIC));
                names.push(APPLY_YAML);
                names.extend(call.server.speaks_cbor().then_some(APPLY_CBOR));
                return Err(Status::unsupported_media_type(&names));
            }
            let mut s = Status::new(415, "UnsupportedMediaType", "415: Unsupported Media Type");
            s.details = Some(Box::default());
            Err(s)
        }
    }
}

/// Reads the document. What is wrong with it is only reported once the object is known to exist.
pub fn read(kind: Kind, body: &Bytes, validation: FieldValidation) -> Result<Patch> {
    let lenient = validation == FieldValidation::Ignore;
    let unreadable = |e: String| {
        Status::bad_request(match kind {
            Kind::Strategic => e,
            Kind::Merge if lenient => "Invalid JSON Patch".into(),
            Kind::Json if lenient => e.replace("[]handlers.jsonPatchOp", "jsonpatch.Patch"),
            _ => format!("error decoding patch: {e}"),
        })
    };
    match kind {
        Kind::Json => {
            let parsed = decode::parse_plain(body).map_err(unreadable)?;
            let (operations, unknown) = Operations::read(&parsed.value).map_err(unreadable)?;
            let problems = parsed.duplicates.into_iter().chain(unknown);
            Ok(Patch::Json(operations, problems.map(|p| format!("json patch {p}")).collect()))
        }
        Kind::Merge | Kind::Strategic => {
            let mut parsed = decode::parse_plain(body).map_err(unreadable)?;
            patch::expect_object(&parsed.value).map_err(unreadable)?;
            if kind == Kind::Strategic && parsed.value.is_null() {
                parsed.value = Value::Object(Map::new());
            }
            Ok(if kind == Kind::Merge { Patch::Merge(parsed) } else { Patch::Strategic(parsed) })
        }
        Kind::ApplyYaml => {
            let mut parsed = decode::parse_yaml(body).map_err(|e| {
                Status::bad_request(format!("error decoding YAML: error converting YAML to JSON: {e}"))
            })?;
            applicable(&mut parsed, "error decoding YAML: error unmarshaling JSON: while decoding JSON: ")?;
            Ok(Patch::Apply(parsed))
        }
        Kind::ApplyCbor => {
            let mut parsed = decode::parse(decode::Format::Cbor, body)
                .map_err(|e| Status::bad_request(format!("error decoding CBOR: {e}")))?;
            applicable(&mut parsed, "error decoding CBOR: ")?;
            Ok(Patch::Apply(parsed))
        }
    }
}

/// Only an object can be applied; nothing at all is an empty one.
fn applicable(parsed: &mut Parsed, prefix: &str) -> Result<()> {
    if parsed.value.is_null() {
        parsed.value = Value::Object(Map::new());
    }
    patch::expect_object(&parsed.value).map_err(|e| Status::bad_request(format!("{prefix}{e}")))
}

/// Reads the patch of a request at once.
pub fn parse(call: &Call, builtin: bool, body: &Bytes) -> Result<Patch> {
    read(kind(call, builtin)?, body, FieldValidation::Ignore)
}

impl Patch {
    /// Carries the patch out on a tree.
    pub fn run(&self, gvk: &GroupVersionKind, document: &mut Value) -> Result<()> {
        match self {
            Patch::Json(operations, _) => operations.apply(document),
            Patch::Merge(p) | Patch::Apply(p) => patch::merge_patch(document, &p.value),
            Patch::Strategic(p) => {
                let message = api::schema::for_kind(gvk)
                    .ok_or_else(|| Status::unsupported_media_type(&[JSON_PATCH, MERGE_PATCH]))?;
                patch::strategic(message, document, &p.value)
            }
        }
    }

    /// What the strict check has against the document itself.
    pub fn problems(&self) -> Vec<String> {
        match self {
            Patch::Json(_, problems) => problems.clone(),
            Patch::Merge(p) | Patch::Strategic(p) | Patch::Apply(p) => p.duplicates.clone(),
        }
    }

    /// Brings the patched tree into canonical form and returns what the strict check has against it.
    pub fn decode(
        &self,
        message: &'static Message,
        gvk: &GroupVersionKind,
        new: &mut Value,
    ) -> Result<Vec<String>> {
        let strategic = matches!(self, Patch::Strategic(_));
        if strategic {
            if let Some(why) = ["kind", "apiVersion"].into_iter().find_map(|k| not_text(&new[k])) {
                return Err(self.invalid(Some(message), new, &why));
            }
        } else {
            check_kind(gvk, new).map_err(|why| self.invalid(Some(message), new, &why))?;
        }
        let before = new.clone();
        let mut unknown = decode::conform(message, new).map_err(|e| {
            let e = if strategic { patch::mismatch(message, &before).unwrap_or(e) } else { e };
            self.invalid(Some(message), &before, &e)
        })?;
        if strategic {
            unknown.unknown.sort();
        }
        new["kind"] = gvk.kind.as_str().into();
        new["apiVersion"] = gvk.api_version().into();
        if !new["metadata"].is_object() {
            new["metadata"] = Value::Object(Map::new());
        }
        Ok(self.problems().into_iter().chain(unknown.unknown).collect())
    }

    /// The 422 for a result that is no object of the kind.
    pub fn invalid(&self, message: Option<&'static Message>, result: &Value, why: &str) -> Status {
        let mut touched = Touched::default();
        match self {
            Patch::Json(operations, _) => {
                operations.ways().for_each(|way| touched.mark(way.iter().map(String::as_str)));
            }
            Patch::Merge(p) => touched.merged(&p.value),
            Patch::Strategic(_) | Patch::Apply(_) => {}
        }
        let shown = match (self, message) {
            (Patch::Strategic(p), _) => patch::printed(&p.value),
            (_, Some(message)) => patched(message, result, &touched),
            (_, None) => sorted(result).to_string(),
        };
        let error = Error::invalid(&Path::new("patch"), shown, why);
        Status::invalid("", "", "", &vec![error])
    }
}

/// The keys of the outermost object in order, as the patched text has them.
fn sorted(v: &Value) -> Value {
    let Value::Object(map) = v else { return v.clone() };
    let mut pairs: Vec<_> = map.iter().collect();
    pairs.sort_by_key(|(k, _)| *k);
    Value::Object(pairs.into_iter().map(|(k, v)| (k.clone(), v.clone())).collect())
}

fn not_text(v: &Value) -> Option<String> {
    match v {
        Value::Null | Value::String(_) => None,
        Value::Number(n) if n.is_i64() || n.is_u64() => Some("cannot convert int64 to string".into()),
        _ => Some("unrecognized type: string".into()),
    }
}

/// A patch cannot turn an object into one of another kind, except by taking the kind away.
fn check_kind(gvk: &GroupVersionKind, new: &Value) -> Result<(), String> {
    if !new.is_object() {
        return Err("the result is no object".into());
    }
    let found = decode::kind_of(new, Some(gvk)).map_err(|f| f.error.to_string())?;
    if found == *gvk {
        return Ok(());
    }
    if api::schema::for_kind(&found).is_none() {
        return Err(
            decode::Error::NotRegistered { version: found.api_version(), kind: found.kind }.to_string()
        );
    }
    let group = if gvk.group.is_empty() { "core" } else { gvk.group.split('.').next().unwrap_or_default() };
    let (version, kind) = (&found.version, &found.kind);
    Err(format!("converting ({version}.{kind}) to ({group}.{}): unknown conversion", gvk.kind))
}
