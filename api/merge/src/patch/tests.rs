use super::*;
use api::json;
use api::schema::{self, Message};

fn pod() -> &'static Message {
    schema::for_kind_parts("", "v1", "Pod").unwrap()
}

#[test]
fn json_patches() {
    let mut doc = json!({"a": 1, "b": [1]});
    json_patch(&mut doc, br#"[{"op":"replace","path":"/a","value":2},{"op":"add","path":"/b/-","value":3}]"#)
        .unwrap();
    assert_eq!(doc, json!({"a": 2, "b": [1, 3]}));
    let failed = json_patch(&mut doc, br#"[{"op":"test","path":"/a","value":9}]"#).unwrap_err();
    assert_eq!((failed.code, failed.reason), (422, "Invalid"));
    assert_eq!(json_patch(&mut doc, b"{").unwrap_err().code, 400);
    // Upstream's leniencies: each of these is no error.
    let mut doc = json!({"a": 1, "b": [1, 2]});
    let lenient = br#"[{"op":"replace","path":"/c","value":2},{"op":"test","path":"/d"},{"op":"add","path":"/e"},
        {"op":"copy","from":"/nope","path":"/f"},{"op":"remove","path":"/b/-1"},{"op":"add","path":"x/g","value":1}]"#;
    json_patch(&mut doc, lenient).unwrap();
    assert_eq!(doc, json!({"a": 1, "b": [1], "c": 2, "e": null, "f": null, "g": 1}));
    for refused in [
        r#"[{"op":"remove","path":"/nope"}]"#,
        r#"[{"op":"add","path":"/nope/x","value":1}]"#,
        r#"[{"op":"add","path":"","value":{}}]"#,
        r#"[{"op":"add","path":"/b/9","value":1}]"#,
        r#"[{"op":"replace","path":"/b/x","value":1}]"#,
        r#"[{"op":"move","from":"/b","path":"/b/0"}]"#,
        r#"[{"op":"jump","path":"/a"}]"#,
        r#"[null]"#,
    ] {
        assert_eq!(json_patch(&mut doc.clone(), refused.as_bytes()).unwrap_err().code, 422, "{refused}");
    }
    let many = format!("[{}]", vec![r#"{"op":"remove","path":"/x"}"#; 10_001].join(","));
    assert_eq!(json_patch(&mut doc, many.as_bytes()).unwrap_err().code, 413);
}

#[test]
fn a_patch_that_doubles_itself_is_stopped() {
    let mut doc = json!({"a": [vec!["x".repeat(100); 10]]});
    let bomb = format!("[{}]", vec![r#"{"op":"copy","from":"/a","path":"/a/-"}"#; 100].join(","));
    assert_eq!(json_patch(&mut doc, bomb.as_bytes()).unwrap_err().code, 422);
}

#[test]
fn merge_patches() {
    let mut doc = json!({"a": {"b": 1, "c": 2}});
    merge_patch(&mut doc, &json!({"a": {"b": null, "d": [1]}})).unwrap();
    assert_eq!(doc, json!({"a": {"c": 2, "d": [1]}}));
    merge_patch(&mut doc, &json!({"a": null, "e": {"f": null, "g": [{"h": null}]}})).unwrap();
    assert_eq!(doc, json!({"e": {"g": [{}]}}));
    assert_eq!(merge_patch(&mut doc, &json!([])).unwrap_err().code, 400);
}

#[test]
fn strategic_patches() {
    let base = json!({"metadata": {"finalizers": ["a", "b"], "labels": {"x": "1"}},
        "spec": {"containers": [{"name": "a", "image": "i", "args": ["1"]}, {"name": "b", "image": "j"}],
            "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"key": "k"}]}});
    let cases = [
        // Lists of objects are merged by key, the patch's order first where the server has none.
        (
            json!({"spec": {"containers": [{"name": "b", "image": "k"}, {"name": "c"}]}}),
            "/spec/containers",
            json!([{"name": "a", "image": "i", "args": ["1"]}, {"name": "b", "image": "k"}, {"name": "c"}]),
        ),
        (
            json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}),
            "/spec/containers",
            json!([{"name": "b", "image": "j"}]),
        ),
        (
            json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "z"}]}}),
            "/spec/containers",
            json!([{"name": "z"}]),
        ),
        (
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "a", "image": "n"}]}}),
            "/spec/containers",
            json!([{"name": "b", "image": "j"}, {"name": "a", "image": "n", "args": ["1"]}]),
        ),
        (
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}),
            "/metadata/finalizers",
            json!(["b"]),
        ),
        (json!({"metadata": {"finalizers": ["c", "a"]}}), "/metadata/finalizers", json!(["c", "a", "b"])),
        (
            json!({"metadata": {"labels": {"$patch": "replace", "y": "2"}}}),
            "/metadata/labels",
            json!({"y": "2"}),
        ),
        (json!({"metadata": {"labels": {"x": null, "y": null}}}), "/metadata/labels", json!({})),
        // Atomic lists are replaced; a union's other member goes when only one key is retained.
        (json!({"spec": {"tolerations": [{"key": "m"}]}}), "/spec/tolerations", json!([{"key": "m"}])),
        (
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}}),
            "/spec/volumes",
            json!([{"name": "v", "hostPath": {"path": "/x"}}]),
        ),
        (
            json!({"spec": {"containers": [{"name": "a", "env": [{"name": "X", "$patch": "delete"}, {"name": "Y", "value": null}]}]}}),
            "/spec/containers/0",
            json!({"name": "a", "image": "i", "args": ["1"], "env": [{"name": "Y"}]}),
        ),
    ];
    for (patch, at, want) in cases {
        let mut doc = base.clone();
        strategic(pod(), &mut doc, &patch).unwrap_or_else(|e| panic!("{patch}: {e}"));
        assert_eq!(doc.pointer(at), Some(&want), "{patch}");
    }
}

#[test]
fn strategic_errors_are_upstreams() {
    let base = json!({"spec": {"containers": [{"name": "a"}]}});
    for (patch, code, want) in [
        (
            json!({"spec": {"containers": [{"image": "x"}]}}),
            500,
            "map: map[image:x] does not contain declared merge key: name",
        ),
        (json!({"spec": {"$patch": "near"}}), 500, "unknown patch type: near in map: map[$patch:near]"),
        (json!({"spec": {"$retainKeys": ["a"], "nodeName": "x"}}), 400, "invalid patch format of retainKeys"),
    ] {
        let e = strategic(pod(), &mut base.clone(), &patch).unwrap_err();
        assert_eq!((e.code, e.message.as_str()), (code, want));
    }
}

#[test]
fn what_a_result_does_not_fit_is_said_as_upstream_says_it() {
    for (object, want) in [
        (json!({"metadata": {"name": 5}}), Some("cannot convert int64 to string")),
        (json!({"metadata": {"generation": "x"}}), Some("unrecognized type: int64")),
        (json!({"metadata": "x"}), Some("cannot restore struct from: string")),
        (json!({"metadata": {"labels": []}}), Some("cannot restore map from slice")),
        (json!({"spec": {"containers": {}}}), Some("cannot restore slice from map")),
        (json!({"spec": {"containers": [{"stdin": "x"}]}}), Some("unrecognized type: bool")),
        (json!({"spec": {"containers": []}}), None),
    ] {
        assert_eq!(mismatch(pod(), &object).as_deref(), want, "{object}");
    }
}
