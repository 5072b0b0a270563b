//! Flow schemas and priority levels.

use crate::Context;
use crate::checks;
use crate::metadata::{Checks, Names};
use crate::prepare::{Plan, StatusMeta};
use crate::table::{NONE, age, condition, name};
use crate::value::same;
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::Value;
use api::field::{Error, ErrorList, Path};
use api::json;

const LIKE: Kind = Kind {
    names: Names::PathSegment,
    plan: Plan { status_meta: StatusMeta::Keep, ..Plan::FULL },
    metadata_checks: Checks::OBJECT,
    ..PLAIN
};
pub static FLOW_SCHEMA: Kind = Kind {
    names: Names::Subdomain,
    defaults: |o| o.ensure("spec").fill_zero("matchingPrecedence", 1000),
    validate: validate_schema,
    row: Some(schema_row),
    ..LIKE
};
pub static PRIORITY_LEVEL: Kind =
    Kind { names: Names::Subdomain, defaults: level, validate: validate_level, row: Some(level_row), ..LIKE };

fn level(o: &mut Value) {
    let spec = o.ensure("spec");
    if let Some(exempt) = spec.sub("exempt") {
        exempt.fill("nominalConcurrencyShares", 0);
        exempt.fill("lendablePercent", 0);
    }
    let Some(limited) = spec.sub("limited") else { return };
    limited.fill("nominalConcurrencyShares", 30);
    limited.fill("lendablePercent", 0);
    if let Some(queuing) = limited.sub("limitResponse").and_then(|l| l.sub("queuing")) {
        queuing.fill_zero("handSize", 8);
        queuing.fill_zero("queues", 64);
        queuing.fill_zero("queueLengthLimit", 50);
    }
}

fn schema_row(o: &Value) -> Vec<Value> {
    let spec = o.at("spec");
    let method = match spec.at("distinguisherMethod") {
        Value::Null => NONE,
        m => m.text("type"),
    };
    vec![
        name(o),
        spec.at("priorityLevelConfiguration").text("name").into(),
        spec.int("matchingPrecedence").into(),
        method.into(),
        age(o),
        condition(o.at("status"), "Dangling").map_or("?", |c| c.text("status")).into(),
    ]
}

fn level_row(o: &Value) -> Vec<Value> {
    let spec = o.at("spec");
    let limited = spec.at("limited");
    let number = |v: &Value| if v.is_null() { NONE.into() } else { v.clone() };
    let queuing = limited.at("limitResponse").at("queuing");
    vec![
        name(o),
        spec.text("type").into(),
        number(limited.at("nominalConcurrencyShares")),
        number(queuing.at("queues")),
        number(queuing.at("handSize")),
        number(queuing.at("queueLengthLimit")),
        age(o),
    ]
}

fn unique_conditions(o: &Value, e: &mut ErrorList) {
    let (list, at) = (o.at("status").list("conditions"), Path::new("status").child("conditions"));
    for (i, c) in list.iter().enumerate() {
        let (kind, at) = (c.text("type"), at.index(i).child("type"));
        if list[..i].iter().any(|o| o.text("type") == kind) {
            e.push(Error::duplicate(&at, kind));
        }
        if kind.is_empty() {
            e.push(Error::required(&at, ""));
        }
    }
}

fn validate_schema(cx: &Context<'_>, new: &Value, _: Option<&Value>, e: &mut ErrorList) {
    unique_conditions(new, e);
    if cx.subresource == "status" {
        return;
    }
    let (spec, at, name) = (new.at("spec"), Path::new("spec"), new.at("metadata").text("name"));
    let (precedence, at_precedence) = (spec.int("matchingPrecedence"), at.child("matchingPrecedence"));
    let mut bad = |text: &str| e.push(Error::invalid(&at_precedence, precedence, text));
    match precedence {
        n if n <= 0 => bad("must be a positive value"),
        n if n > 10000 => bad("must not be greater than 10000"),
        1 if name != "exempt" => bad("only the schema named 'exempt' may have matchingPrecedence 1"),
        _ => {}
    }
    if spec.has("distinguisherMethod") {
        let (method, at) = (spec.at("distinguisherMethod"), at.child("distinguisherMethod").child("type"));
        if !matches!(method.text("type"), "ByNamespace" | "ByUser") {
            let mut error = Error::not_supported(&at, method.clone(), &["ByNamespace", "ByUser"]);
            error.printed =
                Some(crate::shown::internal("k8s.io.api.flowcontrol.v1.FlowDistinguisherMethod", method));
            e.push(error);
        }
    }
    let level = spec.at("priorityLevelConfiguration").text("name");
    let at_level = at.child("priorityLevelConfiguration").child("name");
    if level.is_empty() {
        e.push(Error::required(&at_level, "must reference a priority level"));
    } else {
        checks::subdomain(level, &at_level, e);
    }
    for (i, rule) in spec.list("rules").iter().enumerate() {
        validate_rules(rule, &at.child("rules").index(i), e);
    }
    if fixed_schema(name).is_some_and(|fixed| !same(&fixed, spec)) {
        let text = format!("spec of '{name}' must equal the fixed value");
        e.push(Error::invalid(&at, spec.clone(), text));
    }
}

/// The schemas that every server has and nobody changes.
pub fn fixed_schema(name: &str) -> Option<Value> {
    let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
    let rule = |subjects: Value| {
        json!([{"subjects": subjects,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true,
                "namespaces": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}])
    };
    match name {
        "exempt" => Some(json!({"priorityLevelConfiguration": {"name": "exempt"}, "matchingPrecedence": 1,
            "rules": rule(json!([group("system:masters")]))})),
        "catch-all" => Some(json!({"priorityLevelConfiguration": {"name": "catch-all"},
            "matchingPrecedence": 10000, "distinguisherMethod": {"type": "ByUser"},
            "rules": rule(json!([group("system:unauthenticated"), group("system:authenticated")]))})),
        _ => None,
    }
}

const VERBS: [&str; 9] =
    ["get", "list", "create", "update", "delete", "deletecollection", "patch", "watch", "proxy"];

fn validate_rules(rule: &Value, at: &Path, e: &mut ErrorList) {
    if rule.len("subjects") == 0 {
        e.push(Error::required(&at.child("subjects"), "subjects must contain at least one value"));
    }
    for (i, subject) in rule.list("subjects").iter().enumerate() {
        validate_subject(subject, &at.child("subjects").index(i), e);
    }
    if rule.len("resourceRules") == 0 && rule.len("nonResourceRules") == 0 {
        let text = "at least one of resourceRules and nonResourceRules has to be non-empty";
        e.push(Error::required(at, text));
    }
    for (i, r) in rule.list("resourceRules").iter().enumerate() {
        resource_rule(r, &at.child("resourceRules").index(i), e);
    }
    for (i, r) in rule.list("nonResourceRules").iter().enumerate() {
        let at = at.child("nonResourceRules").index(i);
        verbs(r, &at, e);
        let text = "nonResourceURLs must contain at least one value";
        wildcard_list(r, "nonResourceURLs", text, "non-resource URLs", &at, e);
        for (j, url) in r.texts("nonResourceURLs").enumerate().filter(|(_, u)| *u != "*") {
            if let Some(why) = bad_url(url) {
                e.push(Error::invalid(&at.child("nonResourceURLs").index(j), url, why));
            }
        }
    }
}

fn resource_rule(r: &Value, at: &Path, e: &mut ErrorList) {
    verbs(r, at, e);
    wildcard_list(r, "apiGroups", "resource rules must supply at least one api group", "api groups", at, e);
    wildcard_list(r, "resources", "resource rules must supply at least one resource", "resources", at, e);
    if r.len("namespaces") > 0 || !r.flag("clusterScope") {
        let text = "resource rules that are not cluster scoped must supply at least one namespace";
        wildcard_list(r, "namespaces", text, "namespaces", at, e);
    }
    if r.texts("namespaces").any(|n| n == "*") {
        return;
    }
    for (j, ns) in r.texts("namespaces").enumerate() {
        for m in crate::names::dns_label(ns) {
            let text = format!("each member of this list must be '*' or a DNS-1123 label; {m}");
            e.push(Error::invalid(&at.child("namespaces").index(j), ns, text));
        }
    }
}

fn bad_url(url: &str) -> Option<&'static str> {
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        u if !u.starts_with('/') => Some("must start with slash"),
        u if u.contains(' ') => Some("must not contain white-space"),
        u if u.contains("//") => Some("must not contain double slash"),
        u if u.matches('*').count() > 1 || (u.contains('*') && !u.ends_with("/*")) => {
            Some("wildcard can only do suffix matching")
        }
        _ => None,
    }
}

/// A list that needs something, and where `*` stands alone.
fn wildcard_list(rule: &Value, field: &str, empty: &str, others: &str, at: &Path, e: &mut ErrorList) {
    let at = at.child(field);
    if rule.len(field) == 0 {
        e.push(Error::required(&at, empty));
    } else if rule.len(field) > 1 && rule.texts(field).any(|t| t == "*") {
        let text = format!("if '*' is present, must not specify other {others}");
        e.push(Error::invalid(&at, rule.at(field).clone(), text));
    }
}

fn verbs(rule: &Value, at: &Path, e: &mut ErrorList) {
    wildcard_list(rule, "verbs", "verbs must contain at least one value", "verbs", at, e);
    let any = rule.texts("verbs").any(|v| v == "*");
    if !any && rule.texts("verbs").any(|v| !VERBS.contains(&v)) {
        e.push(Error::not_supported(&at.child("verbs"), rule.at("verbs").clone(), &VERBS));
    }
}

fn validate_subject(subject: &Value, at: &Path, e: &mut ErrorList) {
    let kinds = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = subject.text("kind");
    if !kinds.iter().any(|(k, _)| *k == kind) {
        e.push(Error::not_supported(&at.child("kind"), kind, &["Group", "ServiceAccount", "User"]));
        return;
    }
    for (k, field) in kinds {
        let (v, at) = (subject.at(field), at.child(field));
        if k != kind {
            if !v.is_null() {
                e.push(Error::forbidden(&at, format!("{field} is forbidden when subject kind is not '{k}'")));
            }
        } else if v.is_null() {
            e.push(Error::required(&at, format!("{field} is required when subject kind is '{k}'")));
        } else {
            let named = checks::required(v, "name", &at, e);
            if k != "ServiceAccount" {
                continue;
            }
            if named && v.text("name") != "*" {
                checks::subdomain(v.text("name"), &at.child("name"), e);
            }
            if v.text("namespace").is_empty() {
                e.push(Error::required(&at.child("namespace"), "must specify namespace for service account"));
            } else {
                checks::label(v.text("namespace"), &at.child("namespace"), e);
            }
        }
    }
}

fn validate_level(cx: &Context<'_>, new: &Value, _: Option<&Value>, e: &mut ErrorList) {
    unique_conditions(new, e);
    if cx.subresource == "status" {
        return;
    }
    let (spec, at, name) = (new.at("spec"), Path::new("spec"), new.at("metadata").text("name"));
    let kind = spec.text("type");
    if (name == "exempt") != (kind == "Exempt") {
        let text = "must be 'Exempt' if and only if `name` is 'exempt'";
        e.push(Error::invalid(&at.child("type"), kind, text));
    }
    match kind {
        "Exempt" => {
            if spec.has("limited") {
                e.push(Error::forbidden(&at.child("limited"), "must be nil if the type is not Limited"));
            }
            shares(spec.at("exempt"), &at.child("exempt"), e);
        }
        "Limited" => {
            if spec.has("exempt") {
                e.push(Error::forbidden(&at.child("exempt"), "must be nil if the type is Limited"));
            }
            if spec.has("limited") {
                limited(spec.at("limited"), &at.child("limited"), e);
            } else {
                e.push(Error::required(&at.child("limited"), "must not be empty when type is Limited"));
            }
        }
        other => e.push(Error::not_supported(&at.child("type"), other, &["Exempt", "Limited"])),
    }
    let fixed = json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0,
        "limitResponse": {"type": "Reject"}}});
    if name == "catch-all" && !same(spec, &fixed) {
        e.push(Error::invalid(&at, spec.clone(), "spec of 'catch-all' must equal the fixed value"));
    }
}

fn shares(v: &Value, at: &Path, e: &mut ErrorList) {
    if v.int("nominalConcurrencyShares") < 0 {
        let n = v.int("nominalConcurrencyShares");
        e.push(Error::invalid(&at.child("nominalConcurrencyShares"), n, "must be a non-negative integer"));
    }
    if let Some(n) = v.opt_int("lendablePercent").filter(|n| !(0..=100).contains(n)) {
        e.push(Error::invalid(&at.child("lendablePercent"), n, "must be between 0 and 100, inclusive"));
    }
}

fn limited(v: &Value, at: &Path, e: &mut ErrorList) {
    shares(v, at, e);
    if let Some(n) = v.opt_int("borrowingLimitPercent").filter(|n| *n < 0) {
        let text = "if specified, must be a non-negative integer";
        e.push(Error::invalid(&at.child("borrowingLimitPercent"), n, text));
    }
    let (response, at) = (v.at("limitResponse"), at.child("limitResponse"));
    let (queuing, at_queuing) = (response.at("queuing"), at.child("queuing"));
    match response.text("type") {
        "Reject" if !queuing.is_null() => {
            let text = "must be nil if limited.limitResponse.type is not Limited";
            e.push(Error::forbidden(&at_queuing, text));
        }
        "Reject" => {}
        "Queue" if queuing.is_null() => {
            let text = "must not be empty if limited.limitResponse.type is Limited";
            e.push(Error::required(&at_queuing, text));
        }
        "Queue" => queues(queuing, &at_queuing, e),
        other => e.push(Error::not_supported(&at.child("type"), other, &["Queue", "Reject"])),
    }
}

/// Random bits that dealing a hand from the deck takes.
fn entropy_bits(queues: i64, hand: i64) -> i64 {
    (0..hand).map(|i| ((queues - i) as f64).log2()).sum::<f64>().ceil() as i64
}

fn queues(v: &Value, at: &Path, e: &mut ErrorList) {
    let (queues, hand) = (v.int("queues"), v.int("handSize"));
    for field in ["queueLengthLimit", "queues", "handSize"] {
        if v.int(field) <= 0 {
            e.push(Error::invalid(&at.child(field), v.int(field), "must be positive"));
        }
    }
    if queues > 10_000_000 {
        e.push(Error::invalid(&at.child("queues"), queues, "must not be greater than 10000000"));
    }
    let at = at.child("handSize");
    if hand > queues {
        e.push(Error::invalid(&at, hand, format!("should not be greater than queues ({queues})")));
    } else if hand <= 0 {
        // Said already.
    } else if hand > 60 || entropy_bits(queues, hand) > 60 {
        // A hash has no more than sixty bits to deal from.
        let text = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than 60"
        );
        e.push(Error::invalid(&at, hand, text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;

    #[test]
    fn checked() {
        let first = |room: &Kind, name: &str, spec: Value| {
            let mut o = json!({"metadata": {"name": name}, "spec": spec});
            room.defaults(&mut o);
            let got = room.validate(&Context::default(), &o, None);
            got.first().map(ToString::to_string).unwrap_or_default()
        };
        for name in ["exempt", "catch-all"] {
            assert_eq!(first(&FLOW_SCHEMA, name, fixed_schema(name).unwrap()), "");
        }
        let empty = first(&FLOW_SCHEMA, "a", json!({}));
        assert!(empty.starts_with("spec.priorityLevelConfiguration.name: Required value"), "{empty}");
        let queue = |hand: i64| json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {"handSize": hand}}}});
        assert_eq!(first(&PRIORITY_LEVEL, "a", queue(8)), "");
        assert!(first(&PRIORITY_LEVEL, "a", queue(65)).ends_with("should not be greater than queues (64)"));
        assert!(
            first(&PRIORITY_LEVEL, "a", json!({"type": "Exempt"})).starts_with("spec.type: Invalid value")
        );
    }
}
