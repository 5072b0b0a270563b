use super::*;
use api::json;
use api::schema;

fn pod() -> Type<'static> {
    Type::of(schema::for_kind_parts("", "v1", "Pod").unwrap())
}

#[test]
fn comparing_tells_what_was_added_modified_and_removed() {
    let old = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"containers": [
        {"name": "x", "image": "1", "ports": [{"containerPort": 80}]}, {"name": "y"}], "nodeSelector": {"a": "b"}}});
    let new = json!({"metadata": {"labels": {"a": "3", "c": "4"}}, "spec": {"containers": [
        {"name": "x", "image": "2", "ports": [{"containerPort": 80, "protocol": "TCP"}]}, {"name": "z"}], "nodeSelector": {"a": "c"}}});
    let d = compare(pod(), Some(&old), Some(&new));
    assert_eq!(
        d.modified.paths(),
        [".metadata.labels.a", ".spec.containers[name=\"x\"].image", ".spec.nodeSelector"]
    );
    assert_eq!(
        d.added.paths(),
        [
            ".metadata.labels.c",
            ".spec.containers[name=\"x\"].ports[containerPort=80,protocol=\"TCP\"].protocol",
            ".spec.containers[name=\"z\"]",
            ".spec.containers[name=\"z\"].name",
            ".spec.containers[name=\"z\"].resources"
        ]
    );
    assert_eq!(
        d.removed.paths(),
        [
            ".metadata.labels.b",
            ".spec.containers[name=\"y\"]",
            ".spec.containers[name=\"y\"].name",
            ".spec.containers[name=\"y\"].resources"
        ]
    );
    assert_eq!(compare(pod(), Some(&old), Some(&old)), Diff::default());
}

#[test]
fn merged_lists_keep_both_orders() {
    let list = |names: &[&str]| -> Value {
        json!({"spec": {"containers": names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>()}})
    };
    for (live, config, want) in [
        (&["a", "b", "c"][..], &["c", "a"][..], &["b", "c", "a"][..]),
        (&["a", "b"], &["c"], &["a", "b", "c"]),
        (&["a", "b"], &["b", "d"], &["a", "b", "d"]),
        (&[], &["b", "a"], &["b", "a"]),
        (&["a"], &[], &["a"]),
    ] {
        let merged = merge(pod(), Some(&list(live)), Some(&list(config))).unwrap();
        assert_eq!(merged, list(want), "{live:?} {config:?}");
    }
}

#[test]
fn structural_schemas_say_the_same_things() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string", "default": "d"}, "v": {"type": "integer"}}}},
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "plain": {"type": "array", "items": {"type": "string"}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}});
    let object = json!({"apiVersion": "g/v1", "kind": "W", "metadata": {"name": "n", "labels": {"a": "b"}}, "spec": {
        "items": [{"v": 1}, {"k": "e", "v": 2}], "tags": ["t"], "plain": ["p"], "free": {"x": {"y": 1}}}});
    let set = field_set(Type::Custom(Some(&schema)), &object);
    assert_eq!(
        set.paths(),
        [
            ".apiVersion",
            ".kind",
            ".metadata.labels.a",
            ".metadata.name",
            ".spec.free.x",
            ".spec.free.x.y",
            ".spec.items[k=\"d\"]",
            ".spec.items[k=\"d\"].v",
            ".spec.items[k=\"e\"]",
            ".spec.items[k=\"e\"].k",
            ".spec.items[k=\"e\"].v",
            ".spec.plain",
            ".spec.tags[=\"t\"]"
        ]
    );
    let mut errors = Vec::new();
    let bad = json!({"spec": {"none": 1, "tags": ["a", "a"], "items": [{"k": "x"}, {"k": "x"}]}});
    validate(Type::Custom(Some(&schema)), &bad, &mut String::new(), &mut errors);
    assert_eq!(
        errors,
        [
            ".spec.items: duplicate entries for key [k=\"x\"]",
            ".spec.none: field not declared in schema",
            ".spec.tags: duplicate entries for key [=\"a\"]"
        ]
    );
}
