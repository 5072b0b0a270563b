//! The OpenAPI documents of the API as JSON and protobuf: v2, and v3 with one document a group version.
//!
//! Everything is made from the resource table and the field table when it is first asked for, and
//! kept compressed, so that a server nobody asks pays nothing. Descriptions are the types' own documentation.

mod definitions;
mod documents;
mod gnostic;
mod merge;
mod names;
mod operations;
mod paths;
mod render;
mod texts;

pub use documents::{Document, Documents, Form};
pub use gnostic::encode as v2_protobuf;
pub use gnostic::v3::encode as v3_protobuf;
pub use merge::{Foreign, part_of_v2};
pub use texts::of_fields as field_texts;

use api::Value;
use api::resources::{Resource, Table};
use std::collections::BTreeMap;

/// What differs from server to server.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// `info.version`, e.g. `1.36`.
    pub version: String,
    /// Whether closed string types list their values.
    pub enums: bool,
    /// Whether CBOR is among the media types.
    pub cbor: bool,
    /// Whether `/logs` is served.
    pub logs: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { version: "1.36".into(), enums: true, cbor: false, logs: true }
    }
}

/// What the documents are made from at one moment.
pub struct Source<'a> {
    pub table: &'a Table,
    pub options: &'a Options,
    /// The structural schema of a custom resource, if it has one.
    pub schema_of: &'a dyn Fn(&Resource) -> Option<Value>,
}

/// The whole API as OpenAPI v2.
pub fn v2(source: &Source<'_>) -> Value {
    let mut items = paths::fixed(source.options);
    items.extend(paths::groups(source.table));
    for gv in source.table.group_versions() {
        items.extend(operations::group_version(source, &gv.group, &gv.version));
    }
    render::v2(source, items)
}

/// The paths that [`v3`] has a document for, e.g. `api/v1`, `apis/apps`, `version`.
pub fn v3_paths(source: &Source<'_>) -> Vec<String> {
    let mut out: Vec<String> =
        [".well-known/openid-configuration", "api", "apis", "openid/v1/jwks", "version"]
            .into_iter()
            .map(str::to_owned)
            .collect();
    if source.options.logs {
        out.push("logs".into());
    }
    out.extend(source.table.groups().into_iter().map(|g| format!("apis/{g}")));
    out.extend(source.table.group_versions().iter().map(|gv| {
        if gv.group.is_empty() {
            format!("api/{}", gv.version)
        } else {
            format!("apis/{}/{}", gv.group, gv.version)
        }
    }));
    out.sort();
    out
}

/// One document of OpenAPI v3; `None` for a path that is not served.
pub fn v3(source: &Source<'_>, path: &str) -> Option<Value> {
    let segments: Vec<&str> = path.split('/').collect();
    let own = match segments[..] {
        ["api", version] => Some(("", version)),
        ["apis", group, version] => Some((group, version)),
        _ => None,
    };
    let items = match own {
        Some((group, version)) => operations::group_version(source, group, version),
        None => {
            let prefix = format!("/{path}/");
            let mut all = paths::fixed(source.options);
            all.extend(paths::groups(source.table));
            all.retain(|i| i.path == prefix || (path == "logs" && i.path.starts_with("/logs/")));
            all
        }
    };
    if items.is_empty() { None } else { Some(render::v3(source, items, own)) }
}

/// Definitions by name.
type Definitions = BTreeMap<String, Value>;

#[cfg(test)]
mod tests;
