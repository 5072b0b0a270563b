//! A definition as the server works with it: compiled once for each change of its spec or names.

use crate::columns::Columns;
use crate::conversion::Conversion;
use api::resources::{Etcd, Origin, Resource, Subresource};
use api::{GroupVersionKind, Value};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use endpoints::served::ScalePaths;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use structural::Patterns;
use structural::rules::Rules;

/// A definition whose names have been accepted.
pub struct Definition {
    pub name: String,
    pub uid: String,
    pub group: String,
    pub plural: String,
    pub kind: String,
    pub namespaced: bool,
    /// Being deleted: nothing new may be created.
    pub terminating: bool,
    pub versions: Vec<Arc<Version>>,
    pub conversion: Arc<Conversion>,
    names: Value,
}

/// One version of a definition.
pub struct Version {
    pub name: String,
    pub served: bool,
    pub storage: bool,
    /// The warning that clients of a deprecated version get.
    pub deprecation: Option<String>,
    /// The structural schema, if there is one.
    pub schema: Option<Value>,
    pub patterns: Patterns,
    pub rules: Option<Rules>,
    pub status: bool,
    pub scale: Option<ScalePaths>,
    pub columns: Columns,
    pub selectable: Vec<String>,
}

fn text(v: &Value, key: &str) -> String {
    v.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn list(v: &Value, key: &str) -> Vec<String> {
    let items = v.get(key).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(|s| s.as_str().map(str::to_owned)).collect()
}

impl Definition {
    /// From a stored CustomResourceDefinition; `None` while no names are accepted.
    pub fn of(crd: &Value) -> Option<Definition> {
        let (metadata, spec) = (&crd["metadata"], &crd["spec"]);
        let names = crd["status"]["acceptedNames"].clone();
        let (plural, kind) = (text(&names, "plural"), text(&names, "kind"));
        if plural.is_empty() || kind.is_empty() || !is_true(crd, "NamesAccepted") {
            return None;
        }
        let group = text(spec, "group");
        let versions = spec["versions"].as_array()?.iter().map(|v| Arc::new(Version::of(v, &group, &kind)));
        let versions: Vec<_> = versions.collect();
        Some(Definition {
            name: text(metadata, "name"),
            uid: text(metadata, "uid"),
            terminating: !metadata["deletionTimestamp"].is_null(),
            namespaced: spec["scope"] == "Namespaced",
            conversion: Arc::new(Conversion::of(spec)),
            group,
            plural,
            kind,
            versions,
            names,
        })
    }

    /// The version that objects are stored in.
    pub fn storage(&self) -> Option<&Arc<Version>> {
        self.versions.iter().find(|v| v.storage)
    }

    pub fn gvk(&self, version: &str) -> GroupVersionKind {
        GroupVersionKind::new(&self.group, version, &self.kind)
    }

    /// Where objects lie in etcd.
    pub fn prefix(&self) -> String {
        format!("/registry/{}/{}/", self.group, self.plural)
    }

    /// The row of a version in the resource table.
    pub fn row(&self, version: &Version) -> Resource {
        let mut verbs =
            vec!["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
        if self.terminating {
            verbs.retain(|v| *v != "create");
        }
        let mut selectable = vec!["metadata.name".to_owned(), "metadata.namespace".to_owned()];
        selectable.extend(version.selectable.iter().cloned());
        Resource {
            group: self.group.clone(),
            version: version.name.clone(),
            resource: self.plural.clone(),
            singular: text(&self.names, "singular"),
            kind: self.kind.clone(),
            list_kind: text(&self.names, "listKind"),
            namespaced: self.namespaced,
            verbs: verbs.into_iter().map(str::to_owned).collect(),
            short_names: list(&self.names, "shortNames"),
            categories: list(&self.names, "categories"),
            enabled_by_default: true,
            has_status: version.status,
            subresources: self.subresources(version),
            storage_version_hash: self.storage_hash(),
            etcd: Some(Etcd {
                prefix: self.prefix(),
                group: self.group.clone(),
                version: self.storage().map(|v| v.name.clone()).unwrap_or_default(),
                kind: self.kind.clone(),
                json: true,
            }),
            columns: version.columns.described(),
            selectable_fields: selectable,
            origin: Origin::Custom,
            ..Resource::default()
        }
    }

    fn subresources(&self, version: &Version) -> Vec<Subresource> {
        let verbs: Vec<String> = ["get", "patch", "update"].map(str::to_owned).into();
        let named = |name: &str, kind_group: &str, kind_version: &str, kind: &str| Subresource {
            name: name.to_owned(),
            kind: kind.to_owned(),
            kind_group: kind_group.to_owned(),
            kind_version: kind_version.to_owned(),
            namespaced: self.namespaced,
            verbs: verbs.clone(),
        };
        let status = version.status.then(|| named("status", &self.group, &version.name, &self.kind));
        let scale = version.scale.as_ref().map(|_| named("scale", "autoscaling", "v1", "Scale"));
        status.into_iter().chain(scale).collect()
    }

    /// Tells versions of storage apart, as upstream does: a hash of group, version and kind.
    fn storage_hash(&self) -> String {
        let version = self.storage().map(|v| v.name.as_str()).unwrap_or_default();
        let whole = Sha256::digest(format!("{}/{version}/{}", self.group, self.kind));
        STANDARD.encode(&whole[..8])
    }
}

/// Whether a condition of a definition is true.
pub fn is_true(crd: &Value, condition: &str) -> bool {
    let conditions = crd["status"]["conditions"].as_array();
    conditions.is_some_and(|c| c.iter().any(|c| c["type"] == condition && c["status"] == "True"))
}

impl Version {
    fn of(v: &Value, group: &str, kind: &str) -> Version {
        let name = text(v, "name");
        let schema = v.get("schema").and_then(|s| s.get("openAPIV3Schema")).cloned();
        let subresource = |key: &str| v.get("subresources").and_then(|s| s.get(key)).filter(|s| !s.is_null());
        let deprecated = v.get("deprecated").and_then(Value::as_bool).unwrap_or_default();
        let deprecation = deprecated.then(|| {
            let own = v.get("deprecationWarning").and_then(Value::as_str).map(str::to_owned);
            own.unwrap_or_else(|| format!("{group}/{name} {kind} is deprecated"))
        });
        let fields = v.get("selectableFields").and_then(Value::as_array).into_iter().flatten();
        Version {
            served: v["served"] == true,
            storage: v["storage"] == true,
            deprecation,
            patterns: schema.as_ref().map(Patterns::of).unwrap_or_default(),
            rules: schema.as_ref().and_then(Rules::of),
            status: subresource("status").is_some(),
            scale: subresource("scale").map(|s| ScalePaths {
                spec_replicas: pointer(&text(s, "specReplicasPath")),
                status_replicas: pointer(&text(s, "statusReplicasPath")),
                selector: s.get("labelSelectorPath").and_then(Value::as_str).map(pointer),
            }),
            columns: Columns::of(v),
            selectable: fields.map(|f| without_dot(&text(f, "jsonPath"))).collect(),
            schema,
            name,
        }
    }
}

/// A JSON path of plain steps as a JSON pointer.
fn pointer(path: &str) -> String {
    path.replace('.', "/")
}

fn without_dot(path: &str) -> String {
    path.trim_start_matches('.').to_owned()
}
