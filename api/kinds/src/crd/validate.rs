//! Validation of definitions, all but the schemas and the expressions in them.

use super::schema::{Options, schema};
use crate::metadata::{immutable, must_be};
use crate::value::Get;
use crate::{Context, checks, clientconfig, names};
use api::Value;
use api::field::{Error, ErrorList, Path};
use std::collections::HashSet;

pub fn validate(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let (status, at_status) = (new.at("status"), Path::new("status"));
    if cx.subresource == "status" {
        return resource_names(status.at("acceptedNames"), &at_status.child("acceptedNames"), e);
    }
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    let (group, plural) = (spec.text("group"), spec.at("names").text("plural"));
    if old.is_none() {
        let fits = |name: &str| name.strip_suffix(group).and_then(|n| n.strip_suffix('.')) == Some(plural);
        must_be(new.at("metadata"), fits, "must be spec.names.plural+\".\"+spec.group", e);
    }
    self::spec(spec, old, &at, e);
    if let Some(old) = old {
        unchanged(spec, old, &at, e);
    }
    resource_names(status.at("acceptedNames"), &at_status.child("acceptedNames"), e);
    stored_versions(status, spec, &at_status.child("storedVersions"), e);
    approval(new, old, e);
    let before = old.is_some_and(|o| o.at("spec").flag("preserveUnknownFields"));
    if spec.flag("preserveUnknownFields") && !before {
        let text = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        e.push(Error::invalid(&at.child("preserveUnknownFields"), true, text));
    }
}

fn spec(spec: &Value, old: Option<&Value>, at: &Path, e: &mut ErrorList) {
    let group = spec.text("group");
    if checks::required(spec, "group", at, e) {
        let wrong = names::dns_subdomain(group);
        if !wrong.is_empty() {
            e.push(Error::invalid(&at.child("group"), group, wrong.join(",")));
        } else if !group.contains('.') {
            e.push(Error::invalid(&at.child("group"), group, "should be a domain with at least one dot"));
        }
    }
    checks::one_of_required(spec.text("scope"), &["Cluster", "Namespaced"], &at.child("scope"), e);
    versions(spec, old, at, e);
    let (names, at_names) = (spec.at("names"), at.child("names"));
    for field in ["plural", "singular", "kind", "listKind"] {
        checks::required(names, field, &at_names, e);
    }
    resource_names(names, &at_names, e);
    shared(spec, old, at, e);
    conversion(spec, old, &at.child("conversion"), e);
}

fn versions(spec: &Value, old: Option<&Value>, at: &Path, e: &mut ErrorList) {
    let list = spec.list("versions");
    let had = |v: &Value| v.at("schema").has("openAPIV3Schema");
    let asked = old.is_none_or(|o| o.at("spec").list("versions").iter().all(had));
    let all_at = at.child("versions");
    for (i, v) in list.iter().enumerate() {
        if !had(v) && (asked || v.flag("served")) {
            let text = if asked { "" } else { "because otherwise all fields are pruned" };
            e.push(Error::required(&all_at.index(i).child("schema").child("openAPIV3Schema"), text));
        }
    }
    let mut seen = HashSet::new();
    for (i, v) in list.iter().enumerate() {
        let (at, name) = (all_at.index(i), v.text("name"));
        let wrong = names::dns1035_label(name);
        if !wrong.is_empty() {
            e.push(Error::invalid(&at.child("name"), name, wrong.join(",")));
        }
        if i == 0 && !wrong.is_empty() {
            // The first version is also the one that older clients know.
            e.push(Error::invalid(&Path::new("spec").child("version"), name, wrong.join(",")));
        }
        deprecation(v, &at.child("deprecationWarning"), e);
        seen.insert(name);
    }
    if seen.len() < list.len() {
        let text = "must contain unique version names";
        e.push(Error::invalid(&all_at, spec.at("versions").clone(), text));
    }
    if list.iter().filter(|v| v.flag("storage")).count() != 1 {
        let text = "must have exactly one version marked as storage version";
        e.push(Error::invalid(&all_at, spec.at("versions").clone(), text));
    }
}

/// What all versions say alike is checked once, and named as if it stood outside of them: so do the
/// objects that upstream works with.
fn shared(spec: &Value, old: Option<&Value>, at: &Path, e: &mut ErrorList) {
    let list = spec.list("versions");
    let Some(first) = list.first() else { return };
    let stored = old.map(|o| o.at("spec").list("versions")).unwrap_or_default();
    for (key, outside) in [
        ("schema", "validation"),
        ("subresources", "subresources"),
        ("additionalPrinterColumns", "additionalPrinterColumns"),
        ("selectableFields", "selectableFields"),
    ] {
        let check = |v: &Value, at: &Path, e: &mut ErrorList| match key {
            "schema" => {
                let status = v.at("subresources").has("status");
                let options = Options::new(stored);
                schema(
                    v.at("schema").at("openAPIV3Schema"),
                    status,
                    &options,
                    &at.child("openAPIV3Schema"),
                    e,
                );
            }
            "subresources" => scale(v.at(key).at("scale"), at, e),
            "additionalPrinterColumns" => {
                for (i, column) in v.list(key).iter().enumerate() {
                    self::column(column, &at.index(i), e);
                }
            }
            _ => selectable(v, at, e),
        };
        if list.iter().all(|v| v.at(key) == first.at(key)) {
            check(first, &at.child(outside), e);
        } else {
            for (i, v) in list.iter().enumerate() {
                check(v, &at.child("versions").index(i).child(key), e);
            }
        }
    }
}

fn deprecation(version: &Value, at: &Path, e: &mut ErrorList) {
    let Some(text) = version.opt_text("deprecationWarning") else { return };
    let mut wrong = Vec::new();
    if !version.flag("deprecated") {
        wrong.push("can only be set for deprecated versions".to_owned());
    } else {
        if text.len() > 256 {
            wrong.push("must be <= 256 characters long".to_owned());
        }
        if text.is_empty() {
            wrong.push("must not be an empty string".to_owned());
        }
        if let Some((i, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
            wrong.push(format!(
                "must only contain printable UTF-8 characters; non-printable character found at index {i}"
            ));
        }
    }
    checks::texts(text, wrong, at, e);
}

fn resource_names(n: &Value, at: &Path, e: &mut ErrorList) {
    let mut check = |value: &str, at: &Path, mixed: bool| {
        let lower = value.to_lowercase();
        let wrong = names::dns1035_label(if mixed { &lower } else { value });
        if !wrong.is_empty() {
            let start = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            e.push(Error::invalid(at, value, format!("{start}{}", wrong.join(","))));
        }
    };
    for (field, mixed) in [("plural", false), ("singular", false), ("kind", true), ("listKind", true)] {
        if n.len(field) > 0 {
            check(n.text(field), &at.child(field), mixed);
        }
    }
    for list in ["shortNames", "categories"] {
        for (i, text) in n.texts(list).enumerate() {
            check(text, &at.child(list).index(i), false);
        }
    }
    if n.len("kind") > 0 && n.text("kind") == n.text("listKind") {
        let text = "kind and listKind may not be the same";
        e.push(Error::invalid(&at.child("listKind"), n.text("listKind"), text));
    }
}

fn simple_path(path: &str, at: &Path, e: &mut ErrorList) -> bool {
    let good = path.starts_with('.');
    if !good {
        e.push(Error::invalid(at, path, "must be a simple json path starting with ."));
    }
    good
}

fn scale(scale: &Value, at: &Path, e: &mut ErrorList) {
    if scale.is_null() {
        return;
    }
    let at = at.child("scale");
    for (field, parent) in [("specReplicasPath", "spec"), ("statusReplicasPath", "status")] {
        if !checks::required(scale, field, &at, e) {
            continue;
        }
        let path = scale.text(field);
        if simple_path(path, &at.child(field), e) && !path.starts_with(&format!(".{parent}.")) {
            let text = format!("should be a json path under .{parent}");
            e.push(Error::invalid(&at.child(field), path, text));
        }
    }
    let path = scale.text("labelSelectorPath");
    if path.is_empty() {
        return;
    }
    let at = at.child("labelSelectorPath");
    if simple_path(path, &at, e) && !path.starts_with(".spec.") && !path.starts_with(".status.") {
        e.push(Error::invalid(&at, path, "should be a json path under either .spec or .status"));
    }
}

fn column(column: &Value, at: &Path, e: &mut ErrorList) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    checks::required(column, "name", at, e);
    let (kind, format) = (column.text("type"), column.text("format"));
    let text = format!("must be one of {}", TYPES.join(","));
    if kind.is_empty() {
        e.push(Error::required(&at.child("type"), text));
    } else if !TYPES.contains(&kind) {
        e.push(Error::invalid(&at.child("type"), kind, text));
    }
    if !format.is_empty() && !FORMATS.contains(&format) {
        let text = format!("must be one of {}", FORMATS.join(","));
        e.push(Error::invalid(&at.child("format"), format, text));
    }
    let at = at.child("JSONPath");
    match column.text("jsonPath") {
        "" => e.push(Error::required(&at, "")),
        path => {
            simple_path(path, &at, e);
        }
    }
}

fn selectable(version: &Value, at: &Path, e: &mut ErrorList) {
    const MOST: usize = 8;
    let mut seen = HashSet::new();
    for (i, field) in version.list("selectableFields").iter().enumerate() {
        let at = at.index(i);
        if !checks::required(field, "jsonPath", &at, e) {
            continue;
        }
        let (path, at) = (field.text("jsonPath"), at.child("jsonPath"));
        let mut schema = version.at("schema").at("openAPIV3Schema");
        for step in path.trim_start_matches('.').split('.') {
            schema = schema.at("properties").at(step);
        }
        if schema.is_null() || !path.starts_with('.') {
            let text = "is an invalid path: does not refer to a valid field";
            e.push(Error::invalid(&at, path, text));
            continue;
        }
        if path.starts_with(".metadata") {
            e.push(Error::invalid(&at, path, "must not point to fields in metadata"));
        }
        if !matches!(schema.text("type"), "string" | "boolean" | "integer") {
            let text = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            e.push(Error::invalid(&at, path, text));
        }
        if !seen.insert(path) {
            e.push(Error::duplicate(&at, path));
        }
    }
    if seen.len() > MOST {
        e.push(Error::too_many(at, seen.len(), MOST));
    }
}

fn conversion(spec: &Value, old: Option<&Value>, at: &Path, e: &mut ErrorList) {
    let c = spec.at("conversion");
    let strategy = c.text("strategy");
    if !c.is_null() && strategy != "None" && spec.flag("preserveUnknownFields") {
        let text = "must be None if spec.preserveUnknownFields is true";
        e.push(Error::invalid(&at.child("strategy"), strategy, text));
    }
    if c.is_null() {
        return;
    }
    checks::one_of_required(strategy, &["None", "Webhook"], &at.child("strategy"), e);
    let (hook, at_config) = (c.at("webhook"), at.child("webhookClientConfig"));
    let at_versions = at.child("conversionReviewVersions");
    if strategy == "Webhook" {
        if hook.has("clientConfig") {
            clientconfig::validate(hook.at("clientConfig"), &at_config, e);
        } else {
            e.push(Error::required(&at_config, "required when strategy is set to Webhook"));
        }
        let before = old.map(|o| o.at("spec").at("conversion").at("webhook"));
        review_versions(hook, before.is_none_or(knows_review), &at_versions, e);
        return;
    }
    const USELESS: &str = "should not be set when strategy is not set to Webhook";
    if hook.has("clientConfig") {
        e.push(Error::forbidden(&at_config, USELESS));
    }
    if hook.len("conversionReviewVersions") > 0 {
        e.push(Error::forbidden(&at_versions, USELESS));
    }
}

fn knows_review(hook: &Value) -> bool {
    hook.len("conversionReviewVersions") == 0
        || hook.texts("conversionReviewVersions").any(|v| v == "v1" || v == "v1beta1")
}

fn review_versions(hook: &Value, known: bool, at: &Path, e: &mut ErrorList) {
    if hook.len("conversionReviewVersions") == 0 {
        return e.push(Error::required(at, ""));
    }
    let mut seen = HashSet::new();
    for (i, version) in hook.texts("conversionReviewVersions").enumerate() {
        if seen.insert(version) {
            checks::texts(version, names::dns1035_label(version), &at.index(i), e);
        } else {
            e.push(Error::invalid(&at.index(i), version, "duplicate version"));
        }
    }
    if known && !knows_review(hook) {
        let text = "must include at least one of v1, v1beta1";
        e.push(Error::invalid(at, hook.at("conversionReviewVersions").clone(), text));
    }
}

fn unchanged(spec: &Value, old: &Value, at: &Path, e: &mut ErrorList) {
    let (before, at_names) = (old.at("spec"), at.child("names"));
    let (names, names_before) = (spec.at("names"), before.at("names"));
    let established = old
        .at("status")
        .list("conditions")
        .iter()
        .any(|c| c.text("type") == "Established" && c.text("status") == "True");
    if established {
        immutable(spec.at("scope"), before.at("scope"), &at.child("scope"), e);
        immutable(names.at("kind"), names_before.at("kind"), &at_names.child("kind"), e);
    }
    immutable(spec.at("group"), before.at("group"), &at.child("group"), e);
    immutable(names.at("plural"), names_before.at("plural"), &at_names.child("plural"), e);
}

fn stored_versions(status: &Value, spec: &Value, at: &Path, e: &mut ErrorList) {
    let stored: Vec<&str> = status.texts("storedVersions").collect();
    let whole = || Value::from(stored.clone());
    if stored.is_empty() {
        return e.push(Error::invalid(at, whole(), "must have at least one stored version"));
    }
    let listed: HashSet<&str> = spec.list("versions").iter().map(|v| v.text("name")).collect();
    for v in spec.list("versions").iter().filter(|v| v.flag("storage")) {
        if !stored.contains(&v.text("name")) {
            let text = format!("must have the storage version {}", v.text("name"));
            e.push(Error::invalid(at, whole(), text));
        }
    }
    for (i, v) in stored.iter().enumerate().filter(|(_, v)| !listed.contains(*v)) {
        let text = format!(
            "missing from spec.versions; {v} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {v} and removes {v} from status.storedVersions"
        );
        e.push(Error::invalid(&at.index(i), *v, text));
    }
}

/// Groups of the project itself take only reviewed kinds.
fn approval(new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    const KEY: &str = "api-approved.kubernetes.io";
    const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    #[derive(PartialEq)]
    enum State {
        Missing,
        Bypassed,
        Approved,
        Invalid,
    }
    let state = |o: &Value| match o.at("metadata").at("annotations").text(KEY) {
        "" => State::Missing,
        text if text.starts_with("unapproved") => State::Bypassed,
        text if text.split_once("://").is_some_and(|(s, rest)| !s.is_empty() && !rest.is_empty()) => {
            State::Approved
        }
        _ => State::Invalid,
    };
    let group = new.at("spec").text("group");
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|d| group.strip_suffix(d).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
    let now = state(new);
    if !protected || old.is_some_and(|o| state(o) == now) {
        return;
    }
    let at = Path::new("metadata").child("annotations").key(KEY);
    let start = format!("protected groups must have approval annotation {KEY:?}");
    match now {
        State::Missing => e.push(Error::required(&at, format!("{start}, {SEE}"))),
        State::Invalid => {
            let value = new.at("metadata").at("annotations").text(KEY);
            let text = format!("{start} with either a URL or a reason starting with \"unapproved\", {SEE}");
            e.push(Error::invalid(&at, value, text));
        }
        State::Approved | State::Bypassed => {}
    }
}
