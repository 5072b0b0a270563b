//! Validation of admission policies and their bindings.

use super::expressions::Policy;
use super::rules::{match_conditions, match_resources, mutable_only};
use crate::metadata::{SelectorOptions, conditions, label_selector};
use crate::value::{Get, same};
use crate::{Context, checks, names};
use api::Value;
use api::field::{Error, ErrorList, Path};
use std::collections::HashSet;

pub fn validating(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    if cx.subresource == "status" {
        return status(new.at("status"), &Path::new("status"), e);
    }
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    let compiler = common(spec, old.map(|o| o.at("spec")), &at, e);
    let name = new.at("metadata").text("name");
    if spec.len("validations") == 0 && spec.len("auditAnnotations") == 0 {
        let text = "validations or auditAnnotations must contain at least one item";
        e.push(Error::required(&at.child("validations"), text));
        e.push(Error::required(&at.child("auditAnnotations"), text));
    }
    for (i, v) in spec.list("validations").iter().enumerate() {
        validation(v, &compiler, &at.child("validations").index(i), e);
    }
    audit_annotations(name, spec, &compiler, &at.child("auditAnnotations"), e);
}

pub fn mutating(_: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    let compiler = common(spec, old.map(|o| o.at("spec")), &at, e);
    mutable_only(spec.at("matchConstraints"), &at.child("matchConstraints"), e);
    if spec.len("mutations") == 0 {
        e.push(Error::required(&at.child("mutations"), "mutations must contain at least one item"));
    }
    for (i, m) in spec.list("mutations").iter().enumerate() {
        mutation(m, &compiler, &at.child("mutations").index(i), e);
    }
    let policy = spec.text("reinvocationPolicy");
    checks::one_of_required(policy, &["IfNeeded", "Never"], &at.child("reinvocationPolicy"), e);
}

fn common(spec: &Value, old: Option<&Value>, at: &Path, e: &mut ErrorList) -> Policy {
    let mut compiler = Policy::new(spec.has("paramKind"));
    checks::one_of_pointed(spec, "failurePolicy", &["Fail", "Ignore"], at, e);
    if spec.has("paramKind") {
        param_kind(spec.at("paramKind"), &at.child("paramKind"), e);
    }
    let constraints = at.child("matchConstraints");
    if spec.has("matchConstraints") {
        let m = spec.at("matchConstraints");
        match_resources(m, &constraints, e);
        checks::required(m, "resourceRules", &constraints, e);
    } else {
        e.push(Error::required(&constraints, ""));
    }
    let unchanged =
        |old: &Value| ["paramKind", "matchConditions"].iter().all(|k| same(spec.at(k), old.at(k)));
    if !old.is_some_and(unchanged) {
        match_conditions(
            spec.list("matchConditions"),
            spec.has("paramKind"),
            &at.child("matchConditions"),
            e,
        );
    }
    for (i, v) in spec.list("variables").iter().enumerate() {
        let at = at.child("variables").index(i);
        let name = v.text("name");
        if name.trim().is_empty() {
            e.push(Error::required(&at.child("name"), "name is not specified"));
        } else if !expressions::names::is_identifier(name) {
            e.push(Error::invalid(&at.child("name"), name, "must be a valid CEL identifier"));
        }
        if expression(v, "expression", "expression is not specified", &at, e) {
            compiler.variable(name, v.text("expression"), &at.child("expression"), e);
        }
    }
    compiler
}

/// Whether there is an expression.
fn expression(v: &Value, key: &str, text: &str, at: &Path, e: &mut ErrorList) -> bool {
    let there = !v.text(key).trim().is_empty();
    if !there {
        e.push(Error::required(&at.child(key), text));
    }
    there
}

fn param_kind(kind: &Value, at: &Path, e: &mut ErrorList) {
    let (version, at_version) = (kind.text("apiVersion"), at.child("apiVersion"));
    if checks::required(kind, "apiVersion", at, e) {
        match version.split('/').collect::<Vec<_>>()[..] {
            [v] => version_name(v, version, &at_version, e),
            [group, v] => {
                let wrong = if group.is_empty() { Vec::new() } else { names::dns_subdomain(group) };
                if !wrong.is_empty() {
                    e.push(Error::invalid(&at_version, group, wrong.join(",")));
                }
                version_name(v, version, &at_version, e);
            }
            _ => {
                let text = format!("unexpected GroupVersion string: {version}");
                e.push(Error::invalid(&at_version, version, text));
            }
        }
    }
    if checks::required(kind, "kind", at, e) {
        let name = kind.text("kind");
        let wrong = names::dns1035_label(&name.to_lowercase());
        if !wrong.is_empty() {
            let text = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
            e.push(Error::invalid(&at.child("kind"), name, text));
        }
    }
}

fn version_name(version: &str, whole: &str, at: &Path, e: &mut ErrorList) {
    if version.is_empty() {
        return e.push(Error::invalid(at, whole, "version must be specified"));
    }
    let wrong = names::dns1035_label(version);
    if !wrong.is_empty() {
        e.push(Error::invalid(at, version, wrong.join(",")));
    }
}

fn validation(v: &Value, compiler: &Policy, at: &Path, e: &mut ErrorList) {
    const EMPTY: &str = "must be non-empty if specified";
    if expression(v, "expression", "expression is not specified", at, e) {
        compiler.validation(v.text("expression"), &at.child("expression"), e);
    }
    let (by_expression, message) = (v.text("messageExpression"), v.text("message"));
    if !by_expression.is_empty() && by_expression.trim().is_empty() {
        e.push(Error::invalid(&at.child("messageExpression"), by_expression, EMPTY));
    } else if !by_expression.is_empty() {
        compiler.message(by_expression, &at.child("messageExpression"), e);
    }
    if !message.is_empty() && message.trim().is_empty() {
        e.push(Error::invalid(&at.child("message"), message, EMPTY));
    } else if message.trim().contains(['\n', '\r']) {
        e.push(Error::invalid(&at.child("message"), message, "must not contain line breaks"));
    }
    checks::opt_one_of(v, "reason", &["Forbidden", "Invalid", "RequestEntityTooLarge"], at, e);
}

fn audit_annotations(policy: &str, spec: &Value, compiler: &Policy, at: &Path, e: &mut ErrorList) {
    const MOST: usize = 20;
    const LONGEST: usize = 5 << 10;
    if spec.len("auditAnnotations") > MOST {
        let text = format!("must not have more than {MOST} auditAnnotations");
        e.push(Error::invalid(at, spec.at("auditAnnotations").clone(), text));
    }
    let mut seen = HashSet::new();
    for (i, a) in spec.list("auditAnnotations").iter().enumerate() {
        let (at, key) = (at.index(i), a.text("key"));
        if policy.is_empty() {
            e.push(Error::invalid(&at.child("key"), key, "requires metadata.name be non-empty"));
        } else {
            checks::qualified(&format!("{policy}/{key}"), &at.child("key"), e);
        }
        let there = expression(a, "valueExpression", "valueExpression is not specified", &at, e);
        if a.text("valueExpression").trim().len() > LONGEST {
            let text = format!("must not exceed {LONGEST} bytes in length");
            e.push(Error::required(&at.child("valueExpression"), text));
        } else if there {
            compiler.annotation(a.text("valueExpression"), &at.child("valueExpression"), e);
        }
        if !seen.insert(key) {
            e.push(Error::duplicate(&at.child("key"), key));
        }
    }
}

fn mutation(m: &Value, compiler: &Policy, at: &Path, e: &mut ErrorList) {
    let kind = m.text("patchType");
    let (wanted, other) = match kind {
        "JSONPatch" => ("jsonPatch", "applyConfiguration"),
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
        _ => {
            return checks::one_of_required(
                kind,
                &["ApplyConfiguration", "JSONPatch"],
                &at.child("patchType"),
                e,
            );
        }
    };
    if m.has(wanted) {
        let (v, at) = (m.at(wanted), at.child(wanted));
        if expression(v, "expression", "", &at, e) {
            compiler.mutation(v.text("expression"), kind == "JSONPatch", &at.child("expression"), e);
        }
    } else {
        e.push(Error::required(&at.child(wanted), format!("must be specified when patchType is {kind}")));
    }
    if m.has(other) {
        let text = format!("must not be specified when patchType is {kind}");
        e.push(Error::invalid(&at.child(other), format!("{{{other}}}"), text));
    }
}

fn status(status: &Value, at: &Path, e: &mut ErrorList) {
    let warnings = at.child("typeChecking").child("expressionWarnings");
    for (i, w) in status.at("typeChecking").list("expressionWarnings").iter().enumerate() {
        checks::required(w, "warning", &warnings.index(i), e);
        expression(w, "fieldRef", "", &warnings.index(i), e);
    }
    conditions(status.list("conditions"), &at.child("conditions"), e);
}

pub fn validating_binding(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    binding(cx, new, old, e);
    let (spec, at) = (new.at("spec"), Path::new("spec").child("validationActions"));
    let mut seen = HashSet::new();
    for (i, action) in spec.texts("validationActions").enumerate() {
        checks::one_of(action, &["Audit", "Deny", "Warn"], &at.index(i), e);
        if !seen.insert(action) {
            e.push(Error::duplicate(&at.index(i), action));
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let text = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        e.push(Error::invalid(&at, spec.at("validationActions").clone(), text));
    }
    if seen.is_empty() {
        e.push(Error::required(&at, "at least one validation action is required"));
    }
}

pub fn mutating_binding(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    binding(cx, new, old, e);
    let at = Path::new("spec").child("matchResources");
    mutable_only(new.at("spec").at("matchResources"), &at, e);
}

fn binding(_: &Context<'_>, new: &Value, _: Option<&Value>, e: &mut ErrorList) {
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    if checks::required(spec, "policyName", &at, e) {
        checks::subdomain(spec.text("policyName"), &at.child("policyName"), e);
    }
    if spec.has("paramRef") {
        param_ref(spec.at("paramRef"), &at.child("paramRef"), e);
    }
    if spec.has("matchResources") {
        match_resources(spec.at("matchResources"), &at.child("matchResources"), e);
    }
}

fn param_ref(r: &Value, at: &Path, e: &mut ErrorList) {
    const BOTH: &str = "name and selector are mutually exclusive";
    let (name, by_label) = (r.text("name"), r.has("selector"));
    if !name.is_empty() {
        checks::texts(name, names::path_segment(name, false), &at.child("name"), e);
        if by_label {
            e.push(Error::forbidden(&at.child("name"), BOTH));
        }
    }
    if by_label {
        label_selector(r.at("selector"), SelectorOptions::default(), &at.child("selector"), e);
        if !name.is_empty() {
            e.push(Error::forbidden(&at.child("selector"), BOTH));
        }
    } else if name.is_empty() {
        e.push(Error::required(at, "one of name or selector must be specified"));
    }
    let at = at.child("parameterNotFoundAction");
    match r.opt_text("parameterNotFoundAction") {
        None | Some("") => e.push(Error::required(&at, "")),
        Some(action) => checks::listed(action, &["Deny", "Allow"], &at, e),
    }
}
