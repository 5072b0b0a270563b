use super::*;
use crate::schema;
use std::collections::BTreeMap;
use std::io::Read;

/// Fully populated objects of every kind, in JSON and protobuf.
fn fixtures() -> BTreeMap<String, (Vec<u8>, Vec<u8>)> {
    let gz = include_bytes!("../../testdata/roundtrip.tar.gz");
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&gz[..]));
    let mut out: BTreeMap<String, (Vec<u8>, Vec<u8>)> = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().trim_start_matches("./").to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if let Some(name) = path.strip_suffix(".json") {
            out.entry(name.into()).or_default().0 = bytes;
        } else if let Some(name) = path.strip_suffix(".pb") {
            out.entry(name.into()).or_default().1 = bytes;
        }
    }
    out
}

fn of_fixture(name: &str) -> (GroupVersionKind, &'static Message) {
    let mut parts = name.rsplitn(3, '.');
    let (kind, version, group) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    let group = if group == "core" { "" } else { group };
    let gvk = GroupVersionKind::new(group, version, kind);
    let message = schema::for_kind(&gvk).unwrap_or_else(|| panic!("no message for {name}"));
    (gvk, message)
}

fn drop_nulls(v: &mut Value) {
    match v {
        Value::Object(map) => {
            // In maps, as of a budget's disrupted pods, null is a value.
            map.retain(|k, v| !v.is_null() || k == "disruptedPodsKey");
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[test]
fn every_fixture_goes_both_ways() {
    let all = fixtures();
    assert!(all.len() > 180, "{}", all.len());
    for (name, (json, pb)) in &all {
        if name == "core.v1.WatchEvent" {
            continue;
        }
        let (gvk, message) = of_fixture(name);
        let want: Value = serde_json::from_slice(json).unwrap();
        let encoded = envelope(&gvk, &encode(message, &want).unwrap());
        assert_eq!(&encoded, pb, "{name} to protobuf");

        // What conversion adds to the claim templates of StatefulSets.
        let claims = r#""volumeClaimTemplates":[{"#;
        let typed = format!(r#"{claims}"kind":"PersistentVolumeClaim","apiVersion":"v1","#);
        let mut compact = Vec::new();
        crate::json::compact(json, &mut compact);
        let want_text = String::from_utf8(compact).unwrap().replace(claims, &typed);
        let mut want = serde_json::from_str(&want_text).unwrap();
        drop_nulls(&mut want);
        let opened = unenvelope(pb).unwrap();
        assert_eq!(opened.gvk(), gvk);
        assert_eq!(to_value(message, Some(&gvk), opened.raw).unwrap(), want, "{name} to a tree");

        let mut text = Vec::new();
        to_json(message, Some(&gvk), None, opened.raw, &mut text).unwrap();
        assert_eq!(String::from_utf8_lossy(&text), want_text, "{name} to text");

        let conformed = crate::decode::decode(crate::decode::Format::Json, json, None).unwrap();
        assert_eq!(conformed.value, want, "{name} conformed");
        assert!(conformed.strict.is_empty(), "{name}: {:?}", conformed.strict);
    }
}

#[test]
fn hostile_bytes_are_errors() {
    for (name, (_, pb)) in fixtures() {
        if name == "core.v1.WatchEvent" {
            continue;
        }
        let (_, message) = of_fixture(&name);
        let raw = unenvelope(&pb).unwrap().raw;
        let step = (raw.len() / 50).max(1);
        for cut in (0..raw.len()).step_by(step) {
            let mut out = Vec::new();
            let _ = to_json(message, None, Some("1"), &raw[..cut], &mut out);
            let mut flipped = raw.to_vec();
            flipped[cut] ^= 0xff;
            let _ = to_value(message, None, &flipped);
            let _ = peek::meta(&flipped);
            let _ = set_resource_version(&flipped, "7");
        }
    }
    // A schema inside a schema inside a schema …
    let crd =
        schema::message("k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").unwrap();
    let not = crd.field("not").unwrap();
    let mut bytes = Vec::new();
    for _ in 0..2000 {
        let inner = std::mem::take(&mut bytes);
        wire::put_bytes(&mut bytes, not.number, &inner);
    }
    assert_eq!(to_value(crd, None, &bytes), Err(Error::Depth));
    assert_eq!(wire::varint(&[0xff; 20], &mut 0), Err(Error::BadTag));
    assert_eq!(wire::find(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], 1), Err(Error::Truncated));
}

#[test]
fn resource_versions_are_set_on_the_way_out() {
    let pod = schema::for_kind_parts("", "v1", "Pod").unwrap();
    let gvk = GroupVersionKind::new("", "v1", "Pod");
    let value = crate::json!({"metadata": {"name": "a", "labels": {"x": "y"}, "creationTimestamp": "2024-01-01T00:00:00Z"},
        "spec": {"nodeName": "n1", "containers": null}});
    let raw = encode(pod, &value).unwrap();
    let mut text = Vec::new();
    to_json(pod, Some(&gvk), Some("42"), &raw, &mut text).unwrap();
    assert_eq!(
        String::from_utf8(text).unwrap(),
        r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","resourceVersion":"42","creationTimestamp":"2024-01-01T00:00:00Z","labels":{"x":"y"}},"spec":{"containers":null,"nodeName":"n1"},"status":{}}"#
    );
    let with = set_resource_version(&raw, "42").unwrap();
    let mut want = value.clone();
    want["metadata"]["resourceVersion"] = "42".into();
    assert_eq!(with, encode(pod, &want).unwrap());
    assert_eq!(set_resource_version(&with, "").unwrap(), raw);

    let meta = peek::meta(&with).unwrap();
    assert_eq!((meta.name, meta.resource_version, meta.label("x")), ("a", "42", Some("y")));
    assert_eq!(peek::field_text(pod, &raw, "spec.nodeName").unwrap().as_deref(), Some("n1"));
    assert_eq!(peek::field_text(pod, &raw, "spec.hostNetwork").unwrap().as_deref(), Some("false"));
    assert_eq!(peek::field_text(pod, &raw, "spec.nothing").unwrap(), None);

    let list = schema::for_kind_parts("", "v1", "PodList").unwrap();
    let meta = envelope::ListMeta { resource_version: "50", continue_: "c", remaining_item_count: Some(3) };
    let bytes = encode_list(&meta, [(&raw[..], Some("42"))]).unwrap();
    let tree = to_value(list, None, &bytes).unwrap();
    assert_eq!(tree["metadata"]["remainingItemCount"], 3);
    assert_eq!(tree["items"][0]["metadata"]["resourceVersion"], "42");
    assert_eq!(bytes, encode(list, &tree).unwrap());
}

#[test]
fn watch_frames_and_partial_metadata() {
    let gvk = GroupVersionKind::new("", "v1", "Pod");
    let pod = schema::for_kind(&gvk).unwrap();
    let raw = encode(pod, &crate::json!({"metadata": {"name": "a"}})).unwrap();
    let frame = watch_event("ADDED", &envelope(&gvk, &raw));
    assert_eq!(u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize, frame.len() - 4);
    assert_eq!(wire::find(&frame[4..], 1).unwrap(), Some(&b"ADDED"[..]));
    let object = wire::find(wire::find(&frame[4..], 2).unwrap().unwrap(), 1).unwrap().unwrap();
    assert_eq!(unenvelope(object).unwrap().raw, raw);

    let partial = schema::for_kind_parts("meta.k8s.io", "v1", "PartialObjectMetadata").unwrap();
    let bytes = envelope::partial_metadata(&raw, "9").unwrap();
    let tree = to_value(partial, None, &bytes).unwrap();
    assert_eq!(tree, crate::json!({"metadata": {"name": "a", "resourceVersion": "9"}}));
}
