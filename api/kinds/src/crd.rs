//! Custom resource definitions.

mod defaults;
mod rules;
mod schema;
mod structural;
mod validate;

use crate::prepare::Plan;
use crate::value::{Get, Put};
use crate::{Context, Kind, Operation, PLAIN};
use api::{Value, json};

/// Keeps a definition until its objects are gone.
/// Keeps a definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

pub static CRD: Kind = Kind {
    defaults,
    plan: Plan::FULL,
    prepare,
    validate: validate::validate,
    warnings,
    deletion_finalizers: &[CLEANUP],
    any_finalizer: true,
    unconditional_update: false,
    ..PLAIN
};

/// Formats that nothing checks, if they were not there before.
fn warnings(cx: &Context<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
    if cx.subresource == "status" {
        return Vec::new();
    }
    let of = |o: &Value| {
        let mut all = Vec::new();
        for version in o.at("spec").list("versions") {
            unrecognized_formats(version.at("schema").at("openAPIV3Schema"), &mut all);
        }
        all
    };
    let before = old.map(of).unwrap_or_default();
    let new = of(new).into_iter().filter(|f| !before.contains(f));
    new.map(|format| format!("unrecognized format {format:?}")).collect()
}

/// Wherever a schema stands in another one, or in a list or map of such.
fn unrecognized_formats(schema: &Value, out: &mut Vec<String>) {
    const SCHEMAS: [&str; 4] = ["items", "additionalProperties", "additionalItems", "not"];
    if !schema.is_object() {
        return;
    }
    if ::structural::format::is_unrecognized(schema) {
        out.push(schema.text("format").to_owned());
    }
    SCHEMAS.iter().for_each(|key| unrecognized_formats(schema.at(key), out));
    for key in ["allOf", "anyOf", "oneOf", "items"] {
        schema.list(key).iter().for_each(|s| unrecognized_formats(s, out));
    }
    for key in ["properties", "patternProperties", "definitions"] {
        schema.entries(key).for_each(|(_, s)| unrecognized_formats(s, out));
    }
}

fn defaults(o: &mut Value) {
    let spec = o.ensure("spec");
    let names = spec.ensure("names");
    let kind = names.text("kind").to_owned();
    names.fill_zero("singular", kind.to_lowercase());
    if !kind.is_empty() {
        names.fill_zero("listKind", format!("{kind}List"));
    }
    if !spec.has("conversion") {
        spec.set("conversion", json!({"strategy": "None"}));
    }
    if let Some(service) = spec
        .sub("conversion")
        .and_then(|c| c.sub("webhook"))
        .and_then(|w| w.sub("clientConfig"))
        .and_then(|c| c.sub("service"))
    {
        service.fill("port", 443);
    }
    if o.at("status").len("storedVersions") == 0 {
        remember_storage(o);
    }
}

fn prepare(op: Operation, cx: &Context<'_>, new: &mut Value, _: Option<&Value>) {
    if op == Operation::Create || cx.subresource.is_empty() {
        remember_storage(new);
    }
}

/// The version that objects are stored in now is among those they were ever stored in.
fn remember_storage(o: &mut Value) {
    let storage = |o: &Value| {
        o.at("spec").list("versions").iter().find(|v| v.flag("storage")).map(|v| v.text("name").to_owned())
    };
    let Some(name) = storage(o) else { return };
    let mut stored: Vec<Value> = o.at("status").list("storedVersions").to_vec();
    if !stored.iter().any(|v| v.as_str() == Some(name.as_str())) {
        stored.push(name.into());
        o.ensure("status").set("storedVersions", stored);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;

    fn crd(change: impl FnOnce(&mut Value)) -> Value {
        let mut o = json!({
            "metadata": {"name": "foos.a.b"},
            "spec": {
                "group": "a.b", "scope": "Namespaced", "names": {"plural": "foos", "kind": "Foo"},
                "versions": [{
                    "name": "v1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": {"type": "object"}},
                }],
            },
        });
        change(&mut o["spec"]);
        CRD.defaults(&mut o);
        CRD.prepare(Operation::Create, &Context::default(), &mut o, None);
        o
    }

    fn with_schema(schema: Value) -> Value {
        crd(|s| s["versions"][0]["schema"] = json!({"openAPIV3Schema": schema}))
    }

    fn field(schema: Value) -> Value {
        with_schema(json!({"type": "object", "properties": {"f": schema}}))
    }

    fn check(cases: Vec<(Value, Option<&Value>, &str)>) {
        for (o, old, want) in cases {
            let got = CRD.validate(&Context::default(), &o, old);
            let first = got.first().map(ToString::to_string).unwrap_or_default();
            assert!(first.starts_with(want) && first.is_empty() == want.is_empty(), "{first}");
        }
    }

    #[test]
    fn stored_versions() {
        let o = crd(|_| ());
        assert_eq!(o["status"]["storedVersions"], json!(["v1"]));
        let mut new = o.clone();
        new["spec"]["versions"] = json!([{"name": "v1"}, {"name": "v2", "storage": true}]);
        CRD.prepare(Operation::Update, &Context::default(), &mut new, Some(&o));
        assert_eq!(new["status"]["storedVersions"], json!(["v1", "v2"]));
    }

    #[test]
    fn definitions() {
        let old = {
            let mut o = crd(|_| ());
            o["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
            o
        };
        check(vec![
            (crd(|_| ()), None, ""),
            (
                crd(|s| s["names"]["plural"] = json!("bars")),
                None,
                "metadata.name: Invalid value: \"foos.a.b\": must be spec.names.plural+\".\"+spec.group",
            ),
            (crd(|s| s["scope"] = json!("x")), None, "spec.scope: Unsupported value: \"x\""),
            (
                crd(|s| s["versions"][0]["schema"] = Value::Null),
                None,
                "spec.versions[0].schema.openAPIV3Schema: Required value",
            ),
            (
                crd(|s| s["scope"] = json!("Cluster")),
                Some(&old),
                "spec.scope: Invalid value: \"Cluster\": field is immutable",
            ),
            (
                crd(|s| s["preserveUnknownFields"] = json!(true)),
                None,
                "spec.preserveUnknownFields: Invalid value: true: cannot set to true, set x-kubernetes-preserve",
            ),
            (
                crd(|s| s["conversion"] = json!({"strategy": "Webhook"})),
                None,
                "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
            ),
            (
                crd(|s| {
                    s["versions"][0]["subresources"] =
                        json!({"scale": {"specReplicasPath": ".x", "statusReplicasPath": ".status.r"}})
                }),
                None,
                "spec.subresources.scale.specReplicasPath: Invalid value: \".x\": should be a json path under .spec",
            ),
            (
                crd(|s| {
                    s["versions"][0]["additionalPrinterColumns"] =
                        json!([{"name": "a", "type": "x", "jsonPath": ".a"}])
                }),
                None,
                "spec.additionalPrinterColumns[0].type: Invalid value: \"x\": must be one of boolean,date,integer",
            ),
        ]);
        let mut api_group = crd(|s| s["group"] = json!("x.k8s.io"));
        api_group["metadata"]["name"] = json!("foos.x.k8s.io");
        check(vec![(
            api_group,
            None,
            "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have",
        )]);
    }

    #[test]
    fn schemas() {
        let at = |rest: &str| format!("spec.validation.openAPIV3Schema{rest}");
        for (o, want) in [
            (with_schema(json!({})), at(".type: Required value: must not be empty at the root")),
            (
                with_schema(json!({"type": "string"})),
                at(".type: Invalid value: \"string\": must be object at"),
            ),
            (
                field(json!({})),
                at(".properties[f].type: Required value: must not be empty for specified object"),
            ),
            (field(json!({"type": "array"})), at(".properties[f].items: Required value: must be specified")),
            (field(json!({"type": "x"})), at(".properties[f].type: Unsupported value: \"x\"")),
            (
                field(json!({"type": "string", "anyOf": [{"type": "string"}]})),
                at(".properties[f].anyOf[0].type: Forbidden: must be empty to be structural"),
            ),
            (
                field(json!({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map"})),
                at(".properties[f].x-kubernetes-list-map-keys: Required value: must not be empty"),
            ),
            (
                field(json!({"type": "string", "x-kubernetes-validations": [{"rule": " "}]})),
                at(".properties[f].x-kubernetes-validations[0].rule: Required value: rule is not specified"),
            ),
            (
                with_schema(
                    json!({"type": "object", "properties": {"metadata": {"type": "object", "default": {}}}}),
                ),
                at(".properties[metadata].default: Forbidden: must not be set in top-level metadata"),
            ),
            (
                field(
                    json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
                ),
                at(".properties[f].additionalProperties: Forbidden: additionalProperties and properties"),
            ),
        ] {
            check(vec![(o, None, &want)]);
        }
        check(vec![
            (
                field(
                    json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
                ),
                None,
                "",
            ),
            (field(json!({"type": "string", "pattern": "^a/b\\-c$", "default": "a/b-c"})), None, ""),
            (
                with_schema(
                    json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"name": {"type": "string"}}}}}),
                ),
                None,
                "",
            ),
        ]);
    }

    #[test]
    fn rules_are_compiled() {
        let at = "spec.validation.openAPIV3Schema";
        let rule = |r: &str| json!({"x-kubernetes-validations": [{"rule": r}]});
        let with = |mut schema: Value, r: Value| {
            for (k, v) in r.as_object().cloned().unwrap_or_default() {
                schema[k] = v;
            }
            field(schema)
        };
        let list = |items: Value| json!({"type": "array", "items": items});
        for (o, want) in [
            (with(json!({"type": "integer"}), rule("self > 1")), ""),
            (
                with(json!({"type": "integer"}), rule("self.x > 1")),
                ".properties[f].x-kubernetes-validations[0].rule: Invalid value: {\"Rule\":\"self.x \\u003e 1\",\"Message\":\"\",",
            ),
            (
                with(json!({"type": "integer"}), rule("self + 1")),
                ".properties[f].x-kubernetes-validations[0].rule: Invalid value",
            ),
            (with(json!({"type": "integer"}), rule("oldSelf < self")), ""),
            (
                field(list(
                    json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}),
                )),
                ".properties[f].items.x-kubernetes-validations[0].rule: Invalid value: \"self == oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within spec.validation.openAPIV3Schema.properties[f]",
            ),
            (
                with(
                    list(list(list(json!({"type": "string"})))),
                    rule("self.all(x, x.all(y, y.all(z, z.contains('a'))))"),
                ),
                ".properties[f].x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try",
            ),
            (
                with(
                    json!({"type": "object", "properties": {"a": {"type": "string"}}}),
                    json!({"x-kubernetes-validations": [{"rule": "true", "fieldPath": ".b"}]}),
                ),
                ".properties[f].x-kubernetes-validations[0].fieldPath: Invalid value: \".b\": must be a valid path",
            ),
        ] {
            let got = CRD.validate(&Context::default(), &o, None);
            let first = got.first().map(ToString::to_string).unwrap_or_default();
            let want = if want.is_empty() { String::new() } else { format!("{at}{want}") };
            assert!(first.starts_with(&want) && first.is_empty() == want.is_empty(), "{first}");
        }
    }
}
