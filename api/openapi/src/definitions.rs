//! Schemas of messages, in the dialect of either version.

use crate::names;
use api::resources::Resource;
use api::schema::{self, Field, Kind, Label, ListType, Message, Special};
use api::{Map, Value, json};
use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    V2,
    V3,
}

impl Dialect {
    pub fn reference(self, definition: &str) -> Value {
        let base = match self {
            Dialect::V2 => "#/definitions/",
            Dialect::V3 => "#/components/schemas/",
        };
        json!({"$ref": format!("{base}{definition}")})
    }
}

/// Structs of which one member is in use, told by a discriminator if there is one.
type Union = (&'static str, &'static str, &'static [&'static str]);
const UNIONS: &[Union] = &[
    ("io.k8s.api.core.v1.AppArmorProfile", "type", &["localhostProfile"]),
    ("io.k8s.api.core.v1.PodSchedulingGroup", "", &["podGroupName"]),
    ("io.k8s.api.core.v1.SeccompProfile", "type", &["localhostProfile"]),
    ("io.k8s.api.flowcontrol.v1.LimitResponse", "type", &["queuing"]),
    ("io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationSpec", "type", &["exempt", "limited"]),
    ("io.k8s.api.flowcontrol.v1.Subject", "kind", &["group", "serviceAccount", "user"]),
    ("io.k8s.api.scheduling.v1alpha2.PodGroupSchedulingPolicy", "", &["basic", "gang"]),
    ("io.k8s.api.scheduling.v1alpha2.PodGroupTemplateReference", "", &["workload"]),
];

/// The schema of a definition by its published name. A document of one group version says which.
pub fn schema(name: &str, dialect: Dialect, enums: bool, own: Option<(&str, &str)>) -> Option<Value> {
    match name {
        "io.k8s.apimachinery.pkg.apis.meta.v1.Patch" => return Some(json!({"type": "object"})),
        "io.k8s.apimachinery.pkg.version.Info" => return Some(version_info(dialect)),
        _ => {}
    }
    let m = names::message(name)?;
    if let Some(special) = m.special {
        return Some(special_schema(special, m, dialect));
    }
    let mut out = struct_schema(m, dialect, enums);
    if let Some(kinds) = kinds_of(m, dialect, own) {
        out.insert("x-kubernetes-group-version-kind".into(), kinds);
    }
    if let Some((_, discriminator, members)) = UNIONS.iter().find(|u| u.0 == name) {
        out.insert("x-kubernetes-unions".into(), json!([union(discriminator, members)]));
    }
    Some(out.into())
}

fn union(discriminator: &str, members: &[&str]) -> Value {
    let fields: Map<String, Value> =
        members.iter().map(|m| ((*m).to_owned(), names::title(m).into())).collect();
    let mut out = json!({"fields-to-discriminateBy": fields});
    if !discriminator.is_empty() {
        out["discriminator"] = discriminator.into();
    }
    out
}

fn version_info(dialect: Dialect) -> Value {
    let required = [
        "major",
        "minor",
        "gitVersion",
        "gitCommit",
        "gitTreeState",
        "buildDate",
        "goVersion",
        "compiler",
        "platform",
    ];
    let optional = ["emulationMajor", "emulationMinor", "minCompatibilityMajor", "minCompatibilityMinor"];
    let mut properties = Map::new();
    for name in required {
        let text = if dialect == Dialect::V3 {
            json!({"default": "", "type": "string"})
        } else {
            json!({"type": "string"})
        };
        properties.insert(name.into(), text);
    }
    for name in optional {
        properties.insert(name.into(), json!({"type": "string"}));
    }
    json!({"properties": properties, "required": required, "type": "object"})
}

fn special_schema(special: Special, m: &Message, dialect: Dialect) -> Value {
    let v3 = dialect == Dialect::V3;
    match special {
        Special::Quantity if v3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        Special::IntOrString if v3 => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        Special::IntOrString => json!({"format": "int-or-string", "type": "string"}),
        Special::Time | Special::MicroTime | Special::Timestamp => {
            json!({"format": "date-time", "type": "string"})
        }
        Special::Raw if m.short == "JSON" => json!({}),
        Special::Raw | Special::Unknown => json!({"type": "object"}),
        Special::SchemaOrBool | Special::SchemaOrArray | Special::SchemaOrStrings => json!({}),
        Special::Strings => json!({"items": {"type": "string"}, "type": "array"}),
        Special::Quantity | Special::Duration | Special::GroupVersion => json!({"type": "string"}),
    }
}

fn struct_schema(m: &'static Message, dialect: Dialect, enums: bool) -> Map<String, Value> {
    let mut properties = Map::new();
    let mut required = Vec::new();
    collect(m, dialect, enums, &mut properties, &mut required);
    if m.type_meta {
        properties.insert("apiVersion".into(), json!({"type": "string"}));
        properties.insert("kind".into(), json!({"type": "string"}));
    }
    let mut out = Map::new();
    if !properties.is_empty() {
        out.insert("properties".into(), properties.into());
    }
    if !required.is_empty() {
        out.insert("required".into(), required.into());
    }
    out.insert("type".into(), "object".into());
    if m.atomic {
        out.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    out
}

fn collect(
    m: &'static Message,
    dialect: Dialect,
    enums: bool,
    properties: &mut Map<String, Value>,
    required: &mut Vec<Value>,
) {
    for f in &m.fields {
        if let (true, Kind::Message(inner)) = (f.inline, f.kind) {
            collect(inner.message(), dialect, enums, properties, required);
            continue;
        }
        if f.json.is_empty() {
            continue;
        }
        properties.insert(f.json.into(), property(f, dialect, enums));
        if f.required {
            required.push(f.json.into());
        }
    }
}

fn property(f: &'static Field, dialect: Dialect, enums: bool) -> Value {
    let mut out = match f.label {
        Label::One => single(f, dialect, enums),
        Label::List => json!({"items": element(f, dialect, enums), "type": "array"}),
        Label::Map => json!({"additionalProperties": element(f, dialect, enums), "type": "object"}),
    };
    let Some(map) = out.as_object_mut() else { return out };
    let mut put = |key: &str, value: Value| {
        map.insert(key.into(), value);
    };
    match f.list_type {
        Some(ListType::Atomic) => put("x-kubernetes-list-type", "atomic".into()),
        Some(ListType::Set) => put("x-kubernetes-list-type", "set".into()),
        Some(ListType::Map) => put("x-kubernetes-list-type", "map".into()),
        None => {}
    }
    if !f.list_map_keys.is_empty() {
        put("x-kubernetes-list-map-keys", f.list_map_keys.to_vec().into());
    }
    if let Some(t) = f.map_type.or(f.struct_type) {
        put("x-kubernetes-map-type", t.into());
    }
    let strategies = [
        (f.patch_strategy.merge, "merge"),
        (f.patch_strategy.replace, "replace"),
        (f.patch_strategy.retain_keys, "retainKeys"),
    ];
    let named: Vec<&str> = strategies.iter().filter(|s| s.0).map(|s| s.1).collect();
    if !named.is_empty() {
        put("x-kubernetes-patch-strategy", named.join(",").into());
    }
    if let Some(key) = f.patch_merge_key {
        put("x-kubernetes-patch-merge-key", key.into());
    }
    out
}

/// A single value, in v3 with the default that decoding gives it.
fn single(f: &'static Field, dialect: Dialect, enums: bool) -> Value {
    let plain = element(f, dialect, enums);
    if dialect == Dialect::V2 {
        return plain;
    }
    match default_of(f) {
        None => plain,
        Some(default) if plain.get("$ref").is_some() => json!({"allOf": [plain], "default": default}),
        Some(default) => {
            let mut out = plain;
            out["default"] = default;
            out
        }
    }
}

fn default_of(f: &Field) -> Option<Value> {
    if let Some(text) = f.default {
        return text.parse().ok();
    }
    match f.kind {
        _ if f.nullable => None,
        Kind::Message(m) if m.special.is_none() => Some(json!({})),
        Kind::Message(m) if m.special == Some(Special::Duration) && !f.omitempty => Some(0.into()),
        Kind::Message(_) | Kind::Bytes => None,
        _ if f.omitempty => None,
        Kind::String => Some("".into()),
        Kind::Bool => Some(false.into()),
        Kind::Int32 | Kind::Int64 | Kind::Double => Some(0.into()),
    }
}

/// A value of the field's kind.
fn element(f: &'static Field, dialect: Dialect, enums: bool) -> Value {
    match f.kind {
        Kind::String => {
            let mut out = json!({"type": "string"});
            if let (true, Some(mut values)) =
                (enums, f.string_type.and_then(|t| schema::table().enum_values(t)))
            {
                values.sort();
                out["enum"] = values.into();
            }
            out
        }
        Kind::Bytes => json!({"format": "byte", "type": "string"}),
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Int32 => json!({"format": "int32", "type": "integer"}),
        Kind::Int64 => json!({"format": "int64", "type": "integer"}),
        Kind::Double => json!({"format": "double", "type": "number"}),
        Kind::Message(m) => match m.special {
            // Plain Go types that have no definition of their own.
            Some(Special::Strings) => json!({"items": {"type": "string"}, "type": "array"}),
            Some(Special::Duration) => dialect.reference(&names::definition(m.message())),
            _ => dialect.reference(&names::definition(m.message())),
        },
    }
}

/// `x-kubernetes-group-version-kind` of a kind. The kinds that are in every group list all groups in
/// v2, and in v3 the core group and the document's own.
fn kinds_of(m: &Message, dialect: Dialect, own: Option<(&str, &str)>) -> Option<Value> {
    let everywhere = matches!(m.short, "DeleteOptions" | "WatchEvent");
    if !m.type_meta && !everywhere {
        return None;
    }
    let entry = |(group, version): (&str, &str)| json!({"group": group, "version": version, "kind": m.short});
    let (group, version) = schema::table().group_version(m)?;
    if group != "meta.k8s.io" {
        return Some(json!([entry((group, version))]));
    }
    let mut all = BTreeSet::from([("", "v1")]);
    if everywhere {
        match dialect {
            Dialect::V2 => all = all_group_versions(),
            Dialect::V3 => all.extend(own),
        }
    }
    Some(all.into_iter().map(entry).collect())
}

/// Every group version that has kinds, served or not.
fn all_group_versions() -> BTreeSet<(&'static str, &'static str)> {
    // Kinds that are no resources of this server.
    const FOREIGN: [&str; 7] = [
        "meta.k8s.io",
        "metrics.k8s.io",
        "custom.metrics.k8s.io",
        "external.metrics.k8s.io",
        "audit.k8s.io",
        "apidiscovery.k8s.io",
        "apiserver.k8s.io",
    ];
    let table = schema::table();
    table
        .messages()
        .filter(|m| m.type_meta)
        .filter_map(|m| table.group_version(m))
        .filter(|(group, _)| !FOREIGN.contains(group))
        .collect()
}

/// The schema of a custom kind: its structural schema with the fields that all objects have.
pub fn custom(r: &Resource, structural: Option<Value>, dialect: Dialect) -> Value {
    let kinds = json!([{"group": r.group, "version": r.version, "kind": r.kind}]);
    let mut out = match structural {
        Some(v @ Value::Object(_)) => v,
        _ => return json!({"type": "object", "x-kubernetes-group-version-kind": kinds}),
    };
    if dialect == Dialect::V2 {
        // Clients would refuse every field that is not named here.
        if out["x-kubernetes-preserve-unknown-fields"] == true {
            return json!({"type": "object", "x-kubernetes-group-version-kind": kinds});
        }
        plain_for_v2(&mut out);
    }
    let meta = dialect.reference("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    if !out["properties"].is_object() {
        out["properties"] = json!({});
    }
    out["properties"]["apiVersion"] = json!({"type": "string"});
    out["properties"]["kind"] = json!({"type": "string"});
    out["properties"]["metadata"] = meta;
    out["x-kubernetes-group-version-kind"] = kinds;
    out
}

/// v2 has no words for some of a structural schema; what it cannot say is left out.
fn plain_for_v2(v: &mut Value) {
    let Value::Object(map) = v else { return };
    for gone in ["oneOf", "anyOf", "not", "nullable", "default", "x-kubernetes-validations"] {
        map.remove(gone);
    }
    // Clients would refuse unknown fields below: the type is left open.
    if map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        map.remove("items");
        map.remove("properties");
        map.remove("type");
    }
    if map.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        map.remove("type");
    }
    for inner in map.values_mut() {
        match inner {
            Value::Object(children) if !children.contains_key("$ref") => {
                let mut child = Value::Object(std::mem::take(children));
                descend(&mut child);
                *inner = child;
            }
            Value::Array(items) => items.iter_mut().for_each(plain_for_v2),
            _ => {}
        }
    }
}

/// `properties` and its like hold schemas by name; a schema holds schemas by keyword.
fn descend(v: &mut Value) {
    plain_for_v2(v);
}

/// The list of a custom kind.
pub fn custom_list(r: &Resource, item: &str, dialect: Dialect) -> Value {
    json!({
        "properties": {
            "apiVersion": {"type": "string"}, "kind": {"type": "string"},
            "items": {"items": dialect.reference(item), "type": "array"},
            "metadata": dialect.reference("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"),
        },
        "required": ["items"], "type": "object",
        "x-kubernetes-group-version-kind": [{"group": r.group, "version": r.version, "kind": r.list_kind()}],
    })
}
