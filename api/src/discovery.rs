//! Discovery documents, made from the resource table.

use crate::resources::{GroupVersion, Origin, Resource, Subresource, Table};
use crate::{Map, Value, json};

/// `/api`
pub fn api_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

fn version_entry(gv: &GroupVersion) -> Value {
    json!({"groupVersion": gv.api_version(), "version": gv.version})
}

fn bare_group(table: &Table, group: &str) -> Option<Value> {
    let versions: Vec<Value> = table.versions(group).map(version_entry).collect();
    let preferred = versions.first()?.clone();
    Some(json!({"name": group, "versions": versions, "preferredVersion": preferred}))
}

/// `/apis`
pub fn group_list(table: &Table) -> Value {
    let groups: Vec<Value> = table.groups().into_iter().filter_map(|g| bare_group(table, g)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/{group}`; `None` if no version of it is served.
pub fn group(table: &Table, group: &str) -> Option<Value> {
    let mut out = bare_group(table, group)?;
    out["kind"] = "APIGroup".into();
    out["apiVersion"] = "v1".into();
    Some(out)
}

/// `/api/v1` and `/apis/{group}/{version}`; `None` if it is not served.
pub fn resource_list(table: &Table, group: &str, version: &str) -> Option<Value> {
    let gv = table.versions(group).find(|gv| gv.version == version)?;
    let mut resources = Vec::new();
    for r in table.in_group_version(group, version) {
        resources.push(resource_entry(r));
        resources.extend(r.subresources.iter().map(|s| subresource_entry(r, s)));
    }
    let mut out = json!({
        "kind": "APIResourceList", "groupVersion": gv.api_version(), "resources": resources,
    });
    // Written by the handler of every group but the core one.
    if !group.is_empty() {
        out["apiVersion"] = "v1".into();
    }
    Some(out)
}

fn put_list(out: &mut Map<String, Value>, key: &str, items: &[String]) {
    if !items.is_empty() {
        out.insert(key.into(), items.into());
    }
}

fn object(v: Value) -> Map<String, Value> {
    match v {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn resource_entry(r: &Resource) -> Value {
    let mut out = object(json!({
        "name": r.resource, "singularName": r.singular, "namespaced": r.namespaced,
        "kind": r.kind, "verbs": r.verbs,
    }));
    put_list(&mut out, "shortNames", &r.short_names);
    put_list(&mut out, "categories", &r.categories);
    if !r.storage_version_hash.is_empty() {
        out.insert("storageVersionHash".into(), r.storage_version_hash.as_str().into());
    }
    out.into()
}

fn is_foreign(r: &Resource, s: &Subresource) -> bool {
    s.kind_group != r.group || s.kind_version != r.version
}

fn subresource_entry(r: &Resource, s: &Subresource) -> Value {
    let mut out = object(json!({
        "name": format!("{}/{}", r.resource, s.name), "singularName": "",
        "namespaced": s.namespaced, "kind": s.kind, "verbs": s.verbs,
    }));
    if is_foreign(r, s) {
        if !s.kind_group.is_empty() {
            out.insert("group".into(), s.kind_group.as_str().into());
        }
        out.insert("version".into(), s.kind_version.as_str().into());
    }
    out.into()
}

/// The aggregated document (`apidiscovery.k8s.io/v2`) of `/api` or of `/apis`.
pub fn aggregated(table: &Table, core: bool) -> Value {
    aggregated_with(table, core, &|_| None)
}

/// The same, where `foreign` has the entries of versions that another server answers for.
pub fn aggregated_with(table: &Table, core: bool, foreign: &dyn Fn(&GroupVersion) -> Option<Value>) -> Value {
    let groups = if core { vec![""] } else { table.groups() };
    let items: Vec<Value> = groups.into_iter().map(|g| aggregated_group(table, g, foreign)).collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {}, "items": items,
    })
}

/// One group of the aggregated document.
fn aggregated_group(table: &Table, group: &str, foreign: &dyn Fn(&GroupVersion) -> Option<Value>) -> Value {
    let versions: Vec<Value> = table
        .versions(group)
        .map(|gv| {
            if let Some(entry) = foreign(gv) {
                return entry;
            }
            let resources: Vec<Value> =
                table.in_group_version(group, &gv.version).into_iter().map(|r| discovery_entry(r)).collect();
            json!({"version": gv.version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
    json!({"metadata": metadata, "versions": versions})
}

/// Built-in kinds of the resource's own group version are given without group and version.
fn response_kind(r: &Resource, group: &str, version: &str, kind: &str) -> Value {
    let own = r.origin == Origin::Builtin && group == r.group && version == r.version;
    let (group, version) = if own { ("", "") } else { (group, version) };
    json!({"group": group, "version": version, "kind": kind})
}

fn discovery_entry(r: &Resource) -> Value {
    let mut out = object(json!({
        "resource": r.resource,
        "responseKind": response_kind(r, &r.group, &r.version, &r.kind),
        "scope": if r.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": r.singular,
        "verbs": r.verbs,
    }));
    put_list(&mut out, "shortNames", &r.short_names);
    put_list(&mut out, "categories", &r.categories);
    let subresources: Vec<Value> = r
        .subresources
        .iter()
        .map(|s| {
            json!({
                "subresource": s.name,
                "responseKind": response_kind(r, &s.kind_group, &s.kind_version, &s.kind),
                "verbs": s.verbs,
            })
        })
        .collect();
    if !subresources.is_empty() {
        out.insert("subresources".into(), subresources.into());
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn documents_equal_the_goldens() {
        let gz = include_bytes!("../testdata/discovery.tar.gz");
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&gz[..]));
        let table = Table::builtin(|_| true);
        let mut seen = 0;
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().trim_start_matches("./").to_string();
            let Some(name) = path.strip_suffix(".json") else { continue };
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            let want: Value = serde_json::from_str(&text).unwrap();
            let parts: Vec<&str> = name.split("__").collect();
            let mut got = match parts[..] {
                ["aggregated_v2"] => aggregated(&table, false),
                ["api"] => api_versions("10.10.10.10:8050"),
                ["apis"] => group_list(&table),
                ["api", version] => resource_list(&table, "", version).unwrap(),
                ["apis", g] => group(&table, g).unwrap(),
                ["apis", g, version] => resource_list(&table, g, version).unwrap(),
                _ => panic!("{name}"),
            };
            if got["metadata"] == json!({}) && want.get("metadata").is_none() {
                got.as_object_mut().unwrap().remove("metadata");
            }
            assert_eq!(got, want, "{name}");
            seen += 1;
        }
        assert!(seen > 50, "{seen}");
    }
}
