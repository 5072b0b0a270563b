use super::*;

#[test]
fn every_reference_is_defined_and_every_flag_is_known() {
    let mut fields = 0;
    for m in table().messages() {
        for f in &m.fields {
            fields += 1;
            if let Some(inner) = f.message() {
                assert!(!inner.name.is_empty(), "{}.{}", m.name, f.proto);
            }
            assert!(f.json.is_empty() || m.field(f.json).is_some());
            assert_eq!(
                f.list_type == Some(ListType::Map),
                !f.list_map_keys.is_empty(),
                "{}.{}",
                m.name,
                f.proto
            );
        }
        assert!(m.fields.len() < NONE as usize);
    }
    assert!(fields > 4000, "{fields}");
}

#[test]
fn kinds_and_inlined_fields_are_found() {
    let pod = for_kind_parts("", "v1", "Pod").unwrap();
    assert_eq!(pod.name, "k8s.io.api.core.v1.Pod");
    let spec = pod.field("spec").and_then(Field::message).unwrap();
    let volumes = spec.field("volumes").unwrap();
    assert_eq!(volumes.patch_merge_key, Some("name"));
    let volume = volumes.message().unwrap();
    assert!(volume.field("secret").is_some(), "inlined");
    let secret = volume.flat_field("secret").unwrap();
    assert_eq!((secret.owner, secret.go_path), ("Volume", "VolumeSource.secret"));
    assert!(for_kind_parts("apps", "v1", "DeleteOptions").is_some());
    assert!(for_kind_parts("", "v1", "PodSpec").is_none());
    assert_eq!(spec.go_type(), "v1.PodSpec");
    assert!(spec.field("nodeSelector").unwrap().is_atomic());
    assert_eq!(table().enum_values("k8s.io.api.core.v1.Protocol").unwrap(), ["TCP", "UDP", "SCTP"]);
    assert_eq!(table().group_version(spec), Some(("", "v1")));
}
