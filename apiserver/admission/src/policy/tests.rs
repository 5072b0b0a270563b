//! Policies as users see them: what is refused in which words, what is warned of, what is changed.

use super::{Mutating, Validating};
use crate::chain::Plugin;
use crate::testing::{create, deps, deps_with};
use crate::{Attributes, Operation};
use api::{Value, json};
use auth::testing::FakeRegistry;
use std::sync::Arc;

const GROUP: &str = "admissionregistration.k8s.io";

fn constraints(resource: &str) -> Value {
    json!({"resourceRules": [{
        "apiGroups": ["*"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": [resource],
    }]})
}

fn registry(policy: Value, binding: Value) -> Arc<FakeRegistry> {
    let registry = Arc::new(FakeRegistry::default());
    let mut spec = policy;
    if spec.get("matchConstraints").is_none() {
        spec["matchConstraints"] = constraints("pods");
    }
    let mutating = spec.get("mutations").is_some();
    let sort = if mutating { "mutating" } else { "validating" };
    registry
        .put((GROUP, &format!("{sort}admissionpolicies")), json!({"metadata": {"name": "p"}, "spec": spec}));
    let mut spec = binding;
    spec["policyName"] = "p".into();
    registry.put(
        (GROUP, &format!("{sort}admissionpolicybindings")),
        json!({"metadata": {"name": "b"}, "spec": spec}),
    );
    registry.put(("", "namespaces"), json!({"metadata": {"name": "ns", "labels": {"env": "test"}}}));
    registry.put(
        ("", "configmaps"),
        json!({"metadata": {"name": "limits", "namespace": "ns", "labels": {"a": "b"}}, "data": {"most": "3"}}),
    );
    registry
}

fn pod(replicas: i64) -> Attributes {
    let object = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "ns"},
        "spec": {"priority": replicas, "containers": [{"name": "c", "image": "i"}]},
    });
    create(("", "pods"), "Pod", object)
}

async fn validate(policy: Value, binding: Value) -> (Result<(), (u16, String)>, Attributes) {
    let registry = registry(policy, binding);
    let plugin = Validating::new(&deps_with(&registry, Arc::new(auth::authz::AlwaysAllow)));
    let mut a = pod(5);
    assert!(plugin.handles(Operation::Create));
    let done = plugin.validate(&mut a).await.map_err(|s| (s.code, s.message));
    (done, a)
}

fn rule(expression: &str) -> Value {
    json!({"validations": [{"expression": expression}]})
}

fn deny() -> Value {
    json!({"validationActions": ["Deny"]})
}

#[tokio::test]
async fn requests_are_judged() {
    let by = "pods \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: ";
    let no = |text: &str| Err((422, format!("{by}{text}")));
    let with = |key: &str, value: Value| {
        let mut policy = rule("object.spec.priority < 5");
        policy["validations"][0][key] = value;
        policy
    };
    let and = |expression: &str, key: &str, value: Value| {
        let mut policy = rule(expression);
        policy[key] = value;
        policy
    };
    let config_maps = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    let by_params = and("object.spec.priority <= int(params.data.most)", "paramKind", config_maps.clone());
    let named = |name: &str, action: &str| json!({"validationActions": ["Deny"], "paramRef": {"name": name, "parameterNotFoundAction": action}});
    for (policy, binding, wanted) in [
        (rule("object.spec.priority == 5"), deny(), Ok(())),
        (rule("object.spec.priority < 5"), deny(), no("failed expression: object.spec.priority < 5")),
        (with("message", json!("too much")), deny(), no("too much")),
        (
            with("messageExpression", json!("'priority is ' + string(object.spec.priority)")),
            deny(),
            no("priority is 5"),
        ),
        (
            with("reason", json!("Forbidden")),
            deny(),
            Err((403, format!("{by}failed expression: object.spec.priority < 5"))),
        ),
        (
            rule("object.spec.nothing == 5"),
            deny(),
            no("expression 'object.spec.nothing == 5' resulted in error: no such key: nothing"),
        ),
        (and("object.spec.nothing == 5", "failurePolicy", json!("Ignore")), deny(), Ok(())),
        (
            and(
                "variables.double == 4",
                "variables",
                json!([{"name": "double", "expression": "object.spec.priority * 2"}]),
            ),
            deny(),
            no("failed expression: variables.double == 4"),
        ),
        (
            and(
                "false",
                "matchConditions",
                json!([{"name": "c", "expression": "request.userInfo.username != 'alice'"}]),
            ),
            deny(),
            Ok(()),
        ),
        (
            rule("namespaceObject.metadata.labels.env == 'test' && request.operation == 'CREATE'"),
            deny(),
            Ok(()),
        ),
        (
            rule("authorizer.group('').resource('pods').namespace('ns').check('create').allowed()"),
            deny(),
            Ok(()),
        ),
        (rule("oldObject == null && authorizer.requestResource.check('create').allowed()"), deny(), Ok(())),
        (
            by_params.clone(),
            named("limits", "Deny"),
            no("failed expression: object.spec.priority <= int(params.data.most)"),
        ),
        (
            by_params.clone(),
            named("none", "Deny"),
            no(
                "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction",
            ),
        ),
        (by_params.clone(), named("none", "Allow"), Ok(())),
        (
            by_params,
            json!({"validationActions": ["Deny"], "paramRef": {"selector": {"matchLabels": {"a": "b"}}, "parameterNotFoundAction": "Allow"}}),
            no("failed expression: object.spec.priority <= int(params.data.most)"),
        ),
        (
            rule("[1, 2, 3].map(x, lists.range(900000)).size() == 3"),
            deny(),
            no(
                "expression '[1, 2, 3].map(x, lists.range(900000)).size() == 3' resulted in error: operation cancelled: actual cost limit exceeded",
            ),
        ),
        (
            rule("false"),
            json!({"validationActions": ["Deny"], "matchResources": {"namespaceSelector": {"matchLabels": {"env": "prod"}}}}),
            Ok(()),
        ),
        (and("false", "matchConstraints", constraints("services")), deny(), Ok(())),
    ] {
        let (found, _) = validate(policy.clone(), binding).await;
        assert_eq!(found, wanted, "{policy}");
    }
}

#[tokio::test]
async fn other_actions_let_requests_pass() {
    let (done, a) = validate(rule("false"), json!({"validationActions": ["Warn", "Audit"]})).await;
    assert_eq!(done, Ok(()));
    let said =
        "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': failed expression: false";
    assert_eq!(a.warnings, [said]);
    assert_eq!(a.annotations[0].0, "validation.policy.admission.k8s.io/validation_failure");
    let mut policy = rule("true");
    policy["auditAnnotations"] = json!([
        {"key": "priority", "valueExpression": "string(object.spec.priority)"},
        {"key": "nothing", "valueExpression": "null"},
    ]);
    let (done, a) = validate(policy, deny()).await;
    assert_eq!(done, Ok(()));
    assert_eq!(a.annotations, [("p/priority".to_owned(), "5".to_owned())]);
}

#[tokio::test]
async fn objects_are_changed() {
    let apply = |e: &str| json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": e}});
    let patch = |e: &str| json!({"patchType": "JSONPatch", "jsonPatch": {"expression": e}});
    for (mutation, at, wanted) in [
        (
            apply("Object{metadata: Object.metadata{labels: Object.metadata.labels{env: 'test'}}}"),
            "/metadata/labels/env",
            Ok(json!("test")),
        ),
        (
            apply("Object{spec: Object.spec{containers: [Object.spec.containers{name: 'c', image: 'j'}]}}"),
            "/spec/containers/0/image",
            Ok(json!("j")),
        ),
        (
            patch(
                "[JSONPatch{op: 'add', path: '/metadata/labels', value: {'a/b': 'c'}}, JSONPatch{op: 'replace', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: 'd'}]",
            ),
            "/metadata/labels/a~1b",
            Ok(json!("d")),
        ),
        (
            patch(
                "[JSONPatch{op: 'test', path: '/metadata/name', value: 'other'}, JSONPatch{op: 'remove', path: '/spec'}]",
            ),
            "/spec/priority",
            Ok(json!(5)),
        ),
        (
            apply("Object{metadata: Object.spec{labels: {'a': 'b'}}}"),
            "",
            Err(
                "policy 'p' with binding 'b' denied request: type mismatch: unexpected type name \"Object.spec\", expected \"Object.metadata\", which matches field name path from root Object type",
            ),
        ),
        (
            patch("[JSONPatch{op: 'remove', path: '/spec/nope'}]"),
            "",
            Err(
                "policy 'p' with binding 'b' denied request: JSON Patch: error in remove for path: '/spec/nope': Unable to remove nonexistent key: nope: missing value",
            ),
        ),
        (
            apply("Object{spec: Object.spec{containers: object.spec.nope}}"),
            "",
            Err(
                "policy 'p' with binding 'b' denied request: expression 'Object{spec: Object.spec{containers: object.spec.nope}}' resulted in error: no such key: nope",
            ),
        ),
    ] {
        let registry = registry(json!({"mutations": [mutation]}), json!({}));
        let plugin = Mutating::new(&deps(&registry));
        let mut a = pod(5);
        let done = plugin.admit(&mut a).await.map_err(|s| s.message);
        match wanted {
            Ok(wanted) => {
                assert_eq!(done, Ok(()));
                assert_eq!(a.object.unwrap_or_default().pointer(at), Some(&wanted), "{mutation}");
            }
            Err(text) => assert_eq!(done, Err(text.to_owned())),
        }
    }
}
