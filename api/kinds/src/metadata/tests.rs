//! What metadata may say.

use super::*;
use api::json;

fn texts(namespaced: bool, new: Value, old: Option<Value>) -> Vec<String> {
    let room: &dyn Room = &crate::PLAIN;
    let mut texts: Vec<String> = validate(room, &Context::default(), namespaced, &new, old.as_ref())
        .iter()
        .map(Error::to_string)
        .collect();
    let all = std::mem::take(&mut texts);
    all.into_iter().for_each(|t| {
        if !texts.contains(&t) {
            texts.push(t)
        }
    });
    texts
}

#[test]
fn create() {
    let ok = json!({"metadata": {"name": "a.b", "namespace": "ns", "labels": {"a/b": "c"}}});
    assert!(texts(true, ok, None).is_empty());
    for (meta, namespaced, want) in [
        (json!({}), false, "metadata.name: Required value: name or generateName is required"),
        (
            json!({"name": "a/b"}),
            false,
            "metadata.name: Invalid value: \"a/b\": a lowercase RFC 1123 subdomain",
        ),
        (json!({"name": "a"}), true, "metadata.namespace: Required value"),
        (
            json!({"name": "a", "namespace": "b"}),
            false,
            "metadata.namespace: Forbidden: not allowed on this type",
        ),
        (
            json!({"name": "a", "labels": {"-": "x"}}),
            false,
            "metadata.labels: Invalid value: \"-\": name part must",
        ),
        (
            json!({"name": "a", "annotations": {"x": "y".repeat(300_000)}}),
            false,
            "metadata.annotations: Too long: may not be more than 262144 bytes",
        ),
        (
            json!({"name": "a", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x"}]}),
            false,
            "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty",
        ),
        (
            json!({"name": "a", "finalizers": ["orphan", "foregroundDeletion"]}),
            false,
            "metadata.finalizers: Invalid value: ",
        ),
    ] {
        let got = texts(namespaced, json!({"metadata": meta}), None);
        assert!(got.len() == 1 && got[0].starts_with(want), "{got:?} should start with {want}");
    }
}

#[test]
fn owners_listed_twice_are_kept_once() {
    let owner = json!({"apiVersion": "v1", "kind": "K", "name": "n", "uid": "u"});
    let other = json!({"apiVersion": "v1", "kind": "K", "name": "m", "uid": "u"});
    let mut object = json!({"metadata": {"ownerReferences": [owner, other, owner]}});
    assert_eq!(dedup_owners(&mut object), ["u"]);
    assert_eq!(object["metadata"]["ownerReferences"], json!([owner, other]));
}

#[test]
fn update() {
    let old =
        json!({"metadata": {"name": "a", "uid": "1", "resourceVersion": "1", "deletionTimestamp": "x"}});
    let mut new = json!({"metadata": {"name": "b", "finalizers": ["a/b"]}});
    prepare(Operation::Update, &mut new, Some(&old));
    let got = texts(false, new, Some(old));
    assert_eq!(
        got,
        [
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"a/b\"}",
            "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
            "metadata.name: Invalid value: \"b\": field is immutable",
        ]
    );
}
