//! Webhook configurations and admission policies.

use crate::prepare::{Plan, StatusMeta};
use crate::table::{UNSET, age, name, selector_text};
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::Value;

const WEBHOOKS: Kind = Kind {
    plan: Plan { generation: &["webhooks"], ..Plan::NONE },
    row: Some(|o| vec![name(o), o.len("webhooks").into(), age(o)]),
    unconditional_update: false,
    ..PLAIN
};
pub static VALIDATING_WEBHOOKS: Kind = Kind { defaults: validating, ..WEBHOOKS };
pub static MUTATING_WEBHOOKS: Kind = Kind { defaults: mutating, ..WEBHOOKS };

pub static VALIDATING_POLICY: Kind = Kind {
    defaults: policy,
    plan: Plan { status_meta: StatusMeta::Keep, ..Plan::FULL },
    row: Some(|o| policy_row(o, "validations")),
    unconditional_update: false,
    ..PLAIN
};
pub static MUTATING_POLICY: Kind = Kind {
    defaults: policy,
    plan: Plan::GENERATION,
    row: Some(|o| policy_row(o, "mutations")),
    unconditional_update: false,
    ..PLAIN
};
const BINDING: Kind = Kind {
    defaults: |o| {
        if let Some(m) = o.sub("spec").and_then(|s| s.sub("matchResources")) {
            match_resources(m);
        }
    },
    plan: Plan::GENERATION,
    row: Some(binding_row),
    unconditional_update: false,
    ..PLAIN
};
pub static VALIDATING_BINDING: Kind = Kind { ..BINDING };
pub static MUTATING_BINDING: Kind = Kind { ..BINDING };

fn validating(o: &mut Value) {
    o.items("webhooks").for_each(webhook);
}

fn mutating(o: &mut Value) {
    for hook in o.items("webhooks") {
        webhook(hook);
        hook.fill("reinvocationPolicy", "Never");
    }
}

fn webhook(hook: &mut Value) {
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

fn policy(o: &mut Value) {
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
