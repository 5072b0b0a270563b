//! Expressions in the API: admission policies that judge and change, match conditions, rules of custom resources.

use anyhow::{Result, bail};
use integration::{Answer, LIMIT, Server};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn rules(resource: &str) -> Value {
    json!([{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": [resource]}])
}

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

async fn made(server: &Server, path: &str, object: Value) -> Result<()> {
    let answer = server.send("POST", path, &object).await?;
    if answer.status != 201 {
        bail!("{path}: {}", answer.text);
    }
    Ok(())
}

/// Tries until the answer is as wanted: what is configured takes effect as soon as the server has seen it.
async fn until(
    server: &Server,
    path: &str,
    object: &Value,
    wanted: impl Fn(&Answer) -> bool,
) -> Result<Answer> {
    let end = Instant::now() + LIMIT;
    loop {
        let answer = server.send("POST", &format!("{path}?dryRun=All"), object).await?;
        if wanted(&answer) {
            return Ok(answer);
        }
        if Instant::now() > end {
            bail!("not as wanted: {}", answer.text);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn policy(kind: &str, name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["matchConstraints"] = json!({"resourceRules": rules("configmaps")});
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn binding(kind: &str, name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["policyName"] = name.into();
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn policies_judge_and_change() -> Result<()> {
    let server = Server::start().await?;
    let broken =
        policy("ValidatingAdmissionPolicy", "broken", json!({"validations": [{"expression": "object.x <"}]}));
    let answer = server.send("POST", &format!("{POLICIES}/validatingadmissionpolicies"), &broken).await?;
    assert_eq!(answer.status, 422, "{}", answer.text);
    let message = answer.body["message"].as_str().unwrap_or_default();
    assert!(message.contains("spec.validations[0].expression: Invalid value"), "{message}");
    assert!(message.contains("compilation failed: ERROR: <input>:1:11: Syntax error"), "{message}");

    made(&server, MAPS, map("limits", json!({"most": "2"}))).await?;
    let judged = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "variables": [{"name": "count", "expression": "has(object.data) ? object.data.size() : 0"}],
        "validations": [{
            "expression": "variables.count <= int(params.data.most)",
            "messageExpression": "'at most ' + params.data.most + ' entries, not ' + string(variables.count)",
            "reason": "Forbidden",
        }],
    });
    made(
        &server,
        &format!("{POLICIES}/validatingadmissionpolicies"),
        policy("ValidatingAdmissionPolicy", "few.example.com", judged),
    )
    .await?;
    made(
        &server,
        &format!("{POLICIES}/validatingadmissionpolicybindings"),
        binding(
            "ValidatingAdmissionPolicyBinding",
            "few.example.com",
            json!({"validationActions": ["Deny"], "paramRef": {"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"}}),
        ),
    )
    .await?;
    let many = map("many", json!({"a": "1", "b": "2", "c": "3"}));
    let refused = until(&server, MAPS, &many, |a| a.status == 403).await?;
    assert_eq!(
        refused.body["message"],
        "configmaps \"many\" is forbidden: ValidatingAdmissionPolicy 'few.example.com' with binding 'few.example.com' denied request: at most 2 entries, not 3"
    );
    assert_eq!(refused.reason(), "Forbidden");
    made(&server, MAPS, map("few", json!({"a": "1"}))).await?;

    let change = json!({
        "reinvocationPolicy": "Never", "failurePolicy": "Fail",
        "mutations": [
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
                "Object{metadata: Object.metadata{labels: {'made-by': request.userInfo.username}}}"}},
            {"patchType": "JSONPatch", "jsonPatch": {"expression":
                "[JSONPatch{op: 'add', path: '/data/' + jsonpatch.escapeKey('added'), value: 'yes'}]"}},
        ],
    });
    made(
        &server,
        &format!("{POLICIES}/mutatingadmissionpolicies"),
        policy("MutatingAdmissionPolicy", "label.example.com", change),
    )
    .await?;
    made(
        &server,
        &format!("{POLICIES}/mutatingadmissionpolicybindings"),
        binding("MutatingAdmissionPolicyBinding", "label.example.com", json!({})),
    )
    .await?;
    let one = map("one", json!({"a": "1"}));
    let seen = until(&server, MAPS, &one, |a| {
        a.body["data"]["added"] == "yes" && a.body["metadata"]["labels"]["made-by"] == "admin"
    });
    seen.await?;
    // The change is judged as well.
    let full = map("full", json!({"a": "1", "b": "2"}));
    until(&server, MAPS, &full, |a| a.status == 403).await?;
    Ok(())
}

#[tokio::test]
async fn webhooks_have_conditions() -> Result<()> {
    let server = Server::start().await?;
    let path = format!("{POLICIES}/validatingwebhookconfigurations");
    let hooks = |expression: &str| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "conditional"},
            "webhooks": [{
                "name": "conditional.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": "https://127.0.0.1:1/never"}, "rules": rules("configmaps"),
                "matchConditions": [{"name": "wanted", "expression": expression}],
            }],
        })
    };
    let answer = server.send("POST", &path, &hooks("object.metadata.name")).await?;
    assert_eq!(answer.status, 422, "{}", answer.text);
    assert!(
        answer.text.contains("webhooks[0].matchConditions[0].expression: Invalid value: \\\"object.metadata.name\\\": must evaluate to bool but got dyn"),
        "{}", answer.text
    );
    made(&server, &path, hooks("object.metadata.name != 'spared' && object.data.size() > 0")).await?;
    // Nobody answers at the webhook's address: whoever is asked about is refused.
    let asked = until(&server, MAPS, &map("asked", json!({"a": "1"})), |a| a.status == 500).await?;
    assert!(asked.text.contains("failed calling webhook \\\"conditional.example.com\\\""), "{}", asked.text);
    made(&server, MAPS, map("spared", json!({"a": "1"}))).await?;
    // An expression that fails does as the failure policy says.
    let empty = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "empty"}});
    let failed = server.send("POST", MAPS, &empty).await?;
    assert_eq!(failed.status, 403, "{}", failed.text);
    assert!(failed.text.contains("resulted in error: no such key: data"), "{}", failed.text);
    Ok(())
}

fn definition(rule: Value) -> Value {
    let schema = json!({"type": "object", "properties": {"spec": {
        "type": "object",
        "x-kubernetes-validations": [rule],
        "properties": {
            "min": {"type": "integer"}, "max": {"type": "integer"},
            "names": {"type": "array", "items": {"type": "string"}},
        },
    }}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "ranges.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "ranges", "kind": "Range"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    })
}

#[tokio::test]
async fn custom_resources_have_rules() -> Result<()> {
    let server = Server::start().await?;
    for (rule, wanted) in [
        ("self.nope == 1", "undefined field 'nope'"),
        ("self.min <", "Syntax error"),
        ("self.names.all(a, self.names.all(b, a.contains(b)))", "exceeds budget by factor of more than 100x"),
    ] {
        let answer = server.send("POST", DEFINITIONS, &definition(json!({"rule": rule}))).await?;
        assert_eq!(answer.status, 422, "{}", answer.text);
        assert!(answer.text.contains(wanted), "{}", answer.text);
        assert!(answer.text.contains("x-kubernetes-validations[0].rule"), "{}", answer.text);
    }
    let rule = json!({"rule": "self.min <= self.max && (!has(oldSelf.max) || oldSelf.max <= self.max)",
        "messageExpression": "self.min > 0 ? 'a positive range' : 'a range'", "fieldPath": ".max"});
    made(&server, DEFINITIONS, definition(rule)).await?;
    let path = "/apis/example.com/v1/namespaces/default/ranges";
    let range = |name: &str, min: i64, max: i64| json!({"apiVersion": "example.com/v1", "kind": "Range", "metadata": {"name": name}, "spec": {"min": min, "max": max}});
    until(&server, path, &range("new", 1, 2), |a| a.status == 201).await?;
    made(&server, path, range("one", 1, 2)).await?;
    let (one, longer) = (format!("{path}/one"), json!({"spec": {"max": 1}}));
    let refused = server.send("PATCH", &one, &longer).await?;
    assert_eq!(refused.status, 422, "{}", refused.text);
    assert_eq!(
        refused.body["message"],
        "Range.example.com \"one\" is invalid: spec.max: Invalid value: a positive range"
    );
    assert_eq!(server.send("PATCH", &one, &json!({"spec": {"max": 3}})).await?.status, 200);
    Ok(())
}
