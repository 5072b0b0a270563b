//! Which resources exist: the table that discovery, routing, storage, RBAC and columns are read from.
//!
//! The built-in rows are data (`data/resources.json`). A live [`Table`] is a value: custom resources
//! and aggregated APIs make a new one with [`Table::with`], and the server swaps it.

use rustc_hash::{FxHashMap, FxHashSet, FxHasher};
use serde::Deserialize;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

/// One served resource of one group and version.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub resource: String,
    pub singular: String,
    pub kind: String,
    /// Kind of the list; empty means `kind` + `List`.
    pub list_kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub enabled_by_default: bool,
    pub has_status: bool,
    pub subresources: Vec<Subresource>,
    /// Empty for resources that are never stored.
    pub storage_version_hash: String,
    /// `None` = never stored.
    pub etcd: Option<Etcd>,
    /// Server-side columns; empty means the default columns.
    pub columns: Vec<Column>,
    /// Labels that `fieldSelector` accepts.
    pub selectable_fields: Vec<String>,
    /// Selector label to the field it means, where they differ.
    pub field_aliases: BTreeMap<String, String>,
    /// Accepted in selectors, but always empty.
    pub fields_without_value: Vec<String>,
    pub feature_gate: Option<String>,
    pub introduced: Option<String>,
    pub removed_in: Option<String>,
    /// Where the row comes from; built-in rows are the default.
    #[serde(skip)]
    pub origin: Origin,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    #[default]
    Builtin,
    /// From a CustomResourceDefinition.
    Custom,
    /// Served by another server behind an APIService.
    Aggregated,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Subresource {
    pub name: String,
    pub kind: String,
    pub kind_group: String,
    pub kind_version: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

/// How a resource stands in etcd.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Etcd {
    /// Everything before `{namespace}/{name}` (or `{name}`), e.g. `/registry/pods/`.
    pub prefix: String,
    /// Stored group, version and kind.
    pub group: String,
    pub version: String,
    pub kind: String,
    /// JSON instead of protobuf.
    pub json: bool,
}

/// One server-side column.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(from = "(String, String, String, i32)")]
pub struct Column {
    pub name: String,
    pub r#type: String,
    pub format: String,
    pub priority: i32,
}

impl From<(String, String, String, i32)> for Column {
    fn from((name, r#type, format, priority): (String, String, String, i32)) -> Self {
        Column { name, r#type, format, priority }
    }
}

/// A group and version, with its place in discovery.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct GroupVersion {
    pub group: String,
    pub version: String,
    #[serde(default)]
    pub enabled_by_default: bool,
    /// Groups with higher ones come first. Absent = before all others.
    #[serde(default)]
    pub group_priority_minimum: Option<i32>,
    #[serde(default)]
    pub version_priority: Option<i32>,
}

impl GroupVersion {
    /// The row of a custom resource's group version.
    pub fn custom(group: &str, version: &str) -> Self {
        GroupVersion {
            group: group.into(),
            version: version.into(),
            enabled_by_default: true,
            group_priority_minimum: Some(1000),
            version_priority: Some(100),
        }
    }

    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

impl Resource {
    pub fn gvk(&self) -> crate::GroupVersionKind {
        crate::GroupVersionKind::new(&self.group, &self.version, &self.kind)
    }

    pub fn gvr(&self) -> crate::GroupVersionResource {
        crate::GroupVersionResource::new(&self.group, &self.version, &self.resource)
    }

    /// `PodList`.
    pub fn list_kind(&self) -> String {
        if self.list_kind.is_empty() { format!("{}List", self.kind) } else { self.list_kind.clone() }
    }

    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// The key in etcd, `None` for resources that are never stored.
    pub fn etcd_key(&self, namespace: &str, name: &str) -> Option<String> {
        let prefix = &self.etcd.as_ref()?.prefix;
        Some(if self.namespaced { format!("{prefix}{namespace}/{name}") } else { format!("{prefix}{name}") })
    }

    /// The kind it is stored as.
    pub fn stored_gvk(&self) -> Option<crate::GroupVersionKind> {
        self.etcd.as_ref().map(|e| crate::GroupVersionKind::new(&e.group, &e.version, &e.kind))
    }

    /// What a field selector label means, `None` if it is not accepted.
    pub fn selectable_field(&self, label: &str) -> Option<&str> {
        let accepted = self.selectable_fields.iter().find(|f| *f == label)?;
        Some(self.field_aliases.get(label).unwrap_or(accepted))
    }
}

#[derive(Deserialize)]
struct Data {
    group_versions: Vec<GroupVersion>,
    resources: Vec<Resource>,
}

fn data() -> &'static Data {
    static DATA: OnceLock<Data> = OnceLock::new();
    DATA.get_or_init(|| match serde_json::from_str(include_str!("../data/resources.json")) {
        Ok(data) => data,
        // Compiled in, and parsed by every test: a build with a broken table is never shipped.
        Err(e) => unreachable!("resource table: {e}"),
    })
}

/// All rows of the built-in resources, enabled or not.
pub fn builtin() -> &'static [Resource] {
    &data().resources
}

/// All group versions of the built-in resources, enabled or not.
pub fn builtin_group_versions() -> &'static [GroupVersion] {
    &data().group_versions
}

/// The resources that a server serves at one moment.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Arc<Resource>>,
    /// Hash of the three names to rows; equal hashes are told apart by comparing.
    by_resource: FxHashMap<u64, Vec<u32>>,
    by_kind: FxHashMap<u64, Vec<u32>>,
    /// In discovery order: groups by priority, versions of a group best first.
    group_versions: Vec<GroupVersion>,
}

fn hash(a: &str, b: &str, c: &str) -> u64 {
    let mut h = FxHasher::default();
    (a, b, c).hash(&mut h);
    h.finish()
}

impl Table {
    /// The built-in rows that `enabled` lets pass.
    pub fn builtin(enabled: impl Fn(&Resource) -> bool) -> Self {
        let rows = builtin().iter().filter(|r| enabled(r)).map(|r| Arc::new(r.clone())).collect();
        Table::build(rows, builtin_group_versions().to_vec())
    }

    /// The built-in rows that are on by default.
    pub fn defaults() -> Self {
        Self::builtin(|r| r.enabled_by_default)
    }

    /// This table and more rows. A group version that no `group_versions` entry describes gets the
    /// priority of custom resources; rows replace rows of the same name.
    pub fn with(
        &self,
        rows: impl IntoIterator<Item = Resource>,
        group_versions: impl IntoIterator<Item = GroupVersion>,
    ) -> Self {
        let mut all = self.rows.clone();
        let mut places: FxHashMap<u64, usize> =
            all.iter().enumerate().map(|(i, r)| (hash(&r.group, &r.version, &r.resource), i)).collect();
        for row in rows {
            let key = hash(&row.group, &row.version, &row.resource);
            match places.get(&key) {
                Some(&i) => all[i] = Arc::new(row),
                None => {
                    places.insert(key, all.len());
                    all.push(Arc::new(row));
                }
            }
        }
        let mut known = self.group_versions.clone();
        for gv in group_versions {
            known.retain(|k| (&k.group, &k.version) != (&gv.group, &gv.version));
            known.push(gv);
        }
        Table::build(all, known)
    }

    /// This table with versions that another server answers for: they have places in discovery, but no rows.
    pub fn with_foreign(&self, group_versions: Vec<GroupVersion>) -> Self {
        let mut out = self.clone();
        for gv in group_versions {
            out.group_versions.retain(|k| (&k.group, &k.version) != (&gv.group, &gv.version));
            out.group_versions.push(gv);
        }
        out.group_versions = discovery_order(out.group_versions);
        out
    }

    fn build(rows: Vec<Arc<Resource>>, mut known: Vec<GroupVersion>) -> Self {
        let mut table = Table::default();
        let mut served: FxHashSet<(String, String)> = FxHashSet::default();
        for (i, r) in rows.iter().enumerate() {
            table.by_resource.entry(hash(&r.group, &r.version, &r.resource)).or_default().push(i as u32);
            table.by_kind.entry(hash(&r.group, &r.version, &r.kind)).or_default().push(i as u32);
            served.insert((r.group.clone(), r.version.clone()));
        }
        known.retain(|k| served.remove(&(k.group.clone(), k.version.clone())));
        known.extend(served.iter().map(|(group, version)| GroupVersion::custom(group, version)));
        table.group_versions = discovery_order(known);
        table.rows = rows;
        table
    }

    /// All rows.
    pub fn rows(&self) -> &[Arc<Resource>] {
        &self.rows
    }

    /// The row of `/apis/{group}/{version}/…/{resource}`.
    pub fn get(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Resource>> {
        self.by_resource
            .get(&hash(group, version, resource))?
            .iter()
            .map(|&i| &self.rows[i as usize])
            .find(|r| r.group == group && r.version == version && r.resource == resource)
    }

    /// The row of a kind. `autoscaling/v1 Scale` and other kinds of subresources have none.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.by_kind
            .get(&hash(group, version, kind))?
            .iter()
            .map(|&i| &self.rows[i as usize])
            .find(|r| r.group == group && r.version == version && r.kind == kind)
    }

    /// Rows of a group version, sorted by name.
    pub fn in_group_version(&self, group: &str, version: &str) -> Vec<&Arc<Resource>> {
        let mut out: Vec<_> = self.rows.iter().filter(|r| r.group == group && r.version == version).collect();
        out.sort_by(|a, b| a.resource.cmp(&b.resource));
        out
    }

    /// Served group versions in discovery order, the core group included.
    pub fn group_versions(&self) -> &[GroupVersion] {
        &self.group_versions
    }

    /// Served versions of a group, the preferred one first.
    pub fn versions(&self, group: &str) -> impl Iterator<Item = &GroupVersion> {
        self.group_versions.iter().filter(move |gv| gv.group == group)
    }

    /// Served groups in discovery order, without the core group.
    pub fn groups(&self) -> Vec<&str> {
        let mut out: Vec<&str> = Vec::new();
        for gv in &self.group_versions {
            if !gv.group.is_empty() && !out.contains(&gv.group.as_str()) {
                out.push(&gv.group);
            }
        }
        out
    }

    /// The row in the group's preferred version that has the resource.
    pub fn preferred(&self, group: &str, resource: &str) -> Option<&Arc<Resource>> {
        self.versions(group).find_map(|gv| self.get(group, &gv.version, resource))
    }
}

/// Groups by their highest priority, then by name; versions of a group by priority, then as versions compare.
fn discovery_order(mut known: Vec<GroupVersion>) -> Vec<GroupVersion> {
    let mut groups: FxHashMap<String, i32> = FxHashMap::default();
    for gv in &known {
        let p = gv.group_priority_minimum.unwrap_or(i32::MAX);
        let best = groups.entry(gv.group.clone()).or_insert(p);
        *best = p.max(*best);
    }
    let priority = |gv: &GroupVersion| groups.get(&gv.group).copied().unwrap_or(0);
    known.sort_by(|a, b| {
        let by_version = b
            .version_priority
            .unwrap_or(i32::MAX)
            .cmp(&a.version_priority.unwrap_or(i32::MAX))
            .then_with(|| compare_versions(&b.version, &a.version));
        priority(b).cmp(&priority(a)).then_with(|| a.group.cmp(&b.group)).then(by_version)
    });
    known
}

/// Orders `v2 > v1 > v1beta2 > v1beta1 > v1alpha1 >` anything else (by name, reversed).
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    match (kube_version(a), kube_version(b)) {
        (Some(x), Some(y)) => x.cmp(&y),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        (None, None) => b.cmp(a),
    }
}

/// Stability (GA highest), major, minor.
fn kube_version(v: &str) -> Option<(u8, u64, u64)> {
    let rest = v.strip_prefix('v')?;
    let split = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let major = rest[..split].parse().ok()?;
    match &rest[split..] {
        "" => Some((2, major, 0)),
        tail => {
            let (rank, minor) = match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
                (Some(m), _) => (1, m),
                (_, Some(m)) => (0, m),
                _ => return None,
            };
            Some((rank, major, minor.parse().ok()?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_knows_the_odd_keys() {
        let t = Table::defaults();
        for (group, version, resource, want) in [
            ("", "v1", "pods", "/registry/pods/ns/n"),
            ("", "v1", "services", "/registry/services/specs/ns/n"),
            ("", "v1", "endpoints", "/registry/services/endpoints/ns/n"),
            ("", "v1", "nodes", "/registry/minions/n"),
            ("apps", "v1", "deployments", "/registry/deployments/ns/n"),
            ("events.k8s.io", "v1", "events", "/registry/events/ns/n"),
        ] {
            assert_eq!(t.get(group, version, resource).unwrap().etcd_key("ns", "n").unwrap(), want);
        }
        assert_eq!(t.get("", "v1", "bindings").unwrap().etcd_key("ns", "n"), None);
        assert!(t.get("", "v1", "nothing").is_none());
        assert!(t.get("resource.k8s.io", "v1alpha3", "devicetaintrules").is_none(), "off by default");
        assert_eq!(t.by_kind("apps", "v1", "Deployment").unwrap().resource, "deployments");
        let pods = t.get("", "v1", "pods").unwrap();
        assert_eq!(pods.selectable_field("spec.host"), Some("spec.nodeName"));
        assert_eq!(pods.selectable_field("spec.foo"), None);
        assert_eq!(pods.columns[0].name, "Name");
        assert_eq!(t.preferred("autoscaling", "horizontalpodautoscalers").unwrap().version, "v2");
    }

    #[test]
    fn every_stored_kind_is_in_the_field_table() {
        for r in builtin() {
            assert!(crate::schema::for_kind(&r.gvk()).is_some(), "{:?}", r.gvk());
            if let Some(stored) = r.stored_gvk() {
                assert!(crate::schema::for_kind(&stored).is_some(), "{stored:?}");
            }
        }
    }

    #[test]
    fn custom_rows_are_added_and_replaced() {
        let row = Resource {
            group: "example.com".into(),
            version: "v1".into(),
            resource: "widgets".into(),
            kind: "Widget".into(),
            ..Default::default()
        };
        let t = Table::defaults().with([row.clone()], []);
        assert_eq!(t.groups().last(), Some(&"example.com"));
        let t = t.with([Resource { namespaced: true, ..row }], []);
        assert_eq!(t.in_group_version("example.com", "v1").len(), 1);
        assert!(t.get("example.com", "v1", "widgets").unwrap().namespaced);
    }

    #[test]
    fn versions_compare_as_kubernetes_orders_them() {
        let mut v = ["v1alpha1", "foo", "v1", "v10", "v2beta1", "v2", "v1beta1", "bar"];
        v.sort_by(|a, b| compare_versions(b, a));
        assert_eq!(v, ["v10", "v2", "v1", "v2beta1", "v1beta1", "v1alpha1", "bar", "foo"]);
    }
}
