//! What every object's metadata must satisfy, whatever its kind.

use crate::value::{Get, Put, is_zero};
use crate::{Context, Operation, Room, names};
use api::Value;
use api::field::{Error, ErrorList, Path};

/// All annotations of an object together may not be larger.
pub const ANNOTATIONS_LIMIT: usize = 256 * 1024;
const OWNER: &str = "k8s.io.apimachinery.pkg.apis.meta.v1.OwnerReference";
pub const IMMUTABLE: &str = "field is immutable";

/// The formats that object names have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    Subdomain,
    /// The same, of which nothing is asked of a `generateName`.
    WholeSubdomain,
    Label,
    Label1035,
    /// Anything that can stand in a URL path.
    PathSegment,
    /// An IP address in its canonical form.
    IpAddress,
    /// What a key of a config map may be.
    ConfigKey,
    /// A group and a resource, e.g. `apps.deployments`.
    StorageVersion,
    /// Any text: the kind's own validation says what is wrong.
    Any,
}

impl Names {
    /// What is wrong with a name, or with the start of one.
    pub fn check(self, name: &str, prefix: bool) -> Vec<String> {
        let masked = if prefix { names::mask_trailing_dash(name) } else { name.to_owned() };
        match self {
            Names::Subdomain => names::dns_subdomain(&masked),
            Names::WholeSubdomain if prefix => Vec::new(),
            Names::WholeSubdomain => {
                let texts = names::dns_subdomain(name).into_iter();
                texts.map(|t| t.replace("253 characters", "253 bytes")).collect()
            }
            Names::Label => names::dns_label(&masked),
            Names::Label1035 => names::dns1035_label(&masked),
            Names::PathSegment => names::path_segment(name, prefix),
            Names::IpAddress => {
                let mut errors = ErrorList::new();
                crate::checks::canonical_ip(name, &Path::new(""), &mut errors);
                errors.into_iter().map(|e| e.detail).collect()
            }
            Names::ConfigKey => names::config_key(name),
            Names::StorageVersion => storage_version(name),
            Names::Any => Vec::new(),
        }
    }
}

fn storage_version(name: &str) -> Vec<String> {
    let Some((group, resource)) = name.rsplit_once('.') else {
        return vec!["name must be in the form of <group>.<resource>".into()];
    };
    let group = names::dns_subdomain(group).into_iter().map(|m| format!("the group segment {m}"));
    let resource = names::dns1035_label(resource).into_iter().map(|m| format!("the resource segment {m}"));
    group.chain(resource).collect()
}

/// Metadata that the server keeps, before the room's own `prepare`: an update cannot change the
/// generation, remove a deletion timestamp or lose the uid.
pub fn prepare(op: Operation, new: &mut Value, old: Option<&Value>) {
    let meta = new.ensure("metadata");
    let Some(was) = old.map(|o| o.at("metadata")) else {
        if op == Operation::Create {
            for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
                meta.unset(field);
            }
        }
        return;
    };
    meta.copy_from(was, "generation");
    meta.copy_from(was, "creationTimestamp");
    if meta.text("uid").is_empty() {
        meta.copy_from(was, "uid");
    }
    if was.has("deletionTimestamp") {
        meta.copy_from(was, "deletionTimestamp");
    }
    if was.has("deletionGracePeriodSeconds") && !meta.has("deletionGracePeriodSeconds") {
        meta.copy_from(was, "deletionGracePeriodSeconds");
    }
}

/// How often the metadata of an update is checked by rules of its kind, beyond the once for all kinds:
/// clients see every cause as often as upstream's rules come across it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// As that of a new object.
    object: u8,
    /// As what changes.
    update: u8,
}

impl Checks {
    pub const NONE: Checks = Checks { object: 0, update: 0 };
    pub const UPDATE: Checks = Checks { object: 0, update: 1 };
    pub const OBJECT: Checks = Checks { object: 1, update: 0 };
    pub const BOTH: Checks = Checks { object: 1, update: 1 };
    pub const OBJECT_TWICE: Checks = Checks { object: 2, update: 0 };
}

/// Errors of an object's metadata, on create (`old` is none) or update.
pub fn validate(
    room: &dyn Room,
    cx: &Context<'_>,
    namespaced: bool,
    new: &Value,
    old: Option<&Value>,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("metadata");
    let check = |name: &str, prefix| {
        let own = room.name_errors(new, name, prefix);
        if own.is_empty() { names::path_segment(name, prefix) } else { own }
    };
    match old {
        None => {
            created(new.at("metadata"), namespaced, &check, &path, &mut errors);
            own_finalizers(room, new, &mut errors);
        }
        Some(old) => {
            let (meta, was) = (new.at("metadata"), old.at("metadata"));
            created(meta, namespaced, &names::path_segment, &path, &mut errors);
            updated(meta, was, &path, &mut errors);
            let checks = room.metadata_checks(cx);
            for _ in 0..checks.object {
                created(meta, namespaced, &check, &path, &mut errors);
                own_finalizers(room, new, &mut errors);
            }
            for _ in 0..checks.update {
                updated(meta, was, &path, &mut errors);
                own_finalizers(room, new, &mut errors);
            }
        }
    }
    errors
}

fn own_finalizers(room: &dyn Room, object: &Value, errors: &mut ErrorList) {
    if !room.any_finalizer() {
        known_finalizers(object.at("metadata"), &Path::new("metadata").child("finalizers"), errors);
    }
}

fn created(
    meta: &Value,
    namespaced: bool,
    check: &dyn Fn(&str, bool) -> Vec<String>,
    path: &Path,
    errors: &mut ErrorList,
) {
    let generate = meta.text("generateName");
    if !generate.is_empty() {
        for text in check(generate, true) {
            errors.push(Error::invalid(&path.child("generateName"), generate, text));
        }
    }
    let name = meta.text("name");
    if name.is_empty() {
        errors.push(Error::required(&path.child("name"), "name or generateName is required"));
    } else {
        for text in check(name, false) {
            errors.push(Error::invalid(&path.child("name"), name, text));
        }
    }
    let namespace = meta.text("namespace");
    if !namespaced {
        if !namespace.is_empty() {
            errors.push(Error::forbidden(&path.child("namespace"), "not allowed on this type"));
        }
    } else if namespace.is_empty() {
        errors.push(Error::required(&path.child("namespace"), ""));
    } else {
        for text in names::dns_label(namespace) {
            errors.push(Error::invalid(&path.child("namespace"), namespace, text));
        }
    }
    if meta.int("generation") < 0 {
        let text = "must be greater than or equal to 0";
        errors.push(Error::invalid(&path.child("generation"), meta.int("generation"), text));
    }
    labels(meta.at("labels"), &path.child("labels"), errors);
    annotations(meta.at("annotations"), &path.child("annotations"), errors);
    owner_references(meta.at("ownerReferences"), &path.child("ownerReferences"), errors);
    finalizers(meta, &path.child("finalizers"), errors);
    managed_fields(meta, &path.child("managedFields"), errors);
}

/// Errors of what an update does to metadata.
pub fn updated(meta: &Value, was: &Value, path: &Path, errors: &mut ErrorList) {
    if was.has("deletionTimestamp") {
        let added: Vec<String> = meta
            .texts("finalizers")
            .filter(|f| !was.texts("finalizers").any(|o| o == *f))
            .map(|f| format!("{f:?}"))
            .collect();
        if !added.is_empty() {
            let mut added = added;
            added.sort();
            errors.push(Error::forbidden(
                &path.child("finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    added.join(", ")
                ),
            ));
        }
    }
    if meta.text("resourceVersion").is_empty() {
        let at = path.child("resourceVersion");
        errors.push(Error::invalid(&at, "", "must be specified for an update"));
    }
    if meta.int("generation") < was.int("generation") {
        let at = path.child("generation");
        errors.push(Error::invalid(&at, meta.int("generation"), "must not be decremented"));
    }
    for field in
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        immutable(meta.at(field), was.at(field), &path.child(field), errors);
    }
    labels(meta.at("labels"), &path.child("labels"), errors);
    annotations(meta.at("annotations"), &path.child("annotations"), errors);
    owner_references(meta.at("ownerReferences"), &path.child("ownerReferences"), errors);
    managed_fields(meta, &path.child("managedFields"), errors);
}

/// The name that an object must have, and nothing that would begin another one.
pub fn must_be(meta: &Value, fits: impl Fn(&str) -> bool, text: &str, e: &mut ErrorList) {
    let at = Path::new("metadata");
    for field in ["generateName", "name"] {
        let name = meta.text(field);
        if !name.is_empty() && !fits(name) {
            e.push(Error::invalid(&at.child(field), name, text));
        }
    }
}

/// A field that an update may not change.
pub fn immutable(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    if !crate::value::same(new, old) {
        errors.push(Error::invalid(path, new.clone(), IMMUTABLE));
    }
}

/// As [`immutable`], for whole structures: there an empty object is not an absent one.
pub fn unchanged(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    if !crate::value::identical(new, old) {
        errors.push(Error::invalid(path, new.clone(), IMMUTABLE));
    }
}

/// A map of labels.
pub fn labels(map: &Value, path: &Path, errors: &mut ErrorList) {
    for (key, value) in map.as_object().into_iter().flatten() {
        label_key(key, path, errors);
        let value = value.as_str().unwrap_or_default();
        for text in names::label_value(value) {
            errors.push(Error::invalid(path, value, text));
        }
    }
}

pub fn label_key(key: &str, path: &Path, errors: &mut ErrorList) {
    for text in names::qualified_name(key) {
        errors.push(Error::invalid(path, key, text));
    }
}

/// A map of annotations, and its size.
pub fn annotations(map: &Value, path: &Path, errors: &mut ErrorList) {
    let mut size = 0;
    for (key, value) in map.as_object().into_iter().flatten() {
        for text in names::qualified_name(&key.to_lowercase()) {
            errors.push(Error::invalid(path, key.as_str(), text));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_LIMIT {
        errors.push(Error::too_long(path, ANNOTATIONS_LIMIT));
    }
}

fn owner_references(list: &Value, path: &Path, errors: &mut ErrorList) {
    let mut controller: Option<String> = None;
    for owner in list.as_array().into_iter().flatten() {
        let api_version = owner.text("apiVersion");
        let version = api_version.rsplit('/').next().unwrap_or_default();
        if version.is_empty() || api_version.matches('/').count() > 1 {
            errors.push(Error::invalid(&path.child("apiVersion"), api_version, "version must not be empty"));
        }
        for field in ["kind", "name", "uid"] {
            if owner.text(field).is_empty() {
                errors.push(Error::invalid(&path.child(field), "", "must not be empty"));
            }
        }
        if api_version == "v1" && owner.text("kind") == "Event" {
            let text = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(Error::invalid_printed(path, crate::shown::external(OWNER, owner), text));
        }
        if owner.flag("controller") {
            let name = format!("{}/{}", owner.text("kind"), owner.text("name"));
            match &controller {
                Some(first) => errors.push(Error::invalid_printed(
                    path,
                    crate::shown::external(OWNER, list),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                    ),
                )),
                None => controller = Some(name),
            }
        }
    }
}

/// Removes owners that are listed twice; the uids of those removed.
pub fn dedup_owners(object: &mut Value) -> Vec<String> {
    let Some(Value::Array(owners)) = object.sub("metadata").and_then(|m| m.sub("ownerReferences")) else {
        return Vec::new();
    };
    let mut kept: Vec<Value> = Vec::new();
    let mut removed = Vec::new();
    for owner in std::mem::take(owners) {
        if kept.contains(&owner) {
            removed.push(owner.text("uid").to_owned());
        } else {
            kept.push(owner);
        }
    }
    *owners = kept;
    removed
}

/// Finalizers without a domain are Kubernetes' own few.
pub fn known_finalizers(meta: &Value, path: &Path, errors: &mut ErrorList) {
    for (i, name) in meta.texts("finalizers").enumerate() {
        if !name.contains('/') && !matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") {
            let text = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(Error::invalid(&path.index(i), name, text));
        }
    }
}

fn finalizers(meta: &Value, path: &Path, errors: &mut ErrorList) {
    let (mut orphan, mut foreground) = (false, false);
    for name in meta.texts("finalizers") {
        for text in names::qualified_name(name) {
            errors.push(Error::invalid(path, name, text));
        }
        orphan |= name == "orphan";
        foreground |= name == "foregroundDeletion";
    }
    if orphan && foreground {
        let text = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(Error::invalid(path, meta.at("finalizers").clone(), text));
    }
}

fn managed_fields(meta: &Value, path: &Path, errors: &mut ErrorList) {
    for (i, entry) in meta.list("managedFields").iter().enumerate() {
        if !matches!(entry.text("operation"), "Apply" | "Update") {
            let at = path.index(i).child("operation");
            errors.push(Error::invalid(&at, entry.text("operation"), "must be `Apply` or `Update`"));
        }
        if !matches!(entry.text("fieldsType"), "" | "FieldsV1") {
            let at = path.index(i).child("fieldsType");
            errors.push(Error::invalid(&at, entry.text("fieldsType"), "must be `FieldsV1`"));
        }
        let (manager, at) = (entry.text("manager"), path.index(i).child("manager"));
        if manager.len() > 128 {
            errors.push(Error::too_long(&at, 128));
        }
        errors.extend(names::unprintable(manager).map(|why| Error::invalid(&at, manager, why)));
        if entry.len("subresource") > 256 {
            errors.push(Error::too_long(&path.index(i).child("subresource"), 256));
        }
    }
}

/// What a label selector may say.
#[derive(Clone, Copy, Debug, Default)]
pub struct SelectorOptions {
    /// Values that are no label values were stored before and stay accepted.
    pub allow_invalid_values: bool,
}

/// A `LabelSelector`; an absent one is fine.
pub fn label_selector(selector: &Value, options: SelectorOptions, path: &Path, errors: &mut ErrorList) {
    labels(selector.at("matchLabels"), &path.child("matchLabels"), errors);
    for (i, term) in selector.list("matchExpressions").iter().enumerate() {
        let at = path.child("matchExpressions").index(i);
        match term.text("operator") {
            "In" | "NotIn" if term.len("values") == 0 => errors.push(Error::required(
                &at.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if term.len("values") > 0 => errors.push(Error::forbidden(
                &at.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                errors.push(Error::invalid(&at.child("operator"), other, "not a valid selector operator"))
            }
        }
        label_key(term.text("key"), &at.child("key"), errors);
        if !options.allow_invalid_values {
            for (j, value) in term.texts("values").enumerate() {
                for text in names::label_value(value) {
                    errors.push(Error::invalid(&at.child("values").index(j), value, text));
                }
            }
        }
    }
}

/// A list of `metav1.Condition`.
pub fn conditions(list: &[Value], path: &Path, errors: &mut ErrorList) {
    for (i, c) in list.iter().enumerate() {
        let at = path.index(i);
        let kind = c.text("type");
        if list[..i].iter().any(|o| o.text("type") == kind) {
            errors.push(Error::duplicate(&at.child("type"), kind));
        }
        label_key(kind, &at.child("type"), errors);
        if !matches!(c.text("status"), "True" | "False" | "Unknown") {
            let known = ["True", "False", "Unknown"];
            errors.push(Error::not_supported(&at.child("status"), c.text("status"), &known));
        }
        if c.int("observedGeneration") < 0 {
            let text = "must be greater than or equal to zero";
            errors.push(Error::invalid(&at.child("observedGeneration"), c.int("observedGeneration"), text));
        }
        if is_zero(c.at("lastTransitionTime")) {
            errors.push(Error::required(&at.child("lastTransitionTime"), ""));
        }
        condition_reason(c.text("reason"), &at.child("reason"), errors);
        if c.len("message") > 32 * 1024 {
            errors.push(Error::too_long(&at.child("message"), 32 * 1024));
        }
    }
}

fn condition_reason(reason: &str, path: &Path, errors: &mut ErrorList) {
    if reason.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let ok = reason.starts_with(|c: char| c.is_ascii_alphabetic())
        && reason.bytes().all(|b| word(b) || matches!(b, b',' | b':'))
        && reason.bytes().next_back().is_some_and(word);
    if !ok {
        let text = names::regex_error(
            "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'",
            "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?",
            &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"],
        );
        errors.push(Error::invalid(path, reason, text));
    }
    if reason.len() > 1024 {
        errors.push(Error::too_long(path, 1024));
    }
}

#[cfg(test)]
mod tests;
