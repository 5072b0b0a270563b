//! What the documents say in words: of types and fields what the types' own documentation says (gathered by
//! `build.rs`), of operations and parameters what stands here.

use crate::Definitions;
use crate::names;
use crate::paths::{Operation, Parameter, Place};
use api::{Map, Value};
use flate2::read::GzDecoder;
use std::io::Read;

static TEXTS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.json.gz"));

/// Texts by definition, then by field; the definition's own stands under the empty name.
fn texts() -> Value {
    let mut json = Vec::new();
    // Both steps read what the build wrote; without texts the documents are as correct, only silent.
    let _ = GzDecoder::new(TEXTS).read_to_end(&mut json);
    serde_json::from_slice(&json).unwrap_or_default()
}

/// What the types say of fields: for each question the first of its (message, field) pairs that has a text.
pub fn of_fields(questions: &[Vec<(String, String)>]) -> Vec<Option<String>> {
    let texts = texts();
    let text = |(message, field): &(String, String)| {
        let definition = names::definition(api::schema::message(message)?);
        Some(texts.get(definition)?.get(field)?.as_str()?.to_owned())
    };
    questions.iter().map(|places| places.iter().find_map(text)).collect()
}

/// Adds the texts to the definitions of one document.
pub fn describe(definitions: &mut Definitions) {
    let texts = texts();
    for (name, schema) in definitions {
        let own = texts.get(name).and_then(Value::as_object);
        if let Some(schema) = schema.as_object_mut() {
            describe_definition(name, own, schema);
        }
    }
}

fn describe_definition(name: &str, own: Option<&Map<String, Value>>, schema: &mut Map<String, Value>) {
    let list = name.rsplit('.').next().and_then(|kind| kind.strip_suffix("List"));
    if let Some(text) = own.and_then(|o| o.get("")) {
        schema.entry("description").or_insert(text.clone());
    } else if let Some(kind) = list {
        schema.entry("description").or_insert(format!("{kind}List is a list of {kind} objects.").into());
    }
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (field, property) in properties {
        let text =
            own.and_then(|o| o.get(field)).cloned().or_else(|| Some(common(name, field, list)?.into()));
        if let (Some(text), Some(property)) = (text, property.as_object_mut()) {
            add(property, text);
        }
    }
}

/// Whatever stands beside a `$ref` is not read, so the reference moves into an `allOf`.
fn add(property: &mut Map<String, Value>, text: Value) {
    if let Some(reference) = property.remove("$ref") {
        property.insert("allOf".into(), api::json!([{ "$ref": reference }]));
    }
    property.entry("description").or_insert(text);
}

/// Fields that every object or list has.
fn common(name: &str, field: &str, list: Option<&str>) -> Option<String> {
    Some(match (field, list) {
        ("apiVersion", _) => "APIVersion defines which schema this object follows, as GROUP/VERSION.".into(),
        ("kind", _) => "Kind is the REST resource that this object represents, in CamelCase.".into(),
        ("metadata", Some(_)) => {
            "Standard list metadata: its resource version, and where to continue.".into()
        }
        ("metadata", None) => "Standard object's metadata: its name, labels, owners and so on.".into(),
        ("object", None) if name.ends_with(".WatchEvent") => {
            "Object is what was added, changed or deleted; of type ERROR, the Status that says why.".into()
        }
        ("items", Some(kind)) => format!("The {kind} objects of the list."),
        _ => return None,
    })
}

/// One line for an operation at a path.
pub fn operation(o: &Operation, path: &str) -> Option<String> {
    let kind = o.gvk.as_ref().and_then(|g| g["kind"].as_str()).unwrap_or_default();
    let below = path.split("{name}/").nth(1).map(|rest| rest.split('/').next().unwrap_or_default());
    let owner = owner(path);
    Some(match (o.action, below) {
        ("connect", Some(sub)) => format!("connect {} requests to {sub} of {owner}", o.method.to_uppercase()),
        ("get", None) => format!("read the specified {kind}"),
        ("get", Some(sub)) => format!("read {sub} of the specified {}", parent(kind, &owner)),
        ("put", None) => format!("replace the specified {kind}"),
        ("put", Some(sub)) => format!("replace {sub} of the specified {}", parent(kind, &owner)),
        ("patch", None) => format!("partially update the specified {kind}"),
        ("patch", Some(sub)) => format!("partially update {sub} of the specified {}", parent(kind, &owner)),
        ("post", None) => format!("create {}", a(kind)),
        ("post", Some(sub)) => format!("create {sub} of a {owner}"),
        ("delete", _) => format!("delete {}", a(kind)),
        ("deletecollection", _) => format!("delete collection of {kind}"),
        ("list", _) if kind == "ComponentStatus" => format!("list objects of kind {kind}"),
        ("list", _) => format!("list or watch objects of kind {kind}"),
        ("watch", _) => format!(
            "watch changes to an object of kind {kind}. deprecated: use the 'watch' parameter with a list operation instead, filtered to a single item with the 'fieldSelector' parameter."
        ),
        ("watchlist", _) => format!(
            "watch individual changes to a list of {kind}. deprecated: use the 'watch' parameter with a list operation instead."
        ),
        _ => return fixed(path),
    })
}

fn fixed(path: &str) -> Option<String> {
    let text = match path.trim_matches('/') {
        ".well-known/openid-configuration" => {
            "get the discovery document of the service account issuer (OpenID Connect)"
        }
        "openid/v1/jwks" => "get the service account issuer's public keys as a JSON Web Key Set",
        "version" => "get the version information for this server",
        "api" | "apis" => "get available API versions",
        p if p.starts_with("logs") => return None,
        p if p.starts_with("apis/") && p.matches('/').count() == 1 => "get information of a group",
        _ => "get available resources",
    };
    Some(text.to_owned())
}

/// A subresource of a kind of its own belongs to the resource in the path.
fn parent<'a>(kind: &'a str, owner: &'a str) -> &'a str {
    if kind == "Scale" { owner } else { kind }
}

/// The kind of the resource whose name stands in the path.
fn owner(path: &str) -> String {
    let plural = path.split("/{name}").next().and_then(|p| p.rsplit('/').next()).unwrap_or_default();
    match plural {
        "deployments" => "Deployment",
        "nodes" => "Node",
        "pods" => "Pod",
        "replicasets" => "ReplicaSet",
        "replicationcontrollers" => "ReplicationController",
        "serviceaccounts" => "ServiceAccount",
        "services" => "Service",
        "statefulsets" => "StatefulSet",
        other => other,
    }
    .to_owned()
}

fn a(kind: &str) -> String {
    match kind.chars().next() {
        _ if kind == "Endpoints" => kind.to_owned(),
        Some('A' | 'E' | 'I' | 'O') => format!("an {kind}"),
        _ => format!("a {kind}"),
    }
}

/// What a parameter means; `kind` is that of the operations that take it.
pub fn parameter(p: &Parameter, kind: &str) -> String {
    if p.place == Place::Path && p.name == "name" {
        return format!("name of the {kind}");
    }
    PARAMETERS
        .iter()
        .find(|(name, _)| *name == p.name)
        .map(|(_, text)| (*text).to_owned())
        .unwrap_or_default()
}

const PARAMETERS: &[(&str, &str)] = &[
    (
        "allowWatchBookmarks",
        "Send BOOKMARK events, which tell a watch how far it has come although nothing changed.",
    ),
    ("command", "The command to run, one parameter an argument. No shell interprets it."),
    ("container", "The pod's container that is meant. Needed only where the pod has more than one."),
    (
        "continue",
        "The token of the previous page, for the next. A token that has grown too old gives 410 (Gone), with a token for going on without consistency.",
    ),
    (
        "dryRun",
        "`All` goes through all stages of the request but the last: nothing is stored. Nothing else is valid.",
    ),
    (
        "fieldManager",
        "Who makes the change, as recorded in managedFields: at most 128 printable characters. Needed for applies; otherwise taken from the user agent.",
    ),
    ("fieldSelector", "Only objects whose fields match this selector."),
    (
        "fieldValidation",
        "What to do with unknown and duplicate fields in the body: `Ignore` drops them silently, `Warn` (the default) drops them and sends a warning for each, `Strict` refuses the request.",
    ),
    ("follow", "Go on sending the log as it grows."),
    ("force", "Take over fields that others own instead of failing with a conflict. Only for applies."),
    (
        "gracePeriodSeconds",
        "Seconds the object has to end by itself; 0 deletes at once. Left out, the default of the kind counts.",
    ),
    (
        "ignoreStoreReadErrorWithClusterBreakingPotential",
        "Delete an object that can no longer be read from storage, without its finalizers and preconditions. This may break the cluster.",
    ),
    (
        "insecureSkipTLSVerifyBackend",
        "Do not verify the serving certificate of the node that the log is read from.",
    ),
    ("labelSelector", "Only objects whose labels match this selector."),
    ("limit", "At most so many objects; the rest is had with the `continue` token of the answer."),
    ("limitBytes", "At most so many bytes of the log; the last line may be cut."),
    ("logpath", "path to the log"),
    ("namespace", "The namespace of the object, or of those that are listed."),
    (
        "orphanDependents",
        "Deprecated in favour of propagationPolicy: leave the dependents of the object alone.",
    ),
    ("path", "The rest of the URL path, which is passed on."),
    ("ports", "The ports to forward. Needed where WebSockets are used."),
    ("pretty", "Indent the answer for human readers."),
    ("previous", "The log of the container's previous run."),
    (
        "propagationPolicy",
        "What becomes of the object's dependents: `Orphan` leaves them, `Background` deletes them afterwards, `Foreground` deletes them first.",
    ),
    (
        "resourceVersion",
        "How new the answer must be: left out, the newest; `0`, whatever the server has at hand; otherwise as resourceVersionMatch says.",
    ),
    ("resourceVersionMatch", "How resourceVersion is meant: `NotOlderThan` or `Exact`."),
    (
        "sendInitialEvents",
        "Begin a watch with the objects that are there, then a bookmark annotated `k8s.io/initial-events-end`. Needs resourceVersionMatch=NotOlderThan.",
    ),
    ("shardSelector", "Only the objects of a share of all, chosen by a CEL expression over a hash."),
    ("sinceSeconds", "Only lines of the last so many seconds."),
    ("sinceTime", "Only lines since this time (RFC 3339)."),
    ("stderr", "Connect the container's standard error."),
    ("stdin", "Connect the container's standard input."),
    ("stdout", "Connect the container's standard output."),
    ("stream", "Which of the container's streams: `All`, `Stdout` or `Stderr`."),
    ("tailLines", "Only so many lines from the end."),
    ("timeoutSeconds", "End a list or watch after so many seconds."),
    ("timestamps", "Begin each line with its time (RFC 3339)."),
    ("tty", "Give the command a terminal."),
    ("watch", "Send changes as a stream of events, from resourceVersion on, instead of a list."),
];
