use super::*;
use api::{Map, json};
use std::io::Read;

/// The documents of a server with every API on.
fn goldens() -> BTreeMap<String, Value> {
    let gz = include_bytes!("../testdata/openapi.tar.gz");
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&gz[..]));
    let mut out = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().trim_start_matches("./").to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        if let Some(name) = path.strip_suffix(".json") {
            out.insert(name.to_owned(), serde_json::from_str(&text).unwrap());
        }
    }
    out
}

fn all_on() -> (Table, Options) {
    let options = Options { version: "unversioned".into(), enums: false, cbor: true, logs: true };
    (Table::builtin(|_| true), options)
}

/// Brings a document into one of its equal forms: without descriptions, references to parameters resolved,
/// `allOf` around a single reference taken off.
fn plain(v: &Value, parameters: &Map<String, Value>) -> Value {
    match v {
        Value::Array(items) => items.iter().map(|i| plain(i, parameters)).collect(),
        Value::Object(map) => {
            if let Some(name) =
                map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/parameters/"))
            {
                return plain(&parameters[name], parameters);
            }
            let worded = |k: &str, v: &Value| k == "description" && v.is_string();
            let mut out: Map<String, Value> = map
                .iter()
                .filter(|(k, v)| !worded(k, v))
                .map(|(k, v)| (k.clone(), plain(v, parameters)))
                .collect();
            if let Some(Value::Array(all)) = out.get("allOf").cloned()
                && let [Value::Object(one)] = all.as_slice()
            {
                out.remove("allOf");
                out.extend(one.clone());
            }
            out.into()
        }
        other => other.clone(),
    }
}

fn differences(at: &str, got: &Value, want: &Value, out: &mut Vec<String>) {
    match (got, want) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                let (x, y) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
                differences(&format!("{at} {key}"), x, y, out);
            }
        }
        (a, b) if a != b => out.push(format!("{at}: got {a} want {b}").chars().take(300).collect()),
        _ => {}
    }
}

#[test]
fn documents_equal_the_goldens() {
    let (table, options) = all_on();
    let source = Source { table: &table, options: &options, schema_of: &|_| None };
    let goldens = goldens();
    assert!(goldens.len() > 50);
    let mut wrong = Vec::new();
    for (name, want) in &goldens {
        let got = if name == "swagger" {
            v2(&source)
        } else {
            v3(&source, &name.replace("__", "/")).unwrap_or_else(|| panic!("{name}"))
        };
        let parameters =
            |v: &Value| v.get("parameters").and_then(Value::as_object).cloned().unwrap_or_default();
        let (mut got, mut want) = (plain(&got, &parameters(&got)), plain(want, &parameters(want)));
        for v in [&mut got, &mut want] {
            v.as_object_mut().unwrap().remove("parameters");
        }
        differences(name, &got, &want, &mut wrong);
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong[..wrong.len().min(60)].join("\n"));
}

/// What has no documentation of its own.
const SILENT: &[&str] = &[
    ".JSONSchemaProps.",
    ".ExternalDocumentation.",
    ".GroupResource.",
    ".WatchEvent",
    ".version.Info.",
    "v1alpha1.MatchCondition",
    ".IngressRule.http",
    " /logs/",
];

#[test]
fn everything_is_described() {
    let (table, options) = all_on();
    let document = v2(&Source { table: &table, options: &options, schema_of: &|_| None });
    let mut silent = Vec::new();
    let described = |v: &Value| v["description"].as_str().is_some_and(|t| !t.is_empty());
    for (name, schema) in document["definitions"].as_object().unwrap() {
        if !described(schema) {
            silent.push(name.clone());
        }
        let fields = schema["properties"].as_object().into_iter().flatten();
        silent.extend(fields.filter(|(_, p)| !described(p)).map(|(f, _)| format!("{name}.{f}")));
    }
    for (name, parameter) in document["parameters"].as_object().unwrap() {
        if !described(parameter) {
            silent.push(format!("parameter {name}"));
        }
    }
    for (path, operations) in document["paths"].as_object().unwrap() {
        let operations = operations.as_object().unwrap().iter().filter(|(method, _)| *method != "parameters");
        silent
            .extend(operations.filter(|(_, o)| !described(o)).map(|(method, _)| format!("{method} {path}")));
    }
    silent.retain(|s| !SILENT.iter().any(|part| s.contains(part)));
    assert!(silent.is_empty(), "{} without a text: {:#?}", silent.len(), &silent[..silent.len().min(60)]);
}

#[test]
fn custom_resources_are_described() {
    let row = Resource {
        group: "example.com".into(),
        version: "v1".into(),
        resource: "widgets".into(),
        kind: "Widget".into(),
        namespaced: true,
        verbs: ["get", "list", "create", "update", "patch", "delete", "watch"].map(str::to_owned).into(),
        origin: api::resources::Origin::Custom,
        ..Default::default()
    };
    let table = Table::defaults().with([row], []);
    let schema = |_: &Resource| {
        Some(
            json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"n": {"type": "integer", "nullable": true}}}}}),
        )
    };
    let documents = Documents::new(table, Options::default(), schema);
    let v3: Value =
        serde_json::from_slice(&documents.v3("apis/example.com/v1", Form::Json).unwrap().plain()).unwrap();
    let widget = &v3["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(widget["properties"]["spec"]["properties"]["n"]["nullable"], true);
    assert_eq!(widget["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
    assert!(v3["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"]["patch"].is_object());
    let v2: Value = serde_json::from_slice(&documents.v2_json().plain()).unwrap();
    assert!(v2["definitions"]["com.example.v1.WidgetList"].is_object());
    let root: Value = serde_json::from_slice(&documents.v3_root().plain()).unwrap();
    let url = root["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().unwrap();
    assert_eq!(
        url,
        format!("/openapi/v3/apis/example.com/v1?hash={}", documents.v3_hash("apis/example.com/v1"))
    );
    assert!(documents.v3("apis/nothing/v1", Form::Json).is_none());
    assert!(documents.v2_protobuf().gzip.len() < 2 << 20);
    let protobuf = documents.v3("apis/example.com/v1", Form::Protobuf).unwrap();
    assert_eq!(protobuf.hash, documents.v3_hash("apis/example.com/v1"));
}

/// Pieces of what gnostic's own encoder makes of this document.
#[test]
fn v3_as_protobuf() {
    let document = json!({
        "openapi": "3.0.0", "info": {"title": "T", "version": "1"},
        "paths": {"/a/": {"get": {
            "tags": ["a"], "operationId": "getA",
            "parameters": [{"name": "p", "in": "query", "schema": {"type": "integer", "uniqueItems": true}}],
            "requestBody": {"content": {"*/*": {"schema": {"$ref": "#/components/schemas/A"}}}},
            "responses": {"200": {"description": "OK"}}}}},
        "components": {
            "schemas": {"A": {"type": "object", "default": {}, "required": ["x"], "properties": {
                "x": {"allOf": [{"$ref": "#/components/schemas/B"}], "default": "d"}},
                "additionalProperties": false, "x-k": {"a": "b"}}},
            "securitySchemes": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header"}}},
    });
    let encoded = crate::v3_protobuf(&document);
    let has = |part: &[u8]| encoded.windows(part.len()).any(|w| w == part);
    assert!(encoded.starts_with(b"\x0a\x053.0.0\x12\x06\x0a\x01T\x32\x011\x22"));
    assert!(has(b"\x0a\x01p\x12\x05query\x52\x0f\x0a\x0d\xa0\x01\x01\xca\x01\x07integer"), "{encoded:x?}");
    assert!(
        has(b"\x82\x02\x02\x10\x00\x8a\x02\x00\xa2\x02"),
        "additionalProperties, a default, then the extension"
    );
    assert!(has(b"\x8a\x02\x03\x1a\x01d"), "a default that is a string");
    assert!(has(b"\x0a\x06apiKey\x1a\x0dauthorization\x22\x06header"));
}
