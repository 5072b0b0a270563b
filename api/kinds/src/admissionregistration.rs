//! Webhook configurations and admission policies.

mod expressions;
mod policy;
mod rules;
mod webhook;

use crate::metadata::Checks;
use crate::prepare::{Plan, StatusMeta};
use crate::table::{UNSET, age, name, selector_text};
use crate::value::{Get, Put};
use crate::{Context, Kind, PLAIN};
use api::Value;

const WEBHOOKS: Kind = Kind {
    validate: webhook::validate,
    warnings: static_name,
    plan: Plan { generation: &["webhooks"], ..Plan::NONE },
    metadata_checks: Checks::OBJECT,
    row: Some(|o| vec![name(o), o.len("webhooks").into(), age(o)]),
    unconditional_update: false,
    any_finalizer: true,
    ..PLAIN
};
pub static VALIDATING_WEBHOOKS: Kind = Kind { defaults: validating_defaults, ..WEBHOOKS };
pub static MUTATING_WEBHOOKS: Kind = Kind { defaults: mutating_defaults, ..WEBHOOKS };

pub static VALIDATING_POLICY: Kind = Kind {
    defaults: policy_defaults,
    validate: policy::validating,
    warnings: static_name,
    plan: Plan { status_meta: StatusMeta::Keep, ..Plan::FULL },
    metadata_checks: Checks::OBJECT,
    row: Some(|o| policy_row(o, "validations")),
    unconditional_update: false,
    any_finalizer: true,
    ..PLAIN
};
pub static MUTATING_POLICY: Kind = Kind {
    defaults: policy_defaults,
    validate: policy::mutating,
    warnings: static_name,
    plan: Plan::GENERATION,
    row: Some(|o| policy_row(o, "mutations")),
    unconditional_update: false,
    any_finalizer: true,
    metadata_checks: Checks::OBJECT,
    ..PLAIN
};
const BINDING: Kind = Kind {
    warnings: static_name,
    defaults: |o| {
        if let Some(m) = o.sub("spec").and_then(|s| s.sub("matchResources")) {
            match_resources(m);
        }
    },
    plan: Plan::GENERATION,
    row: Some(binding_row),
    unconditional_update: false,
    any_finalizer: true,
    metadata_checks: Checks::OBJECT,
    ..PLAIN
};
pub static VALIDATING_BINDING: Kind = Kind { validate: policy::validating_binding, ..BINDING };
pub static MUTATING_BINDING: Kind = Kind { validate: policy::mutating_binding, ..BINDING };

fn validating_defaults(o: &mut Value) {
    o.items("webhooks").for_each(webhook_defaults);
}

fn mutating_defaults(o: &mut Value) {
    for hook in o.items("webhooks") {
        webhook_defaults(hook);
        hook.fill("reinvocationPolicy", "Never");
    }
}

fn webhook_defaults(hook: &mut Value) {
    hook.fill("failurePolicy", "Fail");
    hook.fill("matchPolicy", "Equivalent");
    hook.ensure("namespaceSelector");
    hook.ensure("objectSelector");
    hook.fill("timeoutSeconds", 10);
    for rule in hook.items("rules") {
        rule.fill("scope", "*");
    }
    if let Some(service) = hook.sub("clientConfig").and_then(|c| c.sub("service")) {
        service.fill("port", 443);
    }
}

fn policy_defaults(o: &mut Value) {
    let spec = o.ensure("spec");
    spec.fill("failurePolicy", "Fail");
    if let Some(m) = spec.sub("matchConstraints") {
        match_resources(m);
    }
}

fn match_resources(m: &mut Value) {
    m.fill("matchPolicy", "Equivalent");
    m.ensure("namespaceSelector");
    m.ensure("objectSelector");
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in m.items(list) {
            rule.fill("scope", "*");
        }
    }
}

fn policy_row(o: &Value, list: &str) -> Vec<Value> {
    let spec = o.at("spec");
    let kind = match spec.at("paramKind") {
        Value::Null => UNSET.to_owned(),
        p => format!("{}/{}", p.text("apiVersion"), p.text("kind")),
    };
    vec![name(o), spec.len(list).into(), kind.into(), age(o)]
}

fn binding_row(o: &Value) -> Vec<Value> {
    let spec = o.at("spec");
    let param = match spec.at("paramRef") {
        Value::Null => UNSET.to_owned(),
        p if !p.text("name").is_empty() => match p.text("namespace") {
            "" => format!("*/{}", p.text("name")),
            namespace => format!("{namespace}/{}", p.text("name")),
        },
        p if p.has("selector") => selector_text(p.at("selector")),
        _ => UNSET.to_owned(),
    };
    vec![name(o), spec.text("policyName").into(), param.into(), age(o)]
}

fn static_name(_: &Context<'_>, new: &Value, _: Option<&Value>) -> Vec<String> {
    const SUFFIX: &str = ".static.k8s.io";
    if !new.at("metadata").text("name").ends_with(SUFFIX) {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: names ending with {SUFFIX:?} are reserved for static manifest-based configurations and cannot be managed via the API"
    )]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;
    use api::json;

    fn first(kind: &Kind, mut o: Value) -> String {
        kind.defaults(&mut o);
        kind.validate(&Context::default(), &o, None).first().map(ToString::to_string).unwrap_or_default()
    }

    #[test]
    fn webhooks() {
        let rule = |resources: Value| json!([{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": resources}]);
        let hook = |key: &str, value: Value| {
            let mut h = json!({
                "name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": "https://a"}, "rules": rule(json!(["pods"])),
            });
            h.set(key, value);
            json!({"webhooks": [h]})
        };
        for (o, want) in [
            (hook("name", json!("a.b.c")), ""),
            (
                hook("name", json!("a.b")),
                "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three",
            ),
            (
                hook("sideEffects", json!("Some")),
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
            ),
            (
                hook("sideEffects", Value::Null),
                "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
            ),
            (hook("timeoutSeconds", json!(31)), "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout"),
            (
                hook("admissionReviewVersions", json!(["v2"])),
                "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1",
            ),
            (
                hook("rules", rule(json!(["*", "pods"]))),
                "webhooks[0].rules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is present",
            ),
            (
                hook("rules", rule(json!(["a/*", "a/x"]))),
                "webhooks[0].rules[0].resources[1]: Invalid value: \"a/x\": if 'a/*' is present, must not specify a/x",
            ),
        ] {
            let got = first(&VALIDATING_WEBHOOKS, o);
            assert!(got.starts_with(want) && got.is_empty() == want.is_empty(), "{got}");
        }
    }

    #[test]
    fn policies() {
        let matching = json!({"resourceRules": [
            {"operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]},
        ]});
        let spec = |checks: Value| json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": matching, "validations": checks}});
        for (o, want) in [
            (spec(json!([{"expression": "true"}])), ""),
            (spec(json!([])), "spec.validations: Required value: validations or auditAnnotations must"),
            (
                spec(json!([{}])),
                "spec.validations[0].expression: Required value: expression is not specified",
            ),
            (json!({"spec": {}}), "spec.matchConstraints: Required value"),
            (
                spec(json!([{"expression": "object.spec.x <"}])),
                "spec.validations[0].expression: Invalid value: \"object.spec.x <\": compilation failed: ERROR: <input>:1:16: Syntax error",
            ),
            (
                spec(json!([{"expression": "1 + 1"}])),
                "spec.validations[0].expression: Invalid value: \"1 + 1\": must evaluate to bool but got int",
            ),
            (
                spec(json!([{"expression": "params.x == 1"}])),
                "spec.validations[0].expression: Invalid value: \"params.x == 1\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'params'",
            ),
        ] {
            let got = first(&VALIDATING_POLICY, o);
            assert!(got.starts_with(want) && got.is_empty() == want.is_empty(), "{got}");
        }
        let mutating = json!({"spec": {
            "matchConstraints": matching, "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}],
        }});
        let got = first(&MUTATING_POLICY, mutating);
        assert!(
            got.starts_with("spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\"")
        );
        for (spec, want) in [
            (json!({"policyName": "a", "validationActions": ["Deny"]}), ""),
            (json!({"policyName": "a"}), "spec.validationActions: Required value: at least one"),
            (json!({"validationActions": ["Deny"]}), "spec.policyName: Required value"),
            (
                json!({"policyName": "a", "validationActions": ["Deny"], "paramRef": {"parameterNotFoundAction": "Deny"}}),
                "spec.paramRef: Required value: one of name or selector",
            ),
        ] {
            let got = first(&VALIDATING_BINDING, json!({"spec": spec}));
            assert!(got.starts_with(want) && got.is_empty() == want.is_empty(), "{got}");
        }
    }
}
