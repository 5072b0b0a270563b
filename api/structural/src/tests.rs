use super::*;
use api::json;

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "spec": {
                "type": "object", "required": ["replicas"],
                "properties": {
                    "replicas": {"type": "integer", "minimum": 1, "maximum": 10},
                    "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
                    "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3},
                    "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                    "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                            "properties": {"known": {"type": "object", "properties": {"a": {"type": "string"}}}}},
                    "inner": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}},
                    "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                              "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "number", "default": 1}}}},
                    "maybe": {"type": "string", "nullable": true},
                    "when": {"type": "string", "format": "date-time"},
                },
            },
        },
    })
}

#[test]
fn unknown_fields_are_dropped_and_named() {
    let mut object = json!({
        "apiVersion": "g/v1", "kind": "P",
        "metadata": {"name": "a", "foo": 1},
        "extra": 1,
        "spec": {
            "replicas": 1, "wrong": {"a": 1}, "labels": {"x": "y"},
            "any": {"free": 1, "known": {"a": "b", "b": 1}},
            "inner": {"apiVersion": "v1", "kind": "Q", "metadata": {"name": "q", "bar": 1}, "spec": {"gone": 1}, "no": 1},
            "items": [{"k": "a", "z": 1}],
        },
    });
    let mut unknown = prune(&mut object, Some(&schema())).unwrap();
    unknown.sort();
    let want = [
        "extra",
        "metadata.foo",
        "spec.any.known.b",
        "spec.inner.metadata.bar",
        "spec.inner.no",
        "spec.inner.spec.gone",
        "spec.items[0].z",
        "spec.wrong",
    ];
    assert_eq!(unknown, want);
    assert_eq!(object["spec"]["any"]["free"], 1);
    assert_eq!(object["spec"]["labels"]["x"], "y");
    assert!(object["spec"].get("wrong").is_none() && object.get("extra").is_none());
    assert!(prune(&mut json!({"metadata": {"labels": 3}}), None).is_err());
}

#[test]
fn defaults_fill_what_is_absent_or_null_without_leave() {
    let mut object = json!({"spec": {"replicas": 1, "color": null, "maybe": null, "items": [{"k": "a"}]}});
    fill(&mut object, &schema());
    assert_eq!(
        object,
        json!({"spec": {"replicas": 1, "color": "red", "maybe": null, "items": [{"k": "a", "v": 1}]}})
    );
}

#[test]
fn what_is_wrong_is_said_in_upstreams_words() {
    let schema = schema();
    let patterns = Patterns::of(&schema);
    let cases = [
        (json!({"replicas": 1, "port": 80, "maybe": null, "when": "2026-01-01T00:00:00Z"}), ""),
        (json!({"replicas": 1, "port": "http"}), ""),
        (json!({}), "spec.replicas: Required value"),
        (
            json!({"replicas": "x"}),
            "spec.replicas: Invalid value: \"string\": spec.replicas in body must be of type integer: \"string\"",
        ),
        (
            json!({"replicas": 11}),
            "spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10",
        ),
        (
            json!({"replicas": 0}),
            "spec.replicas: Invalid value: 0: spec.replicas in body should be greater than or equal to 1",
        ),
        (
            json!({"replicas": 1, "color": "x"}),
            "spec.color: Unsupported value: \"x\": supported values: \"blue\", \"red\"",
        ),
        (
            json!({"replicas": 1, "name": "A"}),
            "spec.name: Invalid value: \"A\": spec.name in body should match '^[a-z]+$'",
        ),
        (json!({"replicas": 1, "name": "abcd"}), "spec.name: Too long: may not be more than 3 bytes"),
        (
            json!({"replicas": 1, "port": true}),
            "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
        ),
        (
            json!({"replicas": 1, "labels": {"a": 1}}),
            "spec.labels.a: Invalid value: \"integer\": spec.labels.a in body must be of type string: \"integer\"",
        ),
        (
            json!({"replicas": 1, "inner": {"metadata": {}}}),
            "spec.inner.apiVersion: Required value: must not be empty",
        ),
        (
            json!({"replicas": 1, "items": [{"k": "a"}, {"k": "a"}]}),
            "spec.items[1]: Duplicate value: {\"k\":\"a\"}",
        ),
        (
            json!({"replicas": 1, "when": "now"}),
            "spec.when: Invalid value: \"now\": spec.when in body must be of type date-time: \"now\"",
        ),
        (
            json!({"replicas": 1, "color": null}),
            "spec.color: Invalid value: \"null\": spec.color in body must be of type string: \"null\"",
        ),
    ];
    for (spec, want) in cases {
        let errors = validate(&json!({"metadata": {}, "spec": spec}), None, &schema, &patterns);
        let first = errors.first().map(ToString::to_string).unwrap_or_default();
        assert_eq!(first, want);
    }
}

#[test]
fn schemas_can_be_combined() {
    let schema = json!({"type": "object", "properties": {
        "one": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        "not": {"type": "string", "not": {"pattern": "^x"}},
    }});
    let patterns = Patterns::of(&schema);
    let count = |v: Value| validate(&v, None, &schema, &patterns).len();
    assert_eq!(count(json!({"one": {"a": 1}, "not": "y"})), 0);
    assert_eq!(count(json!({"one": {"a": 1, "b": 2}})), 1);
    assert_eq!(count(json!({"one": {}})), 2, "the composite and the nearest alternative");
    assert_eq!(count(json!({"not": "xy"})), 1);
}
